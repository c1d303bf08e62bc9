// SPDX-License-Identifier: Apache-2.0

package writer

import (
	"fmt"

	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// Open maps a ring of shape g that another process has left, and goes on with it. The Ring owns the descriptors.
func Open(g Geometry, dataFD, stateFD int, o Options) (*Ring, error) {
	f, err := mapFiles(g, dataFD, stateFD)
	if err != nil {
		return nil, err
	}
	r := newRing(g, f, o)
	if err := r.takeOver(); err != nil {
		r.files.unmap()
		return nil, fmt.Errorf("broken ring: %w", err)
	}
	return r, nil
}

// takeOver makes a ring of what a predecessor has left in the files.
func (r *Ring) takeOver() error {
	r.bind()
	r.ops.Seam("recover.begin")
	if err := r.recover(); err != nil {
		return err
	}
	r.begin()
	if err := r.adoptAll(); err != nil {
		return err
	}
	r.ops.Seam("recover.done")
	return nil
}

// recover finishes the operation that the predecessor was in. It checks every value before it is used, because bits
// may have fallen; afterwards the whole ring is checked.
func (r *Ring) recover() error {
	c := r.c
	c.Word.Store(0)
	land := c.Land.Load()
	if kind := land.kind(); kind != Datagrams && kind != Packets {
		return fmt.Errorf("landed kind %d", kind)
	}
	if split := land.split(); split > 0 && land.kind() != Packets || split > uint64(r.geo.room()) {
		return fmt.Errorf("%d bytes of what is landed in the ring", split)
	}
	r.dirty = len(r.recv.Hdr)
	if err := r.redo(); err != nil {
		return err
	}
	if err := r.check(); err != nil {
		return err
	}
	c.Log.Phase.Store(phaseIdle)
	return nil
}

// checkPlaces looks at the positions of a ring by themselves: size is its bytes, entries how many messages it holds at most.
func checkPlaces(size, entries uint64, head, tail, delivered Place) error {
	switch {
	case tail.Pos > delivered.Pos || delivered.Pos > head.Pos || head.Pos-tail.Pos > size:
		return fmt.Errorf("tail %d, delivered %d, head %d bytes", tail.Pos, delivered.Pos, head.Pos)
	case tail.Seq > delivered.Seq || delivered.Seq > head.Seq || head.Seq-tail.Seq > entries:
		return fmt.Errorf("tail %d, delivered %d, head %d messages", tail.Seq, delivered.Seq, head.Seq)
	case head.Pos%4 != 0 || tail.Pos%4 != 0:
		return fmt.Errorf("tail %d or head %d not aligned", tail.Pos, head.Pos)
	}
	return nil
}

// check looks at everything that later code relies on.
func (r *Ring) check() error {
	c := r.c
	head, tail, delivered := c.Head.load(), c.Tail.load(), c.Delivered.load()
	if err := checkPlaces(r.geo.Size, uint64(len(r.index)), head, tail, delivered); err != nil {
		return err
	}
	landed, next := c.Landed.Load(), c.Next.Load()
	switch {
	case landed > uint32(r.batch) || next > landed:
		return fmt.Errorf("landed %d, next %d of %d", landed, next, r.batch)
	case c.NextID.Load() == 0:
		return fmt.Errorf("no next id")
	case c.Clock.Load() < 0:
		return fmt.Errorf("clock %d", c.Clock.Load())
	}
	if err := r.walk(head, tail); err != nil {
		return err
	}
	if !r.boundaryAt(delivered) {
		return fmt.Errorf("delivered %d is not where record %d begins", delivered.Pos, delivered.Seq)
	}
	return r.checkLanded()
}

// walk goes from record to record and compares with the index.
func (r *Ring) walk(head, tail Place) error {
	p := tail
	for p.Seq < head.Seq {
		n := r.length(p.Pos)
		if uint64(n) > r.geo.MaxMessage || uint64(wire.Padded(int(n))) > head.Pos-p.Pos {
			return fmt.Errorf("record %d of %d bytes", p.Seq, n)
		}
		if r.index[p.Seq&uint64(len(r.index)-1)].Words.Load() != uint32(p.Pos/4) {
			return fmt.Errorf("record %d is not where the index says", p.Seq)
		}
		p = Place{p.Pos + uint64(wire.Padded(int(n))), p.Seq + 1}
	}
	if p != head {
		return fmt.Errorf("records end at %d instead of %d", p.Pos, head.Pos)
	}
	return nil
}

// boundaryAt says whether p is the beginning of a record in the ring, or its head. Preconditions: walk was content.
func (r *Ring) boundaryAt(p Place) bool {
	head, tail := r.c.Head.load(), r.c.Tail.load()
	return p.Seq >= tail.Seq && p.Seq <= head.Seq && r.place(tail, p.Seq) == p
}

// checkLanded looks at what waits in the landing zone.
func (r *Ring) checkLanded() error {
	c := r.c
	if !r.Landed() {
		return nil
	}
	landed, next, offset, land := c.Landed.Load(), c.Next.Load(), c.Offset.Load(), c.Land.Load()
	for i := next; i < landed; i++ {
		if r.recv.Hdr[i].Len() == sys.Untouched {
			return fmt.Errorf("landed slot %d was never received", i)
		}
	}
	if split := land.split(); split > 0 {
		n, begin := uint64(r.recv.Hdr[0].Len()), c.Head.Pos.Load()-offset
		if landed != 1 || n > split || offset > n || begin+n-c.Tail.Pos.Load() > r.geo.Size {
			return fmt.Errorf("packet of %d bytes, %d of them in the ring, behind head", n, offset)
		}
	}
	if offset == 0 {
		return nil
	}
	packet := r.slot(next)
	if _, err := wire.CheckRecords(packet, int(r.geo.MaxMessage)); land.kind() != Packets || err != nil {
		return fmt.Errorf("offset %d in what is no packet", offset)
	}
	for at := 0; at < len(packet); at += wire.Padded(int(getLength(packet[at:]))) {
		if uint64(at) == offset {
			return nil
		}
	}
	return fmt.Errorf("offset %d in a packet is not where a record begins", offset)
}

// adoptAll takes over the entries in use. An entry whose bytes are not what was written is freed, and what it counted
// goes with it: the caller finds its descriptor without an entry.
func (r *Ring) adoptAll() error {
	var members []int
	for i := range r.entries {
		e := &r.entries[i]
		e.Word.Store(0)
		if e.State.Load() == free {
			continue
		}
		id := e.Identity.Load()
		spec, ok := id.spec()
		if !ok || e.Sum.Load() != id.sum() || e.State.Load() > active || r.byID[spec.ID] != nil {
			r.freed++
			e.State.Store(free)
			continue
		}
		r.Reserve(spec.ID)
		if spec.ShareID != 0 {
			members = append(members, i)
			continue
		}
		if spec.Kind == Source {
			r.adopt(i, spec)
			continue
		}
		cur := e.Cursor.load()
		if start := e.Start.Load(); !r.boundaryAt(cur) || start > cur.Seq || e.Lost.Load() > cur.Seq-start {
			return fmt.Errorf("cursor %d/%d of sink %d", cur.Pos, cur.Seq, spec.ID)
		}
		if e.Owed.Load() < 0 {
			e.Owed.Store(0)
		}
		r.adopt(i, spec)
	}
	for _, i := range members {
		id := r.entries[i].Identity.Load()
		spec, _ := id.spec()
		if share := r.byID[spec.ShareID]; share == nil || share.Spec().Kind != Share {
			r.freed++
			r.entries[i].State.Store(free)
			continue
		}
		r.adopt(i, spec)
	}
	r.freeSlot = r.freeSlot[:0]
	for i := len(r.entries) - 1; i >= 0; i-- {
		if r.entries[i].State.Load() == free {
			r.freeSlot = append(r.freeSlot, int32(i))
		}
	}
	// A share whose last member went, or whose first never came.
	for i := range r.table {
		if s := r.table[i].Load(); s != nil && s.Spec().Kind == Share && s.members == 0 {
			r.Remove(s)
		}
	}
	return nil
}
