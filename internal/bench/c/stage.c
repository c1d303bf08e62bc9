// SPDX-License-Identifier: Apache-2.0
//
// stage.c - a source that writes its records where the broker takes them from, by
// the header that the documentation has for programs in C. Its sink is that of
// view.c.
#include "meter.h"
#include "../../../docs/examples/view/msgmux.h"

static struct msgmux stage;

static void emit(unsigned n) {
	for (unsigned i = 0; i < n; i++) {
		char *message = msgmux_room(&stage, (uint32_t)board->size);
		if (!message) die("%s", "no room in the stage");
		payload_stamp(message);
	}
	if (msgmux_publish(&stage)) die("%s", "cannot publish");
}

void client_source(void) {
	unsigned fit = (unsigned)(FRAME_MAX / RECORD(board->size));
	if (!fit) fit = 1; // a record larger than a frame travels alone
	struct sockaddr_un a = sock_path("publish", -1);
	if (msgmux_open(&stage, MSGMUX_SOURCE, a.sun_path, "")) die("cannot have a stage: %s", stage.said);
	source_loop(fit, emit, NULL);
}

void client_sink(void) { die("%s", "a sink has no stage"); }
