// SPDX-License-Identifier: Apache-2.0

/* Reads the ring in descriptor 3, which is overwritten all the time, for three seconds, by turns with copies and in place:
 * TestPromise12_OvertakenInC. */

#include <time.h>

#include "msgmux.h"

/* wrong is what is wrong with message seq, NULL if nothing. It may change while it is read. */
static const char *wrong(uint64_t seq, const char *message, uint32_t len) {
	uint64_t word, of = seq * UINT64_C(0x9e3779b97f4a7c15);
	if (len != 8 * (1 + seq * UINT64_C(2654435761) % 500)) return "has another length";
	for (uint32_t i = 0; i < len; i += 8) {
		memcpy(&word, message + i, 8);
		if (word != of) return "is another's in part";
	}
	return NULL;
}

static int fail(uint64_t seq, const char *why) {
	fprintf(stderr, "message %llu %s\n", (unsigned long long)seq, why);
	return 1;
}

int main(void) {
	static struct msgmux_page page;
	struct msgmux m = {.kind = MSGMUX_SINK, .fd = -1, .page = &page};
	uint64_t copied = 0, looked = 0, jumps = 0, void_ = 0, rounds = 0;
	const void *message;
	uint32_t len;
	int fds[2] = {3, -1};
	if (msgmux_enter(&m, fds)) return perror("cannot map the ring"), 1;
	for (time_t end = time(NULL) + 3; time(NULL) < end;) {
		for (int i = 0; i < 100; i++) {
			uint64_t lost = m.lost;
			int got = msgmux_next(&m, &message, &len);
			if (got < 0 && errno == EBADF) continue; /* there is nothing, and nobody to wait for */
			if (got <= 0) return perror("cannot read"), 1;
			const char *why = wrong(m.seq - 1, (const char *)message, len);
			if (why) return fail(m.seq - 1, why);
			jumps += m.lost != lost;
			copied++;
		}
		const char *why = NULL;
		uint64_t bad = 0;
		int n = 0, got;
		for (rounds++; n < 50 && msgmux_look(&m, &message, &len) > 0; n++) {
			if (n == 10 && rounds % 2) { /* it takes its time, and is overtaken */
				while (MSGMUX_LOAD(m.ring->tail) <= m.from && time(NULL) < end) {}
			}
			const char *now = wrong(m.seq - 1, (const char *)message, len);
			if (now && !why) why = now, bad = m.seq - 1;
		}
		if ((got = msgmux_whole(&m)) < 0) return perror("cannot read in place"), 1;
		if (got && why) return fail(bad, why);
		looked += got ? n : 0;
		void_ += !got;
	}
	m.page = NULL;
	msgmux_close(&m);
	printf("%llu copied, %llu jumps, %llu read in place, %llu times for nothing\n", (unsigned long long)copied, (unsigned long long)jumps,
	       (unsigned long long)looked, (unsigned long long)void_);
	return 0;
}
