// SPDX-License-Identifier: Apache-2.0
//
// iceoryx.c - iceoryx by its C binding: chunks of shared memory, a wait set, and a
// publisher that waits for who is too slow. A message a chunk; with the word
// "packed" as many records a chunk as a frame has, which is not how its
// documentation has it used.
#include "meter.h"
#include <iceoryx_binding_c/enums.h>
#include <iceoryx_binding_c/publisher.h>
#include <iceoryx_binding_c/runtime.h>
#include <iceoryx_binding_c/subscriber.h>
#include <iceoryx_binding_c/types.h>
#include <iceoryx_binding_c/wait_set.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static iox_pub_storage_t pub_memory;
static iox_sub_storage_t sub_memory;
static iox_ws_storage_t ws_memory;
static iox_pub_t pub;

// begin makes this process known under a name of its own.
static void begin(const char *role) {
	char name[64];
	snprintf(name, sizeof name, "meter-%s-%d", role, getpid());
	iox_runtime_init(name);
}

static char *loan(size_t size) {
	void *chunk;
	while (iox_pub_loan_chunk(pub, &chunk, (uint32_t)size) != AllocationResult_SUCCESS) usleep(50); // all are with sinks
	return chunk;
}

static void emit_each(unsigned n) {
	for (; n; n--) {
		char *chunk = loan(board->size);
		payload_stamp(chunk);
		iox_pub_publish_chunk(pub, chunk);
	}
}

// A packed chunk begins with how many records it has.
static void emit_packed(unsigned n) {
	uint64_t records = n;
	uint32_t len = (uint32_t)board->size;
	char *chunk = loan(sizeof records + n * RECORD(board->size)), *at = chunk + sizeof records;
	memcpy(chunk, &records, sizeof records);
	for (; n; n--, at += RECORD(board->size)) {
		memcpy(at, &len, sizeof len);
		payload_stamp(at + sizeof len);
	}
	iox_pub_publish_chunk(pub, chunk);
}

void client_source(void) {
	iox_pub_options_t options;
	unsigned fit = (unsigned)(FRAME_MAX / RECORD(board->size));
	begin("source");
	iox_pub_options_init(&options);
	options.subscriberTooSlowPolicy = ConsumerTooSlowPolicy_WAIT_FOR_CONSUMER;
	pub = iox_pub_init(&pub_memory, "meter", "channel", "messages", &options);
	if (word("packed"))
		source_loop(fit ? fit : 1, emit_packed, NULL);
	else
		source_loop(64, emit_each, NULL);
}

static void take(struct track *t, const char *chunk) {
	uint64_t records = 1;
	if (!word("packed")) {
		payload_take(t, chunk, board->size);
		return;
	}
	memcpy(&records, chunk, sizeof records);
	for (chunk += sizeof records; records; records--) {
		uint32_t len;
		memcpy(&len, chunk, sizeof len);
		payload_take(t, chunk + sizeof len, len);
		chunk += RECORD(len);
	}
}

void client_sink(void) {
	struct track t = {0, 0};
	iox_sub_options_t options;
	iox_notification_info_t info[1];
	uint64_t missed;
	const void *chunk;
	begin("sink");
	iox_sub_options_init(&options);
	options.queueCapacity = 64;
	options.queueFullPolicy = QueueFullPolicy_BLOCK_PRODUCER;
	iox_sub_t sub = iox_sub_init(&sub_memory, "meter", "channel", "messages", &options);
	iox_ws_t set = iox_ws_init(&ws_memory);
	if (iox_ws_attach_subscriber_state(set, sub, SubscriberState_HAS_DATA, 0, NULL) != WaitSetResult_SUCCESS) die("%s", "cannot watch the subscriber");
	tally->ready = 1;
	for (;;) {
		if (iox_sub_take_chunk(sub, &chunk) != ChunkReceiveResult_SUCCESS) {
			iox_ws_wait(set, info, 1, &missed);
			continue;
		}
		take(&t, chunk);
		iox_sub_release_chunk(sub, chunk);
	}
}
