// SPDX-License-Identifier: Apache-2.0

package ring

import "github.com/msgmux/msgmux/broker/ring/mem"

// rejoinLog is what REJOIN writes down.
type rejoinLog struct {
	Cursor mem.Value[uint32] // slots of the tables; Client noSlot: a sink comes back, and otherwise a source and nothing else
	Sink   mem.Value[uint32]
	Client mem.Value[uint32]
	_      uint32
	Is     mem.Value[sinkIdentity]
	Reads  mem.Value[cursorIdentity]
	Comes  mem.Value[clientIdentity]
}

// Rejoin is the operation REJOIN: a sink that has left is on another connection, conn, and gets nothing on it before Greet. It reads
// as how says, with or without origins and in view or not, as spec says; its place, its id and its label stay.
//
// Preconditions: it has left, and its cursor is no share's.
func (r *Ring) Rejoin(s *Sink, conn uint64, spec Spec, how CursorSpec) {
	c, is := s.cursor, *s.Spec()
	is.Conn, is.Meta, is.View = conn, spec.Meta, spec.View
	reads := c.changed(how)
	reads.Keep = how.Keep
	l := fieldsOf[rejoinLog](r)
	l.Is.Store(is.identity())
	l.Reads.Store(reads.identity())
	l.Cursor.Store(uint32(c.slot))
	l.Sink.Store(uint32(s.slot))
	l.Client.Store(noSlot)
	r.rejoin()
	r.askFor(s.Spec(), -1)
	r.askFor(&is, +1)
	s.meta, s.view = spec.Meta, spec.View
	s.spec.Store(&is)
	c.spec.Store(&reads)
}

// RejoinClient is Rejoin for a marked source.
func (r *Ring) RejoinClient(c *Client, spec ClientSpec) {
	l := fieldsOf[rejoinLog](r)
	l.Comes.Store(spec.identity())
	l.Client.Store(uint32(c.slot))
	r.rejoin()
	c.spec.Store(&spec)
}

func (r *Ring) rejoin() {
	r.log(opRejoin, "rejoin.logged")
	_ = r.redoRejoin() // the slots are its own
	r.done("rejoin.done")
}

func (r *Ring) redoRejoin() error {
	l := fieldsOf[rejoinLog](r)
	if l.Client.Load() != noSlot {
		e, err := entryAt(r.clientTable, &l.Client)
		if err != nil {
			return err
		}
		seal(&e.Identity, &e.Sum, l.Comes.Load())
		e.Taken.Store(0) // a stage belongs to a connection
		e.Left.Store(0)
		e.State.Store(attaching)
		return nil
	}
	e, err := entryAt(r.sinkTable, &l.Sink)
	if err != nil {
		return err
	}
	c, err := entryAt(r.cursorTable, &l.Cursor)
	if err != nil {
		return err
	}
	seal(&e.Identity, &e.Sum, l.Is.Load())
	e.Acked.Store(0)
	e.Said.Store(0)
	r.ops.Seam("rejoin.identity")
	seal(&c.Identity, &c.Sum, l.Reads.Load())
	c.Left.Store(0)
	e.State.Store(attaching)
	return nil
}
