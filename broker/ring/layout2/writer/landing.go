// SPDX-License-Identifier: Apache-2.0

package writer

// What has been received and has not entered the ring: in the landing zone, or a packet in the ring behind head.

// Landed says whether something waits in the landing zone. While it does, nothing may be received.
func (r *Ring) Landed() bool { return r.c.Next.Load() < r.c.Landed.Load() }

// Full says whether the next landed record did not fit when Append was last called: the ring is full, and a source
// waits.
func (r *Ring) Full() bool { return r.full }

// Empty says that what was received last is a single packet of no bytes, and takes it out of the landing zone: the
// end of a connection. It is never a message, because packets hold records.
func (r *Ring) Empty() bool {
	if r.c.Land.Load().kind() != Packets || r.c.Landed.Load() != 1 || r.recv.Hdr[0].Len() != 0 {
		return false
	}
	r.c.Next.Store(1)
	return true
}

// slot is what landed in slot i, or nil if it is larger than may be.
func (r *Ring) slot(i uint32) []byte {
	h, room, land := &r.recv.Hdr[i], r.geo.MaxMessage, r.c.Land.Load()
	if land.kind() == Packets {
		room = uint64(r.geo.room())
	}
	n := uint64(h.Len())
	if h.Truncated() || n > room {
		return nil
	}
	if land.split() > 0 {
		return r.data.Slice((r.c.Head.Pos.Load()-r.c.Offset.Load())&r.mask, n)
	}
	return r.landing.Slice(uint64(i)*uint64(r.geo.stride()), n)
}

// nextLength is the payload length of the next landed record. Preconditions: one is landed and was not refused.
func (r *Ring) nextLength() int {
	if r.c.Land.Load().kind() == Packets {
		return int(getLength(r.slot(r.c.Next.Load())[r.c.Offset.Load():]))
	}
	return int(r.recv.Hdr[r.c.Next.Load()].Len())
}
