/* SPDX-License-Identifier: Apache-2.0 */

/* MOVE: a ring goes over to a new pair of files, because its shape or its layout changes.
 *
 * What is abstracted:
 * - What a ring holds is WORDS words, all of which are to be what the kernel did: how often a message was given. That a ring
 *   is recovered and changed exactly is what data.pml is about; here a message is one step.
 * - The descriptor store does what it is told, in order; what was told before a kill is done before the next broker starts.
 *   A file that is not in the store is gone with its broker.
 *
 * The old pair is number 0. Each broker that moves it makes a pair of its own. */

mtype:point = { recover_begin, recover_done, move_created, move_copied, move_stored, move_published };
#include "common.pml"

#define PAIRS 4
#define WORDS 2
#define MESSAGES 2

/* ---- Memory and descriptors that outlive the broker, by pair ---- */

byte generation[PAIRS];
bool exists[PAIRS];
bool dataMagic[PAIRS], stateMagic[PAIRS];
bool dataStored[PAIRS], stateStored[PAIRS];
typedef words { byte word[WORDS] };
words holds[PAIRS];

/* ---- What the world knows ---- */

byte given = 1;

/* ---- The broker's own ---- */

byte cur, new, k, w;

inline poison() { skip }

/* What nobody holds any more is gone. */
inline forget() {
	d_step {
		died(at == recover_begin);
		k = 0;
		do
		:: k < PAIRS && exists[k] && !dataStored[k] && !stateStored[k] ->
			exists[k] = false; dataMagic[k] = false; stateMagic[k] = false; generation[k] = 0;
			holds[k].word[0] = 0; holds[k].word[1] = 0; k++
		:: k < PAIRS && !(exists[k] && !dataStored[k] && !stateStored[k]) -> k++
		:: else -> break
		od;
		cur = 0; new = 0; k = 0; w = 0
	}
}

#define valid(p) (exists[p] && dataStored[p] && stateStored[p] && dataMagic[p] && stateMagic[p])

/* Which pair to go on with: of those that are whole and valid, the one of the highest generation. What belongs to no such
 * pair is put away first, and the older ones once the ring is opened. */
inline choose() {
	k = 0;
	do
	:: k < PAIRS && dataStored[k] && !valid(k) -> dataStored[k] = false
	:: k < PAIRS && !dataStored[k] && stateStored[k] && !valid(k) -> stateStored[k] = false
	:: k < PAIRS && (valid(k) || !dataStored[k] && !stateStored[k]) -> k++
	:: k == PAIRS -> break
	od;
	k = 0;
	d_step {
		cur = PAIRS;
		do
		:: k < PAIRS && valid(k) && (cur == PAIRS || generation[k] > generation[cur]) -> cur = k; k++
		:: k < PAIRS && !(valid(k) && (cur == PAIRS || generation[k] > generation[cur])) -> k++
		:: else -> break
		od;
		k = 0
	};
	/* There is always one: without it, an empty ring would begin. */
	assert(cur < PAIRS);
	seam(recover_begin);
	assert(holds[cur].word[0] == given && holds[cur].word[1] == given);
	d_step { pass(recover_done); was = 0 };
	do
	:: k < PAIRS && k != cur && dataStored[k] -> dataStored[k] = false
	:: k < PAIRS && k != cur && !dataStored[k] && stateStored[k] -> stateStored[k] = false
	:: k < PAIRS && (k == cur || !dataStored[k] && !stateStored[k]) -> k++
	:: k == PAIRS -> break
	od;
	k = 0;
	/* The predecessor may have died before they were stored. */
	dataStored[cur] = true; stateStored[cur] = true
}

inline publish() {
	dataMagic[new] = true; stateMagic[new] = true
}

inline copy() {
	w = 0;
	do
	:: w < WORDS -> holds[new].word[w] = holds[cur].word[w]; w++
	:: else -> break
	od;
	w = 0
}

inline move() {
	d_step {
		new = 1;
		do
		:: exists[new] -> new++
		:: else -> break
		od;
		exists[new] = true
	};
	generation[new] = generation[cur] + 1;
	seam(move_created);
#ifndef PUBLISHED_FIRST
	copy();
#endif
	seam(move_copied);
#ifdef REMOVED_FIRST
	dataStored[cur] = false; stateStored[cur] = false;
#endif
	dataStored[new] = true; stateStored[new] = true;
	seam(move_stored);
	publish();
#ifdef PUBLISHED_FIRST
	copy();
#endif
	seam(move_published);
	dataStored[cur] = false; stateStored[cur] = false;
	cur = new; new = 0
}

inline work() {
	do
	:: given < MESSAGES -> d_step { given++; holds[cur].word[0] = given; holds[cur].word[1] = given }
	:: else -> break
	od;
	assert(generation[cur] == 2 && valid(cur));
end_wait:
	false
}

init {
	d_step {
		exists[0] = true; generation[0] = 1; holds[0].word[0] = given; holds[0].word[1] = given;
		dataMagic[0] = true; stateMagic[0] = true; dataStored[0] = true; stateStored[0] = true
	};
	run Broker()
}

proctype Broker() {
	do
	:: {
		choose();
		if
		:: generation[cur] < 2 -> move()
		:: else
		fi;
		work()
	} unless {
		dead -> forget()
	}
	od
}
