// SPDX-License-Identifier: Apache-2.0
//
// A sink: prints each message as a line, until it is ended.
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>

int main(void)
{
	static char message[4 << 20]; /* no broker lets a larger one pass */
	const char *dir = getenv("MSGMUX_RUNTIME_DIR");
	struct sockaddr_un any = {.sun_family = AF_UNIX};
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	int sink = socket(AF_UNIX, SOCK_DGRAM, 0);

	snprintf(to.sun_path, sizeof to.sun_path, "%s/register", dir ? dir : "/run/msgmux");
	/* An address of the family alone: the kernel chooses a name. An empty line registers the socket that sends it. */
	if (bind(sink, (struct sockaddr *)&any, sizeof any.sun_family) < 0 ||
	    sendto(sink, "\nlabel=c\n", 9, 0, (struct sockaddr *)&to, sizeof to) < 0) {
		perror(to.sun_path);
		return 1;
	}
	/* recv returning 0 is a message of no bytes, and not the end. */
	for (ssize_t n; (n = recv(sink, message, sizeof message, 0)) >= 0;) {
		fwrite(message, 1, n, stdout);
		putchar('\n');
		if (fflush(stdout) == EOF)
			break;
	}
	perror("cannot receive, or write");
	return 1;
}
