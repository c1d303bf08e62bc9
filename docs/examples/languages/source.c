// SPDX-License-Identifier: Apache-2.0
//
// A source: each line of standard input becomes a message. Waits while the channel takes none.
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>

int main(void)
{
	const char *dir = getenv("MSGMUX_RUNTIME_DIR");
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	int size = 1 << 20; /* for messages over 208 KiB */
	int source = socket(AF_UNIX, SOCK_DGRAM, 0);
	char *line = NULL;
	size_t room = 0;

	snprintf(to.sun_path, sizeof to.sun_path, "%s/source", dir ? dir : "/run/msgmux");
	setsockopt(source, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
	if (connect(source, (struct sockaddr *)&to, sizeof to) < 0) {
		perror(to.sun_path);
		return 1;
	}
	for (ssize_t n; (n = getline(&line, &room, stdin)) > 0;) {
		if (line[n - 1] == '\n')
			n--;
		if (send(source, line, n, MSG_NOSIGNAL) < 0) {
			perror("cannot send");
			return 1;
		}
	}
	if (ferror(stdin))
		perror("cannot read");
	return ferror(stdin) != 0;
}
