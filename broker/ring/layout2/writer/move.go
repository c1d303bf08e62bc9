// SPDX-License-Identifier: Apache-2.0

package writer

import (
	"errors"
	"fmt"

	"github.com/msgmux/msgmux/internal/wire"
)

// ErrDoesNotFit means that what a ring holds has no room in another one.
var ErrDoesNotFit = errors.New("does not fit")

// MoveTo copies everything into a ring that was just made with Options.Unpublished: records, positions, sinks and
// totals. Nothing changes here, so that dying in the middle leaves this ring as it was; the new one counts once it is
// stored and published. Positions and sequence numbers stay the same, only where they lie in the files changes.
//
// Records that every sink has had are left behind. The error is ErrDoesNotFit if what is left does not fit, or something
// waits in the landing zone.
func (r *Ring) MoveTo(n *Ring) error {
	if r.Landed() {
		return fmt.Errorf("%w: messages wait for room in the old ring", ErrDoesNotFit)
	}
	from, head := r.needed(), r.c.Head.load()
	if err := r.fitsInto(n, from, head); err != nil {
		return err
	}
	for p := from.Pos; p < head.Pos; {
		k := min(head.Pos-p, r.geo.Size, n.geo.Size)
		n.data.Copy(p&n.mask, r.data.Slice(p&r.mask, k))
		p += k
	}
	oldMask, newMask := uint64(len(r.index)-1), uint64(len(n.index)-1)
	for seq := from.Seq; seq < head.Seq; seq++ {
		to, from := &n.index[seq&newMask], &r.index[seq&oldMask]
		to.Words.Store(from.Words.Load())
		to.At.Store(from.At.Load())
	}
	c, o := n.c, r.c
	c.Head.store(head)
	c.Tail.store(from)
	c.Delivered.store(o.Delivered.load())
	c.Clock.Store(o.Clock.Load())
	c.NextID.Store(o.NextID.Load())
	c.Starts.Store(o.Starts.Load() - 1) // the new ring counted this start as well
	c.Since.Store(o.Since.Load())
	for i := range c.Refused {
		c.Refused[i].Store(o.Refused[i].Load())
	}
	c.GoneAccepted.Store(o.GoneAccepted.Load())
	c.GoneLost.Store(o.GoneLost.Load())
	c.GoneAbandoned.Store(o.GoneAbandoned.Load())
	c.Uncertain.Store(o.Uncertain.Load())
	c.Attempts.Store(o.Attempts.Load())
	slot := 0
	for i := range r.entries {
		if e := &r.entries[i]; e.State.Load() != free {
			n.entries[slot].take(e)
			slot++
		}
	}
	n.freeSlot = nil
	n.begin()
	return n.adoptAll()
}

// needed is the oldest place that some cursor may still want.
func (r *Ring) needed() Place {
	p := r.c.Delivered.load()
	for _, s := range r.cursors {
		if cur := s.e.Cursor.load(); cur.Seq < p.Seq {
			p = cur
		}
	}
	return p
}

func (r *Ring) fitsInto(n *Ring, from, head Place) error {
	if head.Pos-from.Pos > n.geo.Size || head.Seq-from.Seq > uint64(len(n.index)) {
		return fmt.Errorf("%w: %d messages of %d bytes", ErrDoesNotFit, head.Seq-from.Seq, head.Pos-from.Pos)
	}
	for p := from; p.Seq < head.Seq; {
		size := r.length(p.Pos)
		if uint64(size) > n.geo.MaxMessage {
			return fmt.Errorf("%w: a message of %d bytes", ErrDoesNotFit, size)
		}
		p = Place{p.Pos + uint64(wire.Padded(int(size))), p.Seq + 1}
	}
	if used := len(r.byID); used > len(n.entries) {
		return fmt.Errorf("%w: %d sinks and clients", ErrDoesNotFit, used)
	}
	return nil
}

// take makes e a copy of an entry in use.
func (e *entry) take(o *entry) {
	e.Flags.Store(o.Flags.Load())
	e.Cursor.store(o.Cursor.load())
	e.Start.Store(o.Start.Load())
	e.Lost.Store(o.Lost.Load())
	e.Accepted.Store(o.Accepted.Load())
	e.Owed.Store(o.Owed.Load())
	e.Identity.Store(o.Identity.Load())
	e.Sum.Store(o.Sum.Load())
	e.State.Store(o.State.Load())
}
