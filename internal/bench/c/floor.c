// SPDX-License-Identifier: Apache-2.0
//
// floor.c - what the sockets alone cost: one thread, blocking calls, every sink
// gets every message, nothing is counted, kept or waited for with patience.
//
//     broker DIR dgram  datagrams in and out: recvmmsg(64), sendmmsg to each sink
//     broker DIR pack   datagrams in, up to 64 packed in one SEQPACKET frame for each sink
//     broker DIR batch  SEQPACKET frames of up to 64 KiB in and out, passed on as they are
//
// Its sockets have the broker's names, and its register answers like the
// broker's, so that the clients are the very same programs.
#include "meter.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { BATCH = 64 };

static int *sinks;

// accept_sinks takes framed sinks until all are there.
static void accept_sinks(int listener) {
	for (uint32_t i = 0; i < board->sinks; i++)
		if ((sinks[i] = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) < 0) die("cannot accept sink");
}

// register_sinks takes names of datagram sinks until all are there.
static void register_sinks(int reg) {
	for (uint32_t i = 0; i < board->sinks; i++) {
		char text[512], answer[32];
		struct sockaddr_un from, a = {.sun_family = AF_UNIX};
		socklen_t fromlen = sizeof from;
		ssize_t r = recvfrom(reg, text, sizeof text - 1, 0, (void *)&from, &fromlen);
		if (r < 0) die("cannot receive registration");
		text[r] = 0;
		text[strcspn(text, "\n")] = 0;
		snprintf(a.sun_path, sizeof a.sun_path, "%.107s", text);
		sinks[i] = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
		if (connect(sinks[i], (void *)&a, sizeof a)) die("cannot connect to sink %s", a.sun_path);
		int n = snprintf(answer, sizeof answer, "ok id=%u\n", i + 1);
		sendto(reg, answer, (size_t)n, 0, (void *)&from, fromlen);
	}
}

static void send_all(int fd, struct mmsghdr *m, int n) {
	while (n > 0) {
		int r = sendmmsg(fd, m, (unsigned)n, 0);
		if (r < 0 && errno != EINTR) die("cannot send datagrams");
		if (r > 0) {
			m += r;
			n -= r;
		}
	}
}

static void send_frame(int fd, const struct msghdr *m) {
	while (sendmsg(fd, m, 0) < 0)
		if (errno != EINTR) die("cannot send frame");
}

// pack_out sends k received records as frames of at most FRAME_MAX, or one
// larger record alone.
static void pack_out(struct iovec *records, int k) {
	for (int from = 0; from < k;) {
		size_t total = 0;
		int to = from;
		while (to < k && (to == from || total + records[to].iov_len <= FRAME_MAX)) total += records[to++].iov_len;
		struct msghdr frame = {.msg_iov = records + from, .msg_iovlen = (size_t)(to - from)};
		for (uint32_t i = 0; i < board->sinks; i++) send_frame(sinks[i], &frame);
		from = to;
	}
}

// pass_datagrams receives into 64 records, each with room for its length
// before the payload, and sends payloads or whole records on.
static void pass_datagrams(int in, int pack) {
	struct mmsghdr m[BATCH];
	struct iovec payload[BATCH], record[BATCH];
	size_t stride = (RECORD(board->size) + 63) & ~(size_t)63;
	char *buf = calloc(BATCH, stride);
	for (int i = 0; i < BATCH; i++) {
		record[i].iov_base = buf + (size_t)i * stride;
		payload[i].iov_base = buf + (size_t)i * stride + 4;
		m[i] = (struct mmsghdr){.msg_hdr = {.msg_iov = &payload[i], .msg_iovlen = 1}};
	}
	for (;;) {
		for (int i = 0; i < BATCH; i++) payload[i].iov_len = board->size;
		int k = recvmmsg(in, m, BATCH, MSG_WAITFORONE, NULL);
		if (k < 0 && errno != EINTR) die("cannot receive datagrams");
		for (int i = 0; i < k; i++) {
			uint32_t len = m[i].msg_len;
			payload[i].iov_len = len;
			record[i].iov_len = RECORD(len);
			if (pack) memcpy(record[i].iov_base, &len, sizeof len);
		}
		if (pack) pack_out(record, k);
		else
			for (uint32_t i = 0; i < board->sinks; i++) send_all(sinks[i], m, k);
	}
}

static void pass_frames(int in) {
	size_t cap = RECORD(board->size) > FRAME_MAX ? RECORD(board->size) : FRAME_MAX;
	struct iovec iov = {malloc(cap), cap};
	struct msghdr frame = {.msg_iov = &iov, .msg_iovlen = 1};
	for (;;) {
		ssize_t r = recv(in, iov.iov_base, cap, 0);
		if (r <= 0) die("source is gone");
		iov.iov_len = (size_t)r;
		for (uint32_t i = 0; i < board->sinks; i++) send_frame(sinks[i], &frame);
	}
}

void client_broker(void) {
	int batch = word("batch"), pack = word("pack");
	sinks = calloc(board->sinks, sizeof *sinks);
	int reg = -1, sub = -1;
	if (batch || pack) sub = sock_bound(SOCK_SEQPACKET, sock_path("subscribe", -1));
	else reg = sock_bound(SOCK_DGRAM, sock_path("register", -1));
	int in = batch ? sock_bound(SOCK_SEQPACKET, sock_path("publish", -1)) : sock_bound(SOCK_DGRAM, sock_path("source", -1));
	if (reg >= 0) register_sinks(reg);
	else accept_sinks(sub);
	if (!batch) pass_datagrams(in, pack);
	if ((in = accept4(in, NULL, NULL, SOCK_CLOEXEC)) < 0) die("cannot accept source");
	pass_frames(in);
}

void client_source(void) { die("floor is a broker only"); }
void client_sink(void) { die("floor is a broker only"); }
