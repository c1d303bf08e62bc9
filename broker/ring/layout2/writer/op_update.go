// SPDX-License-Identifier: Apache-2.0

package writer

import "time"

// Update is the operation UPDATE: it changes what may change in a sink's spec: label, patience, address, inode, owner. The
// cursor stays.
func (r *Ring) Update(s *Sink, spec Spec) {
	old := s.Spec()
	spec.ID, spec.Kind, spec.ShareID, spec.Group = old.ID, old.Kind, old.ShareID, old.Group
	spec.Tap, spec.Frames, spec.Since = old.Tap, old.Frames, old.Since
	l := &r.c.Log
	l.Slot.Store(uint32(s.slot))
	l.By.Store(uint32(s.slot))
	r.c.Staged.Store(spec.identity())
	r.log(opUpdate, "update.logged")
	r.applyUpdate()
	r.done("update.done")
	s.spec.Store(&spec)
}

// SetPatience is Update of the patience alone; for a member of a share it is the share's.
func (r *Ring) SetPatience(s *Sink, d time.Duration) {
	for _, x := range []*Sink{s, s.cursor} {
		spec := *x.Spec()
		spec.Patience = d
		r.Update(x, spec)
	}
}

func (r *Ring) applyUpdate() {
	e := &r.entries[r.c.Log.Slot.Load()]
	id := r.c.Staged.Load()
	e.Identity.Store(id)
	r.ops.Seam("update.identity")
	e.Sum.Store(id.sum())
}

func (r *Ring) redoUpdate() error {
	r.applyUpdate()
	return nil
}
