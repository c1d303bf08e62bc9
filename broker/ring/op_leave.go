// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"time"

	"github.com/msgmux/msgmux/broker/ring/mem"
)

// leaveLog is what LEAVE writes down.
type leaveLog struct {
	Cursor mem.Value[uint32] // slots of the tables; Client noSlot: a sink is left, and otherwise a source and nothing else
	Sink   mem.Value[uint32]
	Client mem.Value[uint32]
	_      uint32
	Left   mem.Value[int64]  // when, unix ns; 0: others of the share are there
	Known  mem.Value[uint64] // what a cursor had lost then
	Sent   mem.Value[Place]  // of a cursor: what is from there on is offered again
}

// Leave is the operation LEAVE: the connection of a sink with acknowledgements has gone, and the sink stays. What it was sent and
// has not done is offered again: to itself, when it comes back, or, of a share, to the others. If it has left before, nothing changes.
func (r *Ring) Leave(s *Sink) {
	r.Connect(s, false, 0)
	r.Settle(s)
	c, left, l := s.cursor, s.cursor.e.Left.Load(), fieldsOf[leaveLog](r)
	l.Known.Store(c.e.Known.Load())
	switch {
	case c.connected > 0:
		left = 0
	case left == 0:
		left = time.Now().UnixNano()
		l.Known.Store(c.e.Lost.Load())
	}
	if c.sole != nil {
		l.Sent.Store(c.e.Done.load())
	} else {
		l.Sent.Store(c.e.Sent.load())
		if r.HasUnderWay(s) {
			c.orphans = append(c.orphans, s)
		}
	}
	l.Cursor.Store(uint32(c.slot))
	l.Sink.Store(uint32(s.slot))
	l.Client.Store(noSlot)
	r.leave(left)
}

// LeaveClient is Leave for a marked source, whose mark stays.
func (r *Ring) LeaveClient(c *Client) {
	left := c.e.Left.Load()
	if left == 0 {
		left = time.Now().UnixNano()
	}
	fieldsOf[leaveLog](r).Client.Store(uint32(c.slot))
	r.leave(left)
}

func (r *Ring) leave(left int64) {
	l := fieldsOf[leaveLog](r)
	l.Left.Store(left)
	r.log(opLeave, "leave.logged")
	_ = r.redoLeave() // the slots are its own
	r.done("leave.done")
}

func (r *Ring) redoLeave() error {
	l := fieldsOf[leaveLog](r)
	if l.Client.Load() != noSlot {
		e, err := entryAt(r.clientTable, &l.Client)
		if err == nil {
			e.State.Store(active)
			e.Left.Store(l.Left.Load())
		}
		return err
	}
	s, err := entryAt(r.sinkTable, &l.Sink)
	if err != nil {
		return err
	}
	c, err := entryAt(r.cursorTable, &l.Cursor)
	if err != nil {
		return err
	}
	s.State.Store(active)
	c.Word.Add(1)
	c.Sent.store(l.Sent.Load())
	c.Word.Add(1)
	r.ops.Seam("leave.sent")
	c.Known.Store(l.Known.Load())
	c.Left.Store(l.Left.Load())
	return nil
}
