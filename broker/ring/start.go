// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"sort"

	"github.com/msgmux/msgmux/internal/wire"
)

// startAt is the place where a new cursor begins.
func (r *Ring) startAt(start wire.Start) Place {
	tail, delivered := r.c.Tail.load(), r.c.Delivered.load()
	switch seq := start.In(r.Epoch(), tail.Seq, delivered.Seq, r.c.Head.Seq.Load()); seq {
	case tail.Seq:
		return tail
	case delivered.Seq:
		return delivered
	default:
		return r.numbered(seq)
	}
}

// numbered is the place of the record with number seq, found in the index and by walking at most a piece from there.
// Preconditions: seq is between tail and head, and not head's.
func (r *Ring) numbered(seq uint64) Place {
	p, head := r.c.Tail.load(), r.c.Head.Pos.Load()
	first, last := p.Pos/pieceSize, (head-1)/pieceSize
	begins := func(i int) Place { return r.near((first + uint64(i)) * pieceSize) }
	if i := sort.Search(int(last-first)+1, func(i int) bool { return begins(i).Seq > seq }); i > 0 {
		p = begins(i - 1)
	}
	for p.Seq < seq {
		p = r.next(p)
	}
	return p
}

// Start is the number of the message that the cursor began with.
func (c *Cursor) Start() uint64 { return c.e.Start.Load() }
