// SPDX-License-Identifier: Apache-2.0
//
// meter.h - what every C client of the benchmark stands on.
//
// A client is one .c file that defines client_source(), client_sink() and,
// where it has one, client_broker(); main() is in meter.c:
//
//     PROGRAM source DIR SLOT [WORD...]
//     PROGRAM sink   DIR SLOT FIRST COUNT [WORD...]
//     PROGRAM broker DIR [WORD...]
//
// DIR is the folder of the run's sockets. Descriptor 3 is the board, a memfd
// that every process of a run maps:
//
//     0      struct board   written by the driver, read by all
//     4096   struct tally   slot 0: the source
//     +20480 struct tally   slot 1..: one for each sink process
//
// A tally has one writer, its process; the driver reads it while it changes.
// The same layout stands in ../meter/board_unsafe.go.
#ifndef METER_H
#define METER_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

enum phase {
	PHASE_HOLD,    // send nothing
	PHASE_TRICKLE, // sequence 0, one each 5 ms, until every sink has had one
	PHASE_WARM,    // sequence 0 at the rate of the run
	PHASE_RUN,     // sequences 1, 2, ...: what is measured
	PHASE_STOP,    // the source ends; sinks go on until they are killed
};

struct board {
	volatile uint32_t phase; // enum phase
	uint32_t sinks;          // receiving sockets in all processes together
	uint64_t size;           // payload bytes, at least 16
	uint64_t rate;           // messages a second, 0: as fast as they are taken
	uint32_t stamped;        // payloads carry the time at which they were sent
	uint32_t unused;
};

// Buckets of the latency histogram: exact below 64 ns, then 64 for each power
// of two (1.6 %), up to some 36 minutes.
#define BUCKETS 2304

struct tally {
	volatile uint64_t ready;     // sockets subscribed; source: 1 when connected
	volatile uint64_t warm;      // sockets that have had a message with sequence 0
	volatile uint64_t warm_got;  // messages with sequence 0
	volatile uint64_t count;     // measured messages sent (source) or received (sink)
	volatile uint64_t gaps;      // places where a sequence was not the next
	volatile uint64_t gap_lost;  // sequences skipped there
	volatile uint64_t reordered; // sequences not above the one before
	volatile uint64_t bad;       // payloads of a wrong size
	volatile uint64_t closed;    // the broker hung up
	volatile uint64_t done;      // source: all is handed over
	volatile uint64_t began;     // source: CLOCK_MONOTONIC ns of the first turn of the run
	volatile uint64_t ended;     // source: of the last
	volatile uint64_t hist[BUCKETS];
};

#define BOARD_FD 3
#define TALLY_OFFSET 4096
#define TALLY_STRIDE 20480
_Static_assert(sizeof(struct board) == 32, "board layout");
_Static_assert(offsetof(struct tally, hist) == 96, "tally layout");
_Static_assert(sizeof(struct tally) <= TALLY_STRIDE, "tally size");

// One receiving socket's place in the sequence.
struct track {
	uint64_t last;
	int warm;
};

// What a client is told; valid from main() on.
extern struct board *board;
extern struct tally *tally;
extern const char *dir;
extern char **words; // the arguments after the fixed ones, NULL at the end
extern int first;    // sink: number of its first socket, from 1
extern int count;    // sink: how many it serves
extern uint64_t sent; // source: sequence of the last measured message
extern int running;   // source: in PHASE_RUN

// Supplied by the client.
void client_source(void);
void client_sink(void);
void client_broker(void);

// die prints the text and errno's meaning and ends the process with 1.
__attribute__((format(printf, 1, 2), noreturn)) void die(const char *text, ...);

// word says whether w is among the client's further arguments.
int word(const char *w);

// park waits to be killed: a process that ended would lose its CPU clock.
__attribute__((noreturn)) void park(void);

// hung_up notes that the broker is gone, and parks.
__attribute__((noreturn)) void hung_up(void);

// source_loop says ready and calls emit(n), 1 <= n <= burst, to send n messages
// now, whenever some are due, until the driver says stop. emit must have handed
// all n over when it returns, and blocks while they are not taken. finish (may
// be NULL) is called at the end to flush what a library still holds.
void source_loop(unsigned burst, void (*emit)(unsigned n), void (*finish)(void));

// sock_path is DIR/NAME, or DIR/NAME followed by a number where number >= 0.
struct sockaddr_un sock_path(const char *name, int number);

// sock_bound makes a socket bound to a, listening where the type has that.
int sock_bound(int type, struct sockaddr_un a);

// sock_connect connects, again and again for 10 s while nobody is there.
void sock_connect(int fd, struct sockaddr_un a);

// clock_ns is CLOCK_MONOTONIC in nanoseconds.
static inline uint64_t clock_ns(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

// payload_stamp writes the head of the next message: sequence and time.
static inline void payload_stamp(void *payload) {
	uint64_t head[2] = {0, 0};
	if (running) {
		tally->count = head[0] = ++sent;
		if (board->stamped) head[1] = clock_ns();
	}
	memcpy(payload, head, sizeof head);
}

// bucket is the place of a latency of ns nanoseconds in the histogram.
static inline unsigned bucket(uint64_t ns) {
	if (ns < 64) return (unsigned)ns;
	unsigned e = 63 - (unsigned)__builtin_clzll(ns);
	unsigned i = (e - 5) * 64 + (unsigned)((ns >> (e - 6)) & 63);
	return i < BUCKETS ? i : BUCKETS - 1;
}

// payload_take counts a message that arrived at the socket t.
static inline void payload_take(struct track *t, const void *payload, size_t len) {
	uint64_t head[2];
	if (len != board->size) {
		tally->bad++;
		if (len < sizeof head) return;
	}
	memcpy(head, payload, sizeof head);
	if (head[0] == 0) {
		if (!t->warm) {
			t->warm = 1;
			tally->warm++;
		}
		tally->warm_got++;
		return;
	}
	if (head[0] <= t->last) {
		tally->reordered++;
	} else {
		if (head[0] != t->last + 1) {
			tally->gaps++;
			tally->gap_lost += head[0] - t->last - 1;
		}
		t->last = head[0];
	}
	tally->count++;
	if (head[1]) tally->hist[bucket(clock_ns() - head[1])]++;
}

// Frames, as the framed floors and clients send them: records one behind the
// other, [u32 length][payload][pad to 4], little-endian.
#define FRAME_MAX 65536
#define RECORD(len) (4 + (((size_t)(len) + 3) & ~(size_t)3))

#endif
