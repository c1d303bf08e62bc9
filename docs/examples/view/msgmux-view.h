// SPDX-License-Identifier: Apache-2.0

/* A sink in view in C11, for Linux: docs/protocol.md, "In view". One thread at a time may use a struct msgmux_view. Nothing has to be
 * linked. Messages are copied out, some 16 KiB at a time, and the copy is believed only if it was not overwritten meanwhile. */

#ifndef MSGMUX_VIEW_H
#define MSGMUX_VIEW_H

#include <errno.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define MSGMUX_VIEW_MAGIC UINT64_C(0x317765697678756d)

typedef _Atomic uint64_t msgmux_word;

/* At 4096 in the ring's file; to be read only. */
struct msgmux_published {
	msgmux_word magic, ring, size, generation, epoch, room1[3];
	msgmux_word head, room2[7];
	msgmux_word tail, tail_seq, tail_again;
};

/* The sink's page. */
struct msgmux_page {
	msgmux_word done, sleep, room[6];           /* the sink's */
	msgmux_word ask, given, start, start_seq, over; /* the broker's */
};

struct msgmux_view {
	int fd;
	struct msgmux_published *pub;
	struct msgmux_page *page;
	char *ring;                            /* twice, back to back */
	uint64_t size, generation, pos, limit; /* where it reads next; UINT64_MAX, or where head was when the broker hung up */
	uint64_t sleeps, answered;
	char *copy;                            /* records that were copied out */
	size_t room, at, end;
	uint64_t seq;                          /* the number of the message that comes next */
	uint64_t lost;                         /* how many were lost, as this sink was left behind */
	char said[1024];                       /* why the broker has refused, or hung up */
};

static inline int msgmux_view_map(struct msgmux_view *v, int fd) {
	struct stat st;
	char *head = MAP_FAILED, *ring = MAP_FAILED;
	if (fstat(fd, &st) || st.st_size < 8192) return -1;
	head = mmap(NULL, 8192, PROT_READ, MAP_SHARED, fd, 0);
	if (head == MAP_FAILED) return -1;
	struct msgmux_published *p = (void *)(head + 4096);
	uint64_t at = p->ring, n = p->size;
	if (p->magic != MSGMUX_VIEW_MAGIC || n < 4096 || (n & (n - 1)) || n > (uint64_t)st.st_size || at > st.st_size - n) goto fail;
	ring = mmap(NULL, 2 * n, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (ring == MAP_FAILED || mmap(ring, n, PROT_READ, MAP_SHARED | MAP_FIXED, fd, at) == MAP_FAILED ||
	    mmap(ring + n, n, PROT_READ, MAP_SHARED | MAP_FIXED, fd, at) == MAP_FAILED)
		goto fail;
	if (v->ring) {
		munmap((char *)v->pub - 4096, 8192);
		munmap(v->ring, 2 * v->size);
	}
	v->pub = p, v->ring = ring, v->size = n, v->generation = p->generation;
	return 0;
fail:
	if (ring != MAP_FAILED) munmap(ring, 2 * n);
	munmap(head, 8192);
	errno = EPROTO;
	return -1;
}

/* Waits for a packet. 1: it is dealt with; 0: the broker has hung up; -1: errno. */
static inline int msgmux_view_wait(struct msgmux_view *v) {
	char b[sizeof v->said], c[CMSG_SPACE(2 * sizeof(int))];
	struct iovec iov = {b, sizeof b - 1};
	struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = c, .msg_controllen = sizeof c};
	ssize_t n;
	for (int ends = 0; (n = recvmsg(v->fd, &h, MSG_CMSG_CLOEXEC)) < 0;) {
		/* Once ECONNRESET may come before what was sent last. */
		if (errno != EINTR && (errno != ECONNRESET || ends++)) return errno == ECONNRESET ? 0 : -1;
	}
	if (!n) return 0;
	if (n != 16) { /* text: ok ..., or error ... */
		memcpy(v->said, b, n);
		v->said[n] = 0;
		return 1;
	}
	struct cmsghdr *k = CMSG_FIRSTHDR(&h);
	if (k && k->cmsg_type == SCM_RIGHTS && k->cmsg_len == CMSG_LEN(2 * sizeof(int))) {
		int fds[2], failed = 0;
		memcpy(fds, CMSG_DATA(k), sizeof fds);
		failed = msgmux_view_map(v, fds[0]);
		if (!failed && !v->page) {
			void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fds[1], 0);
			if ((failed = p == MAP_FAILED) == 0) v->page = p, v->pos = v->page->start, v->seq = v->page->start_seq;
		}
		close(fds[0]);
		close(fds[1]);
		if (failed) return -1;
	}
	return 1;
}

/* Subscribes at path, with options that end in newlines each. -1: errno; or EPROTO, and v->said has the broker's reason. */
static inline int msgmux_view_open(struct msgmux_view *v, const char *path, const char *options) {
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	char hello[4096];
	memset(v, 0, sizeof *v);
	v->limit = UINT64_MAX, v->room = 16384, v->copy = malloc(v->room);
	if (strlen(path) >= sizeof a.sun_path) return errno = ENAMETOOLONG, -1;
	memcpy(a.sun_path, path, strlen(path));
	int n = snprintf(hello, sizeof hello, "msgmux/1\nview=yes\n%s", options);
	if ((v->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)) < 0 || connect(v->fd, (void *)&a, sizeof a) || send(v->fd, hello, n, MSG_NOSIGNAL) < 0) return -1;
	while (!v->page) {
		int got = msgmux_view_wait(v);
		if (got < 0) return -1;
		if (!got || !strncmp(v->said, "error", 5)) return errno = EPROTO, -1;
	}
	v->said[0] = 0;
	return 0;
}

/* Says that every message numbered below done is done. */
static inline void msgmux_view_done(struct msgmux_view *v, uint64_t done) {
	v->page->done = done; /* sequentially consistent, like what follows */
	uint64_t ask = v->page->ask;
	if (ask != v->answered && send(v->fd, &done, sizeof done, MSG_DONTWAIT | MSG_NOSIGNAL) == sizeof done) v->answered = ask;
}

/* Copies out what is there. 1: something; 0: nothing; -1: errno. */
static inline int msgmux_view_copy(struct msgmux_view *v) {
	for (;;) {
		uint64_t head = atomic_load_explicit(&v->pub->head, memory_order_acquire);
		if (head > v->limit) head = v->limit;
		if (atomic_load_explicit(&v->pub->tail, memory_order_acquire) > v->pos) { /* left behind: go on at the tail */
			uint64_t again = v->pub->tail_again, seq = v->pub->tail_seq, tail = v->pub->tail;
			if (again != tail) return usleep(1000), 0; /* the broker is about to store it, or has died over it */
			v->lost += seq - v->seq, v->pos = tail, v->seq = seq;
			continue;
		}
		if (head <= v->pos) return 0;
		uint64_t there = head - v->pos, n = there < v->room ? there : v->room, used = 0;
		if (there > v->size) return errno = EPROTO, -1;
		memcpy(v->copy, v->ring + (v->pos & (v->size - 1)), n);
		atomic_thread_fence(memory_order_acquire);
		if (atomic_load_explicit(&v->pub->tail, memory_order_relaxed) > v->pos) continue; /* it may have been overwritten */
		while (n - used >= 4) {
			uint32_t len;
			memcpy(&len, v->copy + used, 4);
			uint64_t record = ((uint64_t)len + 7) & ~UINT64_C(3);
			if (record > there - used) return errno = EPROTO, -1;
			if (record > n - used) {
				if (!used && !(v->copy = realloc(v->copy, v->room = record))) return -1;
				break;
			}
			used += record;
		}
		if (!used) continue;
		v->at = 0, v->end = used, v->pos += used;
		return 1;
	}
}

/* The next message, valid until the next call; v->seq is the number after its own. It waits. 1: there is one; 0: the broker has hung up,
 * and v->said may say why; -1: errno. */
static inline int msgmux_view_next(struct msgmux_view *v, const void **message, uint32_t *len) {
	while (v->at == v->end) {
		int some = v->limit == UINT64_MAX && v->page->over ? 0 : msgmux_view_copy(v);
		if (some < 0) return -1;
		if (some) break;
		if (v->limit == UINT64_MAX && !v->page->over) {
			v->page->sleep = ++v->sleeps;
			if (v->pub->head != v->pos) {
				v->page->sleep = 0;
				continue;
			}
		}
		int got = msgmux_view_wait(v);
		v->page->sleep = 0;
		if (got < 0 || (!got && (v->said[0] || v->limit != UINT64_MAX))) return got;
		if (!got) v->limit = v->pub->head; /* what there was is there still */
	}
	memcpy(len, v->copy + v->at, 4);
	*message = v->copy + v->at + 4;
	v->at += ((uint64_t)*len + 7) & ~UINT64_C(3);
	v->seq++;
	return 1;
}

#endif
