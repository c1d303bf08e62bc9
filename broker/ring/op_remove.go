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
	Accepted, Lost, Abandoned mem.Value[uint64]
}

// Remove is the operation REMOVE: the sink is forgotten; with the last sink of a cursor the cursor goes, and what it had not
// been sent is abandoned. It returns how many messages these are.
func (r *Ring) Remove(s *Sink) (abandoned uint64) {
	r.Connect(s, false, 0)
	c, going := s.cursor, uint32(noSlot)
	var accepted, lost uint64
	if c.sinks--; c.sinks == 0 {
		going = uint32(c.slot)
		at := c.e.Done.load()
		accepted, lost, abandoned = c.e.accepted(at.Seq), c.e.Lost.Load(), r.c.Head.Seq.Load()-at.Seq
	}
	r.removals.Add(1)
	r.sinks[s.slot].Store(nil)
	delete(r.sinkByID, s.ID())
	r.remove(going, uint32(s.slot), noSlot, accepted, lost, abandoned)
	r.removals.Add(1)
	r.freeSinks.give(s.slot)
	if going != noSlot {
		r.forgetCursor(c)
	}
	return abandoned
}

// removeOrphan is Remove for a cursor whose first sink never came: nothing was ever kept for anybody.
func (r *Ring) removeOrphan(c *Cursor) {
	r.remove(uint32(c.slot), noSlot, noSlot, 0, 0, 0)
	r.forgetCursor(c)
}

func (r *Ring) forgetCursor(c *Cursor) {
	r.cursors = slices.DeleteFunc(r.cursors, func(o *Cursor) bool { return o == c })
	r.closeAccount(c.account)
	r.freeCursors.give(c.slot)
}

// RemoveClient is Remove for a connected source.
func (r *Ring) RemoveClient(c *Client) {
	r.clients[c.slot].Store(nil)
	delete(r.clientByID, c.ID())
	r.remove(noSlot, noSlot, uint32(c.slot), 0, 0, 0)
	r.freeClients.give(c.slot)
}

func (r *Ring) remove(cursor, sink, client uint32, accepted, lost, abandoned uint64) {
	c, l := r.c, fieldsOf[removeLog](r)
	l.Cursor.Store(cursor)
	l.Sink.Store(sink)
	l.Client.Store(client)
	l.Accepted.Store(c.GoneAccepted.Load() + accepted)
	l.Lost.Store(c.GoneLost.Load() + lost)
	l.Abandoned.Store(c.GoneAbandoned.Load() + abandoned)
	r.log(opRemove, "remove.logged")
	_ = r.redoRemove() // the slots are its own
	r.done("remove.done")
}

func (r *Ring) redoRemove() error {
	c, l := r.c, fieldsOf[removeLog](r)
	c.GoneAccepted.Store(l.Accepted.Load())
	c.GoneLost.Store(l.Lost.Load())
	c.GoneAbandoned.Store(l.Abandoned.Load())
	r.ops.Seam("remove.totals")
	if l.Cursor.Load() != noSlot {
		e, err := entryAt(r.cursorTable, &l.Cursor)
		if err != nil {
			return err
		}
		e.State.Store(free)
	}
	if l.Sink.Load() != noSlot {
		e, err := entryAt(r.sinkTable, &l.Sink)
		if err != nil {
			return err
		}
		e.State.Store(free)
	}
	if l.Client.Load() != noSlot {
		e, err := entryAt(r.clientTable, &l.Client)
		if err != nil {
			return err
		}
		e.State.Store(free)
	}
	return nil
}
