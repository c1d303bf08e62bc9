// SPDX-License-Identifier: Apache-2.0

package ring

import "github.com/msgmux/msgmux/internal/sys"

// GivenUp is what is lost with a ring that is set aside, in messages.
type GivenUp struct {
	// Messages is how many a source has got rid of and no sink has accepted. A packet of a framed source of which
	// something is still in the landing zone counts as one.
	Messages uint64
	// Waiting is how many the sinks had not been sent, counted for each sink by itself, a share as one and taps left out.
	Waiting uint64
	// Sinks says that Waiting is known: that the table of sinks is where Salvage looks for it.
	Sinks bool
}

// CountGivenUp reads, after Open has called a ring broken, what is lost with it. It can be known of a sound ring of another
// layout, which a newer version has left: the words for it are in the same place in every layout. If its broker was killed,
// the numbers may be wrong by what one operation moves. Of a damaged ring, whose numbers may be what is damaged, nothing is
// known, and ok is false. It changes nothing.
func CountGivenUp(stateFD int) (lost GivenUp, ok bool) {
	size, err := sys.FileSize(stateFD)
	if err != nil || size < 2*headerSize {
		return lost, false
	}
	b, err := sys.Map(stateFD, 0, int(size))
	if err != nil {
		return lost, false
	}
	defer sys.Unmap(b)
	h := at[header](b, 0)
	g := h.Geometry.Load()
	if h.Magic.Load() != magic || readable(h.Layout.Load()) || g.Check() != nil {
		return lost, false
	}
	c := at[control](b, headerSize)
	head, tail, delivered, landed := c.Head.load(), c.Tail.load(), c.Delivered.load(), uint64(c.Landed.Load()-c.Next.Load())
	// A record has four bytes at least; how long the index is, the other layout knows.
	if checkPlaces(g.Size, g.Size/4, head, tail, delivered) != nil || c.Next.Load() > c.Landed.Load() || landed > MaxBatch {
		return lost, false
	}
	lost.Messages = head.Seq - delivered.Seq + landed
	if lost.Sinks = g.StateBytes() == size; !lost.Sinks {
		return lost, true
	}
	for i, n := 0, g.slots(); i < n; i++ {
		e := &slice[entry](b, g.sections().table, n)[i]
		id := e.Identity.Load()
		spec, sound := id.spec()
		if e.State.Load() != active || !sound || e.Sum.Load() != id.sum() || spec.Kind == Source || spec.ShareID != 0 || spec.Tap {
			continue
		}
		cursor := e.Cursor.load()
		if cursor.Seq < tail.Seq || cursor.Seq > head.Seq {
			return GivenUp{}, false
		}
		lost.Waiting += head.Seq - cursor.Seq + landed
	}
	return lost, true
}
