// SPDX-License-Identifier: Apache-2.0

package layout2

// The operations by which messages come in: RECV, TAKE, APPEND; and TAIL, which makes room for them.

// redoRecv lands as many datagrams as the kernel has written lengths for, or the packet.
func (r *Ring) redoRecv() error {
	n, err := touched(r.recv.Hdr[:r.Geometry.batch()])
	if err != nil {
		return err
	}
	r.landed(n)
	if n > 0 {
		r.rejoin()
	}
	return nil
}

// landed says that n slots have been received.
func (r *Ring) landed(n int) { r.c.Next, r.c.Offset, r.c.Landed = 0, 0, uint32(n) }

// rejoin makes a packet whole that was larger than what it had of the ring behind head: its first part is copied down, in
// front of the rest.
func (r *Ring) rejoin() {
	if split := r.c.Land.split(); split > 0 && uint64(r.recv.Hdr[0].Len) > split {
		copy(r.landing, r.Records(r.c.Head.Pos, split))
		r.c.Land = newLand(Packets, 0)
	}
}

// redoTake lands the messages of a message queue whose lengths were written down. If the kernel wrote a priority for the one
// behind them, that one was taken and is lost.
func (r *Ring) redoTake() error {
	n, batch := 0, int(r.Geometry.batch())
	for n < batch && r.recv.Hdr[n].Len != untouched {
		n++
	}
	if n < batch && r.recv.Priority[n] != untouched {
		r.c.Uncertain = r.c.Log.Maybe
	}
	r.landed(n)
	return nil
}

// redoAppend sets the words; bytes and index were in place before the operation was logged.
func (r *Ring) redoAppend() error {
	c, l := r.c, &r.c.Log
	c.Head, c.Next, c.Offset, c.Refused = l.Place, l.Next, l.Offset, l.Refused
	return nil
}

func (r *Ring) redoTail() error {
	r.c.Delivered, r.c.Tail = r.c.Log.Other, r.c.Log.Place
	return nil
}
