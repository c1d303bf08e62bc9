// SPDX-License-Identifier: Apache-2.0

package writer

import "slices"

// Remove is the operation REMOVE: the sink is forgotten, and what it had not been sent is abandoned. With the last
// member of a share the share goes. It returns how many messages were abandoned.
func (r *Ring) Remove(s *Sink) (abandoned uint64) {
	if s.Spec().Kind == Source {
		r.forget(s, 0, 0, 0)
		return 0
	}
	r.Connect(s, false)
	if share := s.cursor; share != s {
		r.forget(s, 0, 0, 0)
		if share.members--; share.members == 0 {
			return r.Remove(share)
		}
		return 0
	}
	e := s.e
	cur := e.Cursor.load()
	lost := e.Lost.Load()
	abandoned = r.c.Head.Seq.Load() - cur.Seq
	r.forget(s, cur.Seq-e.Start.Load()-lost, lost, abandoned)
	r.cursors = slices.DeleteFunc(r.cursors, func(o *Sink) bool { return o == s })
	return abandoned
}

func (r *Ring) forget(s *Sink, accepted, lost, left uint64) {
	c, l := r.c, &r.c.Log
	l.Slot.Store(uint32(s.slot))
	l.By.Store(uint32(s.slot))
	l.Acc.Store(c.GoneAccepted.Load() + accepted)
	l.Lost.Store(c.GoneLost.Load() + lost)
	l.Left.Store(c.GoneAbandoned.Load() + left)
	r.table[s.slot].Store(nil)
	delete(r.byID, s.ID())
	r.log(opRemove, "remove.logged")
	r.applyRemove()
	r.done("remove.done")
	r.freeSlot = append(r.freeSlot, int32(s.slot))
}

func (r *Ring) applyRemove() {
	c, l := r.c, &r.c.Log
	c.GoneAccepted.Store(l.Acc.Load())
	c.GoneLost.Store(l.Lost.Load())
	c.GoneAbandoned.Store(l.Left.Load())
	r.ops.Seam("remove.totals")
	r.entries[l.Slot.Load()].State.Store(free)
}

func (r *Ring) redoRemove() error {
	r.applyRemove()
	return nil
}
