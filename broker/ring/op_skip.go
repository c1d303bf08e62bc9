// SPDX-License-Identifier: Apache-2.0

package ring

import "github.com/msgmux/msgmux/broker/ring/mem"

// skipLog is what SKIP writes down.
type skipLog struct {
	Cursor mem.Value[uint32] // its slot
	_      uint32
	Done   mem.Value[Place]
	Lost   mem.Value[uint64]
}

// skip is the operation SKIP: it moves a cursor to p; what lies between is lost to it.
func (r *Ring) skip(c *Cursor, p Place) {
	l := fieldsOf[skipLog](r)
	l.Cursor.Store(uint32(c.slot))
	l.Done.Store(p)
	l.Lost.Store(c.e.Lost.Load() + p.Seq - c.e.Done.Seq.Load())
	r.log(opSkip, "skip.logged")
	r.applySkip(c.e)
	r.done("skip.done")
}

func (r *Ring) applySkip(e *cursorEntry) {
	l := fieldsOf[skipLog](r)
	e.Word.Add(1)
	e.Done.store(l.Done.Load())
	r.ops.Seam("skip.cursor")
	e.Lost.Store(l.Lost.Load())
	e.Word.Add(1)
}

func (r *Ring) redoSkip() error {
	e, err := entryAt(r.cursorTable, &fieldsOf[skipLog](r).Cursor)
	if err == nil {
		r.applySkip(e)
		e.Word.Store(0)
	}
	return err
}
