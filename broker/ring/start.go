// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/wire"
)

// startAt is the place where a new sink begins.
func (r *Ring) startAt(start wire.Start) Place {
	tail, delivered := r.c.Tail.load(), r.c.Delivered.load()
	switch seq := start.In(r.Epoch(), tail.Seq, delivered.Seq, r.c.Head.Seq.Load()); seq {
	case tail.Seq:
		return tail
	case delivered.Seq:
		return delivered
	default:
		return r.place(tail, seq)
	}
}

// Start is the number of the message that s, or its share, began with.
func (s *Sink) Start() uint64 { return s.cursor.e.Start.Load() }

// Epoch tells the numbers of this ring's records from those of every other ring: a number means the same record as long as
// the epoch is the same. It is made of the data file's inode and the time when the ring was made, neither of which a
// restart of the broker changes, and is not 0.
func (r *Ring) Epoch() uint64 {
	var file unix.Stat_t
	_ = unix.Fstat(r.dataFD, &file) // cannot fail: the descriptor is open
	const odd = 0x9e3779b97f4a7c15  // spreads the low bits over all
	return (file.Ino*odd ^ uint64(r.c.Since.Load())) | 1
}
