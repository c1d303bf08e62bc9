/* SPDX-License-Identifier: Apache-2.0 */

/* The way of a message: RECV or TAKE, APPEND, SEND or PUT, and the room for it: SKIP and TAIL.
 *
 * What is abstracted:
 * - A message is its number, from 1, in the order of the source's queue. A record takes one place in the ring. So a position
 *   in bytes is the same number as a sequence number; but both are stored, one after the other, as in the program, and a
 *   place of which only one was stored is seen.
 * - Sources and sinks are what the kernel makes of them: a receive finds any number of messages, a socket takes any number
 *   and then none, so many times in all, for its reader does read. Whether a message is in the queue or has been read makes
 *   no difference to the broker: accepted is accepted.
 * - The rule of patience may leave a sink behind whenever the ring is full and it is behind another (LAGS).
 * - The words that only readers of a snapshot look at, the times in the index, and the index itself.
 *
 * Kinds are given by the variant: */

#ifndef N
#define N 3           /* messages */
#endif
#ifndef RING
#define RING 2        /* records that the ring has room for */
#endif
#define SLOTS 2       /* of the landing zone, of the send array, and records of the largest packet */
#ifndef STALLS
#define STALLS 1      /* how often each socket of the second cursor is full */
#endif
#ifndef STALLS0
#define STALLS0 STALLS    /* how often that of the first */
#endif
#ifndef EMPTIES
#define EMPTIES 0     /* receives that find nothing although more is to come, and the end of a connection */
#endif
#ifndef SOURCE
#define SOURCE datagrams  /* or packets, queue */
#endif
#ifndef ALSO
#define ALSO 0        /* a datagram socket is a source beside the queue, or, holding nothing, beside packets */
#endif
#ifndef WINDOW
#define WINDOW 0      /* a packet is received into the ring's free room where it has some */
#endif
#ifndef REFUSED
#define REFUSED 0     /* the message that is too large, or makes a bad packet */
#endif
#ifndef SINK
#define SINK datagrams    /* what the second cursor's sinks are: or packets, queue */
#endif
#ifndef SHARE
#define SHARE 0       /* the second cursor is a share's, with two members */
#endif
#ifndef TAP
#define TAP 0         /* the second cursor is a tap's */
#endif
#ifndef LAGS
#define LAGS 0        /* the second cursor may be left behind */
#endif
#ifndef OVERSIZE
#define OVERSIZE 0    /* the message that is too large for the sockets of a cursor for ever (EMSGSIZE) */
#endif
#ifndef ONE
#define ONE 0         /* but the second member of a share takes it */
#endif
#ifndef SMALL
#define SMALL 1       /* that cursor */
#endif

mtype:point = {
	recover_begin, recover_done,
	recv_logged, recv_before, recv_none, recv_part, recv_all, recv_taken, recv_landed,
	take_logged, take_taken, take_landed,
	append_logged, append_head, append_done,
	send_logged, send_before, send_none, send_part, send_all, send_sent, send_cursor, send_done,
	put_logged, put_sent, put_done,
	skip_logged, skip_cursor, skip_done,
	tail_logged, tail_delivered, tail_done
};
#include "common.pml"

mtype:kind = { datagrams, packets, window, queue };
#define UNTOUCHED 255
#define CURSORS   2
#define SOCKETS   3
#define cursorOf(s) (s == 0 -> 0 : 1)
#define exists(s)   (s < 2 || SHARE)
#define kindOf(s)   (s == 0 -> datagrams : SINK)
#define tap(c)      (c == 1 && TAP)
#define tooSmall(s) (cursorOf(s) == SMALL && !(s == 2 && ONE))

/* ---- Memory that outlives the broker ---- */

byte headPos, headSeq, tailPos, tailSeq, deliveredPos, deliveredSeq;
byte cursorPos[CURSORS], cursorSeq[CURSORS], lost[CURSORS];
bool lagging[CURSORS];
byte accepted[SOCKETS];
byte refused, uncertain;
byte ring[RING];

/* The landing zone: where what has landed lies, how much of it has entered, and its slots, of which next and landed are one
 * word. The words change within operations only. */
mtype:kind landKind = datagrams;
byte landOffset, landNext, landed;
#define slots(n, l) d_step { landNext = n; landed = l }
byte slot[SLOTS];            /* a datagram each, or the records of one packet */
byte length[SLOTS] = UNTOUCHED;   /* msg_len of the receive headers; of a packet, its records */
byte prio[SLOTS] = UNTOUCHED; /* what mq_timedreceive writes */
byte sendLength[SLOTS];      /* msg_len of the send headers */
byte endPos[SLOTS], endSeq[SLOTS];

byte logSlot, logBy, logCount, logBase, logFrom, logPos, logSeq, logOtherPos, logOtherSeq, logLost, logMaybe;
byte logNext, logOffset, logRefused;
mtype:kind logLand;

/* ---- What the world knows: the kernel's books, which nothing here may read but the checks ---- */

byte took;                   /* messages that the source's queue gave, so far */
byte empties;                /* receives that found nothing */
bool ended;                  /* the connection's end was received */
byte stalls[SOCKETS];
byte gave[SOCKETS];          /* messages that a socket accepted, repeats left out */
byte last[CURSORS];          /* the last of them */
byte missed[CURSORS];        /* messages that entered and that a later one was accepted instead of */
byte repeats;
bool entered[N + 1];
bool had[N];                 /* by sequence number: a sink, no tap, accepted it */

/* ---- The broker's own, gone with it ---- */

bool recovering;
byte cannot[SOCKETS];        /* one more than the number of the message that it can never take */
bool noroom;                   /* the next landed record does not fit */
byte dirty;                  /* receive headers that may be touched */
byte i, n, h, next, offset, to, limit, lag, all, del, c, s, m;
mtype:operation redo;

inline forget() {
	d_step {
		died(recovering);
		recovering = true; noroom = false; cannot[0] = 0; cannot[1] = 0; cannot[2] = 0; dirty = SLOTS;
		i = 0; n = 0; h = 0; next = 0; offset = 0; to = 0; limit = 0; lag = 0; all = 0; del = 0; c = 0; s = 0; m = 0;
		redo = 0
	}
}

#define BAD 255
inline poison() {
	logSlot = BAD; logBy = BAD; logCount = BAD; logBase = BAD; logFrom = BAD; logPos = BAD; logSeq = BAD;
	logLand = 0; logOtherPos = BAD; logOtherSeq = BAD; logLost = BAD; logMaybe = BAD; logNext = BAD; logOffset = BAD; logRefused = BAD;
	i = 0;
	do
	:: i < SLOTS -> sendLength[i] = 0; endPos[i] = BAD; endSeq[i] = BAD; i++
	:: else -> break
	od;
	i = 0
}

/* After an operation: what has left the landing zone and the ring is gone. */
inline rest() {
	d_step {
		i = 0;
		do
		:: i < SLOTS && landNext == landed -> slot[i] = BAD; i++
		:: else -> break
		od;
		i = headSeq;
		do
		:: i < tailSeq + RING && landNext == landed -> ring[i % RING] = BAD; i++
		:: else -> break
		od;
		i = 0; n = 0; h = 0; to = 0; limit = 0; c = 0; s = 0; m = 0; lag = 0; all = 0; del = 0; next = 0; offset = 0
	}
}

/* ---- RECV ---- */

inline preset() {
	i = 0;
	do
	:: i < dirty -> d_step { length[i] = UNTOUCHED; i++ }
	:: else -> break
	od;
	dirty = 0
}

/* The kernel takes one message after another. The record of each is written behind what it is the record of. */
inline kernel_receives_datagrams() {
	do
	:: n < SLOTS && took < N -> d_step { took++; slot[n] = took }; d_step { length[n] = 1; n++ }
	:: n == SLOTS || took == N || n > 0 -> break
	:: n == 0 && took < N && empties < EMPTIES -> empties++; break
	od
}

/* A packet of one record or two, or the end of the connection. The one that is bad has one record. */
inline kernel_receives_packet() {
	if
	:: took < N -> m = 1
	:: took + 1 < N && took + 1 != REFUSED && took + 2 != REFUSED -> m = 2
	:: !ended && EMPTIES -> ended = true; m = 0
	:: empties < EMPTIES -> empties++; m = UNTOUCHED
	fi;
	if
	:: m == UNTOUCHED -> skip
	:: else ->
		d_step {
			i = 0;
			do
			:: i < m && logLand == window -> took++; ring[(headPos + i) % RING] = took; i++
			:: i < m && logLand == packets -> took++; slot[i] = took; i++
			:: else -> break
			od
		};
		d_step { length[0] = m; n = 1 }
	fi
}

inline has_landed(kind) {
	if
	:: n > 0 ->
		landKind = kind;
		landOffset = 0;
		slots(0, n)
	:: else
	fi
}

inline receive() {
	fields(RECV);
	preset();
	if
	:: SOURCE == packets && ALSO && empties < EMPTIES -> empties++; logLand = datagrams
	:: SOURCE == packets && WINDOW ->
		room(SLOTS, !lagging[1]);
		noroom = false;
		if
		:: headSeq - tailSeq + SLOTS <= RING -> logLand = window
		:: else -> logLand = packets
		fi
	:: SOURCE == packets && !WINDOW -> logLand = packets
	:: else -> logLand = datagrams
	fi;
	log(RECV, recv_logged);
	moment(recv_before);
	enter; n = 0;
	if
	:: logLand == datagrams && SOURCE == packets -> skip /* nothing */
	:: logLand != datagrams -> kernel_receives_packet()
	:: logLand == datagrams && SOURCE != packets -> kernel_receives_datagrams()
	fi;
	leave;
	if
	:: n == 0 -> moment(recv_none)
	:: n > 0 && (n == SLOTS || SOURCE == packets) -> moment(recv_all)
	:: else -> moment(recv_part)
	fi;
	seam(recv_taken);
	dirty = n;
	has_landed(logLand);
	worked(RECV);
	done(recv_landed);
	/* The end of a connection is not a message. */
	if
	:: SOURCE == packets && n == 1 && length[0] == 0 -> slots(1, landed)
	:: else
	fi
}

/* How many leading headers the kernel has written to. None behind an untouched one can be. */
#define touched(array, most) \
	d_step { \
		n = 0; \
		do \
		:: n < most && array[n] != UNTOUCHED -> n++ \
		:: else -> break \
		od; \
		i = n; \
		do \
		:: i < most -> assert(array[i] == UNTOUCHED); i++ \
		:: else -> break \
		od \
	}

/* ---- TAKE: RECV for a message queue, whose call writes a priority, and returns the length ---- */

inline take() {
	fields(TAKE);
	preset();
	i = 0;
	do
	:: i < SLOTS -> d_step { prio[i] = UNTOUCHED; i++ }
	:: else -> break
	od;
	i = 0;
	logMaybe = uncertain + 1;
	log(TAKE, take_logged);
	n = 0;
	do
	:: n < SLOTS && took < N ->
		enter; d_step { took++; slot[n] = took }; prio[n] = 0; leave;
		seam(take_taken);
		d_step { length[n] = 1; n++ }
	:: n == SLOTS || took == N || n > 0 -> break
	:: n == 0 && took < N && empties < EMPTIES -> empties++; break
	od;
	dirty = n;
	has_landed(datagrams);
	worked(TAKE);
	done(take_landed)
}

/* ---- APPEND ---- */

#define isBad(x) (REFUSED > 0 && (x) == REFUSED)
#define fits     (h - tailSeq < RING)
#define first    (landKind == window -> ring[headPos % RING] : slot[0])

inline append() {
	fields(APPEND);
	logRefused = refused;
	d_step { noroom = false; h = headSeq; next = landNext; offset = landOffset };
	do
	:: next < landed && !noroom ->
		if
		:: landKind == datagrams && isBad(slot[next]) -> d_step { logRefused++; next++ }
		:: landKind == datagrams && !isBad(slot[next]) && fits -> d_step { ring[h % RING] = slot[next]; h++; next++ }
		:: landKind == datagrams && !isBad(slot[next]) && !fits -> noroom = true
		:: landKind != datagrams && length[0] == 0 -> next++ /* an end that a predecessor received */
		:: landKind != datagrams && length[0] > 0 && offset == 0 && isBad(first) -> d_step { logRefused++; next++ }
		:: landKind != datagrams && length[0] > 0 && !(offset == 0 && isBad(first)) ->
			do
			:: offset < length[0] && fits && landKind == packets -> d_step { ring[h % RING] = slot[offset]; h++; offset++ }
			:: offset < length[0] && fits && landKind == window -> d_step { h++; offset++ } /* is there */
			:: else -> break
			od;
			if
			:: d_step { offset == length[0] -> next++; offset = 0 }
			:: else -> noroom = true
			fi
		fi
	:: else -> break
	od;
	if
	:: next == landNext && offset == landOffset -> room(1, true) /* sets noroom if there is none to be made */
	:: else ->
		noroom = false;
		logPos = h; logSeq = h;
		logNext = next; logOffset = offset;
		log(APPEND, append_logged);
		apply_append();
		worked(APPEND);
		done(append_done)
	fi
}

inline apply_append() {
	headPos = logPos;
	d_step { /* the store is of headSeq; the rest is the books' */
		m = headSeq;
		do
		:: m < logSeq -> assert(!entered[ring[m % RING]]); entered[ring[m % RING]] = true; m++
		:: else -> break
		od;
		m = 0; headSeq = logSeq
	};
	seam(append_head);
	refused = logRefused;
	slots(logNext, landed);
	landOffset = logOffset
}

/* ---- Room: SKIP for who is left behind, then TAIL ---- */

inline room(need, may) {
	d_step {
		limit = headSeq; lag = headSeq; del = deliveredSeq; all = headSeq; c = 0;
		do
		:: c < CURSORS ->
			if
			:: lagging[c] -> lag = (cursorSeq[c] < lag -> cursorSeq[c] : lag)
			:: !lagging[c] ->
				limit = (cursorSeq[c] < limit -> cursorSeq[c] : limit);
				all = (!tap(c) && cursorSeq[c] < all -> cursorSeq[c] : all)
			fi;
			c++
		:: else -> break
		od;
		del = (all > del -> all : del);
		limit = (del < limit -> del : limit);
		c = 0; all = 0
	};
	if
	:: !may || limit <= tailSeq || headSeq - limit + need > RING ->
		noroom = (headSeq - tailSeq + need > RING)
	:: else ->
		noroom = false;
		to = limit;
		if
		:: lag < limit ->
			/* No further than it must, or some more at once. */
			to = tailSeq;
			do
			:: headSeq - to + need > RING -> to++
			:: headSeq - to + need <= RING && to < limit -> to++
			:: headSeq - to + need <= RING -> break
			od;
			to = (lag > to -> lag : to)
		:: else
		fi;
#ifndef CURSOR_LAST
		skip_all();
#endif
		fields(TAIL);
		logPos = to; logSeq = to;
		logOtherPos = del; logOtherSeq = del;
		log(TAIL, tail_logged);
		apply_tail();
		worked(TAIL);
		done(tail_done);
#ifdef CURSOR_LAST
		skip_all();
#endif
	fi
}

inline apply_tail() {
	deliveredPos = logOtherPos;
	deliveredSeq = logOtherSeq;
	seam(tail_delivered);
	tailPos = logPos;
	tailSeq = logSeq
}

inline skip_all() {
	c = 0;
	do
	:: c < CURSORS && cursorSeq[c] < to -> move_on(c, to); c++
	:: c < CURSORS && cursorSeq[c] >= to -> c++
	:: c == CURSORS -> break
	od;
	c = 0
}

inline move_on(x, p) {
	fields(SKIP);
	logSlot = x;
	logPos = p; logSeq = p;
	logLost = lost[x] + p - cursorSeq[x];
	log(SKIP, skip_logged);
	apply_skip();
	worked(SKIP);
	done(skip_done)
}

inline apply_skip() {
	cursorPos[logSlot] = logPos;
	cursorSeq[logSlot] = logSeq;
	seam(skip_cursor);
	lost[logSlot] = logLost
}

/* ---- SEND ---- */

/* The books: socket s has accepted the record with sequence number q. */
inline accepts(q) {
	m = ring[q % RING];
	if
	:: m == last[cursorOf(s)] -> assert(kindOf(s) == queue); repeats++
	:: else ->
		assert(m > last[cursorOf(s)]);
		all = last[cursorOf(s)] + 1;
		do
		:: all < m -> missed[cursorOf(s)] = missed[cursorOf(s)] + entered[all]; all++
		:: else -> break
		od;
		last[cursorOf(s)] = m; gave[s]++
	fi;
	had[q] = had[q] || !tap(cursorOf(s));
	m = 0; all = 0
}

inline kernel_sends() {
	n = 0;
	do
	:: n < logCount && !(OVERSIZE && tooSmall(s) && ring[(logFrom + n) % RING] == OVERSIZE) ->
		d_step {
			h = (n == 0 -> logFrom : endSeq[n - 1]);
			do
			:: h < endSeq[n] -> accepts(h); h++
			:: else -> break
			od;
			h = 0
		};
		d_step { sendLength[n] = 1; n++ }
	:: n < logCount && stalls[s] < (s == 0 -> STALLS0 : STALLS) -> stalls[s]++; break
	:: n < logCount && OVERSIZE && tooSmall(s) && ring[(logFrom + n) % RING] == OVERSIZE -> to = (n == 0); break
	:: n == logCount -> break
	od
}

inline send() {
	fields(SEND);
	c = cursorOf(s); to = 0;
	d_step {
		n = headSeq - cursorSeq[c];
		if
		:: kindOf(s) == packets -> limit = 1
		:: else -> limit = (n < SLOTS -> n : SLOTS)
		fi
	};
	i = 0;
	do
	:: i < limit ->
		endPos[i] = (kindOf(s) == packets -> headPos : cursorPos[c] + i + 1);
		endSeq[i] = (kindOf(s) == packets -> headSeq : cursorSeq[c] + i + 1);
		d_step { sendLength[i] = UNTOUCHED; i++ }
	:: else -> break
	od;
	logSlot = c; logBy = s; logCount = limit;
	logBase = accepted[s]; logFrom = cursorSeq[c];
	log(SEND, send_logged);
	moment(send_before);
	enter;
	kernel_sends();
	leave;
	if
	:: n == 0 -> moment(send_none)
	:: n > 0 && n < limit -> moment(send_part)
	:: n > 0 && n == limit -> moment(send_all)
	fi;
	seam(send_sent);
	if
	:: n > 0 -> moved(logFrom, endPos[n - 1], endSeq[n - 1], logBase + endSeq[n - 1] - logFrom)
	:: else
	fi;
	worked(SEND);
	done(send_done);
	if
	:: n == 0 && to -> /* EMSGSIZE: left out, unless another member may take it */
		cannot[s] = cursorSeq[c] + 1;
		if
		:: !SHARE || c == 0 || cannot[1] == cannot[2] -> move_on(c, cursorSeq[c] + 1); noroom = false
		:: else
		fi
	:: else
	fi
}

/* The cursor that s uses goes to a place, and delivered with it. */
inline moved(from, pos, seq, count) {
	cursorPos[logSlot] = pos;
	cursorSeq[logSlot] = seq;
	accepted[logBy] = count;
	seam(send_cursor);
	deliver(from, pos, seq);
	noroom = false
}

#ifndef HOLES
#define HOLES 0
#endif

/* Delivered is where the first message is that nobody has accepted: what was accepted behind a hole does not move it. */
inline deliver(from, pos, seq) {
	if
	:: !tap(logSlot) && seq > deliveredSeq && (from <= deliveredSeq || HOLES) -> deliveredPos = pos; deliveredSeq = seq
	:: else
	fi
}

inline redo_send() {
	touched(sendLength, logCount);
	if
	:: n > 0 -> moved(logFrom, endPos[n - 1], endSeq[n - 1], logBase + endSeq[n - 1] - logFrom)
	:: else
	fi
}

/* ---- PUT: SEND for a message queue, whose call leaves no record ---- */

inline put() {
	c = cursorOf(s);
	fields(PUT);
	logSlot = c; logBy = s; logBase = accepted[s];
	logPos = cursorPos[c] + 1; logSeq = cursorSeq[c] + 1;
	logOtherPos = cursorPos[c]; logOtherSeq = cursorSeq[c];
	logMaybe = uncertain + 1;
	log(PUT, put_logged);
	if
	:: d_step { accepts(logOtherSeq); n = 1 }
	:: stalls[s] < (s == 0 -> STALLS0 : STALLS) -> stalls[s]++; n = 0
	fi;
	if
	:: n == 1 -> seam(put_sent); moved(logOtherSeq, logPos, logSeq, logBase + 1)
	:: else
	fi;
	worked(PUT);
	done(put_done)
}

inline redo_put() {
	if
	:: cursorSeq[logSlot] == logOtherSeq ->
		cursorPos[logSlot] = logOtherPos;
		cursorSeq[logSlot] = logOtherSeq;
		uncertain = logMaybe
	:: cursorSeq[logSlot] == logSeq && logSeq != logOtherSeq -> moved(logOtherSeq, logPos, logSeq, logBase + 1)
	:: else
	fi
}

/* ---- Recovery ---- */

inline recover() {
	seam(recover_begin);
#ifdef NO_RECORDS
	redo = idle;
#else
	redo = phase;
#endif
	if
	:: redo == RECV ->
		touched(length, SLOTS);
		has_landed(logLand)
	:: redo == TAKE ->
		d_step {
			n = 0;
			do
			:: n < SLOTS && length[n] != UNTOUCHED -> n++
			:: else -> break
			od
		};
		if
		:: n < SLOTS && prio[n] != UNTOUCHED -> uncertain = logMaybe
		:: else
		fi;
		has_landed(datagrams)
	:: redo == APPEND -> apply_append()
	:: redo == SKIP -> apply_skip()
	:: redo == TAIL -> apply_tail()
	:: redo == SEND -> redo_send()
	:: redo == PUT -> redo_put()
	:: else
	fi;
	d_step { sound(); n = 0; i = 0 };
	clear;
	books();
	d_step { pass(recover_done); was = 0; recovering = false; redo = 0 }
}

/* What recovery checks. Where it is not so, the ring is given up, with what is in it. */
inline sound() {
	assert(headPos == headSeq && tailPos == tailSeq && deliveredPos == deliveredSeq);
	assert(tailSeq <= deliveredSeq && deliveredSeq <= headSeq && headSeq - tailSeq <= RING);
	assert(landed <= SLOTS && landNext <= landed);
	i = landNext;
	do
	:: i < landed -> assert(length[i] != UNTOUCHED); i++
	:: else -> break
	od;
	assert(landNext == landed || landOffset == 0 || landKind != datagrams && landOffset < length[0]);
	assert(landKind != window || landNext == landed || headPos - landOffset + length[0] - tailPos <= RING);
	i = 0;
	do
	:: i < CURSORS ->
		assert(cursorPos[i] == cursorSeq[i] && tailSeq <= cursorSeq[i] && cursorSeq[i] <= headSeq && lost[i] <= cursorSeq[i]);
		i++
	:: else -> break
	od
}

#define landedNow (landNext == landed -> 0 : (landKind == datagrams -> landed - landNext : length[0] - landOffset))
#define missing   (took - headSeq - refused - landedNow)
#define given(c)  (c == 0 -> gave[0] : gave[1] + gave[2])
#define open      (SINK == queue && given(1) == cursorSeq[1] - lost[1] + 1) /* given, and its cursor has not moved */

/* Promise 5, whenever no operation is under way: what the broker has counted is what the kernel did. */
inline books() {
	d_step {
		assert(missing <= (SOURCE == queue -> uncertain : 0));
		assert(given(0) == cursorSeq[0] - lost[0]);
		assert(given(1) == cursorSeq[1] - lost[1] || open);
		assert(SINK == queue || accepted[0] == gave[0] && accepted[1] == gave[1] && accepted[2] == gave[2]);
		assert(uncertain <= kills && repeats + missing <= uncertain);
		assert(!open || repeats + missing < uncertain)
	}
}

/* When nothing can go on any more, everything has been done: nothing is stuck, lost, doubled or out of order (the order is
 * asserted with each message that a socket accepts). */
inline audit() {
	assert(took == N && landNext == landed);
	assert(cursorSeq[0] == headSeq && cursorSeq[1] == headSeq);
	assert(deliveredSeq == headSeq || OVERSIZE); /* over a hole that nobody can fill it moves when room is made */
	assert((OVERSIZE && SMALL == 0 || lost[0] == 0) && (LAGS || OVERSIZE && SMALL == 1 && !ONE || lost[1] == 0));
	/* What is missing between two messages that a sink got, or behind the last, is what it is said to have lost. */
	c = 0;
	do
	:: c < CURSORS ->
		h = missed[c]; i = last[c] + 1;
		do
		:: i <= N -> h = h + entered[i]; i++
		:: else -> break
		od;
		assert(h == lost[c]);
		c++
	:: else -> break
	od;
	assert(SOURCE == queue || missing == 0 && refused == (REFUSED > 0));
	h = 0; i = 0; c = 0
}

/* ---- The data thread ---- */

#define behind(x) (exists(x) && cursorSeq[cursorOf(x)] != headSeq && cannot[x] != cursorSeq[cursorOf(x)] + 1)
#define settled   (landNext == landed || noroom) /* what has landed goes before all else */

inline serve() {
	if
	:: kindOf(s) == queue -> put()
	:: else -> send()
	fi;
	books();
	rest()
}

inline work() {
	do
	:: landNext < landed && !noroom ->
		append();
		books();
		rest()
	:: landNext == landed && (took < N || SOURCE == packets && !ended && EMPTIES) ->
		if
		:: SOURCE == queue -> take()
		:: SOURCE != queue || ALSO -> receive()
		fi;
		books();
		rest()
	:: settled && (behind(0) || behind(1) || behind(2)) ->
		if
		:: behind(0) -> s = 0
		:: behind(1) -> s = 1
		:: behind(2) -> s = 2
		fi;
		serve()
	:: LAGS && noroom && !lagging[1] && cursorSeq[1] < deliveredSeq -> lagging[1] = true; noroom = false
	:: LAGS && lagging[1] && cursorSeq[1] == headSeq -> lagging[1] = false
	:: else -> d_step { audit() };
end_wait:
		false
	od
}

active proctype Broker() {
	do
	:: {
		if
		:: recovering -> recover()
		:: else
		fi;
		work()
	} unless {
		dead -> forget()
	}
	od
}

/* ---- What must hold ---- */

/* LEFT: the one message that the first cursor's sink can never take is had by nobody, if the other is left behind. */
#ifndef LEFT
#define LEFT TAP
#endif
#define hadBySomebody(q) (q >= deliveredSeq || q >= N || had[q] || \
	OVERSIZE == q + 1 && SMALL == 0 && LEFT && cursorSeq[0] > q)

/* At every moment, also between the stores of an operation. Promise 3: the tail never passes delivered, and delivered never
 * passes what a sink has accepted, but for what none of those that are waited for could ever take. */
active proctype Watch() {
end_watch:
	atomic {
		!(tailSeq <= deliveredSeq && deliveredSeq <= headSeq && tailPos <= deliveredPos && deliveredPos <= headPos
			&& tailSeq <= cursorSeq[0] && tailSeq <= cursorSeq[1] && tailPos <= cursorPos[0] && tailPos <= cursorPos[1]
			&& hadBySomebody(0) && hadBySomebody(1) && hadBySomebody(2)) -> assert(false)
	}
}
