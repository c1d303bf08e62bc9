// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"time"

	"github.com/msgmux/msgmux/internal/wire"
)

// The index says, for every 4 KiB of records, which record its first byte belongs to. From there on one walks, at most one
// piece far. So how much a ring holds is a matter of bytes alone.
//
//	records    | ... a ........ | b | c ............................ | d | e ...
//	pieces            |               |               |               |
//	entries           a               c               c               d

// piece is the index entry for pos.
func (r *Ring) piece(pos uint64) *piece { return &r.index[pos/pieceSize&uint64(len(r.index)-1)] }

// enter writes the index entries of the pieces that begin within the record at p, which has n bytes of payload, and returns the
// place behind it.
func (r *Ring) enter(p Place, n int) Place {
	next := Place{p.Pos + uint64(wire.Padded(n)), p.Seq + 1}
	for at := (p.Pos + pieceSize - 1) &^ (pieceSize - 1); at < next.Pos; at += pieceSize {
		r.piece(at).First.Store(p)
	}
	return next
}

// next is the place behind the record at p.
func (r *Ring) next(p Place) Place {
	return Place{p.Pos + wire.Padded(uint64(r.length(p.Pos))), p.Seq + 1}
}

// near is a record that begins at pos or not more than a piece and a record before it. Preconditions: pos is between tail and
// head.
func (r *Ring) near(pos uint64) Place {
	if tail := r.c.Tail.load(); pos&^(pieceSize-1) < tail.Pos {
		return tail
	}
	return r.piece(pos).First.Load()
}

// atMost is the last place that is not beyond pos. Preconditions: pos is between tail and head.
func (r *Ring) atMost(pos uint64) Place {
	head := r.c.Head.load()
	for p := r.near(pos); p.Pos < head.Pos; {
		next := r.next(p)
		if next.Pos > pos {
			return p
		}
		p = next
	}
	return head
}

// from is the first place that is not before pos. Preconditions: pos is between tail and head.
func (r *Ring) from(pos uint64) Place {
	if p := r.atMost(pos); p.Pos < pos {
		return r.next(p)
	} else {
		return p
	}
}

// isPlace says whether a record that is in the ring begins at p, or p is the head.
func (r *Ring) isPlace(p Place) bool {
	tail, head := r.c.Tail.load(), r.c.Head.load()
	switch {
	case p == head:
		return true
	case p.Pos < tail.Pos || p.Pos >= head.Pos:
		return false
	}
	return r.atMost(p.Pos) == p
}

// firstAccepted writes down that what lies between two positions was accepted now, and by nobody before.
func (r *Ring) firstAccepted(from, to uint64) {
	now := r.ms()
	for at := from &^ (pieceSize - 1); at < to; at += pieceSize {
		r.piece(at).At.Store(now)
	}
}

// acceptedFor says since when at least the message at p has been accepted by somebody. Preconditions: p is behind delivered.
func (r *Ring) acceptedFor(p Place) time.Duration {
	return time.Duration(r.ms()-r.piece(p.Pos).At.Load()) * time.Millisecond
}
