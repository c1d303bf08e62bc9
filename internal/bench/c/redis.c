// SPDX-License-Identifier: Apache-2.0
//
// redis.c - PUBLISH and SUBSCRIBE by hiredis over DIR/redis. The source sends up
// to 64 commands (or 512 KiB) before it reads their replies.
#include "meter.h"
#include <hiredis/hiredis.h>
#include <stdlib.h>

static redisContext *server;
static char *payload;

static void dial(void) {
	server = redisConnectUnix(sock_path("redis", -1).sun_path);
	if (!server || server->err) die("cannot connect to redis: %s", server ? server->errstr : "no memory");
}

static void emit(unsigned n) {
	redisReply *reply;
	for (unsigned i = 0; i < n; i++) {
		payload_stamp(payload);
		redisAppendCommand(server, "PUBLISH bench %b", payload, (size_t)board->size);
	}
	for (unsigned i = 0; i < n; i++) {
		if (redisGetReply(server, (void **)&reply)) die("cannot publish: %s", server->errstr);
		freeReplyObject(reply);
	}
}

void client_source(void) {
	dial();
	payload = calloc(1, board->size);
	source_loop(board->size < 8192 ? 64 : 8, emit, NULL);
}

void client_sink(void) {
	struct track t = {0, 0};
	redisReply *reply;
	dial();
	freeReplyObject(redisCommand(server, "SUBSCRIBE bench"));
	tally->ready = 1;
	while (!redisGetReply(server, (void **)&reply)) {
		if (reply->type == REDIS_REPLY_ARRAY && reply->elements == 3) payload_take(&t, reply->element[2]->str, reply->element[2]->len);
		freeReplyObject(reply);
	}
	hung_up();
}
