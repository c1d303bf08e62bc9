// SPDX-License-Identifier: Apache-2.0

package layout2

import "fmt"

// recover finishes the operation that the broker was in, looks at everything that is believed from then on, and reads it. It
// checks every value before it is used, because bits may have fallen.
func (r *Ring) recover() error {
	kind, split := r.c.Land.kind(), r.c.Land.split()
	if kind != Datagrams && kind != Packets {
		return fmt.Errorf("landed kind %d", kind)
	}
	if split > 0 && kind != Packets || split > r.Geometry.room() {
		return fmt.Errorf("%d bytes of what is landed in the ring", split)
	}
	if err := r.redo(); err != nil {
		return err
	}
	if err := r.check(); err != nil {
		return err
	}
	r.readTotals()
	return r.readTable()
}

// check looks at positions, records and what is landed.
func (r *Ring) check() error {
	c := r.c
	head, tail, delivered, landed := c.Head, c.Tail, c.Delivered, uint64(c.Landed)
	switch {
	case tail.Pos > delivered.Pos || delivered.Pos > head.Pos || head.Pos-tail.Pos > r.Geometry.Size:
		return fmt.Errorf("tail %d, delivered %d, head %d bytes", tail.Pos, delivered.Pos, head.Pos)
	case tail.Seq > delivered.Seq || delivered.Seq > head.Seq || head.Seq-tail.Seq > uint64(len(r.index)):
		return fmt.Errorf("tail %d, delivered %d, head %d messages", tail.Seq, delivered.Seq, head.Seq)
	case head.Pos%4 != 0 || tail.Pos%4 != 0:
		return fmt.Errorf("tail %d or head %d not aligned", tail.Pos, head.Pos)
	case landed > r.Geometry.batch() || c.Next > c.Landed:
		return fmt.Errorf("landed %d, next %d of %d", landed, c.Next, r.Geometry.batch())
	case c.NextID == 0:
		return fmt.Errorf("no next id")
	case c.Clock < 0:
		return fmt.Errorf("clock %d", c.Clock)
	}
	if err := r.walk(); err != nil {
		return err
	}
	if !r.boundaryAt(delivered) {
		return fmt.Errorf("delivered %d is not where record %d begins", delivered.Pos, delivered.Seq)
	}
	return r.checkLanded()
}

// walk goes from record to record and compares with the index.
func (r *Ring) walk() error {
	p, head := r.c.Tail, r.c.Head
	for p.Seq < head.Seq {
		n := *at[uint32](r.twice, p.Pos&r.mask)
		if uint64(n) > r.Geometry.MaxMessage || padded(n) > head.Pos-p.Pos {
			return fmt.Errorf("record %d of %d bytes", p.Seq, n)
		}
		if r.indexed(p.Seq).Words != uint32(p.Pos/4) {
			return fmt.Errorf("record %d is not where the index says", p.Seq)
		}
		p = Place{p.Pos + padded(n), p.Seq + 1}
	}
	if p != head {
		return fmt.Errorf("records end at %d instead of %d", p.Pos, head.Pos)
	}
	return nil
}

// indexed is the entry of the index for the record with number seq.
func (r *Ring) indexed(seq uint64) *indexEntry { return &r.index[seq&uint64(len(r.index)-1)] }

// boundaryAt says whether p is where a record in the ring begins, or its head. Preconditions: walk was content.
func (r *Ring) boundaryAt(p Place) bool {
	head, tail := r.c.Head, r.c.Tail
	if p.Seq < tail.Seq || p.Seq >= head.Seq {
		return p == head
	}
	words := r.indexed(p.Seq).Words - uint32(tail.Pos/4)
	return p.Pos == tail.Pos+uint64(words)*4
}
