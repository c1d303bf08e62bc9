// SPDX-License-Identifier: Apache-2.0
//
// worker.c - a member of a share: it has one message at a time, is at it for a
// millisecond, and says that it is done. Its source is that of frame.c. In its
// tally, began is the time that it worked, and ended the time that it waited for
// the next message, in ns.
#include "meter.h"
#include <unistd.h>

void client_source(void) { die("%s", "a source has no share"); }

void client_sink(void) {
	static const char hello[] = "msgmux/1\nshare=work\nack=yes\nbatch=1\n";
	static const struct timespec work = {0, 1000000};
	static char packet[70000];
	struct track t = {0, 0};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	sock_connect(fd, sock_path("subscribe", -1));
	if (send(fd, hello, sizeof hello - 1, 0) < 0 || recv(fd, packet, sizeof packet, 0) < 3 || memcmp(packet, "ok", 2)) die("%s", "cannot join the share");
	t.warm = 1, tally->warm = 1; // the first messages may all be another worker's
	tally->ready = 1;
	for (uint64_t asked = clock_ns(), done;;) {
		ssize_t n = recv(fd, packet, sizeof packet, 0);
		if (n < 20) hung_up();
		uint64_t got = clock_ns();
		clock_nanosleep(CLOCK_MONOTONIC, 0, &work, NULL);
		payload_take(&t, packet + 20, board->size);
		memcpy(&done, packet, sizeof done);
		done++;
		uint64_t now = clock_ns();
		if (t.last) tally->ended += got - asked, tally->began += now - got;
		asked = now;
		if (send(fd, &done, sizeof done, 0) < 0) hung_up();
	}
}
