// SPDX-License-Identifier: Apache-2.0

package writer

import "github.com/msgmux/msgmux/internal/wire"

// Skip is the operation SKIP for one message: the socket of s can never take it (EMSGSIZE). It counts as lost.
//
// Preconditions: Behind(s).
func (r *Ring) Skip(s *Sink) {
	cur := s.cursor.e.Cursor.load()
	next := Place{cur.Pos + uint64(wire.Padded(int(r.length(cur.Pos)))), cur.Seq + 1}
	r.skip(s.cursor, next)
}

// skip moves the cursor of s to p; what lies between is lost to it.
func (r *Ring) skip(s *Sink, p Place) {
	l := &r.c.Log
	l.Slot.Store(uint32(s.slot))
	l.By.Store(uint32(s.slot))
	l.Place.Store(p)
	l.Lost.Store(s.e.Lost.Load() + p.Seq - s.e.Cursor.Seq.Load())
	r.log(opSkip, "skip.logged")
	r.applySkip()
	r.done("skip.done")
}

func (r *Ring) applySkip() {
	l := &r.c.Log
	e := &r.entries[l.Slot.Load()]
	e.Word.Add(1)
	e.Cursor.store(l.Place.Load())
	r.ops.Seam("skip.cursor")
	e.Lost.Store(l.Lost.Load())
	e.Word.Add(1)
}

func (r *Ring) redoSkip() error {
	r.applySkip()
	return nil
}
