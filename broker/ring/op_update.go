// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"time"

	"github.com/msgmux/msgmux/broker/ring/mem"
)

// updateLog is what UPDATE writes down.
type updateLog struct {
	Sink    mem.Value[uint32] // slots of the two tables; noSlot: none of them changes
	Cursor  mem.Value[uint32]
	Is      mem.Value[sinkIdentity]
	Reading mem.Value[cursorIdentity]
}

// noSlot is no entry of any table.
const noSlot = 0xffffffff

// Update is the operation UPDATE: it changes what may change in a sink, which is label, address, inode, owner, form and whether it
// gets credentials, and in its cursor: patience, and, of one that is no share's, the owner and whether he is an ordinary user. Where
// they stand, stays.
func (r *Ring) Update(s *Sink, spec Spec, how CursorSpec) {
	old, c := s.Spec(), s.cursor
	spec.ID, spec.Cursor, spec.Kind, spec.Frames, spec.Since = old.ID, old.Cursor, old.Kind, old.Frames, old.Since
	spec.Meta, spec.Conn, spec.Batch = old.Meta, old.Conn, old.Batch
	r.update(s, spec, c, c.changed(how))
}

// SetPatience is Update of a cursor's patience alone.
func (r *Ring) SetPatience(c *Cursor, d time.Duration) {
	how := *c.Spec()
	how.Patience = d
	r.update(nil, Spec{}, c, how)
}

// changed is what a cursor is after a change: what may not change stays.
func (c *Cursor) changed(how CursorSpec) CursorSpec {
	to := *c.Spec()
	to.Patience = how.Patience
	if to.Share == "" {
		to.UID, to.Ordinary = how.UID, how.Ordinary
	}
	return to
}

// update changes a sink, unless it is nil, and its cursor.
func (r *Ring) update(s *Sink, spec Spec, c *Cursor, how CursorSpec) {
	l := fieldsOf[updateLog](r)
	slot := uint32(noSlot)
	if s != nil {
		slot = uint32(s.slot)
		l.Is.Store(spec.identity())
	}
	l.Sink.Store(slot)
	l.Cursor.Store(uint32(c.slot))
	l.Reading.Store(how.identity())
	r.log(opUpdate, "update.logged")
	_ = r.redoUpdate() // the slots are its own
	r.done("update.done")
	if s != nil {
		r.askFor(s.Spec(), -1)
		s.spec.Store(&spec)
		s.form = spec.form()
		s.passes = spec.Credentials
		r.askFor(&spec, 1)
	}
	old := c.spec.Swap(&how)
	if how.Ordinary != old.Ordinary || how.UID != old.UID {
		account := c.account
		c.account = r.account(&how, account.Owed)
		r.closeAccount(account)
	}
}

func (r *Ring) redoUpdate() error {
	l := fieldsOf[updateLog](r)
	if l.Sink.Load() != noSlot {
		e, err := entryAt(r.sinkTable, &l.Sink)
		if err != nil {
			return err
		}
		seal(&e.Identity, &e.Sum, l.Is.Load())
	}
	r.ops.Seam("update.identity")
	e, err := entryAt(r.cursorTable, &l.Cursor)
	if err == nil {
		seal(&e.Identity, &e.Sum, l.Reading.Load())
	}
	return err
}
