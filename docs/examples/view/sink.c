// SPDX-License-Identifier: Apache-2.0

/* sink PATH [OPTION...]: writes each message and a newline, as a sink in view. What it has written is done. It ends with the connection:
 * whoever starts it again, with label= and keep= among the options, has it go on behind that. */

#include "msgmux.h"

int main(int argc, char **argv) {
	struct msgmux m;
	char options[2048] = "";
	const void *message;
	uint32_t len;
	int got;
	for (int i = 2; i < argc; i++) {
		size_t used = strlen(options), more = strlen(argv[i]) + 1; /* with the newline */
		if (more >= sizeof options - used) return fprintf(stderr, "the options are too long\n"), 2;
		memcpy(options + used, argv[i], more - 1);
		memcpy(options + used + more - 1, "\n", 2);
	}
	if (argc < 2) return fprintf(stderr, "usage: sink PATH [OPTION...]\n"), 2;
	if (msgmux_open(&m, MSGMUX_SINK, argv[1], options)) {
		fprintf(stderr, "cannot subscribe: %s %s\n", strerror(errno), m.said);
		return 1;
	}
	while ((got = msgmux_next(&m, &message, &len)) > 0 || (got < 0 && errno == EINTR)) {
		if (got < 0) continue;
		fwrite(message, 1, len, stdout);
		putchar('\n');
		if (m.pos != m.head) continue; /* there is more, as of the last look */
		if (fflush(stdout) || ferror(stdout)) { /* what was not written is not done */
			perror("cannot write");
			return 1;
		}
		msgmux_done(&m, m.seq);
	}
	int refused = !strncmp(m.said, "error ", 6);
	if (m.lost) fprintf(stderr, "%llu messages were lost\n", (unsigned long long)m.lost);
	fprintf(stderr, "%s\n", got < 0 ? strerror(errno) : refused ? m.said : "the broker has hung up");
	msgmux_close(&m);
	return got < 0 || refused;
}
