// SPDX-License-Identifier: Apache-2.0

package ring

import "github.com/msgmux/msgmux/broker/ring/mem"

// skipLog is what SKIP writes down.
type skipLog struct {
	Cursor mem.Value[uint32] // its slot
	_      uint32
	Done   mem.Value[Place]
	Sent   mem.Value[Place]
	Lost   mem.Value[uint64]
	Out    mem.Value[uint64] // how many of Lost were left out
}

// skip is the operation SKIP: it moves a cursor to p; what lies between, and was not done, is lost to it. If what is there is done,
// it goes on to what is not. leftOut is how many of those that are lost were not wanted.
func (r *Ring) skip(c *Cursor, p Place, leftOut uint64) {
	lost, sent := r.missing(c, p.Seq), c.e.Sent.load()
	if sent.Seq < p.Seq {
		sent = p
	} else if c.ack && c.sole == nil {
		p = r.undone(c, nil, p)
	}
	l := fieldsOf[skipLog](r)
	l.Cursor.Store(uint32(c.slot))
	l.Done.Store(p)
	l.Sent.Store(sent)
	l.Lost.Store(c.e.Lost.Load() + lost)
	l.Out.Store(c.e.LeftOut.Load() + leftOut)
	r.log(opSkip, "skip.logged")
	r.applySkip(c.e)
	r.done("skip.done")
	c.tryAgain()
}

// missing is how many messages before number seq nobody who reads from c has done. Members of a share with acknowledgements may be
// done with some that come later.
func (r *Ring) missing(c *Cursor, seq uint64) (n uint64) {
	done, sent := c.e.Done.Seq.Load(), c.e.Sent.Seq.Load()
	if !c.ack || c.sole != nil {
		return seq - done
	}
	for _, s := range c.members {
		if begin, end := r.underWay(s); begin.Seq < seq {
			n += min(end.Seq, seq) - begin.Seq
		}
	}
	return n + seq - min(seq, sent)
}

func (r *Ring) applySkip(e *cursorEntry) {
	l := fieldsOf[skipLog](r)
	e.Word.Add(1)
	e.Done.store(l.Done.Load())
	e.Sent.store(l.Sent.Load())
	r.ops.Seam("skip.cursor")
	e.Lost.Store(l.Lost.Load())
	e.LeftOut.Store(l.Out.Load())
	e.Word.Add(1)
}

func (r *Ring) redoSkip() error {
	e, err := entryAt(r.cursorTable, &fieldsOf[skipLog](r).Cursor)
	if err == nil {
		r.applySkip(e)
	}
	return err
}
