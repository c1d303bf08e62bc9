// SPDX-License-Identifier: Apache-2.0
//
// udp.c - multicast on the loopback device; the kernel copies to each member
// and drops where a receive buffer is full. 64 messages a call at both ends.
#include "meter.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>

enum { BATCH = 64 };

static int fd;
static struct mmsghdr m[BATCH];
static struct iovec iov[BATCH];

// group is an address from the block for use within one site (RFC 2365).
static struct sockaddr_in group(void) {
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(28471)};
	a.sin_addr.s_addr = inet_addr("239.192.7.1");
	return a;
}

static void prepare(size_t each) {
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	char *buf = calloc(BATCH, each);
	for (int i = 0; i < BATCH; i++) {
		iov[i] = (struct iovec){buf + (size_t)i * each, each};
		m[i] = (struct mmsghdr){.msg_hdr = {.msg_iov = &iov[i], .msg_iovlen = 1}};
	}
}

static void emit(unsigned n) {
	for (unsigned i = 0; i < n; i++) payload_stamp(iov[i].iov_base);
	for (unsigned at = 0; at < n;) {
		int r = sendmmsg(fd, m + at, n - at, 0);
		if (r > 0) at += (unsigned)r;
		else if (errno != EINTR && errno != ENOBUFS) die("cannot send to group");
	}
}

void client_source(void) {
	prepare(board->size);
	struct sockaddr_in to = group();
	struct in_addr lo = {htonl(INADDR_LOOPBACK)};
	if (setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &lo, sizeof lo) || connect(fd, (void *)&to, sizeof to)) die("cannot reach group");
	source_loop(BATCH, emit, NULL);
}

void client_sink(void) {
	prepare(board->size + 1);
	struct sockaddr_in at = group();
	struct ip_mreq join = {.imr_multiaddr = at.sin_addr, .imr_interface = {htonl(INADDR_LOOPBACK)}};
	int yes = 1, room = 4 << 20;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
	if (bind(fd, (void *)&at, sizeof at) || setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &join, sizeof join)) die("cannot join group");
	struct track t = {0, 0};
	tally->ready = 1;
	for (;;) {
		int n = recvmmsg(fd, m, BATCH, MSG_WAITFORONE, NULL);
		for (int i = 0; i < n; i++) payload_take(&t, iov[i].iov_base, m[i].msg_len);
	}
}
