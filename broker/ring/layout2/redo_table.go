// SPDX-License-Identifier: Apache-2.0

package layout2

// The operations on the table: REMOVE, UPDATE, GREET; and CONSUME, which takes a registration. A new entry needs none: its
// state is written last.

func (r *Ring) redoRemove() error {
	c, l := r.c, &r.c.Log
	c.GoneAccepted, c.GoneLost, c.GoneAbandoned = l.Acc, l.Lost, l.Left
	r.entries[l.Slot].State = free
	return nil
}

func (r *Ring) redoUpdate() error {
	e := &r.entries[r.c.Log.Slot]
	e.Identity = r.c.Staged
	e.Sum = e.Identity.sum()
	return nil
}

// redoGreet attaches the client if the kernel has taken its ok.
func (r *Ring) redoGreet() error {
	if r.greet.Hdr.Len != untouched {
		r.entries[r.c.Log.Slot].State = active
	}
	return nil
}

// redoConsume clears the count of attempts if the kernel has handed over the registration.
func (r *Ring) redoConsume() error {
	if r.consume.Hdr.Len != untouched {
		r.c.Attempts = 0
	}
	return nil
}
