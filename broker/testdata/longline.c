// SPDX-License-Identifier: Apache-2.0

/* long_line stands for getline(3) in a program: it gives one line of 4 GiB and 5 bytes, of which hardly anything is touched. */

#include <stdio.h>
#include <stdlib.h>

ssize_t long_line(char **line, size_t *room, FILE *file) {
	size_t n = ((size_t)1 << 32) + 5;
	(void)file;
	if (*line) return -1;
	if (!(*line = (char *)calloc(1, n))) exit(77);
	*room = n;
	return (ssize_t)n;
}
