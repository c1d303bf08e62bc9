// SPDX-License-Identifier: Apache-2.0

package ring

import "github.com/msgmux/msgmux/broker/ring/mem"

// tailLog is what TAIL writes down.
type tailLog struct {
	Tail      mem.Value[Place]
	Delivered mem.Value[Place]
}

// moveTail is the operation TAIL: room is made up to tail, and delivered is set.
func (r *Ring) moveTail(tail, delivered Place) {
	l := fieldsOf[tailLog](r)
	l.Tail.Store(tail)
	l.Delivered.Store(delivered)
	r.log(opTail, "tail.logged")
	r.publishTail(tail)
	r.applyTail()
	r.done("tail.done")
}

func (r *Ring) applyTail() {
	c, l := r.c, fieldsOf[tailLog](r)
	r.change()
	c.Delivered.store(l.Delivered.Load())
	r.ops.Seam("tail.delivered")
	c.Tail.store(l.Tail.Load())
	r.changed()
}

func (r *Ring) redoTail() error {
	r.applyTail()
	return nil
}
