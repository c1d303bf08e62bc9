// SPDX-License-Identifier: Apache-2.0

package ring

import "github.com/msgmux/msgmux/internal/wire"

// What has been received and has not entered the ring: in the landing zone, or a packet in the ring behind head.

// Landed says whether something waits in the landing zone, or in a stage that is being taken. While it does, nothing may be received.
func (r *Ring) Landed() bool {
	s := r.c.Slots.Load()
	return s.next() < s.landed() || r.staged.client != nil
}

// LandedFrom is the id of the client that what waits came from; 0: of none.
func (r *Ring) LandedFrom() uint64 {
	if c := r.staged.client; c != nil {
		return c.ID()
	}
	return r.c.From.Load()
}

// Full says whether the next landed record did not fit when Append was last called: the ring is full, and a source
// waits.
func (r *Ring) Full() bool { return r.full }

// Waiting is how many messages or packets are in the landing zone. It may be called from any goroutine.
func (r *Ring) Waiting() uint64 { return uint64(r.waiting.Load()) }

// Empty says that what was received last is a single packet of no bytes, and takes it out of the landing zone: the
// end of a connection. It is never a message, because packets hold records.
func (r *Ring) Empty() bool {
	if !r.c.Land.Load().packet() || r.c.Slots.Load() != newSlots(0, 1) || r.recv.Hdr[0].Len() != 0 {
		return false
	}
	r.c.Slots.Store(newSlots(1, 1))
	return true
}

// landed is what a slot holds: one piece, or two of a packet that was larger than its window.
type landed struct {
	first, rest []byte
	inRing      bool   // first lies where its records belong
	mark        uint32 // how many bytes of a mark came in front of it
	control     []byte // of a datagram, on a move: who has sent it
}

func (l *landed) len() int { return len(l.first) + len(l.rest) }

// landedLen is how many bytes landed in slot i, its mark left out.
func (r *Ring) landedLen(i uint32) uint64 { return uint64(r.recv.Hdr[i].Len() - r.landedMark(i)) }

// landedMark is how many bytes of a mark landed with slot i.
func (r *Ring) landedMark(i uint32) uint32 {
	if r.c.Land.Load().kind() != Marked {
		return 0
	}
	return min(r.recv.Hdr[i].Len(), wire.MarkSize)
}

// slot is what landed in slot i; fits is false if it is larger than may be.
func (r *Ring) slot(i uint32) (l landed, fits bool) {
	h, room, land := &r.recv.Hdr[i], r.geo.MaxMessage, r.c.Land.Load()
	if land.packet() {
		room = uint64(r.geo.room())
	}
	n := r.landedLen(i)
	if h.Truncated() || n > room {
		return landed{}, false
	}
	l.mark = r.landedMark(i)
	if window := land.inRing(); window > 0 {
		inRing := min(n, window)
		l.first, l.inRing = r.data.Slice((r.c.Head.Pos.Load()-r.c.Offset.Load())&r.mask, inRing), true
		if n > window {
			l.rest = r.landing.Slice(window, n-window)
		}
		return l, true
	}
	l.first = r.landing.Slice(uint64(i)*uint64(r.geo.stride()), n)
	return l, true
}

// nextLength is the payload length of the next landed record. Preconditions: one is landed and was not refused.
func (r *Ring) nextLength() int {
	next := r.c.Slots.Load().next()
	if r.c.Land.Load().packet() {
		l, _ := r.slot(next)
		return int(getLength(l.first[r.c.Offset.Load():]))
	}
	return int(r.recv.Hdr[next].Len())
}

// landedSize is how many bytes of the ring what is landed will take. A message that will be refused takes none.
func (r *Ring) landedSize() (bytes uint64) {
	if r.staged.client != nil {
		return r.staged.left()
	}
	s := r.c.Slots.Load()
	for i := s.next(); i < s.landed(); i++ {
		switch l, fits := r.slot(i); {
		case !fits:
		case r.c.Land.Load().packet():
			bytes += uint64(l.len()) - min(r.c.Offset.Load(), uint64(l.len()))
		default:
			bytes += uint64(wire.Padded(len(l.first)))
		}
	}
	return bytes
}
