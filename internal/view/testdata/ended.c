// SPDX-License-Identifier: Apache-2.0

/* What the header for C receives of what was sent last where the kernel tells of the end first: TestPromise12_EndToldFirstInC. */

#include <errno.h>
#include <sys/socket.h>

static const char *told; /* what is told first: 0 for the end, r for a reset */

static ssize_t recvmsg_late(int fd, struct msghdr *h, int flags) {
	switch (*told ? *told++ : 0) {
	case '0': return h->msg_controllen = 0;
	case 'r': return errno = ECONNRESET, -1;
	}
	return recvmsg(fd, h, flags);
}

#define recvmsg recvmsg_late
#include "msgmux.h"

int main(void) {
	const char *all[] = {"", "0", "r", "0r", "r0"};
	int failed = 0;
	for (unsigned i = 0; i < sizeof all / sizeof *all; i++) {
		struct msgmux m = {.kind = MSGMUX_SINK};
		int ends[2];
		if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) || send(ends[1], "error over now", 14, 0) < 0) return perror("cannot begin"), 1;
		m.fd = ends[0], told = all[i];
		close(ends[1]);
		int got = msgmux_hear(&m), end = msgmux_hear(&m);
		if (got != 1 || strcmp(m.said, "error over now") || end || !m.gone) failed = printf("told %s: %d, then %d, %s\n", all[i], got, end, m.said);
		msgmux_close(&m);
	}
	return failed != 0;
}
