/* SPDX-License-Identifier: Apache-2.0 */

/* The way of a message: RECV or TAKE, APPEND, SEND or PUT, and the room for it: SKIP and TAIL. And what its reader says of it:
 * ACK and DONE; LEAVE and REJOIN, when the reader goes and comes back; the marks of a source, which come and go likewise.
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
 * - A reader that acknowledges says any number of what it was sent, so many at a time as are taken at once, and goes GOES times at
 *   any moment. What it has said, and the broker has not taken, is chosen when it is taken. A member of a share that has gone does
 *   not come back: it would be another one, which is added in one step, in the entry of one that has left nothing undone.
 * - A mark is the number of the last message of its packet. A marked source goes LEAVES times, when all that it has sent is received.
 * - Whose descriptor the service manager has found dead is away for the next broker, whatever it had said. So is who was away before.
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
#ifndef STAGE
#define STAGE 0       /* how many messages come by a stage, beside that */
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
#ifndef ACKS
#define ACKS 0        /* the second cursor's sinks acknowledge; so often they say nothing, or the same again */
#endif
#ifndef VIEW
#define VIEW 0        /* one of them, alone, may as well store in its page what it has done */
#endif
#ifndef GOES
#define GOES 0        /* how often one of them loses its connection */
#endif
#ifndef FROM
#define FROM 0        /* it stores its place with its results, and says so when it is back */
#endif
#ifndef MARKS
#define MARKS 0       /* the packets of the source have marks */
#endif
#ifndef LEAVES
#define LEAVES 0      /* how often a marked source loses its connection */
#endif
#ifndef OTHER
#define OTHER 0       /* which is one beside the source, and has nothing to send */
#endif

mtype:point = {
	recover_begin, recover_done,
	recv_logged, recv_before, recv_none, recv_part, recv_all, recv_taken, recv_landed,
	take_logged, take_taken, take_landed,
	append_logged, append_head, append_done,
	send_logged, send_before, send_none, send_part, send_all, send_sent, send_cursor, send_done,
	put_logged, put_sent, put_done,
	skip_logged, skip_cursor, skip_done,
	tail_logged, tail_delivered, tail_done,
	send_member, send_offered,
	ack_logged, ack_before, ack_none, ack_part, ack_all, ack_taken, ack_done,
	done_logged, done_sent, done_done,
	leave_logged, leave_sent, leave_done,
	rejoin_logged, rejoin_identity, rejoin_done
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
#define acks(s)     (ACKS && s > 0)
#define away        (!OTHER && (cut || sourceLeft)) /* the source is */

/* ---- Memory that outlives the broker ---- */

byte headPos, headSeq, tailPos, tailSeq, deliveredPos, deliveredSeq;
byte cursorPos[CURSORS], cursorSeq[CURSORS], lost[CURSORS];
bool lagging[CURSORS];
byte accepted[SOCKETS];
byte refused, uncertain;
byte ring[RING];
byte sentPos, sentSeq;       /* of the second cursor, if its sinks acknowledge */
byte fromPos[SOCKETS], fromSeq[SOCKETS], toPos[SOCKETS], toSeq[SOCKETS]; /* what a member of its share has under way */
byte acked[SOCKETS];         /* what they have said */
bool left;                   /* it has no connection */
byte mark;                   /* of the source */
byte taken;                  /* how many messages of the stage */
byte stage[N], staged;       /* what its source has written there, whatever becomes of the broker */
bool sourceLeft;             /* it has no connection */

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
byte heard[SLOTS];           /* what acknowledgements say, and msg_len of their headers */
byte heardLength[SLOTS] = UNTOUCHED;
byte landMark;               /* in front of the packet that has landed */

byte logTaken, logOrphan, logMine, logLeft, logMark, logClient;
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
bool had[N];                 /* by sequence number: a sink, no tap, accepted it, or has said that it is done with it */
byte with[N];                /* by sequence number: the socket of a sink that acknowledges and was given it; FINISHED; GIVEN_UP */
#define FINISHED 100
#define GIVEN_UP 101
byte upTo[SOCKETS];          /* behind the last that it was given on its connection */
byte says[SOCKETS];          /* what it has said of that */
byte once[SOCKETS];          /* the most that it ever said on its connection */
byte lastMark, markBefore;   /* of the last packet that was taken, and of the one before */
byte page;                   /* VIEW: what it has stored, whatever becomes of the broker */
byte place;                  /* FROM: behind the last that the reader has stored */
bool gone[SOCKETS];          /* its connection has ended at the other end, and what it was given and has not said is nobody's */
byte goes, vain;
byte leaves;                 /* how often the marked source has gone */
bool cut;                    /* its connection has ended at the other end */

/* ---- The broker's own, gone with it ---- */

bool recovering;
byte cannot[SOCKETS];        /* one more than the number of the message that it can never take */
bool noroom;                   /* the next landed record does not fit */
byte dirty;                  /* receive headers that may be touched */
byte heardDirty;             /* headers of acknowledgements that may be touched */
bool out[SOCKETS];           /* it is known that its connection has gone */
bool young;                  /* it has just taken over */
byte adopting;               /* which descriptors are looked at then: the source's, the sinks', none */
byte i, n, h, next, offset, to, limit, lag, all, del, c, s, m, o;
mtype:operation redo;

inline forget() {
	d_step {
		died(recovering);
		recovering = true; noroom = false; cannot[0] = 0; cannot[1] = 0; cannot[2] = 0; dirty = SLOTS;
		heardDirty = SLOTS; o = 0; young = (ACKS > 0 || LEAVES > 0); adopting = 0;
		out[0] = false; out[1] = false; out[2] = false;
		i = 0; n = 0; h = 0; next = 0; offset = 0; to = 0; limit = 0; lag = 0; all = 0; del = 0; c = 0; s = 0; m = 0;
		redo = 0
	}
}

#define BAD 255
inline poison() {
	logSlot = BAD; logBy = BAD; logCount = BAD; logBase = BAD; logFrom = BAD; logPos = BAD; logSeq = BAD;
	logLand = 0; logOtherPos = BAD; logOtherSeq = BAD; logLost = BAD; logMaybe = BAD; logNext = BAD; logOffset = BAD; logRefused = BAD;
	logTaken = BAD; logOrphan = BAD; logMine = BAD; logLeft = BAD; logMark = BAD; logClient = BAD;
	i = 0;
	do
	:: i < SLOTS -> sendLength[i] = 0; endPos[i] = BAD; endSeq[i] = BAD; heard[i] = BAD; i++
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
		landMark = (landNext == landed -> 0 : landMark);
		i = 0; n = 0; h = 0; to = 0; limit = 0; c = 0; s = 0; m = 0; lag = 0; all = 0; del = 0; next = 0; offset = 0; o = 0
	}
}

/* What a member of a share has under way, as far as it was not given up; what a sink alone has. */
#define first_of(x) (SHARE -> (fromSeq[x] > cursorSeq[1] -> fromSeq[x] : cursorSeq[1]) : cursorSeq[1])
#define last_of(x)  (SHARE -> (toSeq[x] > first_of(x) -> toSeq[x] : first_of(x)) : sentSeq)
#define busy(x)     (first_of(x) < last_of(x))

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
	:: took < N && !away -> m = 1
	:: !away && took + 1 < N && took + 1 != REFUSED && took + 2 != REFUSED -> m = 2
	:: !ended && EMPTIES -> ended = true; m = 0
	:: LEAVES && !OTHER && leaves < LEAVES && !away -> leaves++; cut = true; m = 0
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
			od;
			landMark = (MARKS && m > 0 -> took : 0);
			markBefore = lastMark; lastMark = (m > 0 -> took : lastMark)
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
		/* With the last record of its packet. */
		logMark = (MARKS && next == landed && length[0] > 0 && landMark > 0 -> landMark : BAD);
#ifdef MARK_EARLY
		logMark = (MARKS && landMark > 0 -> landMark : BAD);
#endif
		logTaken = BAD;
		log(APPEND, append_logged);
		apply_append();
		worked(APPEND);
		done(append_done)
	fi
}

/* What is in the stage is copied to behind head, as far as there is room, and enters as it was copied. */
inline append_staged() {
	fields(APPEND);
	logRefused = refused;
	d_step { noroom = false; h = headSeq; n = taken };
	do
	:: n < staged && fits -> d_step { ring[h % RING] = stage[n]; h++; n++ }
	:: n == staged || n > taken || !fits -> break
	od;
	if
	:: n == taken -> room(1, true)
	:: else ->
		noroom = false;
		logPos = h; logSeq = h;
		logNext = landNext; logOffset = landOffset; logMark = BAD;
		logTaken = n;
#ifdef TAKEN_FIRST
		taken = n;
#endif
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
	landOffset = logOffset;
	if
	:: logMark != BAD -> mark = logMark
	:: else
	fi;
#ifndef TAKEN_LOST
	if
	:: logTaken != BAD -> taken = logTaken
	:: else
	fi
#endif
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
	d_step { count_undone(x, p) };
	logPos = h; logSeq = h; h = 0;
	logLost = lost[x] + n; n = 0;
	logOtherPos = (sentSeq > p -> sentSeq : p); logOtherSeq = logOtherPos;
	log(SKIP, skip_logged);
	apply_skip();
	worked(SKIP);
	done(skip_done)
}

inline apply_skip() {
	cursorPos[logSlot] = logPos;
	cursorSeq[logSlot] = logSeq;
	if
	:: ACKS && logSlot == 1 ->
		sentPos = logOtherPos;
		d_step { /* the books: who has what is given up has it no more */
			sentSeq = logOtherSeq;
			i = 0;
			do
			:: i < logSeq -> with[i] = (with[i] == FINISHED -> FINISHED : GIVEN_UP); i++
			:: else -> break
			od;
			i = 0
		}
	:: else
	fi;
	seam(skip_cursor);
	lost[logSlot] = logLost
}

/* How many before p nobody has done (n), and where the cursor goes then (h). */
inline count_undone(x, p) {
	n = p - cursorSeq[x]; h = p;
	if
	:: ACKS && x == 1 && SHARE ->
		n = (p > sentSeq -> p - sentSeq : 0);
		i = 1;
		do
		:: i < SOCKETS ->
			all = first_of(i); m = last_of(i);
			n = n + (all < p && all < m -> (m < p -> m : p) - all : 0);
			i++
		:: else -> break
		od;
		if
		:: sentSeq > p -> first_undone(0, p)
		:: else
		fi;
		i = 0; all = 0; m = 0
	:: else
	fi
}

/* ---- SEND ---- */

/* h is the first that some member has under way, or where the share was sent to; with x, or all if 0, having done what is before p. */
inline first_undone(x, p) {
	h = sentSeq; i = 1;
	do
	:: i < SOCKETS ->
		all = first_of(i);
		all = ((i == x || x == 0) && all < p -> p : all);
		h = (all < last_of(i) && all < h -> all : h);
		i++
	:: else -> break
	od;
	i = 0; all = 0
}

/* Of what is left undone the oldest is next. o is who has left it, 0 for nobody. */
inline offer_next() {
	o = 0;
	if
	:: !SHARE -> h = sentSeq; to = headSeq
	:: else ->
		h = sentSeq; to = headSeq; i = 1;
		do
		:: i < SOCKETS ->
			if
			:: i != s && out[i] && busy(i) && (o == 0 || first_of(i) < h) -> h = first_of(i); to = last_of(i); o = i
			:: else
			fi;
			i++
		:: else -> break
		od;
		i = 0
	fi
}

inline offer() {
	fields(SEND);
	d_step { offer_next() };
	/* The second member of a share takes one at a time. */
	limit = (s == 2 -> h + 1 : to);
	endPos[0] = limit; endSeq[0] = limit;
	sendLength[0] = UNTOUCHED;
	logSlot = 1; logBy = s; logCount = 1;
	logFrom = h; logOrphan = o;
	log(SEND, send_logged);
	moment(send_before);
	enter; n = 0;
	if
	:: !gone[s] ->
		d_step {
			h = logFrom;
			do
			:: h < endSeq[0] -> given(h); h++
			:: else -> break
			od;
			says[s] = (SHARE || upTo[s] == 0 -> logFrom : says[s]);
			upTo[s] = endSeq[0]; h = 0
		};
		d_step { sendLength[0] = 1; n = 1 }
	:: stalls[s] < STALLS || gone[s] -> stalls[s] = stalls[s] + !gone[s]; vain = vain + gone[s]
	fi;
	leave;
	if
	:: n == 0 -> moment(send_none)
	:: else -> moment(send_all)
	fi;
	seam(send_sent);
	if
	:: n == 1 -> apply_offered(); noroom = false
	:: else
	fi;
	worked(SEND);
	done(send_done)
}

/* The books: a sink that acknowledges is given the record with sequence number q. */
inline given(q) {
	assert(!left);
	assert(with[q] == 0 || SHARE && with[q] < SOCKETS && gone[with[q]]);
	assert(SHARE || q >= upTo[s] && (!FROM || q >= place));
	with[q] = s
}

inline apply_offered() {
	if
	:: SHARE ->
		fromPos[logBy] = logFrom; fromSeq[logBy] = logFrom;
		toPos[logBy] = endPos[0]; toSeq[logBy] = endSeq[0];
		acked[logBy] = logFrom;
		seam(send_member);
		if
		:: logOrphan > 0 -> fromPos[logOrphan] = endPos[0]; fromSeq[logOrphan] = endSeq[0]
		:: else -> sentPos = endPos[0]; sentSeq = endSeq[0]
		fi
	:: else -> sentPos = endPos[0]; sentSeq = endSeq[0]
	fi;
	seam(send_offered)
}

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
	:: n > 0 && acks(logBy) -> apply_offered()
	:: n > 0 && !acks(logBy) -> moved(logFrom, endPos[n - 1], endSeq[n - 1], logBase + endSeq[n - 1] - logFrom)
	:: else
	fi
}

/* ---- ACK: what a sink has said is taken. The kernel records each packet, for it is said once ---- */

inline hear() {
	i = 0;
	do
	:: i < heardDirty -> d_step { heardLength[i] = UNTOUCHED; i++ }
	:: else -> break
	od;
	i = 0; heardDirty = 0;
	fields(ACK);
	logBy = s; logBase = acked[s];
	logCount = last_of(s);
#ifndef ACK_UNRECORDED
	log(ACK, ack_logged);
#endif
	moment(ack_before);
	enter; n = 0;
	do
	:: n < SLOTS && says[s] < upTo[s] -> d_step { m = says[s] + 1; say(m) }; d_step { heardLength[n] = 1; n++ }
	:: n < SLOTS && says[s] + 1 < upTo[s] -> d_step { m = upTo[s]; say(m) }; d_step { heardLength[n] = 1; n++ }
	:: n < SLOTS && once[s] > 0 && vain < ACKS && upTo[s] > 0 -> vain++; heard[n] = once[s]; d_step { heardLength[n] = 1; n++ } /* again */
	:: n == SLOTS || n > 0 && !gone[s] -> break
	:: n == 0 && !gone[s] && (vain < ACKS || says[s] == upTo[s]) -> vain = vain + (vain < ACKS); break
	:: gone[s] && n < SLOTS -> upTo[s] = says[s]; d_step { heard[n] = 0; heardLength[n] = 0; n++ } /* the end */
	od;
	leave;
	if
	:: n == 0 -> moment(ack_none)
	:: n > 0 && n < SLOTS -> moment(ack_part)
	:: n == SLOTS -> moment(ack_all)
	fi;
	seam(ack_taken);
	heardDirty = n;
	apply_ack();
	worked(ACK);
	done(ack_done)
}

/* The books: everything that it has under way before v is done. */
inline say(v) {
	says[s] = v; heard[n] = v;
	once[s] = (v > once[s] -> v : once[s]);
	h = 0;
	do
	:: h < v && with[h] == s -> with[h] = FINISHED; had[h] = true; h++
	:: h < v && with[h] != s -> h++
	:: else -> break
	od;
	h = 0; m = 0
}

inline apply_ack() {
	d_step {
		m = logBase; i = 0;
		do
		:: i < n -> m = (heardLength[i] == 1 && heard[i] <= logCount && heard[i] > m -> heard[i] : m); i++
		:: else -> break
		od;
		i = 0
	};
	acked[logBy] = m;
	m = 0
}

/* ---- DONE: what was said moves the cursor ---- */

inline settle() {
	if
	:: acked[s] > first_of(s) -> d_step { m = acked[s]; h = m }; advance()
	:: else
	fi
#if VIEW
	;
	if
	:: page > first_of(s) -> d_step { m = page; h = m }; advance()
	:: else
	fi
#endif
}

/* s is done with what it has before m. */
inline advance() {
	fields(DONE);
	if
	:: SHARE -> d_step { first_undone(s, m) }
	:: else
	fi;
	logSlot = 1; logBy = s;
	logFrom = cursorSeq[1];
	logPos = h; logSeq = h;
	logOtherPos = (sentSeq > h -> sentSeq : h); logOtherSeq = logOtherPos;
	logMine = m;
	logBase = accepted[s] + m - first_of(s);
	h = 0; m = 0;
	log(DONE, done_logged);
	apply_done();
	worked(DONE);
	done(done_done)
}

inline apply_done() {
	sentPos = logOtherPos; sentSeq = logOtherSeq;
	if
	:: SHARE -> fromPos[logBy] = logMine; fromSeq[logBy] = logMine
	:: else
	fi;
	seam(done_sent);
	moved(logFrom, logPos, logSeq, logBase)
}

/* ---- LEAVE and REJOIN ---- */

inline go_away() {
	settle();
	fields(LEAVE);
	logSlot = 1; logBy = s; logClient = 0;
#ifdef SENT_STAYS
	logOtherPos = sentSeq;
#else
	logOtherPos = (SHARE -> sentSeq : cursorSeq[1]);
#endif
	logOtherSeq = logOtherPos;
	logLeft = (!SHARE || out[1] && out[2]);
	log(LEAVE, leave_logged);
	apply_leave();
	worked(LEAVE);
	done(leave_done)
}

inline apply_leave() {
	if
	:: logClient == 1 -> sourceLeft = true
	:: else ->
		sentPos = logOtherPos;
		d_step { /* the store is of sentSeq; what was in its queue is gone */
			sentSeq = logOtherSeq; h = 0;
			do
			:: h < N -> with[h] = (!SHARE && with[h] == logBy -> 0 : with[h]); h++
			:: else -> break
			od;
			h = 0
		};
		seam(leave_sent);
		left = logLeft
	fi
}

inline source_goes() {
	fields(LEAVE);
	logClient = 1;
	log(LEAVE, leave_logged);
	apply_leave();
	worked(LEAVE);
	done(leave_done)
}

/* A source that is back is told its mark. */
inline source_is_back() {
	fields(REJOIN);
	logClient = 1;
	log(REJOIN, rejoin_logged);
	apply_rejoin();
	worked(REJOIN);
	done(rejoin_done);
	assert(OTHER || mark == lastMark)
}

/* It may have a connection still, the end of which nobody has noticed. If it has left before, LEAVE changes nothing. */
inline come_back() {
	if
	:: !out[s] -> hear_all()
	:: else
	fi;
	go_away();
	if
	:: FROM && place > cursorSeq[1] ->
		d_step { /* the books: it says what it has done */
			h = 0;
			do
			:: h < place -> with[h] = (with[h] == GIVEN_UP -> GIVEN_UP : FINISHED); had[h] = true; h++
			:: else -> break
			od;
			m = place; h = place
		};
		advance()
	:: else
	fi;
	fields(REJOIN);
	logBy = s; logClient = 0;
	log(REJOIN, rejoin_logged);
	apply_rejoin();
	worked(REJOIN);
	done(rejoin_done)
}

inline apply_rejoin() {
	if
	:: logClient == 1 -> d_step { sourceLeft = false; cut = false }
	:: else ->
		d_step { acked[logBy] = 0; gone[logBy] = false; upTo[logBy] = 0; says[logBy] = 0; once[logBy] = 0 };
		seam(rejoin_identity);
		left = false
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
	:: redo == ACK -> touched(heardLength, SLOTS); apply_ack()
	:: redo == DONE -> apply_done()
	:: redo == LEAVE -> apply_leave()
	:: redo == REJOIN -> apply_rejoin()
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
	assert(sentPos == sentSeq && sentSeq <= headSeq && (!ACKS || cursorSeq[1] <= sentSeq));
	i = 0;
	do
	:: i < SOCKETS -> assert(fromPos[i] == fromSeq[i] && toPos[i] == toSeq[i]); i++
	:: else -> break
	od;
	i = 0;
	do
	:: i < CURSORS ->
		assert(cursorPos[i] == cursorSeq[i] && tailSeq <= cursorSeq[i] && cursorSeq[i] <= headSeq && lost[i] <= cursorSeq[i]);
		i++
	:: else -> break
	od
}

#define landedNow (landNext == landed -> 0 : (landKind == datagrams -> landed - landNext : length[0] - landOffset))
#define missing   (took - headSeq - refused - landedNow - (staged - taken))
#define given(c)  (c == 0 -> gave[0] : gave[1] + gave[2])
#define open      (SINK == queue && given(1) == cursorSeq[1] - lost[1] + 1) /* given, and its cursor has not moved */

/* Promise 5, whenever no operation is under way: what the broker has counted is what the kernel did. */
inline books() {
	d_step {
		assert(missing <= (SOURCE == queue -> uncertain : 0));
		assert(given(0) == cursorSeq[0] - lost[0]);
		assert(ACKS || given(1) == cursorSeq[1] - lost[1] || open);
		assert(!MARKS || mark == (landNext < landed && length[0] > 0 -> markBefore : lastMark));
		/* What was said to be done counts, at once or when it is settled, and nothing else. */
		i = 0; n = 0;
		do
		:: ACKS && i < N ->
			assert(i >= cursorSeq[1] || with[i] == FINISHED || with[i] == GIVEN_UP);
			assert(with[i] != FINISHED || i < cursorSeq[1] || SHARE || i < acked[1] || VIEW && i < page || FROM && i < place);
			n = n + (with[i] == GIVEN_UP); i++
		:: else -> break
		od;
		/* What it has stored at the moment at which it was left behind, and nobody has looked at, counts as lost, too. */
		assert(!ACKS || n == lost[1] || VIEW && n < lost[1] && lost[1] - n <= page);
		i = 0; n = 0;
		assert(SINK == queue || ACKS || accepted[0] == gave[0] && accepted[1] == gave[1] && accepted[2] == gave[2]);
		assert(uncertain <= kills && repeats + missing <= uncertain);
		assert(!open || repeats + missing < uncertain)
	}
}

/* When nothing can go on any more, everything has been done: nothing is stuck, lost, doubled or out of order (the order is
 * asserted with each message that a socket accepts). */
inline audit() {
	assert(took == N && landNext == landed && taken == staged && !left && !sourceLeft);
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
		/* A queue may have had what is counted as uncertain, and skipped then. */
		assert(h == lost[c] || acks(c) || SINK == queue && c == 1 && h < lost[c] && lost[c] - h <= uncertain);
		c++
	:: else -> break
	od;
	assert(SOURCE == queue || missing == 0 && refused == (REFUSED > 0));
	h = 0; i = 0; c = 0
}

/* ---- The data thread ---- */

#define behind(x) (acks(x) -> exists(x) && behindAck(x) : behindPlain(x))
#define behindAck(x) (!out[x] && (!SHARE && sentSeq != headSeq || \
	SHARE && !busy(x) && (out[3 - x] && busy(3 - x) || sentSeq != headSeq)) && (!gone[x] || vain < ACKS))
#define behindPlain(x) (exists(x) && cursorSeq[cursorOf(x)] != headSeq && cannot[x] != cursorSeq[cursorOf(x)] + 1)
#define settled   (landNext == landed || noroom) /* what has landed goes before all else */

/* Who waits for its ok may not be told a mark that what it has sent before is still to move. */
#ifdef BACK_EARLY
#define back_early true
#else
#define back_early OTHER
#endif

inline serve() {
	if
	:: acks(s) -> offer()
	:: !acks(s) && kindOf(s) == queue -> put()
	:: !acks(s) && kindOf(s) != queue -> send()
	fi;
	books();
	rest()
}

/* What a predecessor has taken, and not made count, comes first. */
#define pending     (ACKS && (!out[1] && acked[1] > first_of(1) || SHARE && !out[2] && acked[2] > first_of(2)))
#define maySay(x) (exists(x) && acks(x) && !out[x] && (gone[x] && vain < ACKS || \
	!gone[x] && busy(x) && (says[x] < upTo[x] || vain < ACKS || acked[x] > first_of(x))))

/* Nobody may have noticed yet that the connection has ended. */
inline ask() {
	vain = vain + gone[s];
	hear();
	books();
	settle();
	books();
	rest()
}

/* The end of a connection: what was said before it is heard. */
inline hear_all() {
	do
	:: hear();
		if
		:: heardLength[SLOTS - 1] == 0 -> break
		:: else
		fi
	od;
	out[s] = true
}

/* Another member of the share is added in the entry of s, which has left nothing undone. */
inline newcomer() {
	fromPos[s] = 0; fromSeq[s] = 0; toPos[s] = 0; toSeq[s] = 0; acked[s] = 0;
	upTo[s] = 0; says[s] = 0; once[s] = 0; gone[s] = false; out[s] = false; left = false; s = 0
}

inline retire() {
	hear_all();
	go_away();
	books();
	rest()
}

/* Before all else a broker looks at the descriptors that its predecessor has left. Who has none is away. */
inline adopt() {
	do
	:: adopting == SOCKETS -> adopting = 0; break
	:: adopting < SOCKETS ->
		if
		:: adopting == 0 && (sourceLeft || cut) -> source_goes()
		:: adopting == 0 && !sourceLeft -> skip
		:: adopting > 0 && acks(adopting) && gone[adopting] -> s = adopting; out[s] = true; go_away()
		:: adopting > 0 && !(acks(adopting) && gone[adopting] && left) -> skip
		fi;
		books();
		rest();
		adopting++
	od
}

inline work() {
	do
	:: d_step { landNext < landed && !noroom && !pending -> young = false };
		append();
		books();
		rest()
	/* The numbers say the order in which messages enter, so what is received comes before or behind what is staged. */
	:: staged < STAGE && took < N && landNext == landed -> d_step { took++; stage[staged] = took; staged++ }
	:: d_step { landNext == landed && taken < staged && !noroom && !pending -> young = false };
		append_staged();
		books();
		rest()
	:: d_step { landNext == landed && taken == staged && !pending && (took < N && !away || SOURCE == packets && !ended && EMPTIES) -> young = false };
		if
		:: SOURCE == queue -> take()
		:: SOURCE != queue || ALSO -> receive()
		fi;
		books();
		rest()
	:: d_step { settled && !pending && (behind(0) || behind(1) || behind(2)) -> young = false };
		if
		:: behind(0) -> s = 0
		:: behind(1) -> s = 1
		:: behind(2) -> s = 2
		fi;
		serve()
	:: (settled || young) && (maySay(1) || maySay(2)) ->
		if
		:: maySay(1) -> s = 1
		:: maySay(2) -> s = 2
		fi;
		ask()
	:: VIEW && !gone[1] && says[1] < upTo[1] -> d_step { s = 1; n = 0; m = says[1] + 1; say(m); page = says[1]; s = 0 }
	:: (settled || young) && VIEW && !out[1] && page > first_of(1) ->
		d_step { s = 1; m = page; h = m };
		advance();
		books();
		rest()
	:: (settled || young) && (gone[1] && !out[1] || gone[2] && !out[2]) ->
		s = (gone[1] && !out[1] -> 1 : 2);
		retire()
	:: goes < GOES && !gone[1] && !gone[2] && !out[1] && !out[2] ->
		d_step { goes++; gone[1] = true };
		if
		:: FROM && upTo[1] > place -> place = upTo[1]
		:: FROM && says[1] > place -> place = says[1]
		:: !FROM || says[1] <= place
		fi
	:: goes < GOES && SHARE && !gone[1] && !gone[2] && !out[1] && !out[2] -> goes++; gone[2] = true
	:: goes < GOES && SHARE && out[1] && !gone[2] && !busy(1) -> goes++; gone[2] = true
	:: goes < GOES && SHARE && out[2] && !gone[1] && !busy(2) -> goes++; gone[1] = true
	:: (settled || young) && SHARE && out[1] && out[2] -> d_step { s = (busy(1) -> 2 : 1); newcomer() }
	:: (settled || young) && cut && !sourceLeft ->
		source_goes();
		books();
		rest()
	:: (settled || young) && sourceLeft && (back_early || landNext == landed) ->
		source_is_back();
		books();
		rest()
	:: leaves < LEAVES && !cut && !sourceLeft -> d_step { leaves++; cut = true }
	:: (settled || young) && !SHARE && gone[1] ->
		s = 1;
		come_back();
		out[1] = false;
		books();
		rest()
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
		:: recovering ->
			recover();
			if
			:: ACKS || LEAVES -> adopt()
			:: else
			fi
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
