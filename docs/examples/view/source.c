// SPDX-License-Identifier: Apache-2.0

/* source PATH [OPTION...]: sends each line of its input, of any length that the channel takes, as a message without the newline, by a
 * stage. */

#include "msgmux.h"

int main(int argc, char **argv) {
	struct msgmux m;
	char options[2048] = "", *line = NULL, *at;
	size_t room = 0;
	ssize_t n;
	int failed = 0;
	for (int i = 2; i < argc; i++) {
		size_t used = strlen(options), more = strlen(argv[i]) + 1; /* with the newline */
		if (more >= sizeof options - used) return fprintf(stderr, "the options are too long\n"), 2;
		memcpy(options + used, argv[i], more - 1);
		memcpy(options + used + more - 1, "\n", 2);
	}
	if (argc < 2) return fprintf(stderr, "usage: source PATH [OPTION...]\n"), 2;
	if (msgmux_open(&m, MSGMUX_SOURCE, argv[1], options)) {
		fprintf(stderr, "cannot connect: %s %s\n", strerror(errno), m.said);
		return 1;
	}
	while (!failed && (n = getline(&line, &room, stdin)) > 0) {
		if (line[n - 1] == '\n') n--;
		errno = EMSGSIZE, at = NULL; /* of more than a size can say */
		while ((uint64_t)n <= UINT32_MAX && !(at = (char *)msgmux_room(&m, n)) && errno == EINTR) {}
		if (at) memcpy(at, line, n);
		failed = !at || msgmux_publish(&m);
	}
	if (failed) fprintf(stderr, "cannot send: %s %s\n", strerror(errno), errno == EPIPE ? m.said : "");
	else if ((failed = ferror(stdin))) perror("cannot read");
	free(line);
	/* What was published is taken to the end. Whether the last of it was refused is known when the broker hangs up. */
	for (shutdown(m.fd, SHUT_WR); !failed && !m.gone && (msgmux_hear(&m) > 0 || errno == EINTR);) {}
	if (!failed && (failed = !strncmp(m.said, "error ", 6))) fprintf(stderr, "cannot send: %s\n", m.said);
	msgmux_close(&m);
	return failed;
}
