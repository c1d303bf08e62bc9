// SPDX-License-Identifier: Apache-2.0

/* source PATH [OPTION...]: sends each line of its input, of any length that the channel takes, as a message without the newline, by a
 * stage. */

#include <stdlib.h>

#include "msgmux-stage.h"

int main(int argc, char **argv) {
	struct msgmux_stage s;
	char options[2048] = "", *line = NULL;
	size_t room = 0;
	ssize_t n;
	for (int i = 2; i < argc; i++) {
		strncat(options, argv[i], sizeof options - strlen(options) - 2);
		strcat(options, "\n");
	}
	if (argc < 2 || msgmux_stage_open(&s, argv[1], options)) {
		fprintf(stderr, "cannot connect: %s %s\n", strerror(errno), argc < 2 ? "want a path" : s.said);
		return 1;
	}
	while ((n = getline(&line, &room, stdin)) > 0) {
		if (line[n - 1] == '\n') n--;
		if (msgmux_stage_send(&s, line, n)) {
			fprintf(stderr, "cannot send: %s %s\n", strerror(errno), errno == EPIPE ? s.said : "");
			return 1;
		}
	}
	return 0; /* what is in the stage is taken to the end */
}
