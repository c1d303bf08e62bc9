// SPDX-License-Identifier: Apache-2.0

//go:build ring_watch

package ring

import (
	"bytes"
	"fmt"
	"iter"
	"slices"
	"time"
	"unsafe"

	"github.com/msgmux/msgmux/broker/ring/mem"
	"github.com/msgmux/msgmux/internal/wire"
)

// books are what has happened, as the kernel and whoever drives the ring know it. A successor must come to the same result,
// whenever its predecessor was killed.
type books struct {
	entering  [][]byte // every message that the kernel has handed over and that has to enter, in order
	origins   []origin // and of whom it is; the time is soon while the receive that took it is not over
	known     uint64   // below that, origins have been forgotten for want of runs
	began     int64    // before any receive that asks for them, unix ns
	refused   [numReasons]uint64
	channel   channelBook
	cursors   []*cursorBook
	clients   []*clientBook
	delivered uint64 // messages some sink, no tap, has accepted
	// deliveredBefore is what delivered may be still, while that is being changed.
	deliveredBefore *uint64
	at              []uint32
	skipped         bool // somebody skipped, so delivered may have gone on without anybody

	uncertain uint64
	asOwn     uint64 // what went with the broker's own credentials to sinks that want the senders'
	// taking says that the last of entering came from a message queue, and the call that took it has returned to no more than
	// that: whether it counts hangs on what was written down.
	taking bool
	// from is the id that what is landed has come from.
	from uint64

	sources, numbering []string // the channel's own, those first that have the lowest numbers; and what they become in this step

	attempts uint32
	consumed bool // the registration at the head of the queue was taken, and nothing has begun since

	goneAccepted, goneLost, goneAbandoned, goneLeftOut, goneUnread uint64 // as of removals that are over

	phases [2]uint32 // that who was killed had logged, and who had taken over from him

	noRuns bool // bits of the runs have fallen: none is believed
	fallen int  // entries of which bits have fallen
}

// soon is the time of what is being received: from books.began on.
const soon = -1

// hand notes messages that the kernel has handed over.
func (b *books) hand(who Sender, asked bool, messages ...[]byte) {
	o := origin{}
	if asked {
		o = origin{soon, who}
	}
	for _, m := range messages {
		b.entering, b.origins = append(b.entering, m), append(b.origins, o)
	}
}

// received settles the time of what was received last: the ring's own, since the clock is asked behind everybody's back.
func (b *books) received(r *Ring) {
	for i := len(b.origins) - 1; i >= 0 && b.origins[i].Time == soon; i-- {
		b.origins[i].Time = r.c.Received.Load()
	}
}

// kept is the first message whose origin must be known in a ring: one that has no run for each has forgotten the oldest.
func (b *books) kept(r *Ring) uint64 {
	n := 0
	for i := len(b.origins) - 1; i >= int(b.known); i-- {
		if i == 0 || b.origins[i] != b.origins[i-1] {
			if n++; n == len(r.runs)-MaxBatch {
				return uint64(i)
			}
		}
	}
	return b.known
}

// judgeOrigins looks at the origin of every message in the ring.
func (b *books) judgeOrigins(v *verdict, r *Ring) {
	if n := r.c.Runs.Load(); b.noRuns && n > 0 {
		v.say("%d runs of origins are believed that cannot be", n)
	}
	seq, kept, now := r.Tail().Seq, b.kept(r), time.Now().UnixNano()
	r.eachOrigin(seq, min(r.Head().Seq, uint64(len(b.origins))), func(got origin, n int) bool {
		for ; n > 0; n-- {
			want := b.origins[seq]
			if want.Time == soon && got.Time >= b.began && got.Time <= now {
				want.Time = got.Time
			}
			if got != want && (seq >= kept || got != origin{}) {
				v.say("message %d is of %+v instead of %+v", seq, got, want)
			}
			seq++
		}
		return true
	})
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
	id       uint64 // of its sink, if that is the only one; of a share its own
	share    string
	uid      uint32
	specs    []described // what it may be; two while it is being changed
	there    presence
	start    uint64
	catching bool
	owed     time.Duration
	owing    *Account // during a turn: what it may be as well
	kept     kept
	accepted []uint64 // the numbers of the messages that the kernel has given its sockets
	giving   bool     // the last of them went to a message queue, and it has not been written down for certain
	lost     uint64   // as of skips that are over
	skipping bool
	leftOut  uint64 // of lost
	unread   uint64 // of accepted

	unreadBefore uint64 // what it may be still, while counting
	counting     bool
	leaving      bool // what is being skipped is left out
	lagging      bool
	judging      bool // patience is deciding whether it is waited for
	members      []*memberBook
	left         uint64 // what it has not been sent, as of its removal
	away         int64  // since when, in unix ns; 0: it is there

	ack  *ackBook // of one that acknowledges
	then *ackBook // what that is becoming
	by   uint32   // by which operation
}

// took is how many messages it has accepted.
func (c *cursorBook) took() uint64 {
	if c.ack != nil {
		return c.ack.total()
	}
	return uint64(len(c.accepted))
}

// memberBook is a socket of a share.
type memberBook struct {
	id       uint64
	there    presence
	spec, to Spec // of one of a share: what it is, or what it is to be
	accepted uint64
	kept     kept
}

// clientBook is a framed client that is being attached: a sink, or a source.
type clientBook struct {
	id      uint64
	there   presence
	greeted bool
	either  bool // whether it is attached is being changed
	left    bool // it is away, and kept
	source  *ClientSpec
	to      *ClientSpec // what a source may be as well, while that is being changed
	mark    *markBook   // of a marked source
	stage   *stageBook  // of one that has a stage
	kept    kept
}

// find says whether it is in a ring, and whether it has not got its ok.
func (c *clientBook) find(r *Ring) (there, attaching bool) {
	if c.source != nil {
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

// member is the one with that id.
func (c *cursorBook) member(id uint64) *memberBook {
	return c.members[slices.IndexFunc(c.members, func(m *memberBook) bool { return m.id == id })]
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

// judge compares a successor that has taken over with the books, and lets it go on. level is 1, or 2 if it is a successor's.
func (b *books) judge(r *Ring, level int) []string {
	var v verdict
	doubted := r.c.Uncertain.Load() - b.uncertain
	if doubted > 1 {
		v.say("%d messages are uncertain, %d before", r.c.Uncertain.Load(), b.uncertain)
	}
	// Of a message for a queue it is not known from the log on, of one from a queue when it has been taken.
	giving := slices.ContainsFunc(b.cursors, func(c *cursorBook) bool { return c.giving })
	if doubted == 1 && !b.taking && !giving && b.phases[0] != opPut {
		v.say("a message is uncertain, and none was under way")
	}
	b.judgeTables(&v, r, level, doubted == 1)
	if n := r.Freed(); n > b.fallen || level == 1 && n < b.fallen {
		v.say("%d entries were given up", r.Freed())
	}
	b.judgeContents(&v, r, doubted == 1)
	b.judgeOrigins(&v, r)
	return v.problems
}

// logged is the operation that the one had logged from whom a level has taken over; none of the ring at work.
func (b *books) logged(level int) uint32 {
	if level == 0 {
		return phaseIdle
	}
	return b.phases[level-1]
}

// audit compares the ring at work with the books, between two steps.
func (b *books) audit(r *Ring) []string {
	var v verdict
	if got := r.c.Uncertain.Load(); got != b.uncertain {
		v.say("%d messages are uncertain instead of %d", got, b.uncertain)
	}
	b.judgeTables(&v, r, 0, false)
	return v.problems
}

func (b *books) judgeTables(v *verdict, r *Ring, level int, doubted bool) {
	b.judgeWords(v, r)
	b.judgeChannel(v, r, level)
	b.judgeCursors(v, r, level, doubted)
	b.judgeClients(v, r, level)
	b.judgeDelivered(v, r, doubted)
	b.judgeStrangers(v, r)
}

// judgeWords looks at the sequence words: while one is odd, readers of the status try again.
func (b *books) judgeWords(v *verdict, r *Ring) {
	if r.c.Word.Load()&1 != 0 {
		v.say("the sequence word of the channel is odd for good")
	}
	for i := range r.cursorTable {
		if r.cursorTable[i].Word.Load()&1 != 0 {
			v.say("the sequence word of cursor entry %d is odd for good", i)
		}
	}
}

// judgeStrangers looks for what is in the tables and in no book.
func (b *books) judgeStrangers(v *verdict, r *Ring) {
	members := 0
	for _, c := range b.cursors {
		for _, m := range c.members {
			if r.Sink(m.id) != nil {
				members++
			}
		}
	}
	cursors := slices.IndexFunc(r.cursors, func(x *Cursor) bool {
		return !slices.ContainsFunc(b.cursors, func(c *cursorBook) bool { return c.find(r) == x })
	})
	clients := 0
	for _, c := range b.clients {
		if c.source != nil && r.Client(c.id) != nil {
			clients++
		}
	}
	if members != len(r.sinkByID) || cursors >= 0 || clients != len(r.clientByID) {
		v.say("%d sinks instead of %d, %d clients instead of %d, stranger %d", len(r.sinkByID), members, len(r.clientByID), clients, cursors)
	}
	is := [3]int{len(r.cursors), len(r.sinkByID), len(r.clientByID)}
	spare := [3]int{len(r.freeCursors), len(r.freeSinks), len(r.freeClients)}
	used := [3]int{
		entries(r.cursorsInUse(), func(i int) *mem.Uint32 { return &r.cursorTable[i].State }),
		entries(r.sinksInUse(), func(i int) *mem.Uint32 { return &r.sinkTable[i].State }),
		entries(r.clientsInUse(), func(i int) *mem.Uint32 { return &r.clientTable[i].State }),
	}
	for i, n := range [3]int{len(r.cursorTable), len(r.sinkTable), len(r.clientTable)} {
		if used[i] != is[i] || n-spare[i] != is[i] {
			v.say("of table %d, %d entries are used and %d free of %d, and it is %d", i, used[i], spare[i], n, is[i])
		}
	}
}

// entries counts those that are not free.
func entries(inUse iter.Seq[int], state func(i int) *mem.Uint32) (n int) {
	for i := range inUse {
		if state(i).Load() != free {
			n++
		}
	}
	return n
}

func (b *books) judgeCursors(v *verdict, r *Ring, level int, doubted bool) {
	accepted, lost, abandoned, out, unread := b.goneAccepted, b.goneLost, b.goneAbandoned, b.goneLeftOut, b.goneUnread
	pending := false
	for _, c := range b.cursors {
		s := c.find(r)
		if s == nil {
			if c.there == present {
				v.say("%s is gone", c.name())
			}
			if c.there == vanishing {
				accepted += c.took()
				lost += c.lost
				abandoned += c.left
				out += c.leftOut
				unread += c.unread
				pending = true
			}
			continue
		}
		if c.there == gone || c.there == vanishing && b.logged(level) == opRemove {
			v.say("%s is back, or is there although its going was written down", c.name())
			continue
		}
		for _, m := range c.members {
			if m.there == vanishing && b.logged(level) == opRemove && r.Sink(m.id) != nil {
				v.say("member %d of %s is there, although its going was written down", m.id, c.name())
			}
		}
		c.judge(v, b, r, s, level, doubted)
	}
	got := [5]uint64{r.c.GoneAccepted.Load(), r.c.GoneLost.Load(), r.c.GoneAbandoned.Load(), r.c.GoneLeftOut.Load(), r.c.GoneUnread.Load()}
	before := [5]uint64{b.goneAccepted, b.goneLost, b.goneAbandoned, b.goneLeftOut, b.goneUnread}
	if want := [5]uint64{accepted, lost, abandoned, out, unread}; got != want && (pending || got != before) {
		v.say("gone sinks had accepted, lost, abandoned, left out and left unread %v; want %v", got, want)
	}
}

func (c *cursorBook) judge(v *verdict, b *books, r *Ring, s *Cursor, level int, doubted bool) {
	e := s.e
	cur, start, lost := e.Done.load(), e.Start.Load(), e.Lost.Load()
	c.kept.judge(v, c.name(), unsafe.Pointer(e), silentOfCursor)
	if left := e.Left.Load(); left != c.away && c.ack == nil {
		v.say("%s has been away since %d instead of %d", c.name(), left, c.away)
	}
	if sent := e.Sent.load(); c.there == appearing && sent != cur && c.ack == nil {
		v.say("%s begins at %d, and was sent everything before %d", c.name(), cur.Seq, sent.Seq)
	}
	if start != c.start {
		v.say("%s began at %d instead of %d", c.name(), start, c.start)
	}
	if owed := time.Duration(e.Owed.Load()); owed != c.owed && (c.owing == nil || owed != c.owing.Owed) {
		v.say("%s owes %v instead of %v", c.name(), owed, c.owed)
	}
	if unread := e.Unread.Load(); unread != c.unread && (!c.counting || unread != c.unreadBefore) {
		v.say("%s has left %d unread instead of %d", c.name(), unread, c.unread)
	}
	if catching := e.Flags.Load()&flagCatching != 0; catching != c.catching && c.ack == nil {
		v.say("%s is catching up: %v", c.name(), catching)
	}
	if e.Flags.Load()&^(flagCatching|flagLagging) != 0 {
		v.say("%s has flags %x", c.name(), e.Flags.Load())
	}
	if c.share != "" && !slices.ContainsFunc(c.specs, func(d described) bool { return d.CursorSpec == *s.Spec() }) {
		v.say("%s is %+v instead of one of %+v", c.name(), *s.Spec(), c.specs)
	}
	for _, m := range c.members {
		if x := r.Sink(m.id); x == nil {
		} else if c.share == "" && !slices.Contains(c.specs, described{*x.Spec(), *s.Spec()}) {
			v.say("%s is %+v, %+v instead of one of %+v", c.name(), *x.Spec(), *s.Spec(), c.specs)
		} else if c.share != "" && *x.Spec() != m.spec && *x.Spec() != m.to {
			v.say("%s is %+v instead of %+v", c.name(), *x.Spec(), m.spec)
		}
	}
	if s.lagging != c.lagging && !c.judging {
		v.say("%s lagging: %v", c.name(), s.lagging)
	}
	if c.ack != nil {
		c.judgeAck(v, r, s, b.logged(level))
		return
	}
	if known := e.Known.Load(); known != 0 {
		v.say("%s had lost %d when it left", c.name(), known)
	}
	want := uint64(len(c.accepted))
	again := c.giving && doubted && cur.Seq-start-lost == want-1
	if got := cur.Seq - start - lost; got != want && !again {
		v.say("%s has accepted %d by its books, %d by the kernel's", c.name(), got, want)
	}
	if !again && cur.Seq < c.next() {
		v.say("%s stands at %d and would get %d again", c.name(), cur.Seq, c.next()-1)
	}
	if lost != c.lost && !c.skipping {
		v.say("%s has lost %d instead of %d", c.name(), lost, c.lost)
	}
	out := c.leftOut
	if c.leaving {
		out += lost - c.lost
	}
	if got := e.LeftOut.Load(); got != out {
		v.say("%s has left out %d instead of %d", c.name(), got, out)
	}
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
			if _, end := r.underWay(x); x.e.Said.Load() != 0 || x.e.Acked.Load() != 0 || x.e.To.load() != (Place{}) {
				v.say("member %d of %s has said %d, and has something before %d under way", m.id, c.name(), x.e.Acked.Load(), end.Seq)
			}
			m.kept.judge(v, fmt.Sprintf("member %d of %s", m.id, c.name()), unsafe.Pointer(x.e), silentOfSink)
		}
	}
}

// channelDelivered is where a new cursor begins. If somebody has skipped, delivered may have gone on without anybody.
func (b *books) channelDelivered(r *Ring) uint64 {
	if b.skipped {
		return r.Delivered().Seq
	}
	return b.delivered
}

func (b *books) judgeClients(v *verdict, r *Ring, level int) {
	for _, c := range b.clients {
		switch there, attaching := c.find(r); {
		case there && c.there == vanishing && b.logged(level) == opRemove:
			v.say("client %d is there, although its going was written down", c.id)
		case !there && c.there == present:
			v.say("client %d is gone", c.id)
		case there && c.there == gone:
			v.say("client %d is back", c.id)
		case there && attaching == c.greeted && !c.either:
			v.say("client %d attaching: %v, and the kernel gave it its ok: %v", c.id, attaching, c.greeted)
		}
		if x := r.Client(c.id); x != nil {
			c.kept.judge(v, fmt.Sprintf("client %d", c.id), unsafe.Pointer(x.e), silentOfClient)
			c.judgeSource(v, r, x, b.logged(level))
		}
	}
	for _, s := range r.sinkByID {
		if s.Attaching() && !slices.ContainsFunc(b.clients, func(c *clientBook) bool { return c.id == s.ID() }) {
			v.say("sink %d has not got its ok", s.ID())
		}
	}
}

func (b *books) judgeDelivered(v *verdict, r *Ring, doubted bool) {
	got, tail := r.Delivered().Seq, r.Tail().Seq
	giving := slices.ContainsFunc(b.cursors, func(c *cursorBook) bool { return c.giving })
	switch {
	case got == b.delivered:
	case b.deliveredBefore != nil && got == *b.deliveredBefore:
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
	defer b.restore()
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
		if !r.Landed() && !b.stage(r) {
			break
		}
		out := r.Append()
		if out.Leaving {
			r.RemoveClient(r.Client(out.From))
		}
		if out.Full {
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
	for i := range r.c.Refused {
		if got := r.c.Refused[i].Load(); got != b.refused[i] {
			v.say("%d messages were refused as %s instead of %d", got, Reason(i), b.refused[i])
		}
	}
}
