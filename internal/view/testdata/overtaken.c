// SPDX-License-Identifier: Apache-2.0

/* Reads the ring in descriptor 3, which is overwritten all the time, for two seconds: TestPromise12_OvertakenInC. */

#include <time.h>

#include "msgmux.h"

int main(void) {
	static struct msgmux_page page;
	struct msgmux m = {.kind = MSGMUX_SINK, .fd = -1, .page = &page};
	uint64_t count = 0, jumps = 0, lost = 0;
	int fds[2] = {3, -1};
	if (msgmux_enter(&m, fds)) return perror("cannot map the ring"), 1;
	for (time_t end = time(NULL) + 3; time(NULL) < end;) {
		uint32_t len, want;
		int got = msgmux_copy(&m, &len);
		if (got < 0) return perror("cannot read"), 1;
		jumps += m.lost != lost;
		lost = m.lost;
		if (!got) continue;
		uint64_t seq = m.seq - 1, word, of = seq * UINT64_C(0x9e3779b97f4a7c15);
		want = 8 * (1 + seq * UINT64_C(2654435761) % 500);
		if (len != want) return fprintf(stderr, "message %llu has %u bytes instead of %u\n", (unsigned long long)seq, len, want), 1;
		for (uint32_t i = 0; i < len; i += 8) {
			memcpy(&word, m.copy + i, 8);
			if (word != of) return fprintf(stderr, "byte %u of message %llu is another's\n", i, (unsigned long long)seq), 1;
		}
		count++;
	}
	m.page = NULL;
	msgmux_close(&m);
	printf("%llu read, %llu jumps\n", (unsigned long long)count, (unsigned long long)jumps);
	return 0;
}
