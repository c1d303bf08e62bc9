// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"fmt"

	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/view"
)

// What sinks in view read is published: they have the data file mapped, and nothing but these words tells them what in it is whole.
//
//	head   behind the bytes of every record before it, and behind what makes them the ring's (APPEND)
//	tail   before anything of what lies before it is overwritten (TAIL)
//
// Both are what control says. A broker that dies between the two stores has a successor that publishes both before anything else, once
// it has found the ring to be sound: redoing an operation publishes nothing, since bits may have fallen.

// publish publishes all of it, of a ring that nobody reads yet or whose last broker is dead.
func (r *Ring) publish() {
	p := r.published
	r.publishTail(r.c.Tail.load())
	r.publishHead(r.c.Head.Pos.Load())
	p.Ring.Store(ringOffset)
	p.Size.Store(r.geo.Size)
	p.Generation.Store(r.head.Generation.Load())
	p.Epoch.Store(r.c.Epoch.Load())
	p.Magic.Store(view.Magic)
}

// publishHead says that everything before pos is there.
func (r *Ring) publishHead(pos uint64) { r.published.Head.Store(pos) }

// publishTail says that what lies before tail may be overwritten from now on. A reader that finds both copies of the position equal
// has the number that belongs to it.
func (r *Ring) publishTail(tail Place) {
	p := r.published
	p.Tail.Store(tail.Pos)
	p.TailSeq.Store(tail.Seq)
	p.TailAgain.Store(tail.Pos)
	// An atomic store may be overtaken by plain stores behind it, those of a record, but not by an atomic load, which they cannot
	// overtake in turn: on Arm a store with release, and LDAR.
	_ = p.TailAgain.Load()
}

// OpenView is a descriptor of the data file for a sink in view: it can be read from, and nothing else. The caller owns it.
func (r *Ring) OpenView() (int, error) {
	fd, err := sys.OpenReadOnly(r.files.dataFD)
	if err != nil {
		return -1, fmt.Errorf("cannot let sinks view the ring: %w", err)
	}
	return fd, nil
}

// View settles what a sink in view says in its page: that everything numbered below done is done. It says what Settle says. The
// number is whatever the sink likes, and no more is believed of it than that it is one.
func (r *Ring) View(s *Sink, done uint64) (moved, bad bool) {
	c, head := s.cursor, r.c.Head.load()
	switch {
	case done > head.Seq:
		return false, true
	case done <= c.e.Done.Seq.Load():
		return false, false
	}
	r.advanceTo(c, s.slot, done)
	return true, false
}
