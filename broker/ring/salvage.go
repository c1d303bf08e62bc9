// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"github.com/msgmux/msgmux/broker/ring/layout2"
	"github.com/msgmux/msgmux/internal/sys"
)

// What can be known of a ring that Open has called broken. Nothing here changes it.

// Salvaged is a sink of a broken ring, with how it read.
type Salvaged struct {
	Spec
	Reading
}

// Salvage reads the sinks from the state file of a broken ring: all whose entries' sums hold, with those of their cursors. Of a
// newer layout, after a downgrade, it gives as much as has kept this one's shape: the size of the file and the sums tell.
func Salvage(stateFD int) (sinks []Salvaged) {
	b, g := mapBroken(stateFD)
	if b == nil {
		return nil
	}
	defer sys.Unmap(b)
	if int64(len(b)) != g.StateBytes() {
		return salvageBefore(stateFD)
	}
	cursors := make(map[uint64]CursorSpec)
	table := slice[cursorEntry](b, g.sections().cursors, g.cursors())
	for i := range table {
		if spec, ok := table[i].salvage(); ok {
			cursors[spec.ID] = spec
		}
	}
	entries := slice[sinkEntry](b, g.sections().sinks, g.sinks())
	for i := range entries {
		e := &entries[i]
		if e.State.Load() != active {
			continue // free, or a client without its ok: it will connect again
		}
		id := e.Identity.Load()
		spec, ok := id.spec()
		how, known := cursors[spec.Cursor]
		if ok && known && e.Sum.Load() == sumOf(&id) {
			sinks = append(sinks, Salvaged{spec, Reading{CursorSpec: how}})
		}
	}
	return sinks
}

// salvageBefore is Salvage for the layout before.
func salvageBefore(stateFD int) (sinks []Salvaged) {
	old, _ := layout2.Salvage(stateFD)
	for i := range old {
		s := &old[i]
		sinks = append(sinks, Salvaged{
			Spec{ID: s.ID, Kind: Kind(s.Kind), Label: s.Label, Address: s.Address, UID: s.UID, Inode: s.Inode, Frames: s.Frames, Since: s.Since},
			Reading{CursorSpec: CursorSpec{Share: s.Group, UID: s.UID, Tap: s.Tap, Ordinary: s.Ordinary, Patience: s.Patience}}})
	}
	return sinks
}

// SalvageClients is Salvage for connected sources. Their connections are as good as ever, and what they send comes into the ring
// that begins.
func SalvageClients(stateFD int) (clients []ClientSpec) {
	b, g := mapBroken(stateFD)
	if b == nil {
		return nil
	}
	defer sys.Unmap(b)
	if int64(len(b)) != g.StateBytes() {
		_, old := layout2.Salvage(stateFD)
		for i := range old {
			c := &old[i]
			clients = append(clients, ClientSpec{ID: c.ID, Label: c.Label, UID: c.UID, Since: c.Since})
		}
		return clients
	}
	table := slice[clientEntry](b, g.sections().clients, g.clients())
	for i := range table {
		e := &table[i]
		id := e.Identity.Load()
		if spec, ok := id.spec(); ok && e.State.Load() == active && e.Sum.Load() == sumOf(&id) {
			spec.Mark, spec.Taken = e.Mark.Load(), e.Taken.Load()
			clients = append(clients, spec)
		}
	}
	return clients
}

func (e *cursorEntry) salvage() (spec CursorSpec, ok bool) {
	id := e.Identity.Load()
	spec, ok = id.spec()
	return spec, ok && e.State.Load() == active && e.Sum.Load() == sumOf(&id)
}

// mapBroken maps a state file whose header may be of any layout, or nil.
func mapBroken(stateFD int) ([]byte, Geometry) {
	size, err := sys.FileSize(stateFD)
	if err != nil || size < 2*headerSize {
		return nil, Geometry{}
	}
	b, err := sys.Map(stateFD, 0, int(size))
	if err != nil {
		return nil, Geometry{}
	}
	g := at[header](b, 0).Geometry.Load()
	if g.Check() != nil {
		sys.Unmap(b)
		return nil, Geometry{}
	}
	return b, g
}

// GivenUp is what is lost with a ring that is set aside, in messages.
type GivenUp struct {
	// Messages is how many a source has got rid of and no sink has accepted. A packet of a framed source of which
	// something is still in the landing zone counts as one.
	Messages uint64
	// Waiting is how many the sinks had not been sent, counted for each cursor by itself, taps left out.
	Waiting uint64
	// Sinks says that Waiting is known: that the table of cursors is where this program looks for it.
	Sinks bool
}

// CountGivenUp reads what is lost with a ring that Open has called broken. It can be known of a sound ring of another
// layout, which a newer version has left: the words for it are in the same place in every layout. If its broker was killed,
// the numbers may be wrong by what one operation moves. Of a damaged ring, whose numbers may be what is damaged, nothing is
// known, and ok is false.
func CountGivenUp(stateFD int) (lost GivenUp, ok bool) {
	b, g := mapBroken(stateFD)
	if b == nil {
		return lost, false
	}
	defer sys.Unmap(b)
	h := at[header](b, 0)
	if h.Magic.Load() != magic || h.Layout.Load() == layout {
		return lost, false
	}
	c := at[control](b, headerSize)
	head, tail, delivered, s := c.Head.load(), c.Tail.load(), c.Delivered.load(), c.Slots.Load()
	if checkPlaces(g.Size, head, tail, delivered) != nil || s.next() > s.landed() || s.landed() > MaxBatch {
		return lost, false
	}
	waiting := uint64(s.landed() - s.next())
	lost.Messages = head.Seq - delivered.Seq + waiting
	if lost.Sinks = g.StateBytes() == int64(len(b)); !lost.Sinks {
		return lost, true
	}
	table := slice[cursorEntry](b, g.sections().cursors, g.cursors())
	for i := range table {
		spec, sound := table[i].salvage()
		if !sound || spec.Tap {
			continue
		}
		at := table[i].Done.Seq.Load()
		if at < tail.Seq || at > head.Seq {
			return GivenUp{}, false
		}
		lost.Waiting += head.Seq - at + waiting
	}
	return lost, true
}
