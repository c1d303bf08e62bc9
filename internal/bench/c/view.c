// SPDX-License-Identifier: Apache-2.0
//
// view.c - a sink that reads the broker's ring in place, by the header that the
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
	for (int got, n;;) {
		for (n = 0; n < 256 && (got = msgmux_look(&m, &message, &len)) > 0; n++) payload_take(&t, message, len);
		if (n == 0) hung_up();
		if (msgmux_whole(&m) < 1) tally->bad += n; // overwritten: it was left behind
		msgmux_done(&m, m.seq);
	}
}
