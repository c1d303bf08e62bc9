// SPDX-License-Identifier: Apache-2.0
//
// view.c - a sink that reads the broker's ring itself, by the header that the
// documentation has for programs in C. Its source is that of frame.c.
#include "meter.h"
#include "../../../docs/examples/view/msgmux.h"

void client_source(void) { die("%s", "a source has nothing to view"); }

void client_sink(void) {
	struct track t = {0, 0};
	struct msgmux m;
	const void *message;
	uint32_t len;
	struct sockaddr_un a = sock_path("subscribe", -1);
	if (msgmux_open(&m, MSGMUX_SINK, a.sun_path, "")) die("cannot view the ring: %s", m.said);
	tally->ready = 1;
	while (msgmux_next(&m, &message, &len) > 0) {
		payload_take(&t, message, len);
		if (m.pos == m.head) msgmux_done(&m, m.seq); // of what was there at the last look
	}
	hung_up();
}
