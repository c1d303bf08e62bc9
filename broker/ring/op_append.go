// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"encoding/binary"
	"errors"

	"github.com/msgmux/msgmux/broker/ring/mem"
	"github.com/msgmux/msgmux/internal/wire"
)

// appendLog is what APPEND writes down. The bytes and the index are in place by then, where nobody looks yet.
type appendLog struct {
	Head    mem.Value[Place]
	Slots   mem.Value[slots]
	Offset  mem.Value[uint64]
	Runs    mem.Value[uint64]
	Refused mem.Value[[numReasons]uint64]
	Client  mem.Value[uint32] // slot of the source whose mark or stage moves with this; noSlot: of none
	_       uint32
	Mark    mem.Value[uint64] // its mark then
	Taken   mem.Value[uint64] // and how far its stage is taken
}

// Outcome is what one call of Append did.
type Outcome struct {
	Entered int  // records that entered the ring
	Refused int  // messages refused, all reasons together
	Full    bool // what is landed does not fit: the ring is full, and a source waits
	Leaving bool // the client with the id From leaves for good: Append goes on when it is removed

	// Bad says what was wrong with a packet that was refused: its source, the client with the id From, is to be told, and
	// closed.
	Bad  *wire.Error
	From uint64
}

func (o *Outcome) refuse(why *wire.Error) {
	o.Refused++
	o.Bad = why
}

// Append is the operation APPEND: landed messages, or those of a stage, enter the ring, as many as fit, in their order. Room is made if
// it can be (see reclaim). What does not fit stays where it is, and Full tells so.
func (r *Ring) Append() (out Outcome) {
	r.full, out.From = false, r.LandedFrom()
	for r.Landed() && !r.full && !out.Leaving {
		if r.staged.client != nil {
			r.appendStaged(&out)
		} else {
			r.append(&out)
		}
	}
	out.Full = r.full
	s := r.c.Slots.Load()
	r.waiting.Store(s.landed() - s.next())
	return out
}

// appending is how far an APPEND has come, before it is logged.
type appending struct {
	head   Place
	next   uint32
	offset uint64
	runs   uint64
	last   origin
	refuse [numReasons]uint64
	marked bool // a packet with a mark is in

	client *Client // whose mark and stage move; nil: nobody's
	mark   uint64
	taken  uint64
}

// begun is one that begins at head. client is whose mark or stage may move with it, nil for nobody's.
func (r *Ring) begun(client *Client, head Place) appending {
	c := r.c
	a := appending{head: head, next: c.Slots.Load().next(), offset: c.Offset.Load(), runs: c.Runs.Load(), last: r.last, client: client}
	for i := range a.refuse {
		a.refuse[i] = c.Refused[i].Load()
	}
	if client != nil {
		a.mark, a.taken = client.e.Mark.Load(), client.e.Taken.Load()
	}
	return a
}

// commit is the end of the operation: everything is in place where nobody looks yet, and now becomes the ring's.
func (r *Ring) commit(a *appending) {
	l := fieldsOf[appendLog](r)
	l.Head.Store(a.head)
	l.Slots.Store(newSlots(a.next, r.c.Slots.Load().landed()))
	l.Offset.Store(a.offset)
	l.Runs.Store(a.runs)
	l.Refused.Store(a.refuse)
	slot := uint32(noSlot)
	if c := a.client; c != nil {
		slot = uint32(c.slot)
		l.Mark.Store(a.mark)
		l.Taken.Store(a.taken)
	}
	l.Client.Store(slot)
	r.log(opAppend, "append.logged")
	r.applyAppend()
	r.publishHead(a.head.Pos)
	r.last = a.last
	r.done("append.done")
}

// append is one operation: as many landed messages as fit as things are; or, if that is none, one attempt to make room.
func (r *Ring) append(out *Outcome) {
	c, slots := r.c, r.c.Slots.Load()
	start := c.Head.load()
	a := r.begun(nil, start)
	for a.next < slots.landed() && r.enterSlot(&a, out) {
		a.next, a.offset = a.next+1, 0
	}
	if out.Leaving {
		return
	}
	if a.next == slots.next() && a.offset == c.Offset.Load() {
		// Not even one record fits: make room, and let Append call again. If there is none to make, it is full.
		r.full = !r.reclaim(uint64(wire.Padded(r.nextLength())))
		return
	}
	out.Entered += int(a.head.Seq - start.Seq)
	if from := r.clientByID[c.From.Load()]; a.marked && from != nil {
		a.client, a.mark, a.taken = from, r.mark(), from.e.Taken.Load()
	}
	r.commit(&a)
}

// enterSlot writes what slot a.next holds behind a.head, where nobody looks yet. It says whether the slot is done with.
func (r *Ring) enterSlot(a *appending, out *Outcome) bool {
	land := r.c.Land.Load()
	packet := land.packet()
	payload, fits := r.slot(a.next)
	switch {
	case !fits:
		a.refuse[TooLarge]++
		out.refuse(wire.Refuse(wire.CodeTooLarge, "a message has at most %d bytes", r.geo.MaxMessage))
		return true
	case packet && r.recv.Hdr[a.next].Len() == 0:
		return true // the end of a connection, which a predecessor received and did not live to see
	case land.kind() == Marked && r.recv.Hdr[a.next].Len() < wire.MarkSize:
		if string(r.saidBySource()) == wire.Leave {
			out.Leaving = r.clientByID[r.c.From.Load()] != nil
			return !out.Leaving
		}
		a.refuse[BadPacket]++
		out.refuse(wire.Refuse(wire.CodeBadPacket, "a packet of %d bytes has no mark of %d in front", r.recv.Hdr[a.next].Len(), wire.MarkSize))
		return true
	case land.kind() == Marked && payload.len() == 0:
		a.marked = true // the mark alone moves
		return true
	case packet && a.offset == 0:
		if err := r.checkPacket(payload); err != nil {
			reason, why := BadPacket, asRefusal(err)
			if why.Code == wire.CodeTooLarge {
				reason = TooLarge
			}
			a.refuse[reason]++
			out.refuse(why)
			return true
		}
		fallthrough
	case packet:
		whole := r.enterPacket(a, payload)
		a.marked = whole && land.kind() == Marked
		return whole
	}
	if !r.fits(a.head, len(payload.first)) {
		return false
	}
	r.attribute(a, r.originOf(a.next), a.head.Seq)
	r.data.PutUint32(a.head.Pos&r.mask, uint32(len(payload.first)))
	r.data.Copy(a.head.Pos&r.mask+wire.RecordHeader, payload.first)
	a.head = r.enter(a.head, len(payload.first))
	return true
}

// enterPacket takes over records of a packet from a.offset on, as many as fit, and says whether these are all. A packet is in
// the ring's own format, so the bytes go over as they are, or have been received where they belong.
func (r *Ring) enterPacket(a *appending, packet landed) bool {
	from, at := a.offset, a.head
	head, offset, end := at, from, uint64(packet.len())
	for limit := r.c.Tail.Pos.Load() + r.geo.Size; offset < end; {
		n := int(getLength(packet.first[offset:]))
		size := uint64(wire.Padded(n))
		if head.Pos+size > limit {
			break
		}
		head, offset = r.enter(head, n), offset+size
	}
	if a.head, a.offset = head, offset; offset > from {
		r.attribute(a, r.originOf(a.next), at.Seq)
		if !packet.inRing {
			r.data.Copy(at.Pos&r.mask, packet.first[from:a.offset])
		}
		r.data.Copy(at.Pos&r.mask+uint64(len(packet.first)), packet.rest)
	}
	return a.offset >= uint64(packet.len())
}

// checkPacket judges a whole packet before any of it is used. One that does not lie in one piece has a single record.
func (r *Ring) checkPacket(packet landed) error {
	whole := packet.first
	if len(packet.rest) > 0 {
		if n := getLength(packet.first); uint64(n) <= r.geo.MaxMessage && wire.Padded(int(n)) == packet.len() {
			return nil
		}
		r.landing.Copy(0, packet.first) // to say what is wrong with it
		whole = r.landing.Slice(0, uint64(packet.len()))
	}
	_, err := wire.CheckRecords(whole, int(r.geo.MaxMessage))
	return err
}

func (r *Ring) applyAppend() {
	c, l := r.c, fieldsOf[appendLog](r)
	r.change()
	c.Head.store(l.Head.Load())
	r.ops.Seam("append.head")
	for i, n := range l.Refused.Load() {
		c.Refused[i].Store(n)
	}
	c.Slots.Store(l.Slots.Load())
	c.Offset.Store(l.Offset.Load())
	c.Runs.Store(l.Runs.Load())
	r.changed()
	if n := l.Client.Load(); n != noSlot {
		r.clientTable[n].Mark.Store(l.Mark.Load())
		r.clientTable[n].Taken.Store(l.Taken.Load())
	}
}

func (r *Ring) redoAppend() error {
	if l := fieldsOf[appendLog](r); l.Client.Load() != noSlot {
		if _, err := entryAt(r.clientTable, &l.Client); err != nil {
			return err
		}
	}
	r.applyAppend()
	return nil
}

// mark is the mark in front of the packet that has landed.
func (r *Ring) mark() uint64 {
	b := r.recv.Mark.Load()
	return binary.LittleEndian.Uint64(b[:])
}

// saidBySource is what has landed of a packet that is shorter than a mark.
func (r *Ring) saidBySource() []byte {
	b := r.recv.Mark.Load()
	return b[:min(r.recv.Hdr[0].Len(), wire.MarkSize)]
}

// fits says whether a record with n bytes of payload has room at head.
func (r *Ring) fits(head Place, n int) bool {
	return head.Pos-r.c.Tail.Pos.Load()+uint64(wire.Padded(n)) <= r.geo.Size
}

func getLength(b []byte) uint32 {
	return uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
}

func asRefusal(err error) *wire.Error {
	if e := (*wire.Error)(nil); errors.As(err, &e) {
		return e
	}
	return wire.Refuse(wire.CodeBadPacket, "%v", err)
}
