// SPDX-License-Identifier: Apache-2.0
//
// meter.c - main() and the slow paths of every C client; see meter.h.
#include "meter.h"
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

struct board *board;
struct tally *tally;
const char *dir;
char **words;
int first, count;
uint64_t sent;
int running;

// A client that has no broker of its own need not say so.
__attribute__((weak)) void client_broker(void) { die("this client has no broker"); }

void die(const char *text, ...) {
	int e = errno;
	va_list ap;
	va_start(ap, text);
	vfprintf(stderr, text, ap);
	va_end(ap);
	fprintf(stderr, ": %s\n", strerror(e));
	exit(1);
}

int word(const char *w) {
	for (char **p = words; *p; p++)
		if (!strcmp(*p, w)) return 1;
	return 0;
}

void park(void) {
	for (;;) pause();
}

void hung_up(void) {
	tally->closed = 1;
	park();
}

struct sockaddr_un sock_path(const char *name, int number) {
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int n = number < 0 ? snprintf(a.sun_path, sizeof a.sun_path, "%s/%s", dir, name)
			   : snprintf(a.sun_path, sizeof a.sun_path, "%s/%s%d", dir, name, number);
	if (n >= (int)sizeof a.sun_path) die("cannot name socket %s", name);
	return a;
}

int sock_bound(int type, struct sockaddr_un a) {
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
	if (fd < 0 || bind(fd, (void *)&a, sizeof a)) die("cannot bind %s", a.sun_path);
	if (type != SOCK_DGRAM && listen(fd, 1024)) die("cannot listen on %s", a.sun_path);
	return fd;
}

void sock_connect(int fd, struct sockaddr_un a) {
	for (int i = 0; connect(fd, (void *)&a, sizeof a); i++) {
		if ((errno != ENOENT && errno != ECONNREFUSED && errno != EAGAIN) || i == 5000) die("cannot connect to %s", a.sun_path);
		usleep(2000);
	}
}

static void nap(unsigned us) { usleep(us); }

// due is how many messages the rate owes since start, at most burst. It sleeps
// until there is one. Each message has its own time: nothing is held back to
// make a batch, and what was missed is made up for at once.
static unsigned due(uint64_t start, uint64_t done, unsigned burst) {
	uint64_t rate = board->rate;
	if (!rate) return burst;
	for (;;) {
		uint64_t owed = (uint64_t)((double)(clock_ns() - start) * (double)rate / 1e9) + 1;
		if (owed > done) return owed - done < burst ? (unsigned)(owed - done) : burst;
		uint64_t next = start + (uint64_t)((double)done * 1e9 / (double)rate) + 1;
		struct timespec t = {(time_t)(next / 1000000000u), (long)(next % 1000000000u)};
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
	}
}

void source_loop(unsigned burst, void (*emit)(unsigned n), void (*finish)(void)) {
	uint64_t start = 0, done = 0;
	uint32_t was = PHASE_HOLD;
	tally->ready = 1;
	for (;;) {
		uint32_t phase = board->phase;
		if (phase != was) { // a new phase has its own clock
			start = clock_ns();
			done = 0;
			if ((running = phase == PHASE_RUN)) tally->began = start;
			was = phase;
		}
		switch (phase) {
		case PHASE_TRICKLE:
			emit(1);
			nap(5000);
			break;
		case PHASE_WARM:
		case PHASE_RUN: {
			unsigned n = due(start, done, burst);
			emit(n);
			done += n;
			break;
		}
		case PHASE_STOP:
			tally->ended = start;
			if (finish) finish();
			__atomic_store_n(&tally->done, 1, __ATOMIC_RELEASE);
			park();
		default:
			nap(1000);
		}
	}
}

int main(int argc, char **argv) {
	// The parent is the driver; when it dies, so do the clients.
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	// The default slack of 50 us would blur the paced rates.
	prctl(PR_SET_TIMERSLACK, 1);
	signal(SIGPIPE, SIG_IGN);
	struct rlimit files;
	if (!getrlimit(RLIMIT_NOFILE, &files)) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	struct stat st;
	if (argc < 3 || fstat(BOARD_FD, &st)) die("usage: %s source|sink|broker DIR ..., descriptor 3 is the board", argv[0]);
	char *map = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, BOARD_FD, 0);
	if (map == MAP_FAILED) die("cannot map board");
	board = (struct board *)map;
	dir = argv[2];
	int fixed = !strcmp(argv[1], "source") ? 4 : !strcmp(argv[1], "sink") ? 6 : 3;
	if (argc < fixed) die("usage: %s %s: too few arguments", argv[0], argv[1]);
	words = argv + fixed;
	if (fixed > 3) tally = (struct tally *)(map + TALLY_OFFSET + (size_t)TALLY_STRIDE * (size_t)atoi(argv[3]));
	if (fixed == 6) {
		first = atoi(argv[4]);
		count = atoi(argv[5]);
	}
	switch (fixed) {
	case 3: client_broker(); break;
	case 4: client_source(); break;
	case 6: client_sink(); break;
	}
	return 0;
}
