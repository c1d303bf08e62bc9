// SPDX-License-Identifier: Apache-2.0
//
// nng.c - pub0 and sub0 over ipc://, without a broker: the source listens, sinks
// dial. Buffers have nng's maximum of 8192 messages; what is over is dropped.
#include "meter.h"
#include <nng/nng.h>
#include <nng/protocol/pubsub0/pub.h>
#include <nng/protocol/pubsub0/sub.h>
#include <stdio.h>
#include <stdlib.h>

static nng_socket sock;
static char *payload;
static char url[160];

static void check(int e, const char *what) {
	if (e) die("cannot %s: %s", what, nng_strerror(e));
}

static void emit(unsigned n) {
	for (unsigned i = 0; i < n; i++) {
		payload_stamp(payload);
		check(nng_send(sock, payload, board->size, 0), "send");
	}
}

void client_source(void) {
	snprintf(url, sizeof url, "ipc://%s/pub", dir);
	payload = calloc(1, board->size);
	check(nng_pub0_open(&sock), "open");
	check(nng_socket_set_int(sock, NNG_OPT_SENDBUF, 8192), "set buffer");
	check(nng_listen(sock, url, NULL, 0), "listen");
	source_loop(16, emit, NULL);
}

void client_sink(void) {
	struct track t = {0, 0};
	nng_msg *m;
	snprintf(url, sizeof url, "ipc://%s/pub", dir);
	check(nng_sub0_open(&sock), "open");
	check(nng_socket_set_int(sock, NNG_OPT_RECVBUF, 8192), "set buffer");
	check(nng_socket_set(sock, NNG_OPT_SUB_SUBSCRIBE, "", 0), "subscribe");
	// The source comes later: dialled again soon, and without waiting here.
	check(nng_socket_set_ms(sock, NNG_OPT_RECONNMINT, 10), "set interval");
	check(nng_socket_set_ms(sock, NNG_OPT_RECONNMAXT, 50), "set interval");
	check(nng_dial(sock, url, NULL, NNG_FLAG_NONBLOCK), "dial");
	tally->ready = 1;
	for (;;) {
		if (nng_recvmsg(sock, &m, 0)) continue;
		payload_take(&t, nng_msg_body(m), nng_msg_len(m));
		nng_msg_free(m);
	}
}
