// SPDX-License-Identifier: Apache-2.0

//go:build ring_watch

package ring

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/msgmux/msgmux/internal/wire"
)

// books are what has happened, as the kernel and whoever drives the ring know it. A successor must come to the same result,
// whenever its predecessor was killed.
type books struct {
	entering  [][]byte // every message that the kernel has handed over and that has to enter, in order
	refused   uint64
	cursors   []*cursorBook
	clients   []*clientBook
	delivered uint64 // messages some sink, no tap, has accepted
	at        []uint32
	skipped   bool // somebody skipped, so delivered may have gone on without anybody

	maxID     uint64
	uncertain uint64
	// taking says that the last of entering came from a message queue, and the call that took it has returned to no more than
	// that: whether it counts hangs on what was written down.
	taking bool
	// from is the id that what is landed has come from.
	from uint64

	attempts uint32
	consumed bool // the registration at the head of the queue was taken, and nothing has begun since

	goneAccepted, goneLost, goneAbandoned uint64 // as of removals that are over
}

// presence is whether something has to be in the table.
type presence int

const (
	present presence = iota
	appearing
	vanishing
	gone
)

// cursorBook is one cursor: of a sink, or of a share.
type cursorBook struct {
	id       uint64 // of its sink, if that is the only one
	share    string
	uid      uint32
	specs    []described // what it may be; two while it is being changed
	there    presence
	start    uint64
	started  bool
	accepted []uint64 // the numbers of the messages that the kernel has given its sockets
	giving   bool     // the last of them went to a message queue, and it has not been written down for certain
	lost     uint64   // as of skips that are over
	skipping bool
	lagging  bool
	judging  bool // patience is deciding whether it is waited for
	members  []*memberBook
	left     uint64 // what it has not been sent, as of its removal
}

// memberBook is a socket of a share.
type memberBook struct {
	id       uint64
	there    presence
	accepted uint64
}

// clientBook is a framed client that is being attached: a sink, or a source.
type clientBook struct {
	id      uint64
	there   presence
	greeted bool
	source  bool
}

// find says whether it is in a ring, and whether it has not got its ok.
func (c *clientBook) find(r *Ring) (there, attaching bool) {
	if c.source {
		s := r.Client(c.id)
		return s != nil, s != nil && s.Attaching()
	}
	s := r.Sink(c.id)
	return s != nil, s != nil && s.Attaching()
}

// described is a sink with what it reads from.
type described struct {
	Spec
	CursorSpec
}

func (c *cursorBook) name() string {
	if c.share != "" {
		return "share " + c.share
	}
	return fmt.Sprintf("sink %d", c.id)
}

// find is the cursor in a ring.
func (c *cursorBook) find(r *Ring) *Cursor {
	for _, x := range r.cursors {
		if sp := x.Spec(); sp.Share == c.share && (c.share == "" && sp.ID == c.id || c.share != "" && sp.UID == c.uid) {
			return x
		}
	}
	return nil
}

// next is the number of the message that it gets next, if it has lost nothing.
func (c *cursorBook) next() uint64 {
	if n := len(c.accepted); n > 0 {
		return c.accepted[n-1] + 1
	}
	return c.start
}

// verdict gathers what is wrong with a successor.
type verdict struct{ problems []string }

func (v *verdict) say(format string, args ...any) {
	v.problems = append(v.problems, fmt.Sprintf(format, args...))
}

// judge compares a successor that has taken over with the books, and lets it go on.
func (b *books) judge(r *Ring) []string {
	var v verdict
	doubted := r.c.Uncertain.Load() - b.uncertain
	if doubted > 1 {
		v.say("%d messages are uncertain, %d before", r.c.Uncertain.Load(), b.uncertain)
	}
	b.judgeCursors(&v, r, doubted == 1)
	b.judgeClients(&v, r)
	b.judgeDelivered(&v, r, doubted == 1)
	switch n := r.c.Attempts.Load(); {
	case b.consumed && n != 0, !b.consumed && n != b.attempts:
		v.say("%d attempts instead of %d (or 0, if it was taken: %v)", n, b.attempts, b.consumed)
	}
	if id := r.c.NextID.Load(); id <= b.maxID {
		v.say("id %d would be used twice", id)
	}
	if r.Freed() > 0 {
		v.say("%d entries were given up", r.Freed())
	}
	b.judgeContents(&v, r, doubted == 1)
	return v.problems
}

func (b *books) judgeCursors(v *verdict, r *Ring, doubted bool) {
	accepted, lost, abandoned := b.goneAccepted, b.goneLost, b.goneAbandoned
	pending := false
	for _, c := range b.cursors {
		s := c.find(r)
		if s == nil {
			if c.there == present {
				v.say("%s is gone", c.name())
			}
			if c.there == vanishing {
				accepted += uint64(len(c.accepted))
				lost += c.lost
				abandoned += c.left
				pending = true
			}
			continue
		}
		if c.there == gone {
			v.say("%s is back", c.name())
			continue
		}
		c.judge(v, r, s, doubted)
	}
	got := [3]uint64{r.c.GoneAccepted.Load(), r.c.GoneLost.Load(), r.c.GoneAbandoned.Load()}
	before := [3]uint64{b.goneAccepted, b.goneLost, b.goneAbandoned}
	if want := [3]uint64{accepted, lost, abandoned}; got != want && (pending || got != before) {
		v.say("gone sinks had accepted, lost and abandoned %v; want %v", got, want)
	}
}

func (c *cursorBook) judge(v *verdict, r *Ring, s *Cursor, doubted bool) {
	e := s.e
	cur, start, lost := e.Done.load(), e.Start.Load(), e.Lost.Load()
	if c.started && start != c.start {
		v.say("%s began at %d instead of %d", c.name(), start, c.start)
	}
	for _, m := range c.members {
		if x := r.Sink(m.id); x != nil && c.share == "" && c.there != appearing && !slices.Contains(c.specs, described{*x.Spec(), *s.Spec()}) {
			v.say("%s is %+v, %+v instead of one of %+v", c.name(), *x.Spec(), *s.Spec(), c.specs)
		}
	}
	want := uint64(len(c.accepted))
	again := c.giving && doubted && cur.Seq-start-lost == want-1
	if got := cur.Seq - start - lost; got != want && !again {
		v.say("%s has accepted %d by its books, %d by the kernel's", c.name(), got, want)
	}
	if !again && c.started && cur.Seq < c.next() {
		v.say("%s stands at %d and would get %d again", c.name(), cur.Seq, c.next()-1)
	}
	if lost != c.lost && !c.skipping {
		v.say("%s has lost %d instead of %d", c.name(), lost, c.lost)
	}
	if s.lagging != c.lagging && !c.judging {
		v.say("%s lagging: %v", c.name(), s.lagging)
	}
	var took uint64
	for _, m := range c.members {
		x := r.Sink(m.id)
		switch {
		case x == nil && m.there == present:
			v.say("member %d of %s is gone", m.id, c.name())
		case x != nil && m.there == gone:
			v.say("member %d of %s is back", m.id, c.name())
		case x != nil:
			if got := x.e.Accepted.Load(); got != m.accepted && (!again || got != m.accepted-1) {
				v.say("member %d of %s took %d by the books, %d by the kernel's", m.id, c.name(), got, m.accepted)
			}
			took += m.accepted
		}
	}
}

func (b *books) judgeClients(v *verdict, r *Ring) {
	for _, c := range b.clients {
		switch there, attaching := c.find(r); {
		case !there && c.there == present:
			v.say("client %d is gone", c.id)
		case there && c.there == gone:
			v.say("client %d is back", c.id)
		case there && attaching == c.greeted:
			v.say("client %d attaching: %v, and the kernel gave it its ok: %v", c.id, attaching, c.greeted)
		}
	}
}

func (b *books) judgeDelivered(v *verdict, r *Ring, doubted bool) {
	got, tail := r.Delivered().Seq, r.Tail().Seq
	giving := slices.ContainsFunc(b.cursors, func(c *cursorBook) bool { return c.giving })
	switch {
	case got == b.delivered:
	case got > b.delivered && b.skipped:
	case got == b.delivered-1 && giving && doubted:
	default:
		v.say("delivered is %d instead of %d", got, b.delivered)
	}
	for _, c := range r.cursors {
		if cur := c.Place().Seq; cur < tail {
			v.say("cursor %d stands at %d, behind the tail %d", c.ID(), cur, tail)
		}
	}
	for p := r.Tail(); p.Seq < min(got, uint64(len(b.at))); p = r.next(p) {
		// Of a piece it is known when somebody last was the first to accept something in it.
		if at := r.piece(p.Pos).At.Load(); at < b.at[p.Seq] || at > r.ms() {
			v.say("message %d was first accepted at %d, and its piece says %d", p.Seq, b.at[p.Seq], at)
			break
		}
	}
}

// judgeContents looks at every message in the ring, has what is landed enter, with all sinks taking what they can get if
// there is no room, and looks again.
func (b *books) judgeContents(v *verdict, r *Ring, doubted bool) {
	if got, want := r.c.From.Load(), b.from; r.Landed() && got != want {
		v.say("what is landed comes from client %d instead of %d", got, want)
	}
	compared := r.Tail().Seq
	for range 2*MaxBatch + 2 {
		tail, head := r.Tail(), r.Head()
		for p := tail; p.Seq < head.Seq; {
			n := r.length(p.Pos)
			if p.Seq >= compared {
				if p.Seq >= uint64(len(b.entering)) {
					v.say("message %d was never handed over", p.Seq)
					return
				}
				if got := r.data.Slice(p.Pos&r.mask+wire.RecordHeader, uint64(n)); !bytes.Equal(got, b.entering[p.Seq]) {
					v.say("message %d is another one, of %d bytes instead of %d", p.Seq, n, len(b.entering[p.Seq]))
					return
				}
			}
			p = Place{p.Pos + uint64(wire.Padded(int(n))), p.Seq + 1}
		}
		compared = head.Seq
		if !r.Landed() {
			break
		}
		if out := r.Append(); out.Full {
			there := false
			for i := range r.sinks {
				if s := r.sinks[i].Load(); s != nil {
					r.Connect(s, true, 1)
					r.accepted(s, s.cursor.Place().Seq, r.Head(), 0)
					there = true
				}
			}
			if !there {
				v.say("full, and nobody is there")
				return
			}
		}
	}
	head, want := r.Head().Seq, uint64(len(b.entering))
	if r.Landed() {
		v.say("%d messages have entered of %d, and the rest does not", head, want)
	} else if head != want && (!b.taking || !doubted || head != want-1) {
		v.say("%d messages have entered instead of %d", head, want)
	}
	var refused uint64
	for i := range r.c.Refused {
		refused += r.c.Refused[i].Load()
	}
	if refused != b.refused {
		v.say("%d messages were refused instead of %d", refused, b.refused)
	}
}
