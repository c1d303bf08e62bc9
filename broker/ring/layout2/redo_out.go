// SPDX-License-Identifier: Apache-2.0

package layout2

import (
	"fmt"
	"time"
)

// The operations by which a cursor moves: SEND, PUT, SKIP. What they set may be wrong in a damaged ring; that is found out
// when the table is read.

// redoSend moves the cursor to the end of the last slot that the kernel has written to.
func (r *Ring) redoSend() error {
	const packet = 2 // in opLog.Kind
	l := &r.c.Log
	vec, ends := r.send.Hdr[:], r.send.Ends[:]
	if l.Kind == packet {
		vec, ends = r.send.Packet[:], r.send.PacketEnd[:]
	}
	if l.Count > uint32(len(vec)) || l.First > uint32(len(vec))-l.Count {
		return fmt.Errorf("slots %d+%d", l.First, l.Count)
	}
	n, err := touched(vec[l.First : l.First+l.Count])
	if err != nil || n == 0 {
		return err
	}
	end := ends[l.First : l.First+l.Count][n-1]
	r.accepted(end, l.Base+end.Seq-l.From)
	return nil
}

// redoPut makes the cursor whole: its sequence number is written behind its position, so that tells how far the broker came.
// Where the cursor had not moved, the message is given again, if it was given.
func (r *Ring) redoPut() error {
	l := &r.c.Log
	e := &r.entries[l.Slot]
	switch e.Cursor.Seq {
	case l.Other.Seq:
		e.Cursor = l.Other
		r.c.Uncertain = l.Maybe
	case l.Place.Seq:
		r.accepted(l.Place, l.Base+1)
	}
	return nil
}

func (r *Ring) redoSkip() error {
	e := &r.entries[r.c.Log.Slot]
	e.Cursor, e.Lost = r.c.Log.Place, r.c.Log.Lost
	return nil
}

// accepted moves the cursor of the log to end, and delivered with it; a member of a share has then taken count.
func (r *Ring) accepted(end Place, count uint64) {
	l := &r.c.Log
	e := &r.entries[l.Slot]
	e.Cursor = end
	if l.By != l.Slot {
		r.entries[l.By].Accepted = count
	}
	old := r.c.Delivered
	if e.Identity.Bits&bitTap != 0 || end.Seq <= old.Seq || end.Seq > r.c.Head.Seq || end.Seq-old.Seq > uint64(len(r.index)) {
		return
	}
	for seq := old.Seq; seq < end.Seq; seq++ {
		r.indexed(seq).At = uint32(r.c.Clock / int64(time.Millisecond))
	}
	r.c.Delivered = end
}
