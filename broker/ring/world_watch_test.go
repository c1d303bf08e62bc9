// SPDX-License-Identifier: Apache-2.0

//go:build ring_watch

package ring

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/broker/ring/mem"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// world is a ring at work with real sockets, whose every store is watched: after each, a successor takes over a copy.
type world struct {
	t     *testing.T
	r     *Ring
	geo   Geometry
	twins []*twin
	books *books

	quiet    int // above 0, no successor is tried
	mutation *mutation
	points   [3]int // how many kills were tried, by level
	steps    int    // stores made by the broker
	problems map[string]int
	where    string // what the broker is about

	in       [2]int // datagrams: [0] is written to
	packets  [2]int
	out      map[*Sink][2]int
	kind     uint32 // what is being received
	clients  uint64 // the id of the client that it comes from
	sending  *Sink
	greeting *clientBook
	buf      []byte
}

// runaway is how many stores a scene may make: a mutant may never come to an end.
const runaway = 400_000

type ranAway struct{}

// newWorld makes an empty ring and watches it. levels is how many successors in a row are tried.
func newWorld(t *testing.T, g Geometry, levels int, m *mutation) *world {
	t.Helper()
	w := &world{t: t, geo: g, books: &books{}, mutation: m, problems: map[string]int{}, out: map[*Sink][2]int{},
		in: socketpair(t, unix.SOCK_DGRAM), packets: socketpair(t, unix.SOCK_SEQPACKET), buf: make([]byte, 5<<20)}
	r, err := Create(g, 1, Options{Ops: &watchedKernel{w: w}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Retire)
	w.over(r, levels)
	return w
}

// over has the world watch a ring.
func (w *world) over(r *Ring, levels int) {
	w.r, w.geo = r, r.geo
	w.twins = []*twin{newTwin(0, r.geo, r.files)}
	top := w.twins[0]
	for off := 0; off < len(top.bytes); {
		p := span{off: off, n: []int{ringOffset, top.size, len(r.files.state)}[len(w.split(off))]}
		copy(top.bytes[off:], top.live(p))
		off += p.n
	}
	for l := range levels {
		t, err := w.twins[l].beneath(r.geo)
		if err != nil {
			w.t.Fatal(err)
		}
		w.t.Cleanup(t.close)
		w.twins = append(w.twins, t)
	}
}

// split says in how many parts the files are up to off: header, ring, state.
func (w *world) split(off int) []struct{} {
	n := 0
	for _, end := range []int{ringOffset, ringOffset + int(w.geo.Size)} {
		if off >= end {
			n++
		}
	}
	return make([]struct{}, n)
}

func socketpair(t *testing.T, kind int) [2]int {
	t.Helper()
	p, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(p[0]); unix.Close(p[1]) })
	for _, fd := range p {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 4<<20)
	}
	return p
}

// watch makes every store from now on.
func (w *world) watch() (stop func()) {
	before := mem.Watch(w.store)
	return func() { mem.Watch(before) }
}

// store makes one store, in the ring or in a successor's copy, and tries the kill behind it.
func (w *world) store(s *mem.Store) {
	for _, t := range w.twins {
		if t.find(s.At) >= 0 {
			if w.mutation == nil || s.Kind == mem.Scratch {
				w.apply(t, s)
			} else {
				m := w.mutation
				if m.level, m.quiet = t.level, w.quiet > 0; m.classes != nil {
					m.class = w.classOf(t, s)
				}
				m.make(s, func(s *mem.Store) { w.apply(t, s) })
			}
			return
		}
	}
	s.Make() // of a ring that is not looked at, or not yet
}

func (w *world) apply(t *twin, s *mem.Store) {
	if t.level == 0 && s.Kind != mem.Scratch {
		if w.steps++; w.steps > runaway {
			panic(ranAway{})
		}
	}
	if s.Kind == mem.Payload && len(s.Value) > 8 && w.quiet == 0 {
		// Any part of a copy may be there.
		half := len(s.Value) / 2
		part := *s
		part.Value = s.Value[:half]
		if t.store(&part) {
			w.point(t.level, "half of a copy")
		}
		part.At, part.Value = unsafe.Add(s.At, half), s.Value[half:]
		s = &part
	}
	if t.store(s) {
		w.point(t.level, "store")
	}
}

// point is a moment at which a broker may be killed: a successor takes over a copy of the files as they are.
func (w *world) point(level int, what string) {
	if w.quiet > 0 || level+1 >= len(w.twins) {
		return
	}
	above, t := w.twins[level], w.twins[level+1]
	t.sync(above)
	w.points[level+1]++
	if !w.published() {
		if _, err := readGeometry(t.f.dataFD, t.f.stateFD); err == nil {
			w.problem(level, what, "a ring that is not published is taken for one")
		}
		return
	}
	r := newRing(w.geo, t.f, Options{Ops: silent{}})
	if err := r.takeOver(); err != nil {
		w.problem(level, what, "broken ring: "+err.Error())
		return
	}
	w.quiet++
	w.mutation.pause(true)
	defer func() {
		w.quiet--
		w.mutation.pause(false)
	}()
	for _, p := range w.books.judge(r) {
		w.problem(level, what, p)
	}
}

// published says whether the ring counts: its magic is written last.
func (w *world) published() bool { return w.r.head.Magic.Load() == magic }

func (w *world) problem(level int, what, text string) {
	w.problems[fmt.Sprintf("level %d, %s, in phase %d of %s: %s", level+1, what, w.r.c.Log.Phase.Load(), w.where, text)]++
	if w.mutation != nil && w.mutation.count == nil {
		panic(caught{})
	}
}

// caught ends a scene that is played with a mistake, when that was noticed.
type caught struct{}

// silent are the calls of a successor: its recovery makes none.
type silent struct{ sys.Kernel }

func (silent) Recvmmsg(string, int, []sys.Mmsghdr) (int, unix.Errno) { panic("recovery receives") }
func (silent) Sendmmsg(string, int, []sys.Mmsghdr) (int, unix.Errno) { panic("recovery sends") }

// watchedKernel is the kernel, one message at a time. What a call with many messages has done when it was cut short after
// some is what it would have done with so many.
type watchedKernel struct {
	sys.Kernel
	w *world
}

func (k *watchedKernel) Recvmmsg(seam string, fd int, vec []sys.Mmsghdr) (int, unix.Errno) {
	for i := range vec {
		n, e := k.Kernel.Recvmmsg(seam, fd, vec[i:i+1])
		if n == 0 {
			if i > 0 {
				e = 0
			}
			return i, e
		}
		k.w.received(seam, &vec[i])
		if k.w.kind == Packets {
			return 1, 0
		}
	}
	return len(vec), 0
}

func (k *watchedKernel) Sendmmsg(seam string, fd int, vec []sys.Mmsghdr) (int, unix.Errno) {
	for i := range vec {
		n, e := k.Kernel.Sendmmsg(seam, fd, vec[i:i+1])
		if n == 0 {
			if i > 0 {
				e = 0
			}
			return i, e
		}
		k.w.sent(seam, &vec[i])
	}
	return len(vec), 0
}

func (k *watchedKernel) QueueReceive(seam string, fd int, buf []byte, priority *uint32) (int, unix.Errno) {
	k.w.books.taking = false
	n, e := k.Kernel.QueueReceive(seam, fd, buf, priority)
	if e != 0 {
		return n, e
	}
	top := k.w.twins[0]
	top.wrote(unsafe.Pointer(priority), 4)
	top.wrote(unsafe.Pointer(&buf[0]), n)
	k.w.books.entering = append(k.w.books.entering, bytes.Clone(buf[:n]))
	k.w.books.taking = true
	k.w.point(0, "message taken from a queue")
	return n, 0
}

func (k *watchedKernel) QueueSend(seam string, fd int, b []byte) unix.Errno {
	k.w.settleGiving()
	if e := k.Kernel.QueueSend(seam, fd, b); e != 0 {
		return e
	}
	k.w.gave(b)
	k.w.cursorOf(k.w.sending).giving = true
	k.w.point(0, "message given to a queue")
	return 0
}

// pieces are the parts of memory that a message of n bytes has.
func pieces(h *sys.Mmsghdr, n int) (parts [][]byte) {
	for _, v := range unsafe.Slice(h.Hdr.Iov, h.Hdr.Iovlen) {
		k := min(n, int(v.Len))
		if k > 0 {
			parts = append(parts, unsafe.Slice(v.Base, k))
		}
		n -= k
	}
	return parts
}

// received is the kernel having put a message into h and where h points.
func (w *world) received(seam string, h *sys.Mmsghdr) {
	top, b := w.twins[0], w.books
	for _, p := range pieces(h, int(h.Len)) {
		top.wrote(unsafe.Pointer(&p[0]), len(p))
	}
	if h.Hdr.Control != nil {
		top.wrote(unsafe.Pointer(h.Hdr.Control), int(h.Hdr.Controllen))
	}
	top.wrote(unsafe.Pointer(&h.Hdr.Controllen), 8)
	top.wrote(unsafe.Pointer(&h.Hdr.Flags), 4)
	top.wrote(unsafe.Pointer(&h.Len), 4)
	if seam == "consume" {
		b.consumed = true
		w.point(0, "registration taken")
		return
	}
	message := bytes.Join(pieces(h, int(h.Len)), nil)
	cut := h.Hdr.Flags&unix.MSG_TRUNC != 0
	switch {
	case w.kind == Packets && len(message) == 0: // the end
	case cut:
		b.refused++
	case w.kind == Packets:
		if _, err := wire.CheckRecords(message, int(w.geo.MaxMessage)); err != nil {
			b.refused++
			break
		}
		wire.EachRecord(message, func(p []byte) bool {
			b.entering = append(b.entering, p)
			return true
		})
	default:
		b.entering = append(b.entering, message)
	}
	w.point(0, "message received")
}

// sent is the kernel having taken over the message that h points to.
func (w *world) sent(seam string, h *sys.Mmsghdr) {
	w.twins[0].wrote(unsafe.Pointer(&h.Len), 4)
	if seam == "greet" {
		w.greeting.greeted = true
		w.point(0, "ok sent")
		return
	}
	message := bytes.Join(pieces(h, int(h.Len)), nil)
	if !w.sending.frames {
		w.gave(message)
	} else if p, err := wire.ParseSinkPacket(message); err != nil {
		w.problems["a sink was sent no packet: "+err.Error()]++
	} else {
		if c := w.cursorOf(w.sending); p.First != w.upcoming(c) || p.Lost != c.lost {
			w.problems[fmt.Sprintf("%s was told of message %d and %d lost instead of %d and %d", c.name(), p.First, p.Lost, w.upcoming(c), c.lost)]++
		}
		wire.EachRecord(p.Records, func(b []byte) bool { w.gave(b); return true })
	}
	w.point(0, "message sent")
}

// upcoming is the number of the message that a cursor gets next.
func (w *world) upcoming(c *cursorBook) uint64 {
	if c.lost > 0 {
		// What it has lost it gets no more: everything below its beginning, what it got, and what it lost.
		return c.start + uint64(len(c.accepted)) + c.lost
	}
	return c.next()
}

// gave enters into the books that the kernel has given a message to the sink that is being sent to.
func (w *world) gave(message []byte) {
	b, c := w.books, w.cursorOf(w.sending)
	seq := w.upcoming(c)
	if seq >= uint64(len(b.entering)) || !bytes.Equal(message, b.entering[seq]) {
		w.problems[fmt.Sprintf("%s was sent another message than %d", c.name(), seq)]++
	}
	c.accepted = append(c.accepted, seq)
	for _, m := range c.members {
		if m.id == w.sending.ID() {
			m.accepted++
		}
	}
	if !w.sending.cursor.tap && seq == b.delivered {
		for uint64(len(b.at)) <= seq {
			b.at = append(b.at, w.r.ms())
		}
		b.delivered = seq + 1
	}
}

func (w *world) settleGiving() {
	for _, c := range w.books.cursors {
		c.giving = false
	}
}

func (w *world) cursorOf(s *Sink) *cursorBook {
	i := slices.IndexFunc(w.books.cursors, func(c *cursorBook) bool {
		return c.there != gone && slices.ContainsFunc(c.members, func(m *memberBook) bool { return m.id == s.ID() })
	})
	if i < 0 {
		panic("no such cursor")
	}
	return w.books.cursors[i]
}

// do runs one step of a scene and compares at its end.
func (w *world) do(what string, f func()) {
	before := w.where
	w.where = what
	w.garble()
	f()
	if err := w.twins[0].bypassed(); err != nil {
		w.problems[what+": "+err.Error()]++
	}
	w.point(0, "at rest")
	w.where = before
}

// garble fills the log's fields with what no operation writes there: between two operations nobody looks at them, and the next one
// must not lean on what the last one has left.
func (w *world) garble() {
	l := &w.r.c.Log
	if l.Phase.Load() != phaseIdle {
		return
	}
	for i := range l.Fields {
		l.Fields[i] = garbage
	}
	w.twins[0].wrote(unsafe.Pointer(&l.Fields), len(l.Fields))
}

// silently runs f without trying a kill: what brings a scene about.
func (w *world) silently(f func()) {
	w.quiet++
	f()
	w.quiet--
}

func (w *world) datagram(b []byte) {
	if err := unix.Send(w.in[0], b, unix.MSG_DONTWAIT); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) packet(messages ...[]byte) {
	var b []byte
	for _, m := range messages {
		b = wire.AppendRecord(b, m)
	}
	w.raw(b)
}

func (w *world) raw(b []byte) {
	if err := unix.Send(w.packets[0], b, unix.MSG_DONTWAIT); err != nil {
		w.t.Fatal(err)
	}
}

// receive takes what is queued, and appends it.
func (w *world) receive(kind uint32, fd, limit int) {
	w.do("receive", func() {
		w.kind = kind
		w.clients++
		if w.books.from = w.clients; kind == Queues {
			w.books.from = 0
		}
		w.r.Receive(fd, kind, w.books.from, limit)
		w.books.taking = false
		w.books.uncertain = w.r.c.Uncertain.Load()
	})
}

func (w *world) append() (out Outcome) {
	w.do("append", func() {
		// Room may be made over sinks that lag.
		w.losing(true)
		out = w.r.Append()
		w.losing(false)
	})
	return out
}

// losing brackets what may have sinks lose messages.
func (w *world) losing(yes bool) {
	for _, c := range w.books.cursors {
		if s := c.find(w.r); s != nil {
			c.skipping = yes
			if !yes {
				c.lost = s.e.Lost.Load()
			}
		}
	}
}

// take receives datagrams until there are none, and appends.
func (w *world) take(kind uint32, fd int) {
	for range 100 {
		was := len(w.books.entering) + int(w.books.refused)
		w.receive(kind, fd, MaxBatch)
		if w.r.Landed() {
			w.append()
		}
		if len(w.books.entering)+int(w.books.refused) == was || w.r.Landed() {
			return
		}
	}
}

// add enters a sink that is connected to a socket of its own.
func (w *world) add(want wish, oldest bool) (s *Sink) {
	w.do("add", func() {
		spec, how := want.spec(w.r.NewID(), oldest)
		w.books.maxID = max(w.books.maxID, spec.ID)
		var c *cursorBook
		if i := slices.IndexFunc(w.books.cursors, func(c *cursorBook) bool { return c.share != "" && c.there != gone && c.share == want.Group }); i >= 0 {
			c = w.books.cursors[i]
		} else {
			c = &cursorBook{id: spec.ID, share: want.Group, uid: want.UID, there: appearing}
			w.books.cursors = append(w.books.cursors, c)
		}
		m := &memberBook{id: spec.ID, there: appearing}
		c.members = append(c.members, m)
		var err error
		if s, err = w.r.Add(spec, how, false); err != nil {
			panic(err)
		}
		w.books.maxID = max(w.books.maxID, s.cursor.ID())
		c.specs = []described{{*s.Spec(), *s.cursor.Spec()}}
		c.there, m.there = present, present
		c.start, c.started = s.cursor.e.Start.Load(), true
		kind := unix.SOCK_DGRAM
		if spec.Frames {
			kind = unix.SOCK_SEQPACKET
		}
		w.out[s] = socketpair(w.t, kind)
		w.r.Connect(s, true, 1)
	})
	return s
}

// send offers s what is next for it until it is full or has it all, at most times.
func (w *world) send(s *Sink, times int) {
	w.sendTo(s, w.out[s][0], times)
}

func (w *world) sendTo(s *Sink, fd, times int) {
	w.do("send", func() {
		w.sending = s
		for ; times > 0 && w.r.Behind(s); times-- {
			if _, e := w.r.Send(s, fd); e != 0 {
				break
			}
		}
		w.settleGiving()
		w.books.uncertain = w.r.c.Uncertain.Load()
	})
}

// read empties the sink's queue.
func (w *world) read(s *Sink) {
	for {
		if _, _, err := unix.Recvfrom(w.out[s][1], w.buf, unix.MSG_DONTWAIT); err != nil {
			return
		}
	}
}

// tooLarge says that the socket of s can never take the next message.
func (w *world) tooLarge(s *Sink) {
	if !w.r.Behind(s) {
		panic("nothing to leave out")
	}
	w.do("too large", func() {
		w.books.skipped = true
		w.losing(true)
		w.r.TooLarge(s)
		w.losing(false)
	})
}

func (w *world) update(s *Sink, spec Spec, how CursorSpec) {
	w.do("update", func() {
		c, old := w.cursorOf(s), s.Spec()
		want := spec
		want.ID, want.Cursor, want.Kind, want.Frames, want.Since = old.ID, old.Cursor, old.Kind, old.Frames, old.Since
		c.specs = append(c.specs, described{want, s.cursor.changed(how)})
		// One after the other, but both or none in the end.
		w.r.Update(s, spec, how)
		c.specs = c.specs[len(c.specs)-1:]
	})
}

func (w *world) remove(s *Sink) {
	w.do("remove", func() {
		c, b := w.cursorOf(s), w.books
		last := true
		for _, m := range c.members {
			if m.id == s.ID() {
				m.there = vanishing
			} else if m.there == present {
				last = false
			}
		}
		if last {
			c.there, c.left = vanishing, w.r.Head().Seq-s.cursor.Place().Seq
		}
		accepted, lost := uint64(len(c.accepted)), c.lost
		left := w.r.Remove(s)
		for _, m := range c.members {
			if m.id == s.ID() {
				m.there = gone
			}
		}
		if last {
			c.there = gone
			b.goneAccepted += accepted
			b.goneLost += lost
			b.goneAbandoned += left
		}
	})
}

// subscriber enters a framed sink that is attaching.
func (w *world) subscriber(label string) (s *Sink, c *clientBook) {
	w.do("attach", func() {
		spec, how := wish{Kind: Framed, Label: label, Frames: true}.spec(w.r.NewID(), false)
		w.books.maxID = max(w.books.maxID, spec.ID)
		c = &clientBook{id: spec.ID, there: appearing}
		w.books.clients = append(w.books.clients, c)
		var err error
		if s, err = w.r.Add(spec, how, true); err != nil {
			panic(err)
		}
		c.there = present
	})
	return s, c
}

// publisher enters a connected source that is attaching.
func (w *world) publisher(label string) (p *Client, c *clientBook) {
	w.do("attach", func() {
		spec := ClientSpec{ID: w.r.NewID(), Label: label}
		w.books.maxID = max(w.books.maxID, spec.ID)
		c = &clientBook{id: spec.ID, there: appearing, source: true}
		w.books.clients = append(w.books.clients, c)
		var err error
		if p, err = w.r.AddClient(spec); err != nil {
			panic(err)
		}
		c.there = present
	})
	return p, c
}

// greet sends its ok to a sink or a source.
func (w *world) greet(s *Sink, p *Client, c *clientBook) {
	w.do("greet", func() {
		w.greeting = c
		fd, text := socketpair(w.t, unix.SOCK_SEQPACKET)[0], []byte("ok id=1\n")
		if p != nil {
			w.r.GreetClient(p, fd, text)
		} else {
			w.r.Greet(s, fd, text)
		}
	})
}

func (w *world) consume() {
	w.do("consume", func() {
		b := w.books
		if err := unix.Send(w.in[0], []byte("@a\n"), 0); err != nil {
			w.t.Fatal(err)
		}
		w.kind = 0
		b.consumed, b.attempts = false, w.r.c.Attempts.Load()
		w.silently(func() { w.r.Attempt(); w.r.Attempt() })
		b.attempts = w.r.c.Attempts.Load()
		w.r.Consume(w.in[1])
	})
}

// lag sets whether s is waited for.
func (w *world) lag(s *Sink, yes bool) {
	w.silently(func() { w.r.setFlag(s.cursor, flagLagging, yes) })
	w.cursorOf(s).lagging = yes
}

// turn has patience decide who is waited for.
func (w *world) turn(d time.Duration) {
	w.do("turn", func() {
		judging := func(yes bool) {
			for _, c := range w.books.cursors {
				c.judging = yes
			}
		}
		judging(true)
		w.r.Turn(d, func(*Cursor) bool { return true })
		for _, v := range w.r.Verdicts() {
			for _, c := range w.books.cursors {
				if c.find(w.r) == v.Cursor {
					c.lagging = v.Lagging
				}
			}
		}
		judging(false)
	})
}

// pass lets channel time go by.
func (w *world) pass(d time.Duration) {
	w.do("clock", func() { w.r.Advance(d) })
}
