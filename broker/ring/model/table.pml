/* SPDX-License-Identifier: Apache-2.0 */

/* The tables of cursors, sinks and clients: ADD, UPDATE, REMOVE, GREET and CONSUME, with the registrations and the connections
 * that they are for, and the descriptor store.
 *
 * What is abstracted:
 * - What a sink is, its identity, are three words: id, inode and the id of its cursor; of a cursor, id and one option; of a
 *   client, its id. The sum is of all of them.
 * - Messages: the ring has MESSAGES of them, and delivered stands at FIRST_PLACE. A sink accepts one at a time in one step;
 *   that this is exact is what data.pml is about.
 * - The descriptor store does what it is told, in order; what was told before a kill is done before the next broker starts.
 * - A connection is its client: both are there, or both are gone.
 *
 * SHARE: the sinks have one cursor. ATTACH: a framed sink and a connected source instead of registrations. */

#ifndef SHARE
#define SHARE 0
#endif
#ifndef ATTACH
#define ATTACH 0
#endif
#ifndef GONE
#define GONE 1    /* the client that may have gone before its ok */
#endif

mtype:point = {
	recover_begin, recover_done,
	register_peeked, register_proven, register_stored, register_barrier, register_settled, register_answered,
	consume_logged, consume_before, consume_all, consume_taken, consume_done,
	attach_stored, attach_barrier, attach_taken,
	greet_logged, greet_before, greet_none, greet_all, greet_sent, greet_done,
	add_cursor, add_filled, add_done, add_client,
	update_logged, update_identity, update_done,
	remove_logged, remove_totals, remove_done
};
#define ANY_ORDER
#include "common.pml"

#define ENTRIES   2   /* of each table */
#define IDS       8   /* ids are 1 .. IDS-1 */
#define CLIENTS   2
#define UNTOUCHED 255
#define BAD       254
#define MESSAGES  2
#define FIRST_PLACE 1

mtype:standing = { free, attaching, ready };

/* ---- Memory that outlives the broker ---- */

mtype:standing status[ENTRIES] = free;          /* sinks */
byte id[ENTRIES], inode[ENTRIES], reads[ENTRIES], sum[ENTRIES];
mtype:standing cursorStatus[ENTRIES] = free;    /* cursors */
byte cursorID[ENTRIES], option[ENTRIES], cursorSum[ENTRIES];
byte cursorPos[ENTRIES], cursorSeq[ENTRIES], start[ENTRIES], lost[ENTRIES];
mtype:standing clientStatus[ENTRIES] = free;    /* connected sources */
byte clientID[ENTRIES], clientSum[ENTRIES];
byte nextID = 1, attempts;
byte goneAccepted, goneLost, goneAbandoned;
byte consumed = UNTOUCHED, greeted = UNTOUCHED;   /* msg_len */
byte logSink, logCursor, logClient, logAccepted, logLost, logLeft, logID, logInode, logReads, logCursorID, logOption;

/* ---- What the service manager keeps: descriptors by id ---- */

bool stored[IDS];

/* ---- What the world knows ---- */

byte head = 1;                  /* the registration at the head of the queue */
byte begun, counted;            /* how many brokers have begun with it, and how many of them have said so */
bool hello[CLIENTS];            /* lies in the connection */
byte oks[CLIENTS];              /* that the client has read */
byte connection[CLIENTS];       /* the id that its descriptor is stored under; 0: it is to connect, or to try again */
bool closed[CLIENTS];           /* the client has gone */
bool wasIn[IDS];                /* a cursor with that id has been in the table */
byte took[IDS];                 /* messages that its sockets accepted */

/* Registrations: sink 1, its renewal, its removal; or two members. */
#if SHARE
#define last        2
#define removes(r)  false
#define inodeOf(r)  r
#define optionOf(r) 1
#else
#define last        3
#define removes(r)  (r == 3)
#define inodeOf(r)  1
#define optionOf(r) r
#endif

/* ---- The broker's own ---- */

bool recovering;
byte e, c, j, k, n, own, sh;
mtype:operation redo;

#define NOSLOT         100
#define sumOf(i, a, b) (i + 8 * a + 24 * b)
#define sound(x)       (id[x] > 0 && sum[x] == sumOf(id[x], inode[x], reads[x]))
#define soundCursor(x) (cursorID[x] > 0 && cursorSum[x] == sumOf(cursorID[x], option[x], 1))
#define soundClient(x) (clientID[x] > 0 && clientSum[x] == sumOf(clientID[x], 1, 1))
#define inUse(x)       (status[x] != free)

inline forget() {
	d_step {
		died(recovering);
		recovering = true;
		/* A connection that nobody else holds ends with the broker. The client tries again. */
		k = 0;
		do
		:: k < CLIENTS ->
			if
			:: connection[k] > 0 && !stored[connection[k]] -> assert(oks[k] == 0); connection[k] = 0; hello[k] = false
			:: else
			fi;
			k++
		:: else -> break
		od;
		e = 0; c = 0; j = 0; k = 0; n = 0; own = 0; sh = 0; redo = 0
	}
}

inline poison() {
	logSink = BAD; logCursor = BAD; logClient = BAD; logAccepted = BAD; logLost = BAD; logLeft = BAD;
	logID = BAD; logInode = BAD; logReads = BAD; logCursorID = BAD; logOption = BAD;
	consumed = 0; greeted = 0
}

/* find sets a variable to the first entry for which a condition holds, or ENTRIES. */
#define find(x, condition) \
	d_step { \
		x = 0; \
		do \
		:: x < ENTRIES && !(condition) -> x++ \
		:: else -> break \
		od \
	}
#define cursorOf(x, sink) find(x, cursorStatus[x] != free && cursorID[x] == reads[sink])

/* ---- ADD: no log; the state of an entry, stored last, is its commit. The cursor comes first ---- */

inline add_cursor_entry(newID, what) {
	find(c, cursorStatus[c] == free);
	assert(c < ENTRIES);
#ifdef STATE_FIRST
	cursorStatus[c] = ready;
#endif
	cursorPos[c] = FIRST_PLACE;
	cursorSeq[c] = FIRST_PLACE;
	start[c] = FIRST_PLACE;
	lost[c] = 0;
	cursorID[c] = newID; option[c] = what;
	cursorSum[c] = sumOf(newID, what, 1);
	seam(add_cursor);
	d_step { cursorStatus[c] = ready; wasIn[newID] = true }
}

inline add_sink(newID, who, cursor, how) {
	find(e, status[e] == free);
	assert(e < ENTRIES);
#ifdef STATE_FIRST
	status[e] = how;
#endif
	id[e] = newID; inode[e] = who; reads[e] = cursor;
	sum[e] = sumOf(newID, who, cursor);
	seam(add_filled);
	status[e] = how;
	d_step { pass(add_done); at = 0 }
}

inline add_client_entry(newID) {
	find(e, clientStatus[e] == free);
	assert(e < ENTRIES);
#ifdef STATE_FIRST
	clientStatus[e] = attaching;
#endif
	clientID[e] = newID;
	clientSum[e] = sumOf(newID, 1, 1);
	clientStatus[e] = attaching;
	d_step { pass(add_client); at = 0 }
}

/* ---- UPDATE: of a sink and its cursor ---- */

inline update(x, what) {
	cursorOf(c, x);
	fields(UPDATE);
	logSink = x;
	logID = id[x]; logInode = inode[x]; logReads = reads[x];
	logCursor = c;
	logCursorID = cursorID[c]; logOption = what;
	log(UPDATE, update_logged);
	apply_update();
	worked(UPDATE);
	done(update_done)
}

inline apply_update() {
	id[logSink] = logID; inode[logSink] = logInode; reads[logSink] = logReads;
	sum[logSink] = sumOf(logID, logInode, logReads);
	seam(update_identity);
	cursorID[logCursor] = logCursorID; option[logCursor] = logOption;
	cursorSum[logCursor] = sumOf(logCursorID, logOption, 1)
}

/* ---- REMOVE: of a sink, and of its cursor if it was the last; of a cursor that has none; or of a client ---- */

inline remove(sink, cursor, client) {
	fields(REMOVE);
	logCursor = cursor; logSink = sink; logClient = client;
	if
	:: cursor == NOSLOT -> logAccepted = goneAccepted; logLost = goneLost; logLeft = goneAbandoned
	:: cursor != NOSLOT ->
		logAccepted = goneAccepted + cursorSeq[cursor] - start[cursor] - lost[cursor];
		logLost = goneLost + lost[cursor];
		logLeft = goneAbandoned + MESSAGES - cursorSeq[cursor]
	fi;
	log(REMOVE, remove_logged);
	apply_remove();
	worked(REMOVE);
	done(remove_done)
}

inline apply_remove() {
	goneAccepted = logAccepted;
	goneLost = logLost;
	goneAbandoned = logLeft;
	seam(remove_totals);
	if
	:: logCursor != NOSLOT -> cursorStatus[logCursor] = free
	:: else
	fi;
	if
	:: logSink != NOSLOT -> status[logSink] = free
	:: else
	fi;
	if
	:: logClient != NOSLOT -> clientStatus[logClient] = free
	:: else
	fi
}

/* The sink of entry x goes, and its descriptor. With the last sink the cursor goes. */
inline drop(x) {
	own = id[x];
	cursorOf(c, x);
	d_step {
		k = 0; n = 0;
		do
		:: k < ENTRIES -> n = n + (inUse(k) && reads[k] == reads[x]); k++
		:: else -> break
		od;
		c = (n > 1 -> NOSLOT : c); k = 0; n = 0
	};
	remove(x, c, NOSLOT);
	stored[own] = false;
	own = 0; c = 0
}

/* ---- CONSUME ---- */

inline consume() {
	fields(CONSUME);
	consumed = UNTOUCHED;
	log(CONSUME, consume_logged);
	moment(consume_before);
	enter;
	d_step { head++; begun = 0; counted = 0 };
	consumed = 0;
	leave;
	moment(consume_all);
	seam(consume_taken);
	if
	:: consumed != UNTOUCHED -> attempts = 0
	:: else
	fi;
	worked(CONSUME);
	done(consume_done)
}

/* ---- A registration ---- */

inline next_registration() {
	d_step { begun++ };
	gate(register_peeked);
	d_step { attempts = attempts + 1; counted++ };
	find(e, inUse(e) && inode[e] == inodeOf(head));
	if
	:: removes(head) ->
		if
		:: e < ENTRIES -> drop(e)
		:: else
		fi
	:: !removes(head) && e < ENTRIES -> update(e, optionOf(head))
	:: else ->
		own = nextID;
		nextID = nextID + 1;
		gate(register_proven);
		stored[own] = true;
		gate(register_stored);
		gate(register_barrier);
		c = ENTRIES;
		sh = own;
		if
		:: SHARE ->
			find(c, cursorStatus[c] != free);
			if
			:: c == ENTRIES -> sh = nextID; nextID = nextID + 1
			:: else -> sh = cursorID[c]
			fi
		:: else
		fi;
		if
		:: c == ENTRIES -> add_cursor_entry(sh, optionOf(head))
		:: else
		fi;
		add_sink(own, inodeOf(head), sh, ready)
	fi;
	gate(register_settled);
	gate(register_answered);
	consume();
	rest()
}

/* ---- A connection: GREET. Client 0 is a framed sink, client 1 a source ---- */

inline greet(x, who) {
	fields(GREET);
	greeted = UNTOUCHED;
	logSink = (who == 0 -> x : NOSLOT);
	logClient = (who == 1 -> x : NOSLOT);
	log(GREET, greet_logged);
	moment(greet_before);
	enter;
	if
	:: !closed[who] -> d_step { oks[who]++; assert(oks[who] == 1) }; greeted = 0
	:: GONE == who -> closed[who] = true
	fi;
	leave;
	if
	:: closed[who] -> moment(greet_none)
	:: else -> moment(greet_all)
	fi;
	seam(greet_sent);
	apply_greet();
	worked(GREET);
	done(greet_done);
	/* A client that cannot be sent its ok is disconnected. */
	if
	:: closed[who] && who == 0 -> drop(x)
	:: closed[who] && who == 1 -> drop_client(x)
	:: else
	fi
}

inline drop_client(x) {
	own = clientID[x];
	remove(NOSLOT, NOSLOT, x);
	stored[own] = false;
	own = 0
}

inline apply_greet() {
	if
	:: greeted != UNTOUCHED && logSink != NOSLOT -> status[logSink] = ready
	:: greeted != UNTOUCHED && logSink == NOSLOT -> clientStatus[logClient] = ready
	:: else
	fi
}

inline attach(who) {
	d_step { hello[who] = true; own = nextID };
	nextID = nextID + 1;
	d_step { connection[who] = own };
	stored[own] = true;
	gate(attach_stored);
	gate(attach_barrier);
	if
	:: who == 0 -> add_cursor_entry(own, 1); add_sink(own, 0, own, attaching)
	:: else -> add_client_entry(own)
	fi;
	hello[who] = false;
	seam(attach_taken);
	greet(e, who);
	rest()
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
	:: redo == UPDATE -> apply_update()
	:: redo == REMOVE -> apply_remove()
	:: redo == GREET -> apply_greet()
	:: redo == CONSUME ->
		if
		:: consumed != UNTOUCHED -> attempts = 0
		:: else
		fi
	:: else
	fi;
	clear;
	/* An entry whose bytes are not what was written, or a sink without its cursor, would be given up. */
	d_step {
		k = 0;
		do
		:: k < ENTRIES ->
			if
			:: inUse(k) -> cursorOf(c, k); assert(sound(k) && c < ENTRIES && id[k] < nextID)
			:: else
			fi;
			assert(cursorStatus[k] == free || soundCursor(k) && cursorPos[k] == cursorSeq[k] && cursorID[k] < nextID);
			assert(clientStatus[k] == free || soundClient(k) && clientID[k] < nextID);
			k++
		:: else -> break
		od;
		k = 0; c = 0
	};
	/* A cursor whose last sink went, or whose first never came. */
	do
	:: k < ENTRIES && cursorStatus[k] != free ->
		find(e, inUse(e) && reads[e] == cursorID[k]);
		if
		:: e == ENTRIES -> remove(NOSLOT, k, NOSLOT)
		:: else
		fi;
		k++
	:: k < ENTRIES && cursorStatus[k] == free -> k++
	:: k == ENTRIES -> break
	od;
	k = 0; e = 0;
	d_step { pass(recover_done); at = 0; was = 0; recovering = false; redo = 0; n = 0; e = 0 };
	settle();
	rest()
}

/* Descriptors and entries are made to match. */
inline settle() {
	j = 1;
	do
	:: j < IDS && stored[j] ->
		find(e, inUse(e) && id[e] == j);
		find(c, clientStatus[c] != free && clientID[c] == j);
		if
		:: e == ENTRIES && c == ENTRIES -> stored[j] = false; hang_up(j)
		:: e < ENTRIES && status[e] == attaching || c < ENTRIES && clientStatus[c] == attaching ->
			n = (connection[0] == j -> 0 : 1);
			hello[n] = false;
			e = (n == 0 -> e : c);
			greet(e, n)
		:: else
		fi;
		j++
	:: j < IDS && !stored[j] ->
		find(e, inUse(e) && id[e] == j);
		if
		:: e < ENTRIES -> drop(e)
		:: else
		fi;
		find(e, clientStatus[e] != free && clientID[e] == j);
		if
		:: e < ENTRIES -> drop_client(e)
		:: else
		fi;
		j++
	:: else -> break
	od;
	j = 0; n = 0; e = 0; c = 0
}

/* A connection is closed. If its client lives, it must not have had its ok, and tries again. */
inline hang_up(x) {
	d_step {
		n = 0;
		do
		:: n < CLIENTS && connection[n] == x -> assert(oks[n] == 0 || closed[n]); connection[n] = 0; hello[n] = false; n++
		:: n < CLIENTS && connection[n] != x -> n++
		:: else -> break
		od;
		n = 0
	}
}

/* ---- What must hold whenever no operation is under way ---- */

inline rest() {
	d_step {
		own = 0;
		/* The cursors and the totals are what the kernel did. */
		k = 1; n = goneAccepted; sh = goneAbandoned;
		do
		:: k < IDS ->
			find(c, cursorStatus[c] != free && cursorID[c] == k);
			if
			:: wasIn[k] && c == ENTRIES -> n = n - took[k]; sh = sh - (MESSAGES - FIRST_PLACE - took[k])
			:: wasIn[k] && c < ENTRIES -> assert(cursorSeq[c] - start[c] - lost[c] == took[k])
			:: else
			fi;
			k++
		:: else -> break
		od;
		assert(n == 0 && sh == 0 && goneLost == 0);
		/* Nobody is held to account for what another registration did, or got off. */
		assert(attempts == counted);
		/* No socket is a sink twice, each has its descriptor and its cursor, and each cursor a sink. */
		k = 0;
		do
		:: k < ENTRIES ->
			if
			:: inUse(k) ->
				cursorOf(c, k);
				assert(sound(k) && stored[id[k]] && c < ENTRIES);
				find(e, inUse(e) && e != k && inode[e] == inode[k] && inode[k] > 0);
				assert(e == ENTRIES)
			:: else
			fi;
			if
			:: cursorStatus[k] != free -> find(e, inUse(e) && reads[e] == cursorID[k]); assert(soundCursor(k) && e < ENTRIES)
			:: else
			fi;
			assert(clientStatus[k] == free || soundClient(k) && stored[clientID[k]]);
			k++
		:: else -> break
		od;
		/* What was asked for and taken from the queue has been done. */
		if
		:: !ATTACH && !SHARE ->
			find(e, inUse(e));
			find(c, cursorStatus[c] != free);
			assert(head == 1 || head == 2 && e < ENTRIES || head == 4 && e == ENTRIES
				|| head == 3 && (e < ENTRIES && option[c] == 2 || e == ENTRIES && begun > 0))
		:: else
		fi;
		/* Who has his ok is attached, and nobody else. */
		if
		:: ATTACH ->
			find(e, inUse(e) && id[e] == connection[0]);
			assert(closed[0] || (oks[0] == 1 -> e < ENTRIES && status[e] == ready : e == ENTRIES || status[e] == attaching));
			find(e, clientStatus[e] != free && clientID[e] == connection[1]);
			assert(closed[1] || (oks[1] == 1 -> e < ENTRIES && clientStatus[e] == ready : e == ENTRIES || clientStatus[e] == attaching))
		:: else
		fi;
		e = 0; k = 0; n = 0; sh = 0; c = 0
	}
}

inline audit() {
	d_step {
		k = 1;
		do
		:: k < IDS ->
			find(e, inUse(e) && id[e] == k || clientStatus[e] != free && clientID[e] == k);
			assert(!stored[k] || e < ENTRIES);
			k++
		:: else -> break
		od;
		assert(!ATTACH || (oks[0] == 1 || closed[0]) && (oks[1] == 1 || closed[1]));
		e = 0; k = 0
	}
}

/* ---- The broker ---- */

inline work() {
	do
	:: !ATTACH && head <= last -> next_registration()
	:: ATTACH && connection[0] == 0 && !closed[0] -> attach(0)
	:: ATTACH && connection[1] == 0 && !closed[1] -> attach(1)
	/* Somebody accepts a message, or leaves. */
	:: inUse(0) && status[0] == ready && cursorStatus[0] != free && cursorSeq[0] < MESSAGES ->
		d_step { cursorPos[0]++; cursorSeq[0]++; took[cursorID[0]]++ }
	:: SHARE && head > last && (inUse(0) || inUse(1)) ->
		find(e, inUse(e));
		drop(e);
		rest()
	:: else -> audit();
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
