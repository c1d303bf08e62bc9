// SPDX-License-Identifier: Apache-2.0
//
// shm.c - the limit: a ring in memory that the source and all sinks map, and no
// broker. The source waits for the slowest sink; each copies every payload out.
// Nobody is counted, kept out or left behind, and who dies stops all others.
#include "meter.h"
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { RING = 4 << 20, SINKS = 256 };

struct shared {
	_Alignas(64) _Atomic uint64_t head;
	_Alignas(64) _Atomic uint32_t news, sleepers; // news is waited for; it changes when there is something
	_Alignas(64) _Atomic uint32_t room, waits;    // likewise for the source
	struct { _Alignas(64) _Atomic uint64_t done; } sink[SINKS];
	_Alignas(65536) char ring[RING + (8 << 20)]; // a record may begin before the end
};

static struct shared *m;

static void map(void) {
	char path[160];
	snprintf(path, sizeof path, "%s/shm", dir);
	int fd = open(path, O_RDWR | O_CREAT, 0600);
	if (fd < 0 || ftruncate(fd, sizeof *m)) die("cannot make %s", path);
	m = mmap(NULL, sizeof *m, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (m == MAP_FAILED) die("cannot map %s", path);
}

static void await(_Atomic uint32_t *word, uint32_t was) { syscall(SYS_futex, word, FUTEX_WAIT, was, NULL, NULL, 0); }

static void rouse(_Atomic uint32_t *word) {
	atomic_fetch_add(word, 1);
	syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

static uint64_t slowest(void) {
	uint64_t least = UINT64_MAX;
	for (unsigned i = 0; i < board->sinks; i++) {
		uint64_t done = m->sink[i].done;
		if (done < least) least = done;
	}
	return least;
}

static uint64_t written, limit = RING;

static void publish(void) {
	m->head = written;
	if (m->sleepers && atomic_exchange(&m->sleepers, 0)) rouse(&m->news);
}

static void emit(unsigned n) {
	uint32_t len = (uint32_t)board->size;
	for (; n; n--) {
		while (written + RECORD(len) > limit) {
			limit = slowest() + RING;
			if (written + RECORD(len) <= limit) break;
			publish();
			uint32_t was = m->room;
			m->waits = 1;
			limit = slowest() + RING;
			if (written + RECORD(len) > limit) await(&m->room, was);
			m->waits = 0;
		}
		char *at = m->ring + written % RING;
		memcpy(at, &len, sizeof len);
		payload_stamp(at + sizeof len);
		written += RECORD(len);
	}
	publish();
}

void client_source(void) {
	unsigned fit = (unsigned)(FRAME_MAX / RECORD(board->size));
	map();
	source_loop(fit ? fit : 1, emit, NULL);
}

void client_sink(void) {
	struct track t = {0, 0};
	uint64_t at = 0;
	char *copy = malloc(board->size);
	map();
	tally->ready = 1;
	for (;;) {
		uint64_t head = m->head;
		if (at == head) {
			uint32_t was = m->news;
			m->sleepers = 1;
			if (m->head == at) await(&m->news, was);
			continue;
		}
		while (at < head) {
			const char *record = m->ring + at % RING;
			uint32_t len;
			memcpy(&len, record, sizeof len);
			memcpy(copy, record + sizeof len, len);
			payload_take(&t, copy, len);
			at += RECORD(len);
		}
		m->sink[first - 1].done = at;
		if (m->waits) rouse(&m->room);
	}
}
