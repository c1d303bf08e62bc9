// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"fmt"
	"time"

	"github.com/msgmux/msgmux/broker/ring/mem"
)

// doneLog is what DONE writes down.
type doneLog struct {
	Cursor mem.Value[uint32] // slots of the two tables
	Sink   mem.Value[uint32]
	From   mem.Value[uint64] // the number that the cursor stood at
	Done   mem.Value[Place]  // where it stands then
	Sent   mem.Value[Place]
	Mine   mem.Value[Place]  // where what a member of a share has under way begins then
	Count  mem.Value[uint64] // what the sink has accepted then
}

// Settle is the operation DONE: what a sink has said (see Hear) moves its cursor. It says whether the cursor moved, and whether
// the sink has said what cannot be: garbage, or that it is done with what it was not sent.
func (r *Ring) Settle(s *Sink) (moved, bad bool) {
	bad = s.e.Said.Load()&saidGarbage != 0
	begin, end := r.underWay(s)
	acked := min(s.e.Acked.Load(), end.Seq)
	if acked <= begin.Seq {
		return false, bad
	}
	c, to := s.cursor, r.placeOf(acked, end)
	done, mine := to, Place{}
	if c.sole == nil {
		done, mine = r.undone(c, s, to), to
	}
	r.advance(c, s.slot, done, mine, s.e.Accepted.Load()+to.Seq-begin.Seq)
	return true, bad
}

// AdvanceTo is Settle for a sink that says in its hello that it is done with what is numbered below seq: it has stored that. The
// cursor, which is that of s alone, goes there, if it is not further yet.
//
// Preconditions: s is on no connection.
func (r *Ring) AdvanceTo(s *Sink, seq uint64) {
	r.advanceTo(s.cursor, s.slot, seq)
}

func (r *Ring) advanceTo(c *Cursor, slot int, seq uint64) {
	at, head := c.e.Done.load(), r.c.Head.load()
	if seq > at.Seq && seq <= head.Seq {
		r.advance(c, slot, r.placeOf(seq, head), Place{}, r.sinkTable[slot].Accepted.Load()+seq-at.Seq)
	}
}

// undone is the first place that some member of a share has under way, with s having done what it has before to; where the share was
// sent to, if there is none. Nobody s: what all have is looked at from to on.
func (r *Ring) undone(c *Cursor, s *Sink, to Place) Place {
	first := c.e.Sent.load()
	for _, m := range c.members {
		begin, end := r.underWay(m)
		if (m == s || s == nil) && begin.Seq < to.Seq {
			begin = to
		}
		if begin.Seq < end.Seq && begin.Seq < first.Seq {
			first = begin
		}
	}
	return first
}

// advance has the sink in slot done with more. Its cursor goes to done then, what a member of a share has under way begins at mine,
// and it has accepted count in all.
func (r *Ring) advance(c *Cursor, slot int, done, mine Place, count uint64) {
	l, sent := fieldsOf[doneLog](r), c.e.Sent.load()
	if sent.Seq < done.Seq {
		sent = done
	}
	l.Cursor.Store(uint32(c.slot))
	l.Sink.Store(uint32(slot))
	l.From.Store(c.e.Done.Seq.Load())
	l.Done.Store(done)
	l.Sent.Store(sent)
	l.Mine.Store(mine)
	l.Count.Store(count)
	r.log(opDone, "done.logged")
	r.applyDone(c.e, &r.sinkTable[slot], c.tap)
	r.done("done.done")
	c.catching = c.e.Flags.Load()&flagCatching != 0
	c.tryAgain()
}

func (r *Ring) applyDone(c *cursorEntry, s *sinkEntry, tap bool) {
	l := fieldsOf[doneLog](r)
	c.Word.Add(1)
	c.Sent.store(l.Sent.Load())
	s.From.store(l.Mine.Load())
	c.Word.Add(1)
	r.ops.Seam("done.sent")
	r.applyAccepted(c, s, tap, l.From.Load(), l.Done.Load(), l.Count.Load())
}

// redoDone does it again for values that may be wrong: check finds out afterwards.
func (r *Ring) redoDone() error {
	l := fieldsOf[doneLog](r)
	c, err := entryAt(r.cursorTable, &l.Cursor)
	if err != nil {
		return err
	}
	s, err := entryAt(r.sinkTable, &l.Sink)
	if err != nil {
		return err
	}
	if err := r.checkGoal(l.Done.Load()); err != nil {
		return err
	}
	r.clock = time.Duration(r.c.Clock.Load())
	r.applyDone(c, s, c.Identity.Load().Bits&bitTap != 0)
	return nil
}

// checkGoal looks at where a log says that a cursor goes.
func (r *Ring) checkGoal(end Place) error {
	if head, old := r.c.Head.load(), r.c.Delivered.load(); end.Seq > head.Seq || end.Pos > head.Pos || end.Pos > old.Pos+2*r.geo.Size {
		return fmt.Errorf("a cursor goes to %d/%d, and head is %d/%d", end.Pos, end.Seq, head.Pos, head.Seq)
	}
	return nil
}

// underWay is what a sink with acknowledgements was sent on its connection and has not done, as far as it was not given up. One in
// view has everything that there is.
func (r *Ring) underWay(s *Sink) (begin, end Place) {
	c := s.cursor
	done := c.e.Done.load()
	if s.view {
		return done, r.c.Head.load()
	}
	if c.sole != nil {
		return done, c.e.Sent.load()
	}
	if begin, end = s.e.From.load(), s.e.To.load(); begin.Seq < done.Seq {
		begin = done
	}
	if end.Seq < begin.Seq {
		end = begin
	}
	return begin, end
}

// placeOf is the place of number seq, which is not before the tail and not behind end.
func (r *Ring) placeOf(seq uint64, end Place) Place {
	if seq == end.Seq {
		return end
	}
	return r.numbered(seq)
}
