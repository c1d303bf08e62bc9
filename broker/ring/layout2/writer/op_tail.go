// SPDX-License-Identifier: Apache-2.0

package writer

// moveTail is the operation TAIL: room is made up to tail, and delivered is set.
func (r *Ring) moveTail(tail, delivered Place) {
	l := &r.c.Log
	l.Place.Store(tail)
	l.Other.Store(delivered)
	r.log(opTail, "tail.logged")
	r.applyTail()
	r.done("tail.done")
}

func (r *Ring) applyTail() {
	c, l := r.c, &r.c.Log
	r.change()
	c.Delivered.store(l.Other.Load())
	r.ops.Seam("tail.delivered")
	c.Tail.store(l.Place.Load())
	r.changed()
}

func (r *Ring) redoTail() error {
	r.applyTail()
	return nil
}
