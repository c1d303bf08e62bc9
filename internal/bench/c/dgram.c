// SPDX-License-Identifier: Apache-2.0
//
// dgram.c - plain datagrams, one send() and one recv() a message, as any
// program would do it. The source sends to DIR/source; each sink binds DIR/kN
// and pushes that name to DIR/register. The word "lone" leaves the latter out.
#include "meter.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/time.h>
#include <unistd.h>

static int out;
static char *payload;

static void emit(unsigned n) {
	for (unsigned i = 0; i < n; i++) {
		payload_stamp(payload);
		while (send(out, payload, board->size, 0) < 0)
			if (errno != EINTR) die("cannot send datagram");
	}
}

void client_source(void) {
	out = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	sock_connect(out, sock_path("source", -1));
	payload = calloc(1, board->size);
	source_loop(16, emit, NULL);
}

// register_sinks pushes the names of this process's sockets, each with the
// wish for an answer, from a socket of its own: an answer never goes to the
// sink itself. That socket is not connected, so that the answer may come from
// any socket of the broker's (unix(7): EPERM otherwise).
static void register_sinks(void) {
	int fd = sock_bound(SOCK_DGRAM, sock_path("a", first));
	struct timeval patience = {.tv_sec = 10};
	struct sockaddr_un to = sock_path("register", -1);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
	for (int i = 0; i < count; i++) {
		char text[256], answer[512];
		struct sockaddr_un a = sock_path("k", first + i);
		int n = snprintf(text, sizeof text, "%s\nreply=yes\n", a.sun_path);
		if (sendto(fd, text, (size_t)n, 0, (void *)&to, sizeof to) != n) die("cannot send registration of %s", a.sun_path);
		ssize_t r = recv(fd, answer, sizeof answer - 1, 0);
		if (r < 0) die("no answer to registration of %s", a.sun_path);
		answer[r] = 0;
		if (strncmp(answer, "ok", 2)) {
			errno = EPROTO;
			die("registration of %s refused: %s", a.sun_path, answer);
		}
		tally->ready++;
	}
	close(fd);
}

// serve_one is the ordinary sink: a blocking recv() for each message.
static void serve_one(int fd) {
	size_t cap = board->size + 1;
	char *buf = malloc(cap);
	struct track t = {0, 0};
	for (;;) {
		ssize_t r = recv(fd, buf, cap, 0);
		if (r >= 0) payload_take(&t, buf, (size_t)r);
		else if (errno != EINTR) die("cannot receive");
	}
}

// serve_many serves all sockets of the process, up to 64 messages a turn. It
// is there to give a broker a thousand sinks, and cheap so as not to be what
// is measured.
static void serve_many(const int *fds) {
	enum { BATCH = 64 };
	size_t cap = board->size + 1;
	struct track *tracks = calloc((size_t)count, sizeof *tracks);
	struct mmsghdr m[BATCH];
	struct iovec iov[BATCH];
	struct epoll_event ev[BATCH];
	char *buf = malloc(BATCH * cap);
	int ep = epoll_create1(EPOLL_CLOEXEC);
	for (int i = 0; i < BATCH; i++) {
		iov[i] = (struct iovec){buf + (size_t)i * cap, cap};
		m[i] = (struct mmsghdr){.msg_hdr = {.msg_iov = &iov[i], .msg_iovlen = 1}};
	}
	for (int i = 0; i < count; i++) {
		struct epoll_event e = {.events = EPOLLIN, .data.u32 = (uint32_t)i};
		if (epoll_ctl(ep, EPOLL_CTL_ADD, fds[i], &e)) die("cannot watch socket");
	}
	for (;;) {
		int n = epoll_wait(ep, ev, BATCH, -1);
		for (int i = 0; i < n; i++) {
			uint32_t s = ev[i].data.u32;
			int k = recvmmsg(fds[s], m, BATCH, MSG_DONTWAIT, NULL);
			for (int j = 0; j < k; j++) payload_take(&tracks[s], iov[j].iov_base, m[j].msg_len);
		}
	}
}

void client_sink(void) {
	int *fds = calloc((size_t)count, sizeof *fds);
	for (int i = 0; i < count; i++) fds[i] = sock_bound(SOCK_DGRAM, sock_path("k", first + i));
	if (word("lone")) tally->ready = (uint64_t)count;
	else register_sinks();
	if (count == 1) serve_one(fds[0]);
	else serve_many(fds);
}
