// SPDX-License-Identifier: Apache-2.0
//
// frame.c - many messages in one SEQPACKET packet, for the framed floors. The
// source fills frames of up to 64 KiB for DIR/publish; a sink reads frames from
// DIR/subscribe.
#include "meter.h"
#include <errno.h>
#include <stdlib.h>

static int out;
static char *frame;

static void emit(unsigned n) {
	size_t step = RECORD(board->size);
	uint32_t len = (uint32_t)board->size;
	for (unsigned i = 0; i < n; i++) {
		char *record = frame + i * step;
		memcpy(record, &len, sizeof len);
		payload_stamp(record + sizeof len);
	}
	while (send(out, frame, n * step, 0) < 0)
		if (errno != EINTR) die("cannot send frame");
}

void client_source(void) {
	unsigned fit = (unsigned)(FRAME_MAX / RECORD(board->size));
	if (!fit) fit = 1; // a record larger than a frame travels alone
	out = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	sock_connect(out, sock_path("publish", -1));
	frame = calloc(fit, RECORD(board->size));
	source_loop(fit, emit, NULL);
}

void client_sink(void) {
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	size_t cap = RECORD(board->size) > FRAME_MAX ? RECORD(board->size) : FRAME_MAX;
	char *buf = malloc(cap);
	struct track t = {0, 0};
	sock_connect(fd, sock_path("subscribe", -1));
	tally->ready = 1;
	for (;;) {
		ssize_t r = recv(fd, buf, cap, 0);
		if (r < 0 && errno == EINTR) continue;
		if (r <= 0) hung_up();
		for (size_t at = 0; at + sizeof(uint32_t) <= (size_t)r;) {
			uint32_t len;
			memcpy(&len, buf + at, sizeof len);
			if (at + sizeof len + len > (size_t)r) {
				tally->bad++;
				break;
			}
			payload_take(&t, buf + at + sizeof len, len);
			at += RECORD(len);
		}
	}
}
