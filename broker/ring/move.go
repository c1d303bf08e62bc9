// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"errors"
	"fmt"
)

// ErrDoesNotFit means that what a ring holds has no room in another one.
var ErrDoesNotFit = errors.New("does not fit")

// MoveTo copies everything into a ring that was just made with Options.Unpublished: records, positions, tables, totals, and what
// waits to enter. Nothing changes here, so that dying in the middle leaves this ring as it was; the new one counts once it is
// stored and published. Positions and sequence numbers stay the same, only where they lie in the files changes.
//
// Records that every sink has had are left behind. The error is ErrDoesNotFit.
func (r *Ring) MoveTo(n *Ring) error {
	from, head := r.needed(), r.c.Head.load()
	if err := r.fitsInto(n, from, head); err != nil {
		return err
	}
	n.copyRecords(from, head, func(pos, k uint64) []byte { return r.data.Slice(pos&r.mask, k) }, r.geo.Size)
	for at := from.Pos &^ (pieceSize - 1); at < head.Pos; at += pieceSize {
		n.piece(at).At.Store(r.piece(at).At.Load())
	}
	c, o := n.c, r.c
	c.Tail.store(from)
	c.Head.store(head)
	c.Delivered.store(o.Delivered.load())
	c.Clock.Store(o.Clock.Load())
	c.NextID.Store(o.NextID.Load())
	c.Starts.Store(o.Starts.Load() - 1) // the new ring counted this start as well
	c.Since.Store(o.Since.Load())
	c.Epoch.Store(o.Epoch.Load())
	for i := range c.Refused {
		c.Refused[i].Store(o.Refused[i].Load())
	}
	c.GoneAccepted.Store(o.GoneAccepted.Load())
	c.GoneLost.Store(o.GoneLost.Load())
	c.GoneAbandoned.Store(o.GoneAbandoned.Load())
	c.GoneLeftOut.Store(o.GoneLeftOut.Load())
	c.AsOwn.Store(o.AsOwn.Load())
	c.GoneUnread.Store(o.GoneUnread.Load())
	c.Uncertain.Store(o.Uncertain.Load())
	c.Attempts.Store(o.Attempts.Load())
	for i := range c.Sources {
		c.Sources[i].Store(o.Sources[i].Load())
	}
	moveTables(n, r)
	n.moveOrigins(r, from)
	n.begin()
	if err := n.adoptAll(); err != nil {
		return err
	}
	return r.moveLanded(n)
}

// copyRecords copies the records from from to head into a new ring, and makes its index. part is a part of them that lies in
// one piece, at most size bytes.
func (r *Ring) copyRecords(from, head Place, part func(pos, k uint64) []byte, size uint64) {
	for p := from.Pos; p < head.Pos; {
		k := min(head.Pos-p, size, r.geo.Size)
		r.data.Copy(p&r.mask, part(p, k))
		p += k
	}
	for p := from; p.Seq < head.Seq; {
		p = r.enter(p, int(r.length(p.Pos)))
	}
}

func moveTables(n, r *Ring) {
	slot := 0
	for i := range r.cursorsInUse() {
		if e := &r.cursorTable[i]; e.State.Load() != free {
			n.cursorTable[slot].take(e)
			slot++
		}
	}
	slot = 0
	for i := range r.sinksInUse() {
		if e := &r.sinkTable[i]; e.State.Load() != free {
			n.sinkTable[slot].take(e)
			slot++
		}
	}
	slot = 0
	for i := range r.clientsInUse() {
		if e := &r.clientTable[i]; e.State.Load() != free {
			n.clientTable[slot].take(e)
			slot++
		}
	}
}

// moveLanded takes what waits over: into the new ring as far as it has room, the rest into its landing zone.
func (r *Ring) moveLanded(n *Ring) error {
	if !r.Landed() {
		return nil
	}
	s, land := r.c.Slots.Load(), r.c.Land.Load()
	var rest []landed
	for i := s.next(); i < s.landed(); i++ {
		l, fits := r.slot(i)
		if !fits {
			n.c.Refused[TooLarge].Store(n.c.Refused[TooLarge].Load() + 1)
			continue
		}
		l.control = r.recv.Control[i].ForKernel()[:min(r.recv.Hdr[i].ControlLen(), controlSpace)]
		rest = append(rest, l)
	}
	n.recv.Mark.Store(r.recv.Mark.Load())
	if err := n.land(land.kind(), r.c.From.Load(), r.c.Offset.Load(), rest); err != nil {
		return err
	}
	n.c.Received.Store(r.c.Received.Load())
	n.c.Sender.Store(r.c.Sender.Load())
	return nil
}

// land puts into the landing zone of a new ring what waited in that of another one; of a packet, offset bytes have entered. It is
// appended when the broker runs. The error is ErrDoesNotFit.
func (r *Ring) land(kind uint32, from, offset uint64, slots []landed) error {
	if len(slots) > r.batch {
		return fmt.Errorf("%w: %d messages wait for room", ErrDoesNotFit, len(slots))
	}
	for i, l := range slots {
		if l.len() > r.geo.room() || kind == Datagrams && uint64(l.len()) > r.geo.MaxMessage {
			return fmt.Errorf("%w: a message of %d bytes waits for room", ErrDoesNotFit, l.len())
		}
		at := uint64(i * r.geo.stride())
		r.landing.Copy(at, l.first)
		r.landing.Copy(at+uint64(len(l.first)), l.rest)
		r.recv.Hdr[i].SetLen(uint32(l.len()) + l.mark) // its flags are 0 in a new ring
		if len(l.control) > 0 {
			var control [controlSpace]byte
			r.recv.Hdr[i].SetControlLen(uint64(copy(control[:], l.control)))
			r.recv.Control[i].Store(control)
		}
	}
	r.dirty = len(r.recv.Hdr)
	if len(slots) > 0 {
		r.waits(len(slots), newLand(kind, 0), from, offset)
	}
	return r.checkLanded()
}

// needed is the oldest place that some cursor may still want.
func (r *Ring) needed() Place {
	p := r.c.Delivered.load()
	for _, c := range r.cursors {
		if at := c.e.Done.load(); at.Seq < p.Seq {
			p = at
		}
	}
	return p
}

func (r *Ring) fitsInto(n *Ring, from, head Place) error {
	if head.Pos-from.Pos > n.geo.Size {
		return fmt.Errorf("%w: %d messages of %d bytes", ErrDoesNotFit, head.Seq-from.Seq, head.Pos-from.Pos)
	}
	for p := from; p.Seq < head.Seq; p = r.next(p) {
		if size := r.length(p.Pos); uint64(size) > n.geo.MaxMessage {
			return fmt.Errorf("%w: a message of %d bytes", ErrDoesNotFit, size)
		}
	}
	if len(r.cursors) > len(n.cursorTable) || len(r.sinkByID) > len(n.sinkTable) || len(r.clientByID) > len(n.clientTable) {
		return fmt.Errorf("%w: %d sinks and %d clients", ErrDoesNotFit, len(r.sinkByID), len(r.clientByID))
	}
	return nil
}

// take makes e a copy of an entry in use.
func (e *cursorEntry) take(o *cursorEntry) {
	e.Flags.Store(o.Flags.Load())
	e.Done.store(o.Done.load())
	e.Sent.store(o.Sent.load())
	e.Start.Store(o.Start.Load())
	e.Lost.Store(o.Lost.Load())
	e.LeftOut.Store(o.LeftOut.Load())
	e.Unread.Store(o.Unread.Load())
	e.Owed.Store(o.Owed.Load())
	e.Left.Store(o.Left.Load())
	e.Known.Store(o.Known.Load())
	e.Identity.Store(o.Identity.Load())
	e.Sum.Store(o.Sum.Load())
	e.State.Store(o.State.Load())
}

func (e *sinkEntry) take(o *sinkEntry) {
	e.Accepted.Store(o.Accepted.Load())
	e.Said.Store(o.Said.Load())
	e.Acked.Store(o.Acked.Load())
	e.From.store(o.From.load())
	e.To.store(o.To.load())
	e.Identity.Store(o.Identity.Load())
	e.Sum.Store(o.Sum.Load())
	e.State.Store(o.State.Load())
}

func (e *clientEntry) take(o *clientEntry) {
	e.Mark.Store(o.Mark.Load())
	e.Taken.Store(o.Taken.Load())
	e.Left.Store(o.Left.Load())
	e.Identity.Store(o.Identity.Load())
	e.Sum.Store(o.Sum.Load())
	e.State.Store(o.State.Load())
}
