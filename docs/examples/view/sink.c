// SPDX-License-Identifier: Apache-2.0

/* sink PATH [OPTION...]: writes each message and a newline, as a sink in view. What it has written is done. */

#include "msgmux-view.h"

int main(int argc, char **argv) {
	struct msgmux_view v;
	char options[2048] = "";
	const void *message;
	uint32_t len;
	int got;
	for (int i = 2; i < argc; i++) {
		strncat(options, argv[i], sizeof options - strlen(options) - 2);
		strcat(options, "\n");
	}
	if (argc < 2 || msgmux_view_open(&v, argv[1], options)) {
		fprintf(stderr, "cannot subscribe: %s %s\n", strerror(errno), argc < 2 ? "want a path" : v.said);
		return 1;
	}
	while ((got = msgmux_view_next(&v, &message, &len)) > 0) {
		fwrite(message, 1, len, stdout);
		putchar('\n');
		if (v.at == v.end) { /* of what was copied out at once */
			fflush(stdout);
			msgmux_view_done(&v, v.seq);
		}
	}
	if (v.lost) fprintf(stderr, "%llu messages were lost\n", (unsigned long long)v.lost);
	if (got < 0 || v.said[0]) fprintf(stderr, "%s\n", got < 0 ? strerror(errno) : v.said);
	return got < 0;
}
