// SPDX-License-Identifier: Apache-2.0
//
// view.c - a sink that reads the broker's ring itself, by the header that the
// documentation has for programs in C. Its source is that of frame.c.
#include "meter.h"
#include "../../../docs/examples/view/msgmux-view.h"

void client_source(void) { die("%s", "a source has nothing to view"); }

void client_sink(void) {
	struct track t = {0, 0};
	struct msgmux_view v;
	const void *message;
	uint32_t len;
	struct sockaddr_un a = sock_path("subscribe", -1);
	if (msgmux_view_open(&v, a.sun_path, "")) die("cannot view the ring: %s", v.said);
	tally->ready = 1;
	while (msgmux_view_next(&v, &message, &len) > 0) {
		payload_take(&t, message, len);
		if (v.at == v.end) msgmux_view_done(&v, v.seq); // of what was copied out at once
	}
	hung_up();
}
