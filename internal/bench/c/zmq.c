// SPDX-License-Identifier: Apache-2.0
//
// zmq.c - ZeroMQ over ipc://. The broker is zmq_proxy between XSUB and XPUB. With
// the word "nodrop" full queues hold the sender back instead of dropping.
#include "meter.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <zmq.h>

static void *out;
static char *payload;

static void *endpoint(int type, const char *name, int serve) {
	static void *context;
	char url[160];
	int yes = 1;
	if (!context) context = zmq_ctx_new();
	void *s = zmq_socket(context, type);
	snprintf(url, sizeof url, "ipc://%s/%s", dir, name);
	if (word("nodrop") && (type == ZMQ_XPUB || type == ZMQ_PUB)) zmq_setsockopt(s, ZMQ_XPUB_NODROP, &yes, sizeof yes);
	if (type == ZMQ_SUB) zmq_setsockopt(s, ZMQ_SUBSCRIBE, "", 0);
	if (serve ? zmq_bind(s, url) : zmq_connect(s, url)) die("cannot use %s", url);
	return s;
}

void client_broker(void) {
	void *back = endpoint(ZMQ_XPUB, "sub", 1);
	zmq_proxy(endpoint(ZMQ_XSUB, "pub", 1), back, NULL);
}

static void emit(unsigned n) {
	for (unsigned i = 0; i < n; i++) {
		payload_stamp(payload);
		while (zmq_send(out, payload, board->size, 0) < 0)
			if (errno != EAGAIN && errno != EINTR) die("cannot send");
	}
}

void client_source(void) {
	out = endpoint(ZMQ_PUB, "pub", 0);
	payload = calloc(1, board->size);
	source_loop(16, emit, NULL);
}

void client_sink(void) {
	void *in = endpoint(ZMQ_SUB, "sub", 0);
	struct track t = {0, 0};
	zmq_msg_t m;
	zmq_msg_init(&m);
	tally->ready = 1;
	for (;;)
		if (zmq_msg_recv(&m, in, 0) >= 0) payload_take(&t, zmq_msg_data(&m), zmq_msg_size(&m));
}
