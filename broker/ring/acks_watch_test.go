// SPDX-License-Identifier: Apache-2.0

//go:build ring_watch

package ring

import (
	"bytes"
	"fmt"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/wire"
)

// The books of cursors whose readers acknowledge, and of marked sources: an independent and slow account, message by message.

// fate is what has become of a message for a cursor: nothing yet; a member has it, by id, or is done with it; or it was given up.
type fate uint64

const (
	waits  fate = 0
	isDone fate = 1 << 63
	isLost fate = 1 << 62
)

// ackBook is a cursor that acknowledges. Numbers below the first of fates are before its beginning.
type ackBook struct {
	start uint64
	fates []fate
	away  map[uint64]bool // members without a connection
	left  bool            // all are away, and it is kept
	known uint64          // what it had lost when they went
	maybe bool            // whether it says that is being changed
	said  map[uint64]said // what members have said beside their places

	catching bool // it began before delivered, and has not come there yet

	called calling // of the sink that has it for itself, while that changes
}

// calling is whether a sink waits for its ok.
type calling int

const (
	anyway calling = iota
	no
	yes
)

func (a *ackBook) clone() *ackBook {
	c := *a
	c.fates = slices.Clone(a.fates)
	return &c
}

func (a *ackBook) fate(n uint64) *fate {
	for uint64(len(a.fates)) <= n-a.start {
		a.fates = append(a.fates, waits)
	}
	return &a.fates[n-a.start]
}

// done is the first message that somebody has, or nobody.
func (a *ackBook) done() uint64 {
	for i, f := range a.fates {
		if f&(isDone|isLost) == 0 {
			return a.start + uint64(i)
		}
	}
	return a.start + uint64(len(a.fates))
}

// sent is behind the last message that somebody has or has had.
func (a *ackBook) sent() uint64 {
	n := len(a.fates)
	for n > 0 && a.fates[n-1] == waits {
		n--
	}
	return a.start + uint64(n)
}

// has is what a member has under way.
func (a *ackBook) has(id uint64) (begin, end uint64) {
	first := slices.Index(a.fates, fate(id))
	if first < 0 {
		return 0, 0
	}
	begin = a.start + uint64(first)
	for end = begin; end-a.start < uint64(len(a.fates)) && a.fates[end-a.start] == fate(id); end++ {
	}
	return begin, end
}

func (a *ackBook) count(which func(fate) bool) (n uint64) {
	for _, f := range a.fates {
		if which(f) {
			n++
		}
	}
	return n
}

func (a *ackBook) total() uint64 { return a.count(func(f fate) bool { return f&isDone != 0 }) }
func (a *ackBook) lost() uint64  { return a.count(func(f fate) bool { return f == isLost }) }
func (a *ackBook) took(id uint64) uint64 {
	return a.count(func(f fate) bool { return f == fate(id)|isDone })
}

// giveUp is the cursor going to number seq.
func (a *ackBook) giveUp(seq uint64) {
	for n := a.start; n < seq; n++ {
		if f := a.fate(n); *f&isDone == 0 {
			*f = isLost
		}
	}
}

// offered is a member having been sent n messages from first on.
func (a *ackBook) offered(share bool, id, first, n uint64) (problem string) {
	next, whose := a.sent(), waits
	for i, f := range a.fates {
		if f != waits && f&(isDone|isLost) == 0 && a.away[uint64(f)] {
			next, whose = a.start+uint64(i), f
			break
		}
	}
	if _, end := a.has(id); share && end > 0 {
		return "it has something under way"
	}
	if first != next {
		return fmt.Sprintf("it was sent %d, and %d is next", first, next)
	}
	for i := first; i < first+n; i++ {
		if f := a.fate(i); *f != whose {
			return fmt.Sprintf("of what it was sent, %d is %x", i, *f)
		}
		*a.fate(i) = fate(id)
	}
	return ""
}

// heard is a member having said something, which counts with that.
func (a *ackBook) heard(share bool, id uint64, packet []byte) {
	s, err := wire.ParseSaid(packet)
	begin, end := a.has(id)
	switch {
	case err != nil || !s.Leaving && s.Done > a.sent():
		a.said[id] |= saidGarbage
	case s.Leaving:
		a.said[id] |= saidLeave
	case s.Done <= end:
		for n := begin; n < s.Done; n++ {
			*a.fate(n) |= isDone
		}
	}
}

// leave is the connection of a member having gone.
func (a *ackBook) leave(share bool, id uint64, last bool) {
	if a.away[id] = true; last && !a.left {
		a.left, a.known = true, a.lost()
	}
	for i := range a.fates {
		if !share && a.fates[i] == fate(id) {
			a.fates[i] = waits
		}
	}
}

// advance is a sink saying of its own accord that it is done with what is before seq.
func (a *ackBook) advance(id, seq uint64) {
	for n := a.done(); n < seq; n++ {
		if f := a.fate(n); *f == waits || *f == fate(id) {
			*f = fate(id) | isDone
		}
	}
}

// judge compares a successor, in which everything has been settled that was said.
func (c *cursorBook) judgeAck(v *verdict, r *Ring, s *Cursor, logged uint32) {
	for _, m := range c.members {
		if x := r.Sink(m.id); x != nil {
			r.Settle(x)
		}
	}
	var first verdict
	for i, a := range []*ackBook{c.ack, c.then} {
		if a == nil || i == 0 && c.then != nil && logged == c.by {
			continue // what was written down is done
		}
		var is verdict
		if x := s.sole; c.then != nil && len(c.specs) == 2 && x != nil && (described{*x.Spec(), *s.Spec()}) != c.specs[i] {
			is.say("%s is %+v, %+v instead of %+v", c.name(), *x.Spec(), *s.Spec(), c.specs[i])
		}
		if c.skipping {
			a = a.clone()
			a.giveUp(s.Place().Seq)
		}
		c.compare(&is, a, r, s)
		if len(is.problems) == 0 {
			return
		}
		if first.problems == nil {
			first = is
		}
	}
	v.problems = append(v.problems, first.problems...)
}

func (c *cursorBook) compare(v *verdict, a *ackBook, r *Ring, s *Cursor) {
	e := s.e
	if got, want := e.Done.Seq.Load(), a.done(); got != want {
		v.say("%s is done up to %d instead of %d", c.name(), got, want)
	}
	if got, want := e.Sent.Seq.Load(), a.sent(); got != want {
		v.say("%s was sent up to %d instead of %d", c.name(), got, want)
	}
	if got, want := e.Lost.Load(), a.lost(); got != want {
		v.say("%s has lost %d instead of %d", c.name(), got, want)
	}
	if got := !s.Left().IsZero(); got != a.left && !a.maybe {
		v.say("%s has left: %v", c.name(), got)
	} else if got && !plausible(s.Left()) {
		v.say("%s has left at %v", c.name(), s.Left())
	}
	if catching := e.Flags.Load()&flagCatching != 0; catching != a.catching {
		v.say("%s is catching up: %v", c.name(), catching)
	}
	if got := e.Known.Load(); got != a.known && !a.maybe {
		v.say("%s had lost %d when it left, instead of %d", c.name(), got, a.known)
	}
	for _, m := range c.members {
		x := r.Sink(m.id)
		switch {
		case x == nil && m.there == present:
			v.say("member %d of %s is gone", m.id, c.name())
		case x != nil && m.there == gone:
			v.say("member %d of %s is back", m.id, c.name())
		}
		if x == nil {
			continue
		}
		if got, want := x.e.Accepted.Load(), a.took(m.id); got != want {
			v.say("member %d of %s is done with %d instead of %d", m.id, c.name(), got, want)
		}
		if got := x.e.Said.Load(); got != a.said[m.id] && !a.maybe {
			v.say("member %d of %s has said %d instead of %d", m.id, c.name(), got, a.said[m.id])
		}
		if c.share == "" && (x.e.From.load() != Place{} || x.e.To.load() != Place{}) {
			v.say("%s has something under way as a member of a share", c.name())
		}
		if a.called != anyway && x.Attaching() != (a.called == yes) {
			v.say("%s waits for its ok: %v", c.name(), x.Attaching())
		}
		begin, end := a.has(m.id)
		if b, e := r.underWay(x); end > 0 && (b.Seq != begin || e.Seq != end) || end == 0 && b != e {
			v.say("member %d of %s has %d to %d under way, instead of %d to %d", m.id, c.name(), b.Seq, e.Seq, begin, end)
		}
	}
}

// settled moves delivered with a cursor that went from one number to where it is done now.
func (b *books) settled(r *Ring, a *ackBook, from uint64) {
	to := a.done()
	a.catching = a.catching && (to == from || to < b.delivered)
	if from > b.delivered || to <= b.delivered {
		return
	}
	for uint64(len(b.at)) < to {
		b.at = append(b.at, 0)
	}
	for n := b.delivered; n < to; n++ {
		b.at[n] = r.ms()
	}
	b.delivered = to
}

// markBook is how far a marked source has come with each packet of it that is in, or has landed.
type markBook struct {
	marks    []uint64
	starting uint64 // what it was known with
	bad      bool   // its last packet was refused
}

func (m *markBook) judge(v *verdict, r *Ring, c *Client) {
	n := len(m.marks)
	if r.Landed() && r.LandedFrom() == c.ID() && n > 0 && r.landedMark(0) == wire.MarkSize && !m.bad {
		n--
	}
	want := m.starting
	if n > 0 {
		want = m.marks[n-1]
	}
	if got := c.Mark(); got != want {
		v.say("source %d has come to %d instead of %d", c.ID(), got, want)
	}
}

// ---- What is done ----

// acks adds a sink that acknowledges, on a connection of its own. from is what it says that it is done with.
func (w *world) acks(want wish, keep time.Duration, batch uint32, from *uint64) (s *Sink) {
	w.do("add", func() {
		b := w.books
		var id uint64
		w.naming(1, func() { id = w.r.NewID() })
		spec, how := want.spec(id, false)
		spec.Since, spec.Cursor = int64(1000+id), id
		spec.Kind, spec.Frames, spec.Batch = Framed, true, batch
		how.Ack, how.Keep = true, keep
		var c *cursorBook
		ids := uint64(0)
		if i := slices.IndexFunc(b.cursors, func(c *cursorBook) bool { return c.share != "" && c.there != gone && c.share == want.Group }); i >= 0 {
			c = b.cursors[i]
			spec.Cursor = c.id
			c.ack.maybe = true
		} else {
			if want.Group != "" {
				ids, spec.Cursor = 1, b.channel.nextID
			}
			how.ID, how.Since = spec.Cursor, spec.Since
			start := b.channelDelivered(w.r)
			c = &cursorBook{id: spec.Cursor, share: want.Group, uid: want.UID, there: appearing}
			c.specs = []described{{spec, how.CursorSpec}}
			c.ack = &ackBook{away: make(map[uint64]bool), said: make(map[uint64]said)}
			if from != nil {
				how.Start, how.Knows, how.Had = wire.StartAt(w.r.Epoch(), *from), true, *from
				begin := min(max(*from, w.r.Tail().Seq), start)
				start = min(*from, begin)
				c.ack.start = start
				c.ack.catching = begin < w.r.Delivered().Seq
				c.ack.giveUp(begin)
			}
			c.start, c.ack.start = start, start
			b.cursors = append(b.cursors, c)
		}
		if from != nil {
			before := c.ack.done()
			c.ack.advance(spec.ID, *from)
			was := b.delivered
			b.settled(w.r, c.ack, before)
			b.deliveredBefore = &was
		}
		m := &memberBook{id: spec.ID, there: appearing, spec: spec}
		c.members = append(c.members, m)
		w.naming(ids, func() {
			var err error
			if s, err = w.r.Add(spec, how, false); err != nil {
				panic(err)
			}
		})
		b.deliveredBefore = nil
		if c.there == appearing {
			c.kept = w.keep(unsafe.Pointer(s.cursor.e), silentOfCursor)
		}
		m.kept = w.keep(unsafe.Pointer(s.e), silentOfSink)
		c.there, m.there = present, present
		c.ack.left, c.ack.maybe = false, false
		c.lost = c.ack.lost()
		w.connect(s)
	})
	return s
}

// connect gives a sink a connection.
func (w *world) connect(s *Sink) {
	w.out[s] = socketpair(w.t, unix.SOCK_SEQPACKET)
	w.r.Connect(s, true, 1)
}

// say has the client of s say something.
func (w *world) say(s *Sink, packets ...[]byte) {
	for _, p := range packets {
		if err := unix.Send(w.out[s][1], p, unix.MSG_DONTWAIT); err != nil {
			w.t.Fatal(err)
		}
	}
}

func upTo(n uint64) []byte { return wire.AppendAck(nil, n) }

// hear takes what the client of s has said, and has it count.
func (w *world) hear(s *Sink) (bad bool) {
	w.do("hear", func() {
		w.sending = s
		for more := true; more; {
			_, more = w.r.Hear(s, w.out[s][0])
		}
		_, bad = w.r.Settle(s)
	})
	return bad
}

// done is say and hear.
func (w *world) done(s *Sink, n uint64) {
	w.say(s, upTo(n))
	w.hear(s)
}

// heard enters into the books what the kernel has handed over.
func (w *world) heard(packet []byte) {
	c := w.cursorOf(w.sending)
	if len(packet) == 0 {
		return // the end
	}
	if len(packet) > 2*wire.AckSize {
		packet = packet[:2*wire.AckSize]
	}
	before := c.ack.done()
	c.ack.heard(c.share != "", w.sending.ID(), packet)
	w.books.settled(w.r, c.ack, before)
}

// offered enters into the books what the kernel has given to a sink that acknowledges.
func (w *world) offered(c *cursorBook, p wire.SinkPacket) {
	n := uint64(0)
	wire.EachRecord(p.Records, func(b []byte) bool {
		if seq := p.First + n; seq >= uint64(len(w.books.entering)) || !bytes.Equal(b, w.books.entering[seq]) {
			w.wrong(fmt.Sprintf("%s was sent another message than %d", c.name(), seq))
		}
		n++
		return true
	})
	if batch := uint64(w.sending.Spec().Batch); batch > 0 && n > batch {
		w.wrong(fmt.Sprintf("%s was sent %d messages at once", c.name(), n))
	}
	if p.Lost != c.lost {
		w.wrong(fmt.Sprintf("%s was told of %d lost instead of %d", c.name(), p.Lost, c.lost))
	}
	if what := c.ack.offered(c.share != "", w.sending.ID(), p.First, n); what != "" {
		w.wrong(c.name() + ": " + what)
	}
}

// away takes the connection of s, which stays.
func (w *world) away(s *Sink) {
	w.do("leave", func() {
		c := w.cursorOf(s)
		w.r.Connect(s, false, 0)
		last := s.cursor.connected == 0
		c.then, c.by = c.ack.clone(), opLeave
		c.then.leave(c.share != "", s.ID(), last)
		for _, k := range w.books.clients {
			if k.id == s.ID() && !k.greeted { // it is not to be told any more
				k.either, c.ack.called, c.then.called = true, yes, no
				defer func() { k.either, k.greeted = false, true }()
			}
		}
		w.r.Leave(s)
		c.ack, c.then = c.then, nil
		c.ack.called = anyway
		if w.out[s][1] >= 0 {
			unix.Close(w.out[s][1])
		}
		w.out[s] = [2]int{-1, -1}
	})
}

// back puts s on another connection, conn, with what it says that it is done with.
func (w *world) back(s *Sink, conn uint64, from uint64, patience time.Duration) {
	w.greet(s, nil, w.rejoin(s, conn, from, patience))
	w.connect(s)
}

// rejoin is back without the ok.
func (w *world) rejoin(s *Sink, conn uint64, from uint64, patience time.Duration) (k *clientBook) {
	c, b := w.cursorOf(s), w.books
	w.do("advance", func() {
		before, was := c.ack.done(), b.delivered
		c.then, c.by = c.ack.clone(), opDone
		c.then.advance(s.ID(), from)
		b.settled(w.r, c.then, before)
		b.deliveredBefore = &was
		w.r.AdvanceTo(s, from)
		if c.then.done() > before {
			c.ack = c.then
		}
		c.then, b.deliveredBefore = nil, nil
	})
	w.do("rejoin", func() {
		k = &clientBook{id: s.ID(), there: present, greeted: true, either: true}
		b.clients = slices.DeleteFunc(b.clients, func(o *clientBook) bool { return o.id == s.ID() })
		b.clients = append(b.clients, k)
		is, how := *s.Spec(), *s.cursor.Spec()
		is.Conn, how.Patience = conn, patience
		c.specs = append(c.specs, described{is, how})
		c.then, c.by = c.ack.clone(), opRejoin
		c.then.left = false
		c.then.away, c.then.said = map[uint64]bool{}, map[uint64]said{}
		c.ack.called, c.then.called = no, yes
		w.r.Rejoin(s, conn, *s.Spec(), how)
		c.ack, c.then, c.specs = c.then, nil, c.specs[1:]
		c.ack.called = anyway
		k.either, k.greeted = false, false
	})
	return k
}

// removeAll removes all sinks of a cursor, none of which is connected.
func (w *world) removeAll(x *Cursor) {
	w.do("remove all", func() {
		c, b := w.cursorOf(x.members[0]), w.books
		for _, m := range c.members {
			if m.there == present {
				m.there = vanishing
			}
		}
		accepted, lost := c.took(), c.lost
		c.there, c.left = vanishing, w.r.Head().Seq-c.start-accepted-lost
		if left := w.r.RemoveAll(x); left != c.left {
			w.wrong(fmt.Sprintf("%s leaves %d messages instead of %d", c.name(), left, c.left))
		}
		for _, m := range c.members {
			m.there = gone
		}
		c.there = gone
		b.goneAccepted += accepted
		b.goneLost += lost
		b.goneAbandoned += c.left
		b.goneUnread += c.unread
	})
}

// marker enters a marked source.
func (w *world) marker(label string, mark uint64) (p *Client, c *clientBook) {
	w.do("attach", func() {
		spec := ClientSpec{Label: label, Marks: true, Keep: time.Minute, Mark: mark}
		w.naming(1, func() { spec.ID = w.r.NewID() })
		c = &clientBook{id: spec.ID, there: appearing, source: &spec, mark: &markBook{starting: mark}}
		w.books.clients = append(w.books.clients, c)
		var err error
		if p, err = w.r.AddClient(spec); err != nil {
			panic(err)
		}
		c.kept = w.keep(unsafe.Pointer(p.e), silentOfClient)
		c.there = present
	})
	w.greet(nil, p, c)
	return p, c
}

// marked has a marked source send a packet, which is received.
func (w *world) marked(p *Client, mark uint64, messages ...[]byte) {
	b := wire.AppendAck(nil, mark)
	for _, m := range messages {
		b = wire.AppendRecord(b, m)
	}
	w.raw(b)
	w.receiveFrom(p)
}

// receiveFrom receives a packet from a marked source.
func (w *world) receiveFrom(p *Client) {
	w.do("receive", func() {
		w.kind, w.books.from = Marked, p.ID()
		w.from = Sender{PID: 9, UID: 8, GID: 7, Bits: SenderKnown}
		w.r.Receive(w.packets[1], Marked, From{p.ID(), w.from}, 1)
		w.books.received(w.r)
	})
}

// markedCame enters into the books a packet from a marked source.
func (w *world) markedCame(packet []byte, cut bool) {
	b := w.books
	i := slices.IndexFunc(b.clients, func(c *clientBook) bool { return c.id == b.from })
	switch {
	case len(packet) == 0 || string(packet) == wire.Leave: // the end
		return
	case cut:
		b.refused[TooLarge]++
		return
	case len(packet) < wire.MarkSize:
		b.refused[BadPacket]++
		return
	}
	records := packet[wire.MarkSize:]
	if _, err := wire.CheckRecords(records, int(w.geo.MaxMessage)); err != nil && len(records) > 0 {
		reason := BadPacket
		if asRefusal(err).Code == wire.CodeTooLarge {
			reason = TooLarge
		}
		b.refused[reason]++
		b.clients[i].mark.bad = true
		return
	}
	b.clients[i].mark.bad = false
	b.clients[i].mark.marks = append(b.clients[i].mark.marks, leUint64(packet))
	wire.EachRecord(records, func(p []byte) bool {
		b.hand(w.from, w.r.AsksForOrigins(), p)
		return true
	})
}

// judgeSource looks at what a connected source is, and how far it has come.
func (c *clientBook) judgeSource(v *verdict, r *Ring, x *Client, logged uint32) {
	is := *x.Spec()
	if is.Mark = x.Mark(); c.mark != nil {
		c.mark.judge(v, r, x)
		is.Mark = c.source.Mark
	}
	if c.stage != nil {
		c.stage.judge(v, r, x)
		is.Mark = c.source.Mark
	}
	back := c.to != nil && is == *c.to // on another connection, all of it or nothing
	if c.to != nil && (x.Attaching() != back || x.Left().IsZero() != back) {
		v.say("source %d is half back: %+v, attaching %v, left %v", c.id, is, x.Attaching(), x.Left())
	}
	if c.either && c.to == nil && !c.greeted && x.Attaching() != x.Left().IsZero() {
		v.say("source %d has half left: attaching %v, left %v", c.id, x.Attaching(), x.Left())
	}
	if c.to != nil && logged == opRejoin && !back || c.either && c.to == nil && logged == opLeave && x.Left().IsZero() {
		v.say("what source %d does was written down, and is not done", c.id)
	}
	if staged := x.Staged(); staged != 0 && c.stage == nil && (c.to == nil || back) {
		v.say("source %d has no stage, and %d of it are taken", c.id, staged)
	}
	if is != *c.source && (c.to == nil || is != *c.to) {
		v.say("client %d is %+v instead of %+v", c.id, is, *c.source)
	}
	if left := !x.Left().IsZero(); left != c.left && !c.either {
		v.say("source %d is away: %v", c.id, left)
	} else if left && !plausible(x.Left()) {
		v.say("source %d has left at %v", c.id, x.Left())
	}
}

// plausible says whether something can have happened at a time: in this test.
func plausible(at time.Time) bool { return at.After(began) && !at.After(time.Now()) }

var began = time.Now()

func leUint64(b []byte) (n uint64) {
	for i := range 8 {
		n |= uint64(b[i]) << (8 * i)
	}
	return n
}

// sourceAway takes the connection of a marked source, which stays.
func (w *world) sourceAway(p *Client, c *clientBook) {
	w.do("source leaves", func() {
		c.either = true
		w.r.LeaveClient(p)
		c.either, c.left, c.greeted = false, true, true
	})
}

// sourceBack puts it on another connection.
func (w *world) sourceBack(p *Client, c *clientBook, conn uint64) {
	w.sourceRejoins(p, c, conn)
	w.greet(nil, p, c)
}

// sourceRejoins is sourceBack without the ok.
func (w *world) sourceRejoins(p *Client, c *clientBook, conn uint64) {
	w.do("source is back", func() {
		spec := *p.Spec()
		spec.Conn, spec.Mark = conn, c.source.Mark
		c.either, c.to = true, &spec
		w.r.RejoinClient(p, spec)
		c.either, c.greeted, c.left, c.source, c.to = false, false, false, &spec, nil
	})
}
