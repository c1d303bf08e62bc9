// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"slices"

	"github.com/msgmux/msgmux/broker/ring/mem"
)

// removeLog is what REMOVE writes down.
type removeLog struct {
	Cursor mem.Value[uint32] // slots of the three tables; noSlot: none of them goes
	Sink   mem.Value[uint32]
	Client mem.Value[uint32]
	_      uint32
	// The totals of what has gone.
	Accepted, Lost, Abandoned, Out, Unread mem.Value[uint64]
}

// Remove is the operation REMOVE: the sink is forgotten; with the last sink of a cursor the cursor goes, and what it had not
// been sent, or had not done, is abandoned. It returns how many messages these are.
//
// Preconditions: it has nothing under way that another member of its share is to have: see Leave.
func (r *Ring) Remove(s *Sink) (abandoned uint64) {
	return r.removeFrom(s.cursor, s, len(s.cursor.members) == 1)
}

// RemoveAll is Remove for all sinks of a cursor, and the cursor goes with the first: what they have under way is nobody's then, but
// abandoned, wherever a kill may fall.
func (r *Ring) RemoveAll(c *Cursor) (abandoned uint64) {
	for last := true; len(c.members) > 0; last = false {
		abandoned += r.removeFrom(c, c.members[0], last)
	}
	return abandoned
}

// removeFrom removes a sink and, if whole, its cursor.
func (r *Ring) removeFrom(c *Cursor, s *Sink, whole bool) (abandoned uint64) {
	r.Connect(s, false, 0)
	slot := uint32(noSlot)
	var g going
	if whole {
		slot = uint32(c.slot)
		head := r.c.Head.Seq.Load()
		left := r.missing(c, head)
		g = going{c.e.accepted(head) - left, c.e.Lost.Load(), left, c.e.LeftOut.Load(), c.e.Unread.Load()}
	}
	c.members, c.orphans = without(c.members, s), without(c.orphans, s)
	r.removals.Add(1)
	r.sinks[s.slot].Store(nil)
	r.askFor(s.Spec(), -1)
	delete(r.sinkByID, s.ID())
	r.remove(slot, uint32(s.slot), noSlot, g)
	r.removals.Add(1)
	r.freeSinks.give(s.slot)
	if whole {
		r.forgetCursor(c)
	}
	return g.abandoned
}

func without(list []*Sink, s *Sink) []*Sink {
	return slices.DeleteFunc(list, func(o *Sink) bool { return o == s })
}

// removeOrphan is Remove for a cursor whose first sink never came: nothing was ever kept for anybody.
func (r *Ring) removeOrphan(c *Cursor) {
	r.remove(uint32(c.slot), noSlot, noSlot, going{})
	r.forgetCursor(c)
}

func (r *Ring) forgetCursor(c *Cursor) {
	i := slices.Index(r.cursors, c)
	r.cursors = slices.Delete(r.cursors, i, i+1)
	r.closeAccount(c.account)
	r.freeCursors.give(c.slot)
}

// RemoveClient is Remove for a connected source.
func (r *Ring) RemoveClient(c *Client) {
	r.clients[c.slot].Store(nil)
	delete(r.clientByID, c.ID())
	r.remove(noSlot, noSlot, uint32(c.slot), going{})
	r.freeClients.give(c.slot)
}

// going is what a cursor that goes has counted.
type going struct{ accepted, lost, abandoned, leftOut, unread uint64 }

func (r *Ring) remove(cursor, sink, client uint32, g going) {
	c, l := r.c, fieldsOf[removeLog](r)
	l.Cursor.Store(cursor)
	l.Sink.Store(sink)
	l.Client.Store(client)
	l.Accepted.Store(c.GoneAccepted.Load() + g.accepted)
	l.Lost.Store(c.GoneLost.Load() + g.lost)
	l.Abandoned.Store(c.GoneAbandoned.Load() + g.abandoned)
	l.Out.Store(c.GoneLeftOut.Load() + g.leftOut)
	l.Unread.Store(c.GoneUnread.Load() + g.unread)
	r.log(opRemove, "remove.logged")
	_ = r.redoRemove() // the slots are its own
	r.done("remove.done")
}

func (r *Ring) redoRemove() error {
	c, l := r.c, fieldsOf[removeLog](r)
	c.GoneAccepted.Store(l.Accepted.Load())
	c.GoneLost.Store(l.Lost.Load())
	c.GoneAbandoned.Store(l.Abandoned.Load())
	c.GoneLeftOut.Store(l.Out.Load())
	c.GoneUnread.Store(l.Unread.Load())
	r.ops.Seam("remove.totals")
	if l.Cursor.Load() != noSlot {
		cursor, err := entryAt(r.cursorTable, &l.Cursor)
		if err != nil {
			return err
		}
		cursor.State.Store(free)
	}
	if l.Sink.Load() != noSlot {
		sink, err := entryAt(r.sinkTable, &l.Sink)
		if err != nil {
			return err
		}
		sink.State.Store(free)
	}
	if l.Client.Load() != noSlot {
		client, err := entryAt(r.clientTable, &l.Client)
		if err != nil {
			return err
		}
		client.State.Store(free)
	}
	return nil
}
