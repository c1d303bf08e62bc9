// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"encoding/binary"
	"time"

	"github.com/msgmux/msgmux/internal/view"
	"github.com/msgmux/msgmux/internal/wire"
)

// A source with a stage writes records into memory that it shares with the broker, in the ring's own format. They enter by APPEND, as
// what has landed does, but need no RECV: how far a stage is taken is stored with head, both absolute, and the kernel has no part in
// it. Nothing that a stage says is believed but in a copy behind head, where nobody looks yet:
//
//	stage   ... taken | record | record | record | rec...        head, as the source says
//	                  |     copied, then judged       |
//	ring    ...  head | record | record | record | rec...        three enter, and taken moves by as much
//
// A mark is in the stage in the place of a record, and not in the ring.

// stageChunk is about how much of a stage is copied at once, in bytes: it is in the processor's cache when it is judged.
const stageChunk = 32 << 10

// staged is what is to enter from a stage. The zero value is nothing.
type staged struct {
	client *Client
	stage  *view.Stage
	origin origin
	until  uint64 // as far as the source had written when it was asked
	enough uint64 // when so much has been taken, it is another source's turn
}

// Staged is how far the stage of c has been taken.
func (c *Client) Staged() uint64 { return c.e.Taken.Load() }

// Stage has what the source c has written to its stage s enter the ring by the next calls of Append, no more than the record with which
// it is limit bytes. who is the other end of its connection. It says whether there is anything. The error says that the stage cannot be
// one: it is the end of the source.
//
// Preconditions: nothing is landed.
func (r *Ring) Stage(c *Client, s *view.Stage, who Sender, limit uint64) (some bool, bad *wire.Error) {
	taken, head := c.e.Taken.Load(), s.Head()
	switch there := head - taken; {
	case there == 0:
		return false, nil
	case there > s.Size() || there%4 != 0:
		return false, wire.Refuse(wire.CodeBadPacket, "the stage, of %d bytes, says that it was written from %d to %d", s.Size(), taken, head)
	}
	r.staged = staged{client: c, stage: s, until: head, enough: taken + limit}
	if r.AsksForOrigins() {
		who.Bits &= SenderKnown
		r.staged.origin = origin{time.Now().UnixNano(), who}
	}
	return true, nil
}

// Unstage forgets what of the stage of c was to enter and has not.
func (r *Ring) Unstage(c *Client) {
	if r.staged.client == c {
		r.staged, r.full = staged{}, false
	}
}

// left is how many bytes of the stage are still to enter.
func (s *staged) left() uint64 { return s.until - s.client.e.Taken.Load() }

// appendStaged is one operation: as many staged records as one copy holds and as fit as things are; or, if that is none, one attempt to
// make room.
func (r *Ring) appendStaged(out *Outcome) {
	g, start := &r.staged, r.c.Head.load()
	a := r.begun(g.client, start)
	// A longer record is copied at once, if the stage tells the truth.
	for want := min(g.left(), max(stageChunk, wire.Padded(g.lengthAt(a.taken)))); ; {
		room := r.geo.Size - (start.Pos - r.c.Tail.Pos.Load())
		need := r.enterStaged(&a, start, min(want, room), out)
		if need > want { // the first record is longer than what was to be copied
			want = need
			continue
		}
		if need > room {
			if !r.reclaim(need) {
				r.full = true
				return
			}
			continue
		}
		if need > 0 { // there is room for it, and all of it was to be copied: a mark has come or gone between two looks
			a.refuse[BadPacket]++
			out.refuse(wire.Refuse(wire.CodeBadPacket, "what is written in the stage changes"))
		}
		break
	}
	if a.head != start {
		r.attribute(&a, g.origin, start.Seq)
	}
	out.Entered += int(a.head.Seq - start.Seq)
	r.commit(&a)
	g.stage.Take(a.taken)
	if out.Bad != nil || a.taken == g.until || a.taken-g.enough < 1<<63 {
		r.staged = staged{}
	}
}

// enterStaged copies n bytes from the stage to behind head, judges the copy, and has those records of it enter that are there as a
// whole. It returns how many bytes the first one takes, if that is not, and otherwise 0.
func (r *Ring) enterStaged(a *appending, at Place, n uint64, out *Outcome) (need uint64) {
	g := &r.staged
	left := g.left()
	if g.client.Spec().Marks {
		if g.lengthAt(a.taken) == view.StageMark {
			r.enterMark(a, left, out)
			return 0
		}
		n = g.unmarked(a.taken, n)
	}
	if n < wire.RecordHeader {
		return wire.RecordHeader
	}
	r.data.Copy(at.Pos&r.mask, g.stage.Bytes(a.taken, n))
	for used := uint64(0); n-used >= wire.RecordHeader; {
		length := uint64(r.length(a.head.Pos))
		size := wire.Padded(length)
		switch {
		case length > r.geo.MaxMessage && length != view.StageMark:
			a.refuse[TooLarge]++
			out.refuse(wire.Refuse(wire.CodeTooLarge, "a message has at most %d bytes", r.geo.MaxMessage))
			return 0
		case size > left-used:
			a.refuse[BadPacket]++
			out.refuse(wire.Refuse(wire.CodeBadPacket, "the stage has a record of %d bytes, of which %d are written", length, left-used))
			return 0
		case size > n-used && used > 0:
			return 0
		case size > n-used:
			return size
		}
		a.head = r.enter(a.head, int(length))
		used, a.taken = used+size, a.taken+size
	}
	return 0
}

// lengthAt is what the stage says at this moment that the record at pos has.
func (s *staged) lengthAt(pos uint64) uint64 {
	return uint64(binary.LittleEndian.Uint32(s.stage.Bytes(pos, wire.RecordHeader)))
}

// unmarked is how many of the n bytes from pos on lie before the next mark. That the stage says so at this moment only saves the copy of
// what is no record: a mark that comes up in the copy is refused.
func (s *staged) unmarked(pos, n uint64) uint64 {
	for used := uint64(0); used < n; {
		length := s.lengthAt(pos + used)
		if length == view.StageMark {
			return used
		}
		used += wire.Padded(length)
	}
	return n
}

// enterMark takes a mark out of the stage: it is the source's, from the moment at which all records before it are in.
func (r *Ring) enterMark(a *appending, left uint64, out *Outcome) {
	if left < view.StageMarkSize {
		a.refuse[BadPacket]++
		out.refuse(wire.Refuse(wire.CodeBadPacket, "half a mark in the stage"))
		return
	}
	b := r.staged.stage.Bytes(a.taken, view.StageMarkSize)
	a.mark = binary.LittleEndian.Uint64(b[8:])
	a.taken += view.StageMarkSize
}
