// SPDX-License-Identifier: Apache-2.0
/* Both ends of a channel in shared memory, in C11 or C++11 for Linux, with _GNU_SOURCE. docs/protocol.md: "In view", "Staging".
 *	sink    msgmux_open, msgmux_next for each message, msgmux_done once in a while, msgmux_close; or, without a copy, msgmux_look for
 *	        each until that is 0, msgmux_whole before anything comes of what was read, and so on
 *	source  msgmux_open, msgmux_room for each message, msgmux_publish behind one or many, msgmux_close
 * One thread at a time may use a struct msgmux. -1 or NULL is an error, in errno. EINTR: a signal came, call again (but msgmux_open begins
 * anew: block what comes often). EAGAIN: see flags. EMSGSIZE: too long. Else it is over, and said has the reason, if one was told: EPROTO,
 * it is refused; EPIPE, ECONNRESET, the broker hung up; EBADMSG, what it says cannot be. Close it, and open it, at most once a second. */
#pragma once
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
/* Words are loaded and stored whole, and in order: no load passes a store in front of it, which sleeping and waking need. */
#define MSGMUX_LOAD(word) __atomic_load_n(&(word), __ATOMIC_SEQ_CST)
#define MSGMUX_STORE(word, value) __atomic_store_n(&(word), value, __ATOMIC_SEQ_CST)
/* What stands at 4096 in the file of a ring; the page of a sink; the beginning of the file of a stage. */
struct msgmux_ring { uint64_t magic, at, size, generation, epoch, _1[3], head, _2[7], tail, tail_seq, tail_again; };
struct msgmux_page { uint64_t done, sleep, _1[6] /* the sink's */, ask, given, start, start_seq, over /* the broker's */; };
struct msgmux_stage { uint64_t head, want, leave, _1[5] /* the source's */, magic, at, size, given, _2[4], taken, _3[7], sleep, over; };
enum msgmux_kind { MSGMUX_SOURCE = 1, MSGMUX_SINK = 2 }; /* as many descriptors come */
struct msgmux {
	enum msgmux_kind kind;
	int fd, flags, gone;        /* MSG_DONTWAIT in flags: EAGAIN instead of waiting, until poll(2) finds fd readable; the broker has gone */
	char said[1025];            /* the broker's ok; or "error CODE TEXT", why it has refused or ended the connection */
	char *file, *bytes;         /* 8 KiB of the file of ring or stage; its ring, twice, back to back, so that no message is split */
	struct msgmux_ring *ring; struct msgmux_stage *stage; struct msgmux_page *page; /* the former two in file */
	uint64_t size, pos, most;   /* of the ring, a power of two; the position of what is read or written next; how long a message may be */
	uint64_t head, taken;       /* as of the last look: how far a sink can read; how far the broker has taken what a source published */
	uint64_t seq, lost;         /* the number of the message that a sink reads next; how many it has lost, as it was left behind */
	uint64_t from, from_seq;    /* pos and seq where what is not known to be whole begins */
	uint64_t sleeps, answered;  /* the last number with which this end went to sleep; the broker's last one that it has answered */
	char *copy; size_t room;    /* of a message, for msgmux_next, and for how many bytes there is room */
};

/* Gives everything back. What a source has published is taken to the end. errno stays. */
static inline void msgmux_close(struct msgmux *m) {
	int why = errno;
	if (m->file) munmap(m->file, 8192), munmap(m->bytes, 2 * m->size);
	if (m->page) munmap(m->page, 4096);
	if (m->fd >= 0) close(m->fd);
	free(m->copy);
	m->file = m->copy = NULL, m->page = NULL, m->fd = -1, errno = why;
}

/* Maps the beginning of a file that cannot shrink, so that no access ends in SIGBUS. NULL: errno. */
static inline char *msgmux_map(int fd, int prot, uint64_t n, uint64_t *all) {
	int seals = fcntl(fd, F_GET_SEALS); /* what has some has a size, too */
	if (seals < 0 || !(seals & F_SEAL_SHRINK) || (*all = lseek(fd, 0, SEEK_END)) < n) return errno = EBADMSG, (char *)NULL;
	char *p = (char *)mmap(NULL, n, prot, MAP_SHARED, fd, 0);
	return p == (char *)MAP_FAILED ? NULL : p;
}

/* Maps what has come, in place of what was there. Where the ring is, and of what size, is read once, and checked. -1: errno. */
static inline int msgmux_enter(struct msgmux *m, const int *fds) {
	int sink = m->kind == MSGMUX_SINK, prot = sink ? PROT_READ : PROT_READ | PROT_WRITE;
	uint64_t all, page;
	char *file = msgmux_map(fds[0], prot, 8192, &all), *bytes = (char *)MAP_FAILED;
	if (!file) return -1;
	uint64_t *shape = (uint64_t *)(void *)(file + (sink ? 4096 : 64)), at = MSGMUX_LOAD(shape[1]), n = MSGMUX_LOAD(shape[2]);
	errno = EBADMSG;
	if (!memcmp(shape, sink ? "muxview1" : "muxstag1", 8) && n >= 4096 && !(n & (n - 1)) && n <= all && at <= all - n &&
	    (bytes = (char *)mmap(NULL, 2 * n, prot, MAP_SHARED, fds[0], at)) != MAP_FAILED && /* half of it; the other half is next */
	    mmap(bytes + n, n, prot, MAP_SHARED | MAP_FIXED, fds[0], at) != MAP_FAILED &&
	    (!sink || m->page || (m->page = (struct msgmux_page *)(void *)msgmux_map(fds[1], PROT_READ | PROT_WRITE, 4096, &page)))) {
		if (m->file) munmap(m->file, 8192), munmap(m->bytes, 2 * m->size);
		m->ring = (struct msgmux_ring *)(void *)(file + 4096), m->stage = (struct msgmux_stage *)(void *)file;
		return m->file = file, m->bytes = bytes, m->size = n, 0;
	}
	if (bytes != MAP_FAILED) munmap(bytes, 2 * n);
	return munmap(file, 8192), -1;
}

/* Receives a packet, and enters what it brings. 1: it came; 0: the connection has ended; -1: errno. */
static inline int msgmux_hear(struct msgmux *m) {
	union { struct cmsghdr c; char room[CMSG_SPACE(2 * sizeof(int))]; } control;
	char text[sizeof m->said - 1];
	struct iovec iov = {text, sizeof text};
	struct msghdr h;
	int n = 0, fds[2], count = 0, failed = 0;
	for (int looks = 0; looks < 3 && n <= 0; looks++) { /* the end may be told before what was sent last, once in either form */
		memset(&h, 0, sizeof h), h.msg_iov = &iov, h.msg_iovlen = 1, h.msg_control = &control, h.msg_controllen = sizeof control;
		if ((n = (int)recvmsg(m->fd, &h, m->flags | MSG_CMSG_CLOEXEC)) < 0 && errno != ECONNRESET) return -1;
		if (n >= 0 && CMSG_FIRSTHDR(&h) && control.c.cmsg_type == SCM_RIGHTS) count = (int)((control.c.cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(fds, CMSG_DATA(&control.c), count * sizeof(int));
		while (!n && count) close(fds[--count]); /* no broker sends any with an empty packet */
	}
	if (n <= 0) return m->gone = 1, 0;
	if (h.msg_flags & (MSG_TRUNC | MSG_CTRUNC) || (count && count != (int)m->kind)) errno = EBADMSG, failed = -1; /* not all has come */
	else if (count) failed = msgmux_enter(m, fds);
	while (count) close(fds[--count]);
	if (!m->said[0] || (n > 6 && !memcmp(text, "error ", 6))) memcpy(m->said, text, n), m->said[n] = 0;
	return failed ? -1 : 1;
}

/* Connects to the socket at path, with options that end in a newline each. -1: errno, and nothing is open. */
static inline int msgmux_open(struct msgmux *m, enum msgmux_kind kind, const char *path, const char *options) {
	struct sockaddr_un to = {AF_UNIX, ""};
	char hello[4096];
	int got, n = snprintf(hello, sizeof hello, "msgmux/1\n%s=yes\n%s", kind == MSGMUX_SINK ? "view" : "stage", options);
	memset(m, 0, sizeof *m), m->kind = kind, m->fd = -1;
	if (strlen(path) >= sizeof to.sun_path || n >= (int)sizeof hello) return errno = ENAMETOOLONG, -1;
	memcpy(to.sun_path, path, strlen(path));
	if ((m->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)) < 0 || connect(m->fd, (struct sockaddr *)&to, sizeof to) ||
	    (send(m->fd, hello, n, MSG_NOSIGNAL) < 0 && errno != EPIPE)) /* then it has said why */
		return msgmux_close(m), -1;
	if ((got = msgmux_hear(m)) > 0 && !strncmp(m->said, "ok", 2)) got = msgmux_hear(m); /* behind the ok come the descriptors */
	if (got >= 0) errno = !got ? ECONNRESET : strncmp(m->said, "ok", 2) ? EPROTO : EBADMSG;
	if (got <= 0 || !m->file) return msgmux_close(m), -1;
	if (m->page) m->pos = m->head = m->from = MSGMUX_LOAD(m->page->start), m->seq = m->from_seq = MSGMUX_LOAD(m->page->start_seq);
	else m->pos = MSGMUX_LOAD(m->stage->head), m->taken = MSGMUX_LOAD(m->stage->taken);
	return m->most = strstr(m->said, " max-message=") ? strtoull(strstr(m->said, " max-message=") + 13, NULL, 10) : UINT32_MAX, 0;
}

/* Whether what was looked at since the last call was whole. 1; 0: some was overwritten, nothing of it counts, and lost has grown; -1: errno. */
static inline int msgmux_whole(struct msgmux *m) {
	__atomic_thread_fence(__ATOMIC_ACQUIRE); /* what was read, a length too, counts only if tail, loaded behind it, has not passed it */
	for (int tries = 0; MSGMUX_LOAD(m->ring->tail) > m->from; usleep(10000)) { /* the broker is about to store it; or its successor does */
		uint64_t again = MSGMUX_LOAD(m->ring->tail_again), seq = MSGMUX_LOAD(m->ring->tail_seq), tail = MSGMUX_LOAD(m->ring->tail);
		if (again == tail && seq >= m->from_seq) {
			m->lost += seq - m->from_seq, m->seq = m->from_seq = seq, m->pos = m->from = tail; /* left behind: on at tail */
			return m->head = m->head < tail ? tail : m->head, 0;
		}
		if (++tries == 1000) return errno = ECONNRESET, -1;
	}
	return m->from = m->pos, m->from_seq = m->seq, 1;
}

/* The next message where it lies, and may be overwritten. If all before are known to be whole it waits for one. 1; -1: errno; 0: call
 * msgmux_whole, or, if nothing has come since the last time, the broker has gone, and all is read. */
static inline int msgmux_look(struct msgmux *m, const void **message, uint32_t *len) {
	for (int got;;) {
		if (m->head == m->pos && !m->gone && !MSGMUX_LOAD(m->page->over)) m->head = MSGMUX_LOAD(m->ring->head);
		char *at = m->bytes + (m->pos & (m->size - 1));
		uint64_t there = m->head - m->pos, n = 0;
		if (there && there <= m->size && !(m->pos & 3)) *len = __atomic_load_n((uint32_t *)(void *)at, __ATOMIC_RELAXED), n = ((uint64_t)*len + 7) & ~UINT64_C(3);
		if (n && n <= there) return *message = at + 4, m->pos += n, m->seq++, 1;
		if (m->from != m->pos || (!there && m->gone)) return 0;
		if (there && (got = msgmux_whole(m))) return errno = got > 0 ? EBADMSG : errno, -1; /* it has not been overwritten */
		if (there) continue;
		MSGMUX_STORE(m->page->sleep, ++m->sleeps);
		got = MSGMUX_LOAD(m->page->over) || MSGMUX_LOAD(m->ring->head) == m->pos ? msgmux_hear(m) : 1; /* 1: something came meanwhile */
		if (got >= 0 || errno != EAGAIN) MSGMUX_STORE(m->page->sleep, 0);
		if (got < 0) return -1;
		if (!strncmp(m->said, "error ", 6)) m->gone = 1;
		else if (!got) m->head = MSGMUX_LOAD(m->ring->head); /* what there was is there still */
	}
}

/* A copy of the next message, valid until the next call; seq is the number behind its own. 1; 0: the broker has gone, and all is read; -1. */
static inline int msgmux_next(struct msgmux *m, const void **message, uint32_t *len) {
	for (int got;;) {
		char *copy = (got = msgmux_look(m, message, len)) <= 0 || *len < m->room ? m->copy : (char *)realloc(m->copy, (size_t)*len + 1);
		if (got <= 0 || !copy) return m->pos = m->from, m->seq = m->from_seq, got ? -1 : 0;
		if (*len >= m->room) m->copy = copy, m->room = (size_t)*len + 1;
		memcpy(copy, *message, *len);
		if ((got = msgmux_whole(m))) return *message = copy, got;
	}
}

/* Says that everything numbered below seq is done. The broker may be waiting to be told. */
static inline void msgmux_done(struct msgmux *m, uint64_t seq) {
	MSGMUX_STORE(m->page->done, seq);
	uint64_t ask = MSGMUX_LOAD(m->page->ask);
	if (ask != m->answered && send(m->fd, &seq, sizeof seq, MSG_DONTWAIT | MSG_NOSIGNAL) > 0) m->answered = ask;
}

/* Publishes what was put, and wakes the broker if it sleeps. -1: EPIPE, and of what lies before pos the broker has what lies before taken. */
static inline int msgmux_publish(struct msgmux *m) {
	MSGMUX_STORE(m->stage->head, m->pos);
	uint64_t sleep = MSGMUX_LOAD(m->stage->sleep), over = m->gone || MSGMUX_LOAD(m->stage->over);
	if (sleep == m->answered && !over) return 0;
	while (!over && send(m->fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno != EAGAIN) /* EAGAIN: it has others to read */
		if (!(over = errno != ENOBUFS && errno != ENOMEM)) usleep(1000);
	for (m->flags = over ? 0 : m->flags; over && !m->gone && (msgmux_hear(m) > 0 || errno == EINTR);) {} /* it takes what it still takes */
	m->answered = sleep, m->taken = MSGMUX_LOAD(m->stage->taken);
	return over && m->taken != m->pos ? (errno = EPIPE, -1) : 0;
}

/* Room for a message of so many bytes behind the others, which it publishes if it has to wait. NULL: errno, and there is none. */
static inline void *msgmux_room(struct msgmux *m, uint32_t len) {
	uint64_t n = ((uint64_t)len + 7) & ~UINT64_C(3);
	while (n <= m->size / 2 && len <= m->most && m->pos - m->taken + n > m->size && m->pos - (m->taken = MSGMUX_LOAD(m->stage->taken)) + n > m->size) {
		if (msgmux_publish(m) || m->gone) return errno = EPIPE, (void *)NULL; /* pos is behind the last one that was put */
		MSGMUX_STORE(m->stage->want, ++m->sleeps);
		if (m->pos - (m->taken = MSGMUX_LOAD(m->stage->taken)) + n > m->size && msgmux_hear(m) < 0) return NULL;
	}
	if (n > m->size / 2 || len > m->most) return errno = EMSGSIZE, (void *)NULL;
	char *at = m->bytes + (m->pos & (m->size - 1));
	memset(at + n - 4, 0, 4); /* of which some are behind the message */
	memcpy(at, &len, 4);
	return m->pos += n, at + 4;
}
