// SPDX-License-Identifier: Apache-2.0

/* Reads the ring in descriptor 3, which is overwritten all the time, for two seconds: TestPromise12_OvertakenInC. */

#include <time.h>

#include "msgmux-view.h"

int main(void) {
	struct msgmux_view v = {.limit = UINT64_MAX, .room = 48 << 10};
	uint64_t count = 0, jumps = 0, lost = 0;
	v.copy = malloc(v.room);
	if (!v.copy || msgmux_view_map(&v, 3)) return perror("cannot map the ring"), 1;
	for (time_t end = time(NULL) + 3; time(NULL) < end;) {
		int got = msgmux_view_copy(&v);
		if (got < 0) return perror("cannot read"), 1;
		jumps += v.lost != lost;
		lost = v.lost;
		if (!got) continue;
		for (; v.at < v.end; v.seq++, count++) {
			uint32_t len, want = 8 * (1 + v.seq * UINT64_C(2654435761) % 500);
			uint64_t word, of = v.seq * UINT64_C(0x9e3779b97f4a7c15);
			memcpy(&len, v.copy + v.at, 4);
			if (len != want) return fprintf(stderr, "message %llu has %u bytes instead of %u\n", (unsigned long long)v.seq, len, want), 1;
			for (uint32_t i = 0; i < len; i += 8) {
				memcpy(&word, v.copy + v.at + 4 + i, 8);
				if (word != of) return fprintf(stderr, "byte %u of message %llu is another's\n", i, (unsigned long long)v.seq), 1;
			}
			v.at += ((uint64_t)len + 7) & ~UINT64_C(3);
		}
	}
	printf("%llu read, %llu jumps\n", (unsigned long long)count, (unsigned long long)jumps);
	return 0;
}
