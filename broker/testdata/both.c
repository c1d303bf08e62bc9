// SPDX-License-Identifier: Apache-2.0

/* both DIR COUNT wait|signal|poll|look: a source with a stage and a sink in view of the channel at DIR, each a thread, through which so many
 * messages go. They wait in the header's own way; the same, with a signal all the time whose handler restarts nothing; by poll(2); or
 * the sink reads in place: TestPromise12_BothInC. */

#include "msgmux.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/time.h>

static char publish[108], subscribe[108];
static int count, flags;
static long interrupted, polled;

/* again says whether an end is to be called again. */
static int again(struct msgmux *m) {
	struct pollfd p = {m->fd, POLLIN, 0};
	if (errno == EAGAIN) {
		__atomic_add_fetch(&polled, 1, __ATOMIC_RELAXED);
		poll(&p, 1, -1);
		return 1;
	}
	__atomic_add_fetch(&interrupted, errno == EINTR, __ATOMIC_RELAXED);
	return errno == EINTR;
}

static void fail(const char *what, struct msgmux *m) {
	fprintf(stderr, "%s: %s %s\n", what, strerror(errno), m->said);
	exit(1);
}

static uint32_t length(int i) { return (uint32_t)(i * 2654435761u >> 20) + 4 * sizeof i; }

/* open_end opens an end. No signal comes meanwhile: a broker that takes longer than from one to the next would be asked for ever. */
static void open_end(struct msgmux *m, enum msgmux_kind kind, const char *path, const char *options) {
	sigset_t alarm, before;
	sigemptyset(&alarm);
	sigaddset(&alarm, SIGALRM);
	pthread_sigmask(SIG_BLOCK, &alarm, &before);
	if (msgmux_open(m, kind, path, options)) fail(path, m);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	m->flags = flags;
}

static void *source(void *unused) {
	char *message;
	struct msgmux m;
	open_end(&m, MSGMUX_SOURCE, publish, "");
	for (int i = 0; i < count; i++) {
		while (!(message = (char *)msgmux_room(&m, length(i)))) {
			if (!again(&m)) fail("room", &m);
		}
		memset(message, i, length(i));
		memcpy(message, &i, sizeof i);
		if (i % 7 == 0 && msgmux_publish(&m)) fail("publish", &m);
		if (i % 5000 == 4999) usleep(20000); /* everybody sleeps */
	}
	if (msgmux_publish(&m)) fail("publish", &m);
	msgmux_close(&m);
	return unused;
}

/* check is the sink's look at message i. */
static void check(struct msgmux *m, int i, const char *message, uint32_t len) {
	if (len != length(i) || memcmp(message, &i, sizeof i)) fail("what came is another one", m);
	for (uint32_t j = sizeof i; j < len; j++) {
		if (message[j] != (char)i) fail("what came is not whole", m);
	}
}

static void woken(int signal) { (void)signal; }

int main(int argc, char **argv) {
	struct sigaction act = {.sa_handler = woken};
	struct itimerval often = {{0, 300}, {0, 300}};
	const void *message;
	uint32_t len;
	pthread_t thread;
	struct msgmux m;
	if (argc != 4) return 2;
	snprintf(publish, sizeof publish, "%s/publish", argv[1]);
	snprintf(subscribe, sizeof subscribe, "%s/subscribe", argv[1]);
	count = atoi(argv[2]);
	flags = argv[3][0] == 'p' ? MSG_DONTWAIT : 0;
	sigaction(SIGALRM, &act, NULL);
	if (argv[3][0] == 's') setitimer(ITIMER_REAL, &often, NULL);
	open_end(&m, MSGMUX_SINK, subscribe, "patience=forever\n");
	if (pthread_create(&thread, NULL, source, NULL)) return perror("thread"), 1;
	for (int i = 0, got; i < count;) {
		if (argv[3][0] == 'l') { /* nothing is overwritten, as the patience is without end */
			while ((got = msgmux_look(&m, &message, &len)) > 0) check(&m, i++, (const char *)message, len);
			if (msgmux_whole(&m) != 1) fail("what was read is not whole", &m);
		} else if ((got = msgmux_next(&m, &message, &len)) > 0) {
			check(&m, i++, (const char *)message, len);
		} else if (!got) {
			fail("the broker has gone", &m);
		}
		if (got < 0 && !again(&m)) fail("read", &m);
		if (m.pos == m.head) msgmux_done(&m, m.seq);
	}
	pthread_join(thread, NULL);
	printf("%ld %ld\n", interrupted, polled);
	if (m.lost) fail("some were lost", &m);
	msgmux_close(&m);
	return 0;
}
