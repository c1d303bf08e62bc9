// SPDX-License-Identifier: Apache-2.0

//go:build ring_watch

package writer

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"github.com/msgmux/msgmux/broker/ring/layout2"
	"github.com/msgmux/msgmux/internal/wire"
)

// books are what has happened, as the kernel and the scene that drives the ring know it. Whoever reads the ring must come to
// the same result, whenever its broker was killed.
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
	specs    []Spec // what it may be; two while it is being changed
	group    bool
	there    presence
	start    uint64
	started  bool
	accepted []uint64 // the numbers of the messages that the kernel has given its sockets
	giving   bool     // the last of them went to a message queue, and it has not been written down for certain
	lost     uint64   // as of skips that are over
	skipping bool
	lagging  bool
	owed     time.Duration
	judging  bool // lagging and owed are being set
	members  []*memberBook
}

// memberBook is a socket of a share.
type memberBook struct {
	id       uint64
	there    presence
	accepted uint64
	spec     *Spec // once it is known which share it joined
}

// clientBook is a framed client that is being attached.
type clientBook struct {
	id      uint64
	there   presence
	greeted bool
	source  bool
	spec    Spec
}

func (c *cursorBook) name() string {
	s := &c.specs[len(c.specs)-1]
	if c.group {
		return "share " + s.Group
	}
	return "sink " + s.Label
}

// find is the cursor in a ring, with what it belongs to.
func (c *cursorBook) find(r *layout2.Ring) (at *layout2.Cursor, spec Spec) {
	s := &c.specs[0]
	for i := range r.Shares {
		if f := &r.Shares[i]; c.group && f.Name == s.Group && f.UID == s.UID {
			return &f.Cursor, Spec{ID: f.ID, UID: f.UID, Group: f.Name, Tap: f.Tap, Ordinary: f.Ordinary, Patience: f.Patience, Since: f.Since}
		}
	}
	if f := sinkIn(r, s.ID); f != nil && !c.group && f.ShareID == 0 {
		return &f.Cursor, specOf(f)
	}
	return nil, Spec{}
}

func sinkIn(r *layout2.Ring, id uint64) *layout2.Sink {
	if i := slices.IndexFunc(r.Sinks, func(s layout2.Sink) bool { return s.ID == id }); i >= 0 {
		return &r.Sinks[i]
	}
	return nil
}

// specOf is what the writer knows of a sink, as package layout2 has read it.
func specOf(s *layout2.Sink) Spec {
	return Spec{ID: s.ID, Kind: Kind(s.Kind), Label: s.Label, Address: s.Address, UID: s.UID, Inode: s.Inode, Group: s.Group,
		ShareID: s.ShareID, Tap: s.Tap, Frames: s.Frames, Ordinary: s.Ordinary, Patience: s.Patience, Since: s.Since}
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

// judge compares what was read with the books.
func (b *books) judge(r *layout2.Ring) []string {
	var v verdict
	t := &r.Totals
	doubted := t.Uncertain - b.uncertain
	if doubted > 1 {
		v.say("%d messages are uncertain, %d before", t.Uncertain, b.uncertain)
	}
	b.judgeCursors(&v, r, doubted == 1)
	b.judgeClients(&v, r)
	b.judgeDelivered(&v, r, doubted == 1)
	switch n := t.Attempts; {
	case b.consumed && n != 0, !b.consumed && n != b.attempts:
		v.say("%d attempts instead of %d (or 0, if it was taken: %v)", n, b.attempts, b.consumed)
	}
	if t.NextID <= b.maxID {
		v.say("id %d would be used twice", t.NextID)
	}
	if r.Freed > 0 {
		v.say("%d entries were given up", r.Freed)
	}
	b.judgeContents(&v, r, doubted == 1)
	return v.problems
}

func (b *books) judgeCursors(v *verdict, r *layout2.Ring, doubted bool) {
	accepted, lost, left := b.goneAccepted, b.goneLost, b.goneAbandoned
	begun, known := false, 0
	for _, c := range b.cursors {
		at, spec := c.find(r)
		if at == nil {
			if c.there == present {
				v.say("%s is gone", c.name())
			}
			if c.there == appearing && c.group {
				// Its share may be there already, which counts as one that leaves.
				left, begun = left+r.Totals.Head.Seq-r.Totals.Delivered.Seq, true
			}
			if c.there == vanishing {
				n := uint64(len(c.accepted))
				accepted, lost, left = accepted+n, lost+c.lost, left+r.Totals.Head.Seq-c.start-n-c.lost
			}
			continue
		}
		known++
		if c.there == gone {
			v.say("%s is back", c.name())
			continue
		}
		c.judge(v, r, at, spec, doubted)
	}
	for _, s := range r.Shares {
		if !slices.ContainsFunc(r.Sinks, func(m layout2.Sink) bool { return m.ShareID == s.ID }) {
			v.say("share %s has no members", s.Name)
		}
	}
	if n := len(r.Shares) + len(slices.DeleteFunc(slices.Clone(r.Sinks), func(s layout2.Sink) bool { return s.ShareID != 0 })); n != known+b.attaching(r) {
		v.say("%d cursors instead of %d", n, known)
	}
	got := [3]uint64{r.Totals.GoneAccepted, r.Totals.GoneLost, r.Totals.GoneAbandoned}
	before := [3]uint64{b.goneAccepted, b.goneLost, b.goneAbandoned}
	if got != [3]uint64{accepted, lost, left} && (!begun || got != before) {
		v.say("gone sinks had accepted, lost, left %d; want %d (%d before)", got, [3]uint64{accepted, lost, left}, before)
	}
}

// attaching is how many of the sinks are clients in the books.
func (b *books) attaching(r *layout2.Ring) (n int) {
	for _, c := range b.clients {
		if sinkIn(r, c.id) != nil {
			n++
		}
	}
	return n
}

func (c *cursorBook) judge(v *verdict, r *layout2.Ring, at *layout2.Cursor, spec Spec, doubted bool) {
	cur, start, lost := at.Place, at.Start, at.Lost
	if c.started && start != c.start {
		v.say("%s began at %d instead of %d", c.name(), start, c.start)
	}
	same := func(w Spec) bool { return w == spec }
	if c.group {
		same = func(w Spec) bool {
			return w.Tap == spec.Tap && w.Ordinary == spec.Ordinary && w.Patience == spec.Patience && w.Since == spec.Since
		}
	}
	if !slices.ContainsFunc(c.specs, same) {
		v.say("%s is %+v instead of one of %+v", c.name(), spec, c.specs)
	}
	want := uint64(len(c.accepted))
	again := c.giving && doubted && at.Accepted() == want-1
	if got := at.Accepted(); got != want && !again {
		v.say("%s has accepted %d by its books, %d by the kernel's", c.name(), got, want)
	}
	if !again && c.started && cur.Seq < c.next() {
		v.say("%s stands at %d and would get %d again", c.name(), cur.Seq, c.next()-1)
	}
	if lost != c.lost && !c.skipping {
		v.say("%s has lost %d instead of %d", c.name(), lost, c.lost)
	}
	if (at.Lagging != c.lagging || at.Owed != c.owed) && !c.judging {
		v.say("%s lagging: %v, owes %v", c.name(), at.Lagging, at.Owed)
	}
	if tail, head := r.Totals.Tail.Seq, r.Totals.Head.Seq; cur.Seq < tail || cur.Seq > head {
		v.say("%s stands at %d, and the ring is from %d to %d", c.name(), cur.Seq, tail, head)
	}
	for _, m := range c.members {
		x := sinkIn(r, m.id)
		switch {
		case x == nil && m.there == present:
			v.say("member %d of %s is gone", m.id, c.name())
		case x != nil && m.there == gone:
			v.say("member %d of %s is back", m.id, c.name())
		case x != nil && x.ShareID != spec.ID:
			v.say("member %d of %s uses the cursor of %d", m.id, c.name(), x.ShareID)
		case x != nil:
			if got := x.Accepted; got != m.accepted && (!again || got != m.accepted-1) {
				v.say("member %d of %s took %d by the books, %d by the kernel's", m.id, c.name(), got, m.accepted)
			}
			if got := specOf(x); m.spec != nil && got != *m.spec {
				v.say("member %d of %s is %+v instead of %+v", m.id, c.name(), got, *m.spec)
			}
		}
	}
}

func (b *books) judgeClients(v *verdict, r *layout2.Ring) {
	for _, c := range b.clients {
		there, attaching := false, false
		if s := sinkIn(r, c.id); s != nil && !c.source {
			there, attaching = true, s.Attaching
			if got := specOf(s); got != c.spec {
				v.say("client %d is %+v instead of %+v", c.id, got, c.spec)
			}
		}
		for _, s := range r.Clients {
			if s.ID == c.id && c.source {
				there, attaching = true, s.Attaching
				if got := (Spec{ID: s.ID, Kind: Source, Label: s.Label, UID: s.UID, Since: s.Since}); got != c.spec {
					v.say("client %d is %+v instead of %+v", c.id, got, c.spec)
				}
			}
		}
		switch {
		case !there && c.there == present:
			v.say("client %d is gone", c.id)
		case there && c.there == gone:
			v.say("client %d is back", c.id)
		case there && attaching == c.greeted:
			v.say("client %d attaching: %v, and the kernel gave it its ok: %v", c.id, attaching, c.greeted)
		}
	}
}

func (b *books) judgeDelivered(v *verdict, r *layout2.Ring, doubted bool) {
	got, tail := r.Totals.Delivered.Seq, r.Totals.Tail.Seq
	giving := slices.ContainsFunc(b.cursors, func(c *cursorBook) bool { return c.giving })
	switch {
	case got == b.delivered:
	case got > b.delivered && b.skipped:
	case got == b.delivered-1 && giving && doubted:
	default:
		v.say("delivered is %d instead of %d", got, b.delivered)
	}
	for seq := tail; seq < min(got, uint64(len(b.at))); seq++ {
		if at := r.FirstAccepted(seq); at != b.at[seq] {
			v.say("message %d was first accepted at %d instead of %d", seq, at, b.at[seq])
			break
		}
	}
}

// judgeContents looks at every message in the ring, and at what is landed behind them.
func (b *books) judgeContents(v *verdict, r *layout2.Ring, doubted bool) {
	seq := r.Totals.Tail.Seq
	enter := func(got []byte) {
		if seq >= uint64(len(b.entering)) {
			v.say("message %d was never handed over", seq)
		} else if !bytes.Equal(got, b.entering[seq]) {
			v.say("message %d is another one, of %d bytes instead of %d", seq, len(got), len(b.entering[seq]))
		}
		seq++
	}
	for pos := r.Totals.Tail.Pos; pos < r.Totals.Head.Pos; {
		n := int(getLength(r.Records(pos, wire.RecordHeader)))
		enter(r.Records(pos, uint64(wire.RecordHeader+n))[wire.RecordHeader:])
		pos += uint64(wire.Padded(n))
	}
	if seq != r.Totals.Head.Seq {
		v.say("%d messages in the ring up to %d", seq, r.Totals.Head.Seq)
	}
	refused := r.Totals.Refused[layout2.TooLarge] + r.Totals.Refused[layout2.BadPacket]
	kind, slots, offset := r.Landed()
	for _, slot := range slots {
		if slot == nil {
			refused++
			continue
		}
		if kind == layout2.Datagrams {
			enter(slot)
			continue
		}
		if _, err := wire.CheckRecords(slot, int(r.Geometry.MaxMessage)); err != nil {
			refused++
			continue
		}
		wire.EachRecord(slot[offset:], func(p []byte) bool { enter(p); return true })
	}
	if want := uint64(len(b.entering)); seq != want && (!b.taking || !doubted || seq != want-1) {
		v.say("%d messages have entered or are landed instead of %d", seq, want)
	}
	if refused != b.refused {
		v.say("%d messages were refused or will be instead of %d", refused, b.refused)
	}
}
