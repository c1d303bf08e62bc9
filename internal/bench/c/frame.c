// SPDX-License-Identifier: Apache-2.0
//
// frame.c - many messages in one SEQPACKET packet. The source fills frames of up
// to 64 KiB for DIR/publish; a sink reads frames from DIR/subscribe. The floors
// have the records alone; with the word "msgmux" there is the hello before them
// and in packets to a sink a header of 16 bytes.
#include "meter.h"
#include <errno.h>
#include <stdlib.h>

enum { SINK_HEADER = 16 };

static int out;
static char *frame;

// join connects to a socket of the broker's and says hello where that is due.
static int join(const char *name) {
	static const char hello[] = "msgmux/1\n";
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	sock_connect(fd, sock_path(name, -1));
	if (!word("msgmux")) return fd;
	char answer[1025] = "";
	if (send(fd, hello, sizeof hello - 1, 0) < 0 || recv(fd, answer, sizeof answer - 1, 0) < 0) die("cannot say hello to %s", name);
	if (strncmp(answer, "ok", 2)) {
		errno = EPROTO;
		die("%s refused: %s", name, answer);
	}
	return fd;
}

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
	out = join("publish");
	frame = calloc(fit, RECORD(board->size));
	source_loop(fit, emit, NULL);
}

void client_sink(void) {
	size_t header = word("msgmux") ? SINK_HEADER : 0;
	size_t cap = header + (RECORD(board->size) > FRAME_MAX ? RECORD(board->size) : FRAME_MAX);
	char *buf = malloc(cap);
	struct track t = {0, 0};
	int fd = join("subscribe");
	tally->ready = 1;
	for (;;) {
		ssize_t r = recv(fd, buf, cap, 0);
		if (r < 0 && errno == EINTR) continue;
		if (r <= 0) hung_up();
		for (size_t at = header; at + sizeof(uint32_t) <= (size_t)r;) {
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
