// SPDX-License-Identifier: Apache-2.0

/* A source with a stage in C11, for Linux: docs/protocol.md, "Staging". One thread at a time may use a struct msgmux_stage. Nothing has
 * to be linked. Records are written where the broker takes them from; many may be published at once. */

#ifndef MSGMUX_STAGE_H
#define MSGMUX_STAGE_H

#include <errno.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define MSGMUX_STAGE_MAGIC UINT64_C(0x316761747378756d)

typedef _Atomic uint64_t msgmux_stage_word;

/* At the beginning of the stage's file. */
struct msgmux_stage_words {
	msgmux_stage_word head, want, leave, room1[5];        /* the source's */
	msgmux_stage_word magic, ring, size, given, room2[4]; /* the broker's */
	msgmux_stage_word taken, room3[7], sleep, over;
};

struct msgmux_stage {
	int fd;
	struct msgmux_stage_words *words;
	char *ring;                           /* twice, back to back */
	uint64_t size, pos, taken;            /* where it writes next; how far that was taken, as of the last look */
	uint64_t woken, wants;
	char said[1024];                      /* the ok; or why the broker has refused, or hung up */
};

static inline int msgmux_stage_map(struct msgmux_stage *s, int fd) {
	struct stat st;
	if (fstat(fd, &st) || st.st_size < 8192) return -1;
	struct msgmux_stage_words *w = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (w == MAP_FAILED) return -1;
	uint64_t at = w->ring, n = w->size;
	if (w->magic != MSGMUX_STAGE_MAGIC || n < 4096 || (n & (n - 1)) || n > (uint64_t)st.st_size || at > st.st_size - n) return errno = EPROTO, -1;
	char *ring = mmap(NULL, 2 * n, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (ring == MAP_FAILED || mmap(ring, n, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, at) == MAP_FAILED ||
	    mmap(ring + n, n, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, at) == MAP_FAILED)
		return -1;
	s->words = w, s->ring = ring, s->size = n, s->pos = w->head, s->taken = w->taken;
	return 0;
}

/* Waits for a packet. 1: it is dealt with; 0: the broker has hung up; -1: errno. */
static inline int msgmux_stage_wait(struct msgmux_stage *s) {
	char b[sizeof s->said], c[CMSG_SPACE(sizeof(int))];
	struct iovec iov = {b, sizeof b - 1};
	struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = c, .msg_controllen = sizeof c};
	ssize_t n;
	for (int ends = 0; (n = recvmsg(s->fd, &h, MSG_CMSG_CLOEXEC)) < 0;) {
		/* Once ECONNRESET may come before what was sent last. */
		if (errno != EINTR && (errno != ECONNRESET || ends++)) return errno == ECONNRESET ? 0 : -1;
	}
	if (!n) return 0;
	if (n > 1) { /* text: ok ..., or error ... */
		memcpy(s->said, b, n);
		s->said[n] = 0;
		return 1;
	}
	struct cmsghdr *k = CMSG_FIRSTHDR(&h);
	if (k && k->cmsg_type == SCM_RIGHTS && k->cmsg_len == CMSG_LEN(sizeof(int))) {
		int fd, failed = 0;
		memcpy(&fd, CMSG_DATA(k), sizeof fd);
		if (!s->words) failed = msgmux_stage_map(s, fd);
		close(fd);
		if (failed) return -1;
	}
	return 1;
}

/* Connects to path, with options that end in newlines each. -1: errno; or EPROTO, and s->said has the broker's reason. */
static inline int msgmux_stage_open(struct msgmux_stage *s, const char *path, const char *options) {
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	char hello[4096];
	memset(s, 0, sizeof *s);
	if (strlen(path) >= sizeof a.sun_path) return errno = ENAMETOOLONG, -1;
	memcpy(a.sun_path, path, strlen(path));
	int n = snprintf(hello, sizeof hello, "msgmux/1\nstage=yes\n%s", options);
	if ((s->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)) < 0 || connect(s->fd, (void *)&a, sizeof a) || send(s->fd, hello, n, MSG_NOSIGNAL) < 0) return -1;
	while (!s->words) {
		int got = msgmux_stage_wait(s);
		if (got < 0) return -1;
		if (!got || !strncmp(s->said, "error", 5)) return errno = EPROTO, -1;
	}
	return 0;
}

/* Room for n bytes of records, at most half of the stage; it waits. NULL: EPIPE, and s->said may say why the broker has hung up; or errno. */
static inline char *msgmux_stage_reserve(struct msgmux_stage *s, uint64_t n) {
	if (n > s->size / 2) return errno = EMSGSIZE, NULL;
	while (s->pos - s->taken + n > s->size) {
		if ((s->taken = s->words->taken, s->pos - s->taken + n <= s->size)) break;
		s->words->want = ++s->wants; /* sequentially consistent, like the load behind it */
		if ((s->taken = s->words->taken, s->pos - s->taken + n <= s->size)) break;
		int got = msgmux_stage_wait(s);
		if (got < 0) return NULL;
		if (!got || !strncmp(s->said, "error", 5)) return errno = EPIPE, NULL;
	}
	if (s->words->over) return msgmux_stage_wait(s), errno = EPIPE, NULL;
	return s->ring + (s->pos & (s->size - 1));
}

/* Publishes n bytes of whole records that were written where reserve has said. -1: errno. EPIPE: the broker ends the connection; when it has
 * hung up, words->taken says how much it has taken of that. */
static inline int msgmux_stage_publish(struct msgmux_stage *s, uint64_t n) {
	s->words->head = s->pos += n; /* sequentially consistent, like the load behind it */
	uint64_t sleep = s->words->sleep;
	if (sleep == s->woken && !s->words->over) return 0;
	s->woken = sleep;
	return send(s->fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL) == 1 || errno == EAGAIN ? 0 : -1; /* EAGAIN: it has been woken, and has not looked */
}

/* Sends a message. -1: errno, as of reserve. */
static inline int msgmux_stage_send(struct msgmux_stage *s, const void *message, uint32_t len) {
	uint64_t n = ((uint64_t)len + 7) & ~UINT64_C(3);
	char *at = msgmux_stage_reserve(s, n);
	if (!at) return -1;
	memcpy(at, &len, 4);
	memcpy(at + 4, message, len);
	return msgmux_stage_publish(s, n);
}

#endif
