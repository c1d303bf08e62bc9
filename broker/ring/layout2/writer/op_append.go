// SPDX-License-Identifier: Apache-2.0

package writer

import (
	"errors"

	"github.com/msgmux/msgmux/internal/wire"
)

// Outcome is what one call of Append did.
type Outcome struct {
	Entered int  // records that entered the ring
	Refused int  // messages refused, all reasons together
	Full    bool // what is landed does not fit: the ring is full, and a source waits

	// Bad says what was wrong with a packet that was refused: its source is to be told, and closed.
	Bad *wire.Error
}

func (o *Outcome) refuse(why *wire.Error) {
	o.Refused++
	o.Bad = why
}

// Append is the operation APPEND: landed messages enter the ring, as many as fit, in their order. Room is made if it
// can be (see reclaim). What does not fit stays landed, and Full tells so.
func (r *Ring) Append() (out Outcome) {
	r.full = false
	for r.Landed() && !r.full {
		r.append(&out)
	}
	out.Full = r.full
	return out
}

// appending is how far an APPEND has come, before it is logged.
type appending struct {
	head   Place
	next   uint32
	offset uint64
	refuse [numReasons]uint64
}

// append is one operation: as many landed messages as fit as things are; or, if that is none, one attempt to make room.
func (r *Ring) append(out *Outcome) {
	c := r.c
	start := c.Head.load()
	a := appending{head: start, next: c.Next.Load(), offset: c.Offset.Load()}
	for i := range a.refuse {
		a.refuse[i] = c.Refused[i].Load()
	}
	for a.next < c.Landed.Load() && r.enterSlot(&a, out) {
		a.next, a.offset = a.next+1, 0
	}
	if a.next == c.Next.Load() && a.offset == c.Offset.Load() {
		// Not even one record fits: make room, and let Append call again. If there is none to make, it is full.
		r.full = !r.reclaim(uint64(wire.Padded(r.nextLength())))
		return
	}
	out.Entered += int(a.head.Seq - start.Seq)
	l := &c.Log
	l.Place.Store(a.head)
	l.Next.Store(a.next)
	l.Offset.Store(a.offset)
	l.Refused.Store(a.refuse)
	// The bytes and the index are in place already, where nobody looks yet: recovery has only to set the words.
	r.log(opAppend, "append.logged")
	r.applyAppend()
	r.done("append.done")
}

// enterSlot writes what slot a.next holds behind a.head, where nobody looks yet. It says whether the slot is done with.
func (r *Ring) enterSlot(a *appending, out *Outcome) bool {
	payload, tail := r.slot(a.next), r.c.Tail.load()
	switch {
	case payload == nil:
		a.refuse[TooLarge]++
		out.refuse(wire.Refuse(wire.CodeTooLarge, "a message has at most %d bytes", r.geo.MaxMessage))
		return true
	case r.c.Land.Load().kind() != Packets:
		if !r.fits(a.head, tail, len(payload)) {
			return false
		}
		r.data.PutUint32(a.head.Pos&r.mask, uint32(len(payload)))
		r.data.Copy(a.head.Pos&r.mask+wire.RecordHeader, payload)
		a.head = r.enter(a.head, len(payload))
		return true
	case len(payload) == 0:
		return true // the end of a connection, which a predecessor received and did not live to see
	}
	if a.offset == 0 {
		if _, err := wire.CheckRecords(payload, int(r.geo.MaxMessage)); err != nil {
			reason, why := BadPacket, asRefusal(err)
			if why.Code == wire.CodeTooLarge {
				reason = TooLarge
			}
			a.refuse[reason]++
			out.refuse(why)
			return true
		}
	}
	return r.put(a, tail, payload)
}

// put takes over records of a packet from a.offset on, as many as fit, and says whether these are all. A packet is in the
// ring's own format, so the bytes go over as they are, or have been received where they belong.
func (r *Ring) put(a *appending, tail Place, packet []byte) bool {
	from, at := a.offset, a.head.Pos
	for a.offset < uint64(len(packet)) {
		n := int(getLength(packet[a.offset:]))
		if !r.fits(a.head, tail, n) {
			break
		}
		a.head = r.enter(a.head, n)
		a.offset += uint64(wire.Padded(n))
	}
	if r.c.Land.Load().split() == 0 {
		r.data.Copy(at&r.mask, packet[from:min(a.offset, uint64(len(packet)))])
	}
	return a.offset >= uint64(len(packet))
}

func (r *Ring) applyAppend() {
	c, l := r.c, &r.c.Log
	r.change()
	c.Head.store(l.Place.Load())
	r.ops.Seam("append.head")
	for i, n := range l.Refused.Load() {
		c.Refused[i].Store(n)
	}
	c.Next.Store(l.Next.Load())
	c.Offset.Store(l.Offset.Load())
	r.changed()
}

func (r *Ring) redoAppend() error {
	r.applyAppend()
	return nil
}

// fits says whether a record with n bytes of payload has room at head, in bytes and in index entries.
func (r *Ring) fits(head, tail Place, n int) bool {
	return head.Pos-tail.Pos+uint64(wire.Padded(n)) <= r.geo.Size && head.Seq-tail.Seq < uint64(len(r.index))
}

// enter writes the index entry of the record at head and returns the place behind it.
func (r *Ring) enter(head Place, n int) Place {
	r.index[head.Seq&uint64(len(r.index)-1)].Words.Store(uint32(head.Pos / 4))
	return Place{head.Pos + uint64(wire.Padded(n)), head.Seq + 1}
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
