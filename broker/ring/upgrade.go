// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"errors"
	"fmt"

	"github.com/msgmux/msgmux/broker/ring/layout2"
	"github.com/msgmux/msgmux/internal/wire"
)

// Outdated says whether two files are a ring of the layout before, which Upgrade takes over.
func Outdated(dataFD, stateFD int) bool { return layout2.Readable(dataFD, stateFD) }

// Upgrade makes a ring of what one of the layout before holds, brought to where its broker would have been after the operation
// that it was in. The new ring, of shape g or, if what is there does not fit into that, of the larger of both, is not published:
// until it is, killing this process leaves the old files as they were. They stay the caller's.
//
// The errors are those of Open.
func Upgrade(dataFD, stateFD int, g Geometry, o Options) (*Ring, error) {
	if err := guard(stateFD); err != nil {
		return nil, err
	}
	old, err := layout2.Open(dataFD, stateFD)
	if err != nil {
		if errors.Is(err, layout2.ErrBroken) {
			err = fmt.Errorf("%w: %w", ErrBroken, err)
		}
		return nil, err
	}
	defer old.Close()
	o.Unpublished = true
	for _, g := range []Geometry{g, g.union(Geometry(old.Geometry))} {
		var n *Ring
		if n, err = Create(g, old.Generation+1, o); err != nil {
			return nil, err
		}
		if err = n.takeFrom(old); err == nil {
			return n, nil
		}
		n.Retire()
		if !errors.Is(err, ErrDoesNotFit) {
			break
		}
	}
	return nil, fmt.Errorf("%w: %w", ErrBroken, err)
}

// union is the shape into which fits what fits into either.
func (g Geometry) union(o Geometry) Geometry {
	return Geometry{max(g.Size, o.Size), max(g.MaxMessage, o.MaxMessage), max(g.MaxSinks, o.MaxSinks), max(g.MaxClients, o.MaxClients)}
}

// takeFrom is MoveTo from a ring of the layout before.
func (r *Ring) takeFrom(o *layout2.Ring) error {
	from := r.neededOf(o)
	head := Place(o.Totals.Head)
	if head.Pos-from.Pos > r.geo.Size || len(o.Sinks) > len(r.sinkTable) || len(o.Sinks)+len(o.Shares) > len(r.cursorTable) || len(o.Clients) > len(r.clientTable) {
		return fmt.Errorf("%w: %d bytes of messages, %d sinks, %d clients", ErrDoesNotFit, head.Pos-from.Pos, len(o.Sinks), len(o.Clients))
	}
	if o.Geometry.MaxMessage > r.geo.MaxMessage {
		for p := from; p.Seq < head.Seq; {
			size := getLength(o.Records(p.Pos, wire.RecordHeader))
			if uint64(size) > r.geo.MaxMessage {
				return fmt.Errorf("%w: a message of %d bytes", ErrDoesNotFit, size)
			}
			p = Place{p.Pos + wire.Padded(uint64(size)), p.Seq + 1}
		}
	}
	c, t := r.c, &o.Totals
	c.Tail.store(from)
	c.Head.store(head)
	c.Delivered.store(Place(t.Delivered))
	r.copyRecords(from, head, o.Records, o.Geometry.Size)
	for p := from; p.Seq < t.Delivered.Seq; p = r.next(p) {
		r.piece(p.Pos).At.Store(o.FirstAccepted(p.Seq))
	}
	c.Clock.Store(int64(t.Clock))
	c.NextID.Store(t.NextID)
	c.Starts.Store(t.Starts)
	c.Since.Store(t.Since)
	for i := range c.Refused {
		c.Refused[i].Store(t.Refused[i])
	}
	c.GoneAccepted.Store(t.GoneAccepted)
	c.GoneLost.Store(t.GoneLost)
	c.GoneAbandoned.Store(t.GoneAbandoned)
	c.Uncertain.Store(t.Uncertain)
	c.Attempts.Store(t.Attempts)
	r.takeTables(o)
	r.begin()
	if err := r.adoptAll(); err != nil {
		return err
	}
	return r.takeLanded(o)
}

// neededOf is the oldest place that some cursor may still want.
func (r *Ring) neededOf(o *layout2.Ring) Place {
	p := o.Totals.Delivered
	for i := range o.Sinks {
		if at := o.Sinks[i].Cursor.Place; o.Sinks[i].ShareID == 0 && at.Seq < p.Seq {
			p = at
		}
	}
	for i := range o.Shares {
		if at := o.Shares[i].Cursor.Place; at.Seq < p.Seq {
			p = at
		}
	}
	return Place(p)
}

// takeTables makes entries of what the old table held: there a share was an entry among the sinks.
func (r *Ring) takeTables(o *layout2.Ring) {
	slot := 0
	cursor := func(spec CursorSpec, at *layout2.Cursor) {
		r.cursorTable[slot].fill(spec, at)
		slot++
	}
	for i := range o.Shares {
		s := &o.Shares[i]
		cursor(CursorSpec{ID: s.ID, Share: s.Name, UID: s.UID, Tap: s.Tap, Ordinary: s.Ordinary, Patience: s.Patience, Since: s.Since}, &s.Cursor)
	}
	for i := range o.Sinks {
		s, e := &o.Sinks[i], &r.sinkTable[i]
		spec := Spec{ID: s.ID, Cursor: s.ShareID, Kind: Kind(s.Kind), Label: s.Label, Address: s.Address, UID: s.UID, Inode: s.Inode,
			Frames: s.Frames, Since: s.Since}
		e.Accepted.Store(s.Accepted)
		if s.ShareID == 0 {
			spec.Cursor = s.ID
			cursor(CursorSpec{ID: s.ID, UID: s.UID, Tap: s.Tap, Ordinary: s.Ordinary, Patience: s.Patience, Since: s.Since}, &s.Cursor)
		}
		seal(&e.Identity, &e.Sum, spec.identity())
		e.State.Store(entryState(s.Attaching))
	}
	for i := range o.Clients {
		c, e := &o.Clients[i], &r.clientTable[i]
		spec := ClientSpec{ID: c.ID, Label: c.Label, UID: c.UID, Since: c.Since}
		seal(&e.Identity, &e.Sum, spec.identity())
		e.State.Store(entryState(c.Attaching))
	}
}

func (e *cursorEntry) fill(spec CursorSpec, at *layout2.Cursor) {
	var flags uint32
	if at.Lagging {
		flags |= flagLagging
	}
	if at.Catching {
		flags |= flagCatching
	}
	e.Flags.Store(flags)
	e.Done.store(Place(at.Place))
	e.Start.Store(at.Start)
	e.Lost.Store(at.Lost)
	e.Owed.Store(int64(at.Owed))
	seal(&e.Identity, &e.Sum, spec.identity())
	e.State.Store(active)
}

// takeLanded takes what waits over. Which source it came from, the old layout does not say.
func (r *Ring) takeLanded(o *layout2.Ring) error {
	kind, waiting, offset := o.Landed()
	var rest []landed
	for _, b := range waiting {
		if b == nil {
			r.c.Refused[TooLarge].Store(r.c.Refused[TooLarge].Load() + 1)
			continue
		}
		rest = append(rest, landed{first: b})
	}
	if len(rest) == 0 {
		return nil
	}
	return r.land(kind, 0, offset, rest)
}
