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
	t       *testing.T
	r       *Ring
	geo     Geometry
	twins   []*twin
	books   *books
	reading reading // of a sink in view

	quiet    int // above 0, no successor is tried
	events   int // how often the kernel has taken or given something
	mutation *mutation
	points   [3]int // how many kills were tried, by level
	steps    int    // stores made by the broker
	problems map[string]int
	where    string // what the broker is about

	in           [2]int // datagrams: [0] is written to
	packets      [2]int
	out          map[*Sink][2]int
	kind         uint32 // what is being received
	from         Sender // and from whom
	attests      bool   // the kernel attests who sends datagrams
	attested     []bool // of each that was not received yet, whether it has
	clients      uint64 // the id of the client that it comes from
	closed       int    // descriptors that were attached by strangers
	registration []byte // control data of the next registration
	kept         int    // bytes written by keep
	sending      *Sink
	dead         []int32 // pids of which the kernel says that there are no such processes
	greeting     *clientBook
	ok           string // what it is told
	buf          []byte
}

// runaway is how many stores a scene may make: a mutant may never come to an end.
const runaway = 400_000

type ranAway struct{}

// newWorld makes an empty ring and watches it. levels is how many successors in a row are tried.
func newWorld(t *testing.T, s scene, levels int, m *mutation) *world {
	t.Helper()
	g := s.geo
	w := &world{t: t, geo: g, books: &books{began: time.Now().UnixNano()}, mutation: m, problems: map[string]int{}, out: map[*Sink][2]int{},
		in: socketpair(t, unix.SOCK_DGRAM), packets: socketpair(t, unix.SOCK_SEQPACKET), buf: make([]byte, 5<<20)}
	from := time.Now()
	stop := w.watch()
	r, err := Create(g, 1, Options{Ops: &watchedKernel{w: w}, Credentials: true, Descriptors: s.name == "descriptors", Closer: w.close})
	stop()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Retire)
	var v verdict
	w.books.channel.begin(&v, r, from)
	w.over(r, levels)
	for _, p := range v.problems {
		w.problems[p]++
	}
	return w
}

// close is Options.Closer.
func (w *world) close(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
		w.closed++
	}
}

// over has the world watch a ring.
func (w *world) over(r *Ring, levels int) {
	w.mutation.begin(0)
	w.r, w.geo = r, r.geo
	w.reading.begin(r)
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
		t.bound = w.mutation != nil
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
	if s.Kind == mem.Scratch && bytes.Equal(unsafe.Slice((*byte)(s.At), len(s.Value)), s.Value) {
		return // most of the stores that a successor makes
	}
	level := slices.IndexFunc(w.twins, func(t *twin) bool { return t.find(s.At) >= 0 })
	apply := (*mem.Store).Make // of a ring that is not looked at, or not yet
	if level >= 0 {
		apply = func(s *mem.Store) { w.apply(w.twins[level], s) }
	}
	m := w.mutation
	if m == nil || s.Kind == mem.Scratch && level != 0 {
		apply(s)
		return
	}
	if s.Kind == mem.Scratch {
		m.address(s, apply)
		return
	}
	m.quiet = w.quiet > 0 || level < 0
	if m.part = work; level >= 0 && (m.op != 0 || m.counting) {
		m.part = partOf(w.twins[level], w.geo, s)
	}
	m.make(max(level, 0), s, apply)
}

func (w *world) apply(t *twin, s *mem.Store) {
	if t.level == 0 && s.Kind != mem.Scratch {
		if w.steps++; w.steps > runaway {
			panic(ranAway{})
		}
	}
	if s.Kind == mem.Payload {
		w.overwrites(t, s.At, len(s.Value), s.Value)
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
	if t.level == 0 && w.quiet == 0 && !w.guarded(t.find(s.At)) && !bytes.Equal(unsafe.Slice((*byte)(s.At), len(s.Value)), s.Value) {
		w.wrong(w.where + ": readers of the status may see a half: a word was changed without its sequence word")
	}
	changed := t.store(s)
	w.publishes(t, s)
	if t.level == 0 {
		w.settled(s)
	}
	if changed {
		w.point(t.level, "store")
	}
}

// settled makes garbage of what nobody looks at between two operations, when one is over.
func (w *world) settled(s *mem.Store) {
	if w.mutation.tame() {
		return // the log is looked at once more, as it was
	}
	if l := &w.r.c.Log; uintptr(s.At) == uintptr(unsafe.Pointer(&l.Phase)) && l.Phase.Load() == phaseIdle {
		w.garble()
	}
}

// point is a moment at which a broker may be killed: a successor takes over a copy of the files as they are.
func (w *world) point(level int, what string) {
	if w.quiet > 0 || level+1 >= len(w.twins) {
		return
	}
	above, t := w.twins[level], w.twins[level+1]
	t.sync(above)
	w.litter(t)
	w.points[level+1]++
	if !w.published() {
		if _, err := readGeometry(t.f.dataFD, t.f.stateFD); err == nil {
			w.problem(level, what, "a ring that is not published is taken for one")
		}
		return
	}
	r := newRing(w.geo, t.f, Options{Ops: silent{}})
	before := seenIn(t)
	w.mutation.begin(level + 1)
	w.books.phases[level] = r.c.Log.Phase.Load()
	err := r.takeOver()
	w.mutation.begin(level + 1)
	if err != nil {
		w.problem(level, what, "broken ring: "+err.Error())
		return
	}
	if w.mutation != nil && w.mutation.counting {
		return // TestEveryKill judges
	}
	w.quiet++
	w.mutation.pause(true)
	defer func() {
		w.quiet--
		w.mutation.pause(false)
	}()
	taken := before.judge(r) // before the books have it go on
	for _, p := range append(taken, w.books.judge(r, level+1)...) {
		w.problem(level, what, p)
	}
}

// litter makes garbage, in what a successor is about to take over, of what nobody looks at while no operation is going on: what the
// kernel reads and writes, and what is behind head.
func (w *world) litter(t *twin) {
	g, sec := w.geo, w.geo.sections()
	c := at[control](t.f.state, sec.control)
	if w.mutation != nil || !w.published() || c.Log.Phase.Load() != phaseIdle {
		return
	}
	state := func(from int64, n int) span { return span{ringOffset + int(g.Size) + int(from), n, false} }
	spans := []span{state(sec.send, int(sec.landing-sec.send))}
	if slots, head := c.Slots.Load(), c.Head.Pos.Load(); slots.next() == slots.landed() {
		spans = append(spans, state(sec.recv, int(unsafe.Sizeof(recvArea{}))), state(sec.landing, 256))
		if head-c.Tail.Pos.Load()+256 <= g.Size {
			spans = append(spans, t.pieces(span{ringOffset + int(head&(g.Size-1)), 256, false})...)
		}
		next := (head + pieceSize - 1) / pieceSize % uint64(g.index())
		spans = append(spans, state(sec.index+int64(next)*int64(unsafe.Sizeof(piece{})), int(unsafe.Sizeof(piece{}))))
		run := state(sec.origins+int64(c.Runs.Load()%uint64(g.runs()))*int64(unsafe.Sizeof(run{})), int(unsafe.Sizeof(run{})))
		spans = append(spans, run)
	}
	for _, s := range spans {
		for _, b := range [][]byte{t.bytes[s.off:][:s.n], t.live(s)} {
			for i := range b {
				b[i] = garbage
			}
		}
		t.touch(s)
	}
}

// published says whether the ring counts: its magic is written last.
func (w *world) published() bool {
	return w.r.head.Magic.Load() == magic && at[header](w.r.files.header, 0).Magic.Load() == magic
}

func (w *world) problem(level int, what, text string) {
	w.wrong(fmt.Sprintf("level %d, %s, in phase %d of %s: %s", level+1, what, w.r.c.Log.Phase.Load(), w.where, text))
}

// wrong writes down that something is wrong. One such thing is enough for a mistake.
func (w *world) wrong(text string) {
	w.problems[text]++
	if w.mutation != nil && !w.mutation.counting {
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
		if seam == "recv" && IsPacket(k.w.kind) {
			return 1, 0
		}
	}
	return len(vec), 0
}

func (k *watchedKernel) Sendmmsg(seam string, fd int, vec []sys.Mmsghdr) (int, unix.Errno) {
	for i := range vec {
		n, e := k.sendOne(seam, fd, vec[i:i+1])
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

// sendOne sends one message. What credentials it carries is looked at here: the kernel takes others' from root alone, and knows
// nothing of senders that are made up.
func (k *watchedKernel) sendOne(seam string, fd int, vec []sys.Mmsghdr) (int, unix.Errno) {
	h := vec[0]
	if h.Hdr.Control == nil {
		return k.Kernel.Sendmmsg(seam, fd, vec)
	}
	if who := carried(&h); slices.Contains(k.w.dead, who.PID) {
		return 0, unix.ESRCH
	}
	h.Hdr.Control, h.Hdr.Controllen = nil, 0
	one := []sys.Mmsghdr{h}
	n, e := k.Kernel.Sendmmsg(seam, fd, one)
	vec[0].Len = one[0].Len
	return n, e
}

// carried are the credentials that a message carries, the zero Credentials if none.
func carried(h *sys.Mmsghdr) (who sys.Credentials) {
	if h.Hdr.Control != nil {
		who, _ = sys.FindCredentials(unsafe.Slice(h.Hdr.Control, h.Hdr.Controllen))
	}
	return who
}

func (k *watchedKernel) QueueReceive(seam string, fd int, buf []byte, priority *uint32) (int, unix.Errno) {
	k.w.books.taking = false
	n, e := k.Kernel.QueueReceive(seam, fd, buf, priority)
	if e != 0 {
		return n, e
	}
	k.w.events++
	top := k.w.twins[0]
	top.wrote(unsafe.Pointer(priority), 4)
	top.wrote(unsafe.Pointer(&buf[0]), n)
	k.w.books.hand(Sender{Source: k.w.from.Source}, k.w.r.AsksForOrigins(), bytes.Clone(buf[:n]))
	k.w.books.taking = true
	k.w.point(0, "message taken from a queue")
	return n, 0
}

func (k *watchedKernel) QueueSend(seam string, fd int, b []byte) unix.Errno {
	k.w.settleGiving()
	if e := k.Kernel.QueueSend(seam, fd, b); e != 0 {
		return e
	}
	k.w.events++
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
	w.events++
	for _, p := range pieces(h, int(h.Len)) {
		w.overwrites(top, unsafe.Pointer(&p[0]), len(p), nil)
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
	who, asked := w.from, w.r.AsksForOrigins()
	if seam != "ack" && w.kind == Datagrams {
		if asked && w.attested[0] {
			who = Sender{int32(unix.Getpid()), uint32(unix.Getuid()), uint32(unix.Getgid()), who.Source, SenderKnown}
		}
		w.attested = w.attested[1:]
	}
	switch {
	case seam == "ack":
		w.heard(message)
	case w.kind == Marked:
		w.markedCame(message, cut)
	case w.kind == Packets && len(message) == 0: // the end
	case cut:
		b.refused[TooLarge]++
	case w.kind == Packets:
		if _, err := wire.CheckRecords(message, int(w.geo.MaxMessage)); err != nil {
			reason := BadPacket
			if asRefusal(err).Code == wire.CodeTooLarge {
				reason = TooLarge
			}
			b.refused[reason]++
			break
		}
		wire.EachRecord(message, func(p []byte) bool {
			b.hand(who, asked, p)
			return true
		})
	default:
		b.hand(who, asked, message)
	}
	w.point(0, "message received")
}

// sent is the kernel having taken over the message that h points to.
func (w *world) sent(seam string, h *sys.Mmsghdr) {
	w.events++
	w.twins[0].wrote(unsafe.Pointer(&h.Len), 4)
	message := bytes.Join(pieces(h, int(h.Len)), nil)
	if seam == "greet" {
		w.greeting.greeted = true
		if string(message) != w.ok {
			w.wrong(fmt.Sprintf("client %d was told %q", w.greeting.id, message))
		}
		w.point(0, "ok sent")
		return
	}
	parse := wire.ParseSinkPacket
	if w.sending.meta {
		parse = wire.ParseMetaPacket
	}
	if !w.sending.frames {
		w.signed(carried(h))
		w.gave(message)
	} else if p, err := parse(message); err != nil {
		w.wrong("a sink was sent no packet: " + err.Error())
	} else if c := w.cursorOf(w.sending); c.ack != nil {
		w.offered(c, p)
	} else {
		w.told(p)
		if c := w.cursorOf(w.sending); p.First != w.upcoming(c) || p.Lost != c.lost {
			w.wrong(fmt.Sprintf("%s was told of message %d and %d lost instead of %d and %d", c.name(), p.First, p.Lost, w.upcoming(c), c.lost))
		}
		wire.EachRecord(p.Records, func(b []byte) bool { w.gave(b); return true })
	}
	w.point(0, "message sent")
}

// signed compares the credentials that the next message for the sink carries with the books.
func (w *world) signed(who sys.Credentials) {
	b := w.books
	seq := w.upcoming(w.cursorOf(w.sending))
	if seq >= uint64(len(b.origins)) {
		return // which gave says
	}
	want := sys.Credentials{}
	if o := b.origins[seq]; w.sending.Spec().Credentials && o.Bits&SenderKnown != 0 && !slices.Contains(w.dead, o.PID) {
		want = sys.Credentials{PID: o.PID, UID: o.UID, GID: o.GID}
	}
	if who != want {
		w.wrong(fmt.Sprintf("message %d carries %+v instead of %+v", seq, who, want))
	}
	if w.sending.Spec().Credentials && who == (sys.Credentials{}) {
		b.asOwn++
	}
}

// told compares the origins that a sink was sent with the books.
func (w *world) told(p wire.SinkPacket) {
	for i := 0; p.Origins != nil && i < p.Count; i++ {
		seq := p.First + uint64(i)
		if seq >= uint64(len(w.books.origins)) {
			return // which gave says
		}
		got, want := p.OriginOf(seq), w.books.origins[seq]
		if got != want.entry() && (seq >= w.books.kept(w.r) || got != wire.Origin{}) {
			w.wrong(fmt.Sprintf("a sink was told that message %d is of %+v instead of %+v", seq, got, want.entry()))
		}
	}
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
	if seq >= uint64(len(b.entering)) || !bytes.Equal(message, formedAs(w.sending.Spec().form(), b.entering[seq])) {
		w.wrong(fmt.Sprintf("%s was sent another message than %d", c.name(), seq))
	}
	c.accepted = append(c.accepted, seq)
	if seq+1 >= max(b.delivered, w.r.Delivered().Seq) {
		c.catching = false
	}
	c.member(w.sending.ID()).accepted++
	if !w.sending.cursor.tap && seq == b.delivered {
		for uint64(len(b.at)) <= seq {
			b.at = append(b.at, w.r.ms())
		}
		b.delivered = seq + 1
	}
}

// formedAs is a message as a sink of that form gets it.
func formedAs(f Form, message []byte) []byte {
	body, newline := f.of(message)
	if newline {
		body = append(bytes.Clone(body), '\n')
	}
	return body
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
	if !w.mutation.tame() {
		w.garble()
		w.garbleFree()
	}
	f()
	if err := w.twins[0].bypassed(); err != nil {
		w.wrong(what + ": " + err.Error())
	}
	if w.quiet == 0 && w.published() {
		for _, p := range w.books.audit(w.r) {
			w.wrong("the ring at work, after " + what + ": " + p)
		}
	}
	w.point(0, "at rest")
	w.where = before
}

// garble makes garbage of what nobody looks at between two operations, the log's fields and what says where something has
// landed: the next operation must not lean on what the last one has left.
func (w *world) garble() {
	c := w.r.c
	if c.Log.Phase.Load() != phaseIdle || !w.published() {
		return
	}
	w.spoil(unsafe.Pointer(&c.Log.Fields), unsafe.Sizeof(c.Log.Fields))
	if w.r.Landed() {
		return
	}
	w.spoil(unsafe.Pointer(&c.Offset), unsafe.Sizeof(c.Offset))
	w.spoil(unsafe.Pointer(&c.Land), unsafe.Sizeof(c.Land))
	w.spoil(unsafe.Pointer(&c.From), unsafe.Sizeof(c.From))
	w.spoil(unsafe.Pointer(&c.Received), unsafe.Sizeof(c.Received))
	w.spoil(unsafe.Pointer(&c.Sender), unsafe.Sizeof(c.Sender))
}

// garbleFree makes garbage of the entries that are free, their states left out.
func (w *world) garbleFree() {
	if !w.published() {
		return
	}
	for i := range w.r.cursorTable {
		if e := &w.r.cursorTable[i]; e.State.Load() == free {
			spoilEntry(w, e, unsafe.Offsetof(e.State), e.Sum.Load())
		}
	}
	for i := range w.r.sinkTable {
		if e := &w.r.sinkTable[i]; e.State.Load() == free {
			spoilEntry(w, e, unsafe.Offsetof(e.State), e.Sum.Load())
		}
	}
	for i := range w.r.clientTable {
		if e := &w.r.clientTable[i]; e.State.Load() == free {
			spoilEntry(w, e, unsafe.Offsetof(e.State), e.Sum.Load())
		}
	}
}

// spoilEntry makes garbage of an entry whose state is at an offset, unless it is garbage already, by its sum.
func spoilEntry[T any](w *world, e *T, state uintptr, sum uint64) {
	if sum == garbage*0x0101010101010101 {
		return
	}
	begin := state + unsafe.Sizeof(mem.Uint32{})
	w.spoil(unsafe.Add(unsafe.Pointer(e), begin), unsafe.Sizeof(*e)-begin)
}

func (w *world) spoil(p unsafe.Pointer, n uintptr) {
	b := unsafe.Slice((*byte)(p), n)
	for i := range b {
		b[i] = garbage
	}
	w.twins[0].wrote(p, int(n))
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
	w.attested = append(w.attested, w.attests)
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
		w.from = Sender{Source: uint16(kind)}
		if kind == Packets {
			w.from = Sender{PID: int32(w.clients/2 + 1), UID: 7, GID: 8, Bits: SenderKnown}
		}
		w.r.Receive(fd, kind, From{w.books.from, w.from}, limit)
		w.books.received(w.r)
		w.books.taking = false
	})
}

func (w *world) append() (out Outcome) {
	w.do("append", func() {
		// Room may be made over sinks that lag.
		w.losing(true)
		out = w.r.Append()
		w.losing(false)
		w.books.known = w.books.kept(w.r)
	})
	return out
}

// losing brackets what may have sinks lose messages.
func (w *world) losing(yes bool) {
	for _, c := range w.books.cursors {
		if s := c.find(w.r); s != nil {
			if c.skipping = yes; !yes && c.ack != nil {
				c.ack.giveUp(s.Place().Seq)
				c.lost = c.ack.lost()
			} else if !yes {
				c.lost = s.e.Lost.Load()
			}
		}
	}
}

// take receives datagrams until there are none, and appends.
func (w *world) take(kind uint32, fd int) {
	for range 100 {
		was, refused := len(w.books.entering), w.books.refused
		w.receive(kind, fd, MaxBatch)
		if w.r.Landed() {
			w.append()
		}
		if len(w.books.entering) == was && w.books.refused == refused || w.r.Landed() {
			return
		}
	}
}

// add enters a sink that is connected to a socket of its own.
func (w *world) add(want wish, oldest bool) (s *Sink) {
	w.do("add", func() {
		s = w.enter(want, oldest, false)
		kind := unix.SOCK_DGRAM
		if want.Frames {
			kind = unix.SOCK_SEQPACKET
		}
		w.out[s] = socketpair(w.t, kind)
		w.r.Connect(s, true, 1)
		w.attest()
	})
	return s
}

// enter adds a sink, and writes it down.
func (w *world) enter(want wish, oldest, attach bool) (s *Sink) {
	b := w.books
	i := slices.IndexFunc(b.cursors, func(c *cursorBook) bool { return c.share != "" && c.there != gone && c.share == want.Group })
	var id uint64
	w.naming(1, func() { id = w.r.NewID() })
	spec, how := want.spec(id, oldest)
	spec.Since, spec.Cursor = int64(1000+id), id
	ids := uint64(0)
	var c *cursorBook
	if i >= 0 {
		c = b.cursors[i]
		spec.Cursor = c.id
	} else {
		if want.Group != "" {
			ids, spec.Cursor = 1, b.channel.nextID
		}
		how.ID, how.Since = spec.Cursor, spec.Since
		c = &cursorBook{id: spec.Cursor, share: want.Group, uid: want.UID, there: appearing, start: b.channelDelivered(w.r)}
		if oldest {
			c.start = w.r.Tail().Seq
			c.catching = c.start < w.r.Delivered().Seq
		}
		c.specs = []described{{spec, how.CursorSpec}}
		b.cursors = append(b.cursors, c)
	}
	m := &memberBook{id: id, there: appearing, spec: spec}
	c.members = append(c.members, m)
	w.naming(ids, func() {
		var err error
		if s, err = w.r.Add(spec, how, attach); err != nil {
			panic(err)
		}
	})
	if c.there == appearing {
		c.kept = w.keep(unsafe.Pointer(s.cursor.e), silentOfCursor)
	}
	m.kept = w.keep(unsafe.Pointer(s.e), silentOfSink)
	c.there, m.there = present, present
	return s
}

// naming is about f, which takes so many ids.
func (w *world) naming(ids uint64, f func()) {
	ch := &w.books.channel
	ch.naming = ids
	f()
	ch.nextID, ch.naming = ch.nextID+ids, 0
}

// attest has the kernel tell the senders of datagrams, if some sink asks for them.
func (w *world) attest() { w.attestIf(w.r.AsksForOrigins()) }

func (w *world) attestIf(yes bool) {
	sys.PassCredentials(w.in[1], yes)
	w.attests = yes
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

// leaveOut has a message pass by a sink that does not want it.
func (w *world) leaveOut(s *Sink) {
	if !w.r.Behind(s) || !w.r.LeavesOut(s) {
		panic("nothing to leave out")
	}
	w.do("leave out", func() {
		c := w.cursorOf(s)
		w.books.skipped, c.skipping, c.leaving = true, true, true
		if w.r.LeaveOut(s) {
			c.lost, c.leftOut = c.lost+1, c.leftOut+1
		}
		c.skipping, c.leaving = false, false
	})
}

func (w *world) update(s *Sink, spec Spec, how CursorSpec) {
	w.do("update", func() {
		c, old := w.cursorOf(s), s.Spec()
		want := spec
		want.ID, want.Cursor, want.Kind, want.Frames, want.Since = old.ID, old.Cursor, old.Kind, old.Frames, old.Since
		c.specs = append(c.specs, described{want, s.cursor.changed(how)})
		m := c.member(s.ID())
		m.to = want
		// One after the other, but both or none in the end.
		w.r.Update(s, spec, how)
		c.specs, m.spec = c.specs[len(c.specs)-1:], want
		w.attest()
	})
}

// unread counts what lay unread in the socket of a sink.
func (w *world) unread(s *Sink) {
	w.do("unread", func() {
		c := w.cursorOf(s)
		c.unreadBefore, c.counting = c.unread, true
		c.unread += 3
		w.r.CountUnread(s, 3)
		c.counting = false
	})
}

func (w *world) remove(s *Sink) {
	w.unread(s)
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
			c.there, c.left = vanishing, w.r.Head().Seq-c.start-c.took()-c.lost
		}
		id := s.ID()
		w.clientThere(id, vanishing)
		if left := w.r.Remove(s); left != c.left {
			w.wrong(fmt.Sprintf("%s leaves %d messages instead of %d", c.name(), left, c.left))
		}
		w.clientThere(id, gone)
		w.attest()
		for _, m := range c.members {
			if m.id == id {
				m.there = gone
			}
		}
		if last {
			c.there = gone
			b.goneAccepted += c.took()
			b.goneLost += c.lost
			b.goneAbandoned += c.left
			b.goneLeftOut += c.leftOut
			b.goneUnread += c.unread
		}
	})
}

// clientThere says whether the client with that id is there, if there is one.
func (w *world) clientThere(id uint64, is presence) {
	for _, c := range w.books.clients {
		if c.id == id {
			c.there = is
		}
	}
}

// subscriber enters a framed sink that is attaching.
func (w *world) subscriber(label string) (s *Sink, c *clientBook) {
	w.do("attach", func() {
		c = &clientBook{id: w.books.channel.nextID, there: appearing}
		w.books.clients = append(w.books.clients, c)
		s = w.enter(wish{Kind: Framed, Label: label, Frames: true}, false, true)
		c.there = present
	})
	return s, c
}

// publisher enters a connected source that is attaching.
func (w *world) publisher(label string) (p *Client, c *clientBook) {
	w.do("attach", func() {
		spec := ClientSpec{Label: label, UID: 9, Mark: 17}
		w.naming(1, func() { spec.ID = w.r.NewID() })
		spec.Since = int64(1000 + spec.ID)
		c = &clientBook{id: spec.ID, there: appearing, source: &spec}
		w.books.clients = append(w.books.clients, c)
		var err error
		if p, err = w.r.AddClient(spec); err != nil {
			panic(err)
		}
		c.kept = w.keep(unsafe.Pointer(p.e), silentOfClient)
		c.there = present
	})
	return p, c
}

// greet sends its ok to a sink or a source.
func (w *world) greet(s *Sink, p *Client, c *clientBook) {
	w.do("greet", func() {
		w.greeting = c
		w.ok = fmt.Sprintf("ok id=%d\n", c.id)
		fd, text := socketpair(w.t, unix.SOCK_SEQPACKET)[0], []byte(w.ok)
		if p != nil {
			w.r.GreetClient(p, fd, text)
		} else {
			w.r.Greet(s, fd, text)
		}
	})
}

func (w *world) number(names ...string) {
	w.do("number", func() {
		w.books.numbering = names
		if _, err := w.r.NumberSources(names); err != nil {
			w.t.Fatal(err)
		}
		w.books.sources = names
	})
}

func (w *world) consume() {
	w.do("consume", func() {
		b := w.books
		if err := unix.Sendmsg(w.in[0], []byte("@a\n"), w.registration, nil, 0); err != nil {
			w.t.Fatal(err)
		}
		w.kind = 0
		if b.consumed {
			b.consumed, b.attempts = false, 0
		}
		w.silently(func() { w.r.Attempt(); w.r.Attempt() })
		b.attempts += 2
		w.point(0, "attempts")
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
		decides := w.r.full || w.r.Owing()
		judging := func(yes bool) {
			for _, c := range w.books.cursors {
				x := c.find(w.r)
				if c.judging = yes; x == nil {
					continue
				}
				if c.owing = x.account; !yes {
					if c.owing = nil; decides {
						c.owed = x.account.Owed
					}
				}
			}
		}
		judging(true)
		w.books.channel.clock[1] += Step(d)
		w.r.Turn(d, func(*Cursor) bool { return true })
		w.books.channel.clock[0] = w.books.channel.clock[1]
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
	w.do("clock", func() {
		ch := &w.books.channel
		ch.clock[1] += d
		w.r.Advance(d)
		ch.clock[0] = ch.clock[1]
	})
}
