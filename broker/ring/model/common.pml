/* SPDX-License-Identifier: Apache-2.0 */

/* What all models share: the kill, the marks for seams, and how an operation uses the log.
 *
 * A model declares its points first, as mtype:point, and each is the name of a seam of the source with _ for the dot, or
 * of a system call with its moment ("recv_all" is what a trace calls "recv all").
 *
 * One process is the broker: one store to memory that outlives it is one step, and so is each thing that the kernel does
 * inside a system call. The other is whoever kills it. A SIGKILL acts between two steps of the program, but never inside a
 * system call that does not sleep: it is pending until the call returns. DIES_INSIDE takes that away. */

#ifndef KILLS
#define KILLS 2
#endif

mtype:point at;       /* the point that the broker passed last; 0: it has just been started */
mtype:point was;      /* where its predecessor died; 0 once recovery is done */
mtype:point result;   /* what the last system call brought, until another operation is logged */

mtype:point asked;    /* the same for a goroutine that has the data thread do things, and waits for that */

bool dead;            /* a SIGKILL has come */
bool inside;          /* the broker is in a system call, where it would be pending: that is a kill at its return */
byte kills;

/* Which point followed which, in all that was explored: not a part of any state. Each is printed when it is met first. */
c_decl {
	static unsigned char met[1 << 25];
	static unsigned int from;
	static void path(unsigned int was, unsigned int result, unsigned int from, unsigned int to) {
		unsigned int n = ((was * 128 + result) * 128 + from) * 128 + to;
		if (met[n / 8] & 1 << n % 8) return;
		met[n / 8] |= 1 << n % 8;
		printf("path %u %u %u %u\n", was, result, from, to);
	}
}

/* ANY_ORDER is set by a model in which the operations come in the order that clients ask for: which follows which says
 * nothing, so there the points of one are not followed by those of the next. */
#define pass(x) c_code { from = now.at; }; at = x; c_code { path(now.was, now.result, from, now.at); }

#define seam(x)   d_step { pass(x) }
#define gate(x)   d_step { c_code { from = now.asked; }; asked = x; c_code { path(0, 0, from, now.asked); } } /* of another goroutine */
#define moment(x) d_step { pass(x); result = x }  /* of a system call */

#ifdef DIES_INSIDE
#define enter   skip
#else
#define enter   inside = true
#endif
#define leave   inside = false

/* Each model has an inline poison(): what is in the log and in the areas of headers means nothing while no operation is under
 * way. There it is made as bad as can be, so that whoever relies on it fails; and states that differ in it alone are one. */

/* The phase of the log. An operation writes its fields, stores the phase, does its work, and clears the phase. A variant
 * that must fail says which operation stores its phase elsewhere: FIRST before the fields, EARLY after the work (which is
 * then applied before it is logged). KEPT never clears it. */
mtype:operation = { idle, RECV, APPEND, SEND, SKIP, TAIL, REMOVE, CONSUME, UPDATE, GREET, TAKE, PUT, ADD, ACK, DONE, LEAVE, REJOIN };
mtype:operation phase = idle;

#ifdef FIRST
#define fields(op) phase = (FIRST == op -> op : phase)
#else
#define fields(op) skip
#endif
#ifdef EARLY
#define log(op, x) d_step { phase = (EARLY == op -> phase : op); result = 0; pass(x) }
#define worked(op) phase = (EARLY == op -> op : phase)
#else
#define log(op, x) phase = op; d_step { pass(x); result = 0 }
#define worked(op) skip
#endif
#ifdef KEPT
#define clear      skip
#else
#define clear      d_step { phase = idle; poison() }
#endif
#ifdef ANY_ORDER
#define done(x)    d_step { pass(x); at = 0; result = 0 }; clear
#else
#define done(x)    seam(x); clear
#endif

active proctype Killer() {
end_killer:
	do
	:: d_step { !dead && !inside && kills < KILLS -> dead = true; kills++ }
	od
}

/* What a death does to the variables of this file. That a broker died in recovery is all that is kept of where. */
#define died(recovering) \
	dead = false; inside = false; result = 0; asked = 0; \
	if \
	:: at == 0 -> skip \
	:: at != 0 && (recovering) -> was = recover_begin \
	:: at != 0 && !(recovering) -> was = at \
	fi; \
	at = 0
