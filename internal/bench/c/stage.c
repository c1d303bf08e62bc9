// SPDX-License-Identifier: Apache-2.0
//
// stage.c - a source that writes its records where the broker takes them from, by
// the header that the documentation has for programs in C. Its sink is that of
// view.c.
#include "meter.h"
#include "../../../docs/examples/view/msgmux-stage.h"

static struct msgmux_stage stage;

static void emit(unsigned n) {
	size_t step = RECORD(board->size);
	uint32_t len = (uint32_t)board->size;
	char *at = msgmux_stage_reserve(&stage, n * step);
	if (!at) die("%s", "no room in the stage");
	for (unsigned i = 0; i < n; i++, at += step) {
		memcpy(at, &len, sizeof len);
		payload_stamp(at + sizeof len);
	}
	if (msgmux_stage_publish(&stage, n * step)) die("%s", "cannot publish");
}

void client_source(void) {
	unsigned fit = (unsigned)(FRAME_MAX / RECORD(board->size));
	if (!fit) fit = 1; // a record larger than a frame travels alone
	struct sockaddr_un a = sock_path("publish", -1);
	if (msgmux_stage_open(&stage, a.sun_path, "")) die("cannot have a stage: %s", stage.said);
	source_loop(fit, emit, NULL);
}

void client_sink(void) { die("%s", "a sink has no stage"); }
