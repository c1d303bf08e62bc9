// SPDX-License-Identifier: Apache-2.0

package layout2

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// What lies in the landing zone.
const (
	Datagrams = 1 // each slot is one message
	Packets   = 2 // the only slot is a packet of records, as a framed source sent it
)

// Landed is what was received and has not entered the ring. Of kind Datagrams each slot is a message, to enter in this
// order. Of kind Packets there is one slot, a packet, of which offset bytes are in the ring already: whole records. With
// offset 0 nobody has looked at the packet yet, and it may be no records at all. A slot is nil if what came was too large,
// which is to be counted as refused.
//
// The bytes are the Ring's; they are valid until Close.
func (r *Ring) Landed() (kind uint32, slots [][]byte, offset uint64) {
	kind = r.c.Land.kind()
	for i := r.c.Next; i < r.c.Landed; i++ {
		b := r.slot(i)
		if kind == Packets && b != nil && len(b) == 0 {
			continue // the end of a connection
		}
		slots = append(slots, b)
	}
	if len(slots) == 0 {
		return kind, nil, 0
	}
	return kind, slots, r.c.Offset
}

// slot is what landed in slot i, or nil if it is larger than may be.
func (r *Ring) slot(i uint32) []byte {
	h, room, land := &r.recv.Hdr[i], r.Geometry.MaxMessage, r.c.Land
	if land.kind() == Packets {
		room = r.Geometry.room()
	}
	n := uint64(h.Len)
	if h.Flags&unix.MSG_TRUNC != 0 || n > room {
		return nil
	}
	if land.split() > 0 {
		return r.Records(r.c.Head.Pos-r.c.Offset, n)
	}
	begin := uint64(i) * r.Geometry.stride()
	return r.landing[begin : begin+n : begin+n]
}

// checkLanded looks at what waits in the landing zone.
func (r *Ring) checkLanded() error {
	c := r.c
	if c.Next == c.Landed {
		return nil
	}
	for i := c.Next; i < c.Landed; i++ {
		if r.recv.Hdr[i].Len == untouched {
			return fmt.Errorf("landed slot %d was never received", i)
		}
	}
	if c.Land.kind() == Packets && c.Landed != 1 {
		return fmt.Errorf("%d packets are landed", c.Landed)
	}
	if split := c.Land.split(); split > 0 {
		n, begin := uint64(r.recv.Hdr[0].Len), c.Head.Pos-c.Offset
		if n > split || c.Offset > n || begin+n-c.Tail.Pos > r.Geometry.Size {
			return fmt.Errorf("packet of %d bytes, %d of them in the ring, behind head", n, c.Offset)
		}
	}
	if c.Offset == 0 {
		return nil
	}
	if c.Land.kind() != Packets {
		return fmt.Errorf("offset %d in datagrams", c.Offset)
	}
	return r.checkOffset(r.slot(0))
}

// checkOffset looks at a packet of which a part has entered the ring: it is records, and one of them begins there.
func (r *Ring) checkOffset(packet []byte) error {
	begins := false
	for at := uint64(0); at < uint64(len(packet)); {
		left := packet[at:]
		if len(left) < recordHeader {
			return errors.New("bytes behind the last record of a packet")
		}
		n := binary.LittleEndian.Uint32(left)
		if uint64(n) > r.Geometry.MaxMessage || padded(n) > uint64(len(left)) {
			return fmt.Errorf("record of %d bytes in a packet", n)
		}
		begins = begins || at == r.c.Offset
		at += padded(n)
	}
	if !begins {
		return fmt.Errorf("offset %d in a packet is not where a record begins", r.c.Offset)
	}
	return nil
}
