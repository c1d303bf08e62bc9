// SPDX-License-Identifier: Apache-2.0

/* liar PATH KIND...: opens as many ends at PATH, where everything that is said may be a lie, and says for each what comes of it and what
 * is open and mapped afterwards: TestPromise12_LyingBrokers. */

#include "msgmux.h"

#include <dirent.h>

/* left is how many descriptors are open, and how many parts of shared files are mapped. */
static int left(void) {
	char line[4096];
	int n = 0;
	DIR *d = opendir("/proc/self/fd");
	while (readdir(d)) n++;
	closedir(d);
	FILE *f = fopen("/proc/self/maps", "r");
	while (fgets(line, sizeof line, f)) n += strstr(line, "memfd:") != NULL;
	fclose(f);
	return n;
}

int main(int argc, char **argv) {
	int before = left();
	for (int i = 2; i < argc; i++) {
		struct msgmux m;
		int sink = !strcmp(argv[i], "sink"), got;
		const void *message;
		uint32_t len;
		const char *where = "open";
		uint64_t count = 0, bytes = 0;
		if (!(got = msgmux_open(&m, sink ? MSGMUX_SINK : MSGMUX_SOURCE, argv[1], "label=x\n"))) {
			where = "use";
			if (sink) {
				while ((got = msgmux_next(&m, &message, &len)) > 0) {
					count++;
					for (uint32_t j = 0; j < len; j++) bytes += ((const unsigned char *)message)[j];
					msgmux_done(&m, m.seq);
				}
			} else {
				char *at;
				while (!(got = (at = (char *)msgmux_room(&m, 20000)) ? 0 : -1) && (memset(at, 'x', 20000), !(got = msgmux_publish(&m)))) count++;
			}
		}
		printf("%s: %s after %s, %s\n", where, got ? strerror(errno) : "end", count ? "some" : "none", m.said);
		msgmux_close(&m);
		msgmux_close(&m); /* once more does no harm */
		if (left() != before) printf("  %d things are left over\n", left() - before);
	}
	return 0;
}
