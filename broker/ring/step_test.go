// SPDX-License-Identifier: Apache-2.0

//go:build amd64

package ring

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// A broker is stepped instruction by instruction (ptrace(2)); whenever a word of the state has changed, a successor takes over a
// copy of both files, and the books are compared with what the kernel did. It is the slow confirmation of what the watched stores
// show: it needs no hook, and sees what the compiler made of the code. It runs where MSGMUX_STEP says so, in `make soak`.

// The child's descriptors.
const (
	fdGo = 3 + iota
	fdSay
	fdDatagrams // the receiving ends of the sources
	fdPackets
	fdA // the sending ends of the sinks
	fdB
	fdTap
	fdM1
	fdM2
	fdRegister
	fdGreet
	fdQueueIn
	fdQueueOut
	fdKept   // the broker's end of the connection of a sink that acknowledges
	fdMarked // and of a source with marks
	fdW1     // and of two workers: of a share with acknowledgements
	fdW2
)

// sinkOfFD is the cursor whose sink has a descriptor.
var sinkOfFD = map[int]string{fdA: "A", fdB: "B", fdTap: "T", fdM1: "share", fdM2: "share", fdQueueOut: "Q"}

var fdOfSink = map[string]int{"K": fdKept, "A": fdA, "B": fdB, "T": fdTap, "M1": fdM1, "M2": fdM2, "Q": fdQueueOut, "W1": fdW1, "W2": fdW2}

// stepped is what the child does: before it is stepped, and then.
type stepped struct {
	geo   Geometry
	setUp func(*child)
	run   func(*child)
	feed  func(*stepper)
}

// child is the broker that is stepped.
type child struct {
	r     *Ring
	sinks map[string]*Sink
}

func (c *child) add(names ...string) {
	for _, name := range names {
		w := wish{Kind: Dynamic, Label: name, UID: 1000, Ordinary: true}
		switch name {
		case "B":
			w.Kind, w.Frames = Framed, true
		case "T":
			w.Tap = true
		case "M1", "M2":
			w.Group = "share"
		case "Q":
			w.Kind = Static
		case "K":
			w.Kind, w.Frames = Framed, true
		case "W1", "W2":
			w.Kind, w.Frames, w.Group = Framed, true, "work"
		}
		spec, how := w.spec(c.r.NewID(), false)
		if how.Ack = name == "K" || w.Group == "work"; how.Ack {
			how.Keep = time.Hour
		}
		if w.Group == "work" {
			spec.Batch = 2
		}
		s, err := c.r.Add(spec, how, false)
		if err != nil {
			panic(err)
		}
		s.Queue(name == "Q")
		c.r.Connect(s, true, 1)
		c.sinks[name] = s
	}
}

func (c *child) receive(fd int, kind uint32, limit int) {
	if n, e := c.r.Receive(fd, kind, From{}, limit); n == 0 {
		panic(fmt.Sprint("nothing received: ", e))
	}
	c.r.Append()
}

func (c *child) send(names ...string) {
	for _, name := range names {
		for s := c.sinks[name]; c.r.Behind(s); {
			if _, e := c.r.Send(s, fdOfSink[name]); e != 0 {
				break
			}
		}
	}
}

func (c *child) fill() {
	for !c.r.Full() {
		for {
			if n, _ := c.r.Receive(fdDatagrams, Datagrams, From{}, 1); n == 1 {
				break
			}
			time.Sleep(time.Millisecond)
		}
		c.r.Append()
	}
}

func stepGeometry() Geometry {
	return Geometry{Size: MinSize, MaxMessage: 64 << 10, MaxSinks: 8, MaxClients: 2}
}

var steppedScenes = map[string]stepped{
	"traffic": {stepGeometry(), func(c *child) {
		c.add("A", "B", "T", "M1", "M2")
		unix.SetsockoptInt(fdA, unix.SOL_SOCKET, unix.SO_SNDBUF, 4096) // takes some of a batch only
	}, func(c *child) {
		c.receive(fdDatagrams, Datagrams, 3)
		c.send("A", "B", "T", "M1", "M2")
		c.receive(fdPackets, Packets, 1)
		c.send("M1", "B", "A", "M2", "T")
		c.receive(fdDatagrams, Datagrams, 64)
		c.send("M2", "A", "B", "T", "A", "A")
		c.receive(fdPackets, Packets, 1)
		c.receive(fdPackets, Packets, 1)
		c.send("A", "B", "T", "M1", "M2")
	}, func(x *stepper) {
		x.datagrams(3, 50)
		x.datagrams(12, 20)
		x.packet(5, 9)
		x.packet(1, 0)
		x.packet(40, 3)
	}},
	"table": {stepGeometry(), func(c *child) {
		c.add("A", "B")
		c.receive(fdDatagrams, Datagrams, 3)
		c.send("B")
	}, func(c *child) {
		c.add("M1", "M2", "T")
		r, a := c.r, c.sinks["A"]
		spec, how := *a.Spec(), *a.cursor.Spec()
		spec.Address, how.Patience = "@elsewhere", time.Hour
		r.Update(a, spec, how)
		r.SetPatience(c.sinks["M1"].cursor, time.Minute)
		r.Remove(c.sinks["M1"])
		r.Remove(c.sinks["M2"])
		r.Remove(c.sinks["B"])
		g, err := r.Add(Spec{ID: r.NewID(), Kind: Framed, Label: "G", Frames: true}, Reading{Start: wire.StartOldest}, true)
		if err != nil {
			panic(err)
		}
		r.Greet(g, fdGreet, []byte("ok id=9\n"))
		p, err := r.AddClient(ClientSpec{ID: r.NewID(), Label: "P"})
		if err != nil {
			panic(err)
		}
		r.GreetClient(p, fdGreet, []byte("ok id=9\n"))
		r.RemoveClient(p)
		r.Attempt()
		r.Consume(fdRegister)
		c.send("A")
	}, func(x *stepper) { x.datagrams(3, 50) }},
	"full": {stepGeometry(), func(c *child) {
		c.add("A", "B", "T")
		c.fill()
		c.send("A", "B") // they have all; the tap nothing
		c.r.setFlag(c.sinks["T"].cursor, flagLagging, true)
	}, func(c *child) {
		c.r.Append() // SKIP and TAIL
		c.send("A", "B")
		c.receive(fdPackets, Packets, 1)
		c.receive(fdDatagrams, Datagrams, 64)
		c.r.TooLarge(c.sinks["T"])
		c.r.Turn(time.Millisecond, func(*Cursor) bool { return true })
		c.send("A", "B", "T")
	}, func(x *stepper) {
		x.datagrams(40, 60<<10)
		x.packet(3, 30)
	}},
	"large": {Geometry{Size: MinSize, MaxMessage: 128 << 10, MaxSinks: 8}, func(c *child) { c.add("A", "B") }, func(c *child) {
		c.receive(fdPackets, Packets, 1) // larger than its window
		c.send("A", "B")
		c.receive(fdDatagrams, Datagrams, 64)
		c.send("B", "A")
	}, func(x *stepper) {
		x.packet(1, 100_000)
		x.datagrams(2, 70_000)
	}},
	"queues": {stepGeometry(), func(c *child) { c.add("A", "Q") }, func(c *child) {
		c.receive(fdQueueIn, Queues, 3)
		c.send("Q", "A")
		c.receive(fdPackets, Packets, 1)
		c.receive(fdQueueIn, Queues, 64)
		c.send("A", "Q")
	}, func(x *stepper) {
		for i := range 5 {
			if e := (sys.Kernel{}).QueueSend("", x.queueIn, numbered(i, 10*i)); e != 0 {
				x.t.Fatal(e)
			}
		}
		x.packet(3, 7)
	}},
	"acks": {stepGeometry(), func(c *child) {
		c.add("A", "K")
		c.receive(fdDatagrams, Datagrams, 5)
		c.send("K")
	}, func(c *child) {
		r, k := c.r, c.sinks["K"]
		r.Hear(k, fdKept)
		r.Settle(k)
		p, err := r.AddClient(ClientSpec{ID: r.NewID(), Label: "M", Marks: true, Keep: time.Hour})
		if err != nil {
			panic(err)
		}
		r.GreetClient(p, fdGreet, []byte("ok id=9\n"))
		for range 2 {
			r.Receive(fdMarked, Marked, From{Client: p.ID()}, 1)
			r.Append()
		}
		c.send("A", "K")
		r.Leave(k)
		r.LeaveClient(p)
		r.LeaveClient(p) // again, as a successor does
		r.AdvanceTo(k, 4)
		r.Rejoin(k, r.NewID(), *k.Spec(), *k.cursor.Spec())
		r.Greet(k, fdGreet, []byte("ok id=9\n"))
		r.Connect(k, true, 1)
		comes := *p.Spec()
		comes.Conn = r.NewID()
		r.RejoinClient(p, comes)
		r.GreetClient(p, fdGreet, []byte("ok id=9\n"))
		c.send("K")
	}, func(x *stepper) {
		x.datagrams(5, 20)
		for _, n := range []uint64{1, 0, 3} {
			if err := unix.Send(x.out[fdKept], wire.AppendAck(nil, n), 0); err != nil {
				x.t.Fatal(err)
			}
		}
		for i, mark := range []uint64{7, 1 << 40} {
			p := wire.AppendAck(nil, mark)
			for k := range 2 + i {
				p = wire.AppendRecord(p, numbered(k, 9))
			}
			if err := unix.Send(x.marks, p, 0); err != nil {
				x.t.Fatal(err)
			}
			x.marking = append(x.marking, marking{mark, uint64(2 + i)})
		}
	}},
	"work": {stepGeometry(), func(c *child) {
		c.add("A", "W1", "W2")
		c.receive(fdDatagrams, Datagrams, 4)
		c.send("W1")
	}, func(c *child) {
		r, w1, w2 := c.r, c.sinks["W1"], c.sinks["W2"]
		done := func() {
			c.send("W2")
			r.Hear(w2, fdW2)
			r.Settle(w2)
		}
		c.send("A")
		done() // behind what the other one has
		c.receive(fdDatagrams, Datagrams, 64)
		r.Leave(w1)
		done() // what it has left undone
		done()
		r.Leave(w2) // the last one
		r.Connect(w2, true, 1)
		c.send("A")
		c.receive(fdPackets, Packets, 1)
		c.send("W2")
		r.Leave(w2)
	}, func(x *stepper) {
		x.datagrams(6, 20)
		x.packet(3, 9)
	}},
	"move": {stepGeometry(), func(c *child) {
		c.add("A", "B", "M1")
		c.fill()
		c.send("B")
	}, func(c *child) {
		n, err := Create(Geometry{Size: 2 * MinSize, MaxMessage: 64 << 10, MaxSinks: 9}, 2, Options{Unpublished: true})
		if err == nil {
			err = c.r.MoveTo(n)
		}
		if err != nil {
			panic(err)
		}
		c.r.Append()
	}, func(x *stepper) { x.datagrams(40, 60<<10) }},
}

func init() {
	if name := os.Getenv("MSGMUX_STEPPED"); name != "" {
		beStepped(steppedScenes[name])
	}
}

// beStepped is the child: between two calls of getppid(2) it is stepped.
func beStepped(s stepped) {
	runtime.LockOSThread()
	debug.SetGCPercent(-1)
	r, err := Create(s.geo, 1, Options{})
	if err != nil {
		panic(err)
	}
	c := &child{r, make(map[string]*Sink)}
	s.setUp(c)
	d, st := r.Descriptors()
	fmt.Fprintf(os.NewFile(fdSay, "say"), "%d %d %d\n", unix.Gettid(), d, st)
	var b [1]byte
	unix.Read(fdGo, b[:])
	unix.RawSyscall(unix.SYS_GETPPID, 0, 0, 0)
	s.run(c)
	unix.RawSyscall(unix.SYS_GETPPID, 0, 0, 0)
	select {}
}

// stepper is the parent, with what the kernel has done for the child.
type stepper struct {
	t          *testing.T
	geo        Geometry
	in, packed [2]int
	queueIn    int
	marks      int // the writing end of a source with marks
	marking    []marking
	mark       [2]uint64   // of its last packet, and of the one before
	out        map[int]int // the reading ends of the sinks, by the child's descriptor
	waiting    []uint64    // how many messages the packets have that are to come

	data, state []byte
	watched     [][]byte
	was         [][]byte

	had  map[uint64]int  // the worker that was given a message, the last one, by its number
	said map[uint64]bool // the broker has taken that it is done

	taken     uint64
	by        map[string]uint64
	doubt     string // "take" or "put": a queue's message may be written down, or not yet
	uncertain uint64
	buf       []byte
	found     map[string]int
	looked    int
}

// marking is a packet of a source with marks.
type marking struct{ mark, messages uint64 }

func (x *stepper) datagrams(n, size int) {
	for i := range n {
		if err := unix.Send(x.in[0], numbered(i, size+i), unix.MSG_DONTWAIT); err != nil {
			x.t.Fatal(err)
		}
	}
}

func (x *stepper) packet(n, size int) {
	var p []byte
	for i := range n {
		p = wire.AppendRecord(p, numbered(i, size+i%3))
	}
	if err := unix.Send(x.packed[0], p, unix.MSG_DONTWAIT); err != nil {
		x.t.Fatal(err)
	}
	x.waiting = append(x.waiting, uint64(n))
}

// wide is a pair of sockets with room for all that a scene sends.
func wide(t *testing.T, kind int) [2]int {
	t.Helper()
	p, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(p[0]); unix.Close(p[1]) })
	for _, fd := range p {
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 8<<20)
	}
	return p
}

// drain counts what has come out of a sink.
func (x *stepper) drain(fd int) (n uint64) {
	if fd == fdQueueOut {
		return 0
	}
	for {
		k, _, err := unix.Recvfrom(x.out[fd], x.buf, unix.MSG_DONTWAIT)
		if err != nil {
			return n
		}
		if fd != fdB {
			n++
			continue
		}
		p, err := wire.ParseSinkPacket(x.buf[:k])
		if err != nil {
			x.t.Fatal(err)
		}
		wire.EachRecord(p.Records, func([]byte) bool { n++; return true })
	}
}

// work enters into the books what a worker was given. The second one says at once that it is done with it.
func (x *stepper) work(fd int) {
	for {
		k, _, err := unix.Recvfrom(x.out[fd], x.buf, unix.MSG_DONTWAIT)
		if err != nil {
			return
		}
		p, err := wire.ParseSinkPacket(x.buf[:k])
		if err != nil {
			x.t.Fatal(err)
		}
		end := p.First + uint64(p.Count)
		for n := p.First; n < end; n++ {
			if x.said[n] {
				x.found[fmt.Sprintf("%d is given to a worker, and was done", n)]++
			}
			x.had[n] = fd
		}
		if fd == fdW2 {
			if err := unix.Send(x.out[fd], wire.AppendAck(nil, end), 0); err != nil {
				x.t.Fatal(err)
			}
		}
	}
}

// atWork compares what the workers have under way with the books.
func (x *stepper) atWork(r *Ring, say func(format string, args ...any)) {
	w1, w2 := r.labelled("W1"), r.labelled("W2")
	if w1 == nil || w2 == nil {
		return
	}
	for _, w := range []*Sink{w1, w2} {
		r.Settle(w)
	}
	if got := w1.e.Accepted.Load() + w2.e.Accepted.Load(); got != uint64(len(x.said)) {
		say("%d count as done, %d are", got, len(x.said))
	}
	holder := make(map[uint64]int)
	for fd, w := range map[int]*Sink{fdW1: w1, fdW2: w2} {
		begin, end := r.underWay(w)
		for n := begin.Seq; n < end.Seq; n++ {
			if holder[n] != 0 {
				say("%d is with both workers", n)
			}
			holder[n] = fd
		}
	}
	done, sent := w1.cursor.Place().Seq, w1.cursor.e.Sent.load().Seq
	for n := range r.Head().Seq {
		switch {
		case x.said[n] && (holder[n] != 0 || n >= sent):
			say("%d is done, and is with %d (sent to %d)", n, holder[n], sent)
		case !x.said[n] && n < done:
			say("the cursor is at %d, and %d is not done", done, n)
		case !x.said[n] && holder[n] != x.had[n]:
			say("%d is with %d instead of %d", n, holder[n], x.had[n])
		}
	}
}

func copyOf(t *testing.T, b []byte) int {
	t.Helper()
	fd, err := sys.CreateMemfd("copy", int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	m, err := sys.Map(fd, 0, len(b))
	if err != nil {
		t.Fatal(err)
	}
	copy(m, b)
	sys.Unmap(m)
	return fd
}

// look has a successor take over a copy.
func (x *stepper) look(where string) {
	x.looked++
	d, s := copyOf(x.t, x.data), copyOf(x.t, x.state)
	r, err := Open(d, s, Options{})
	if err != nil {
		x.found[fmt.Sprintf("%v [%s]", err, where)]++
		sys.Close(d)
		sys.Close(s)
		return
	}
	defer r.Retire()
	say := func(format string, args ...any) { x.found[fmt.Sprintf(format, args...)+" ["+where+"]"]++ }
	doubted := r.c.Uncertain.Load() - x.uncertain
	phase := at[control](x.state, x.geo.sections().control).Log.Phase.Load()
	if m := r.markedAs("M"); m != nil {
		want := x.mark[0]
		if r.Landed() && r.LandedFrom() == m.ID() {
			want = x.mark[1]
		}
		if m.Mark() != want {
			say("the mark is %d instead of %d", m.Mark(), want)
		}
	}
	if k := r.labelled("K"); k != nil {
		r.Settle(k)
	}
	x.atWork(r, say)
	if doubted > 1 || doubted == 1 && phase != opTake && phase != opPut {
		say("%d messages are uncertain", doubted)
	}
	r.Append()
	r.Append()
	entered := r.Head().Seq
	if slots := r.c.Slots.Load(); r.Landed() { // full
		for i := slots.next(); i < slots.landed(); i++ {
			l, _ := r.slot(i)
			if r.c.Land.Load().kind() == Packets {
				k, _ := wire.CheckRecords(l.first[r.c.Offset.Load():], int(r.geo.MaxMessage))
				entered += uint64(k)
			} else {
				entered++
			}
		}
	}
	if entered != x.taken && (x.doubt != "take" || doubted != 1 || entered != x.taken-1) {
		say("%d messages are there, %d were taken", entered, x.taken)
	}
	for _, c := range r.cursors {
		name := c.Name()
		want, ok := x.by[name]
		if !ok {
			continue
		}
		at := c.Place()
		if phase == opDone && name == "K" && c.e.accepted(at.Seq) == 4 {
			x.by[name], want = 4, 4 // it says that of its own accord, from now on
		}
		if got := c.e.accepted(at.Seq); got != want && (x.doubt != "put" || name != "Q" || doubted != 1 || got != want-1) {
			say("%s accepted %d by its cursor, %d by the kernel", name, got, want)
		}
		if !c.tap && r.Delivered().Seq < at.Seq && c.Lost() == 0 {
			say("delivered %d behind %s at %d", r.Delivered().Seq, name, at.Seq)
		}
	}
	if m1, m2 := r.labelled("M1"), r.labelled("M2"); m1 != nil && m2 != nil {
		if got := m1.e.Accepted.Load() + m2.e.Accepted.Load(); got != x.by["share"] {
			say("members took %d, the share accepted %d", got, x.by["share"])
		}
	}
	if err := r.check(); err != nil {
		say("check: %v", err)
	}
}

func (r *Ring) labelled(label string) *Sink {
	for s := range r.Sinks {
		if s.Spec().Label == label {
			return s
		}
	}
	return nil
}

func (r *Ring) markedAs(label string) *Client {
	for c := range r.Clients {
		if c.Spec().Label == label {
			return c
		}
	}
	return nil
}

// changed says whether a word of what is watched has changed.
func (x *stepper) changed() (yes bool) {
	for i, w := range x.watched {
		if !bytes.Equal(w, x.was[i]) {
			copy(x.was[i], w)
			yes = true
		}
	}
	return yes
}

// see maps a file of the child.
func (x *stepper) see(pid, fd int) []byte {
	f, err := os.OpenFile(fmt.Sprintf("/proc/%d/fd/%d", pid, fd), os.O_RDWR, 0)
	if err != nil {
		x.t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		x.t.Fatal(err)
	}
	b, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		x.t.Fatal(err)
	}
	x.t.Cleanup(func() { unix.Munmap(b) })
	return b
}

// begin starts the child, and returns its thread.
func (x *stepper) begin(name string) (tid int, run func()) {
	t := x.t
	goR, goW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	sayR, sayW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	x.in, x.packed = wide(t, unix.SOCK_DGRAM), wide(t, unix.SOCK_SEQPACKET)
	a, b, tap := wide(t, unix.SOCK_DGRAM), wide(t, unix.SOCK_SEQPACKET), wide(t, unix.SOCK_DGRAM)
	m1, m2, register, greet := wide(t, unix.SOCK_DGRAM), wide(t, unix.SOCK_DGRAM), wide(t, unix.SOCK_DGRAM), wide(t, unix.SOCK_SEQPACKET)
	queueOut := openQueue(t, "step-out")
	x.queueIn = openQueue(t, "step-in")
	kept, marked := wide(t, unix.SOCK_SEQPACKET), wide(t, unix.SOCK_SEQPACKET)
	w1, w2 := wide(t, unix.SOCK_SEQPACKET), wide(t, unix.SOCK_SEQPACKET)
	x.marks = marked[0]
	x.out = map[int]int{fdA: a[1], fdB: b[1], fdTap: tap[1], fdM1: m1[1], fdM2: m2[1], fdKept: kept[1], fdW1: w1[1], fdW2: w2[1]}
	unix.Send(register[1], []byte("@a\n"), 0)
	steppedScenes[name].feed(x)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "MSGMUX_STEPPED="+name, "GODEBUG=asyncpreemptoff=1", "GOMAXPROCS=2")
	for _, fd := range []int{x.in[1], x.packed[1], a[0], b[0], tap[0], m1[0], m2[0], register[0], greet[0], x.queueIn, queueOut, kept[0], marked[1], w1[0], w2[0]} {
		n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			t.Fatal(err)
		}
		cmd.ExtraFiles = append(cmd.ExtraFiles, os.NewFile(uintptr(n), "socket"))
	}
	cmd.ExtraFiles = append([]*os.File{goR, sayW}, cmd.ExtraFiles...)
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for _, f := range cmd.ExtraFiles {
		f.Close()
	}
	var dfd, sfd int
	if _, err := fmt.Fscan(sayR, &tid, &dfd, &sfd); err != nil {
		t.Fatal(err)
	}
	x.data, x.state = x.see(cmd.Process.Pid, dfd), x.see(cmd.Process.Pid, sfd)
	return tid, func() { goW.Write([]byte{1}) }
}

// watch says which words are looked at, and enters into the books what has been done before.
func (x *stepper) watch() {
	s := x.geo.sections()
	headers := s.recv + MaxBatch*int64(unsafe.Sizeof(recvArea{}.Hdr[0]))
	priorities := s.recv + int64(unsafe.Offsetof(recvArea{}.Priority))
	for _, w := range [][2]int64{{s.control, s.recv}, {s.recv, headers}, {priorities, s.landing}} {
		x.watched = append(x.watched, x.state[w[0]:w[1]])
		x.was = append(x.was, bytes.Clone(x.state[w[0]:w[1]]))
	}
	c := at[control](x.state, s.control)
	x.taken = c.Head.Seq.Load()
	if slots := c.Slots.Load(); slots.landed() > slots.next() {
		x.taken += uint64(slots.landed() - slots.next())
	}
	for fd, name := range sinkOfFD {
		x.by[name] += x.drain(fd)
	}
	x.work(fdW1)
	x.work(fdW2)
}

// call enters into the books what a system call has done.
func (x *stepper) call(nr uint64, fd int, n int64) {
	switch {
	case n < 0:
	case nr == unix.SYS_RECVMMSG && fd == fdDatagrams:
		x.taken += uint64(n)
	case nr == unix.SYS_RECVMMSG && fd == fdPackets && n > 0:
		x.taken += x.waiting[0]
		x.waiting = x.waiting[1:]
	case nr == unix.SYS_SENDMMSG && n > 0 && sinkOfFD[fd] != "":
		x.by[sinkOfFD[fd]] += x.drain(fd)
	case nr == unix.SYS_RECVMMSG && fd == fdKept && n > 0:
		x.by["K"] = 3
	case nr == unix.SYS_SENDMMSG && n > 0 && (fd == fdW1 || fd == fdW2):
		x.work(fd)
	case nr == unix.SYS_RECVMMSG && fd == fdW2 && n > 0:
		for k, with := range x.had {
			if with == fdW2 {
				x.said[k] = true
			}
		}
	case nr == unix.SYS_RECVMMSG && fd == fdMarked && n > 0:
		x.taken += x.marking[0].messages
		x.mark = [2]uint64{x.marking[0].mark, x.mark[0]}
		x.marking = x.marking[1:]
	case nr == unix.SYS_MQ_TIMEDRECEIVE:
		x.taken++
		x.doubt = "take"
	case nr == unix.SYS_MQ_TIMEDSEND:
		x.by["Q"]++
		x.doubt = "put"
	}
}

// step runs a scene, instruction by instruction.
func (x *stepper) step(name string) {
	t := x.t
	tid, run := x.begin(name)
	x.watch()
	x.look("begin")
	c := at[control](x.state, x.geo.sections().control)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.PtraceSeize(tid); err != nil {
		t.Fatal(err)
	}
	if err := unix.PtraceInterrupt(tid); err != nil {
		t.Fatal(err)
	}
	stopped := func() {
		var ws unix.WaitStatus
		for {
			if _, err := unix.Wait4(tid, &ws, unix.WALL, nil); err == unix.EINTR {
				continue
			} else if err != nil || !ws.Stopped() {
				t.Fatalf("the child has ended: %v, %v", err, ws)
			}
			return
		}
	}
	stopped()
	run()
	var regs unix.PtraceRegs
	for marks, steps := 0, 0; ; steps++ {
		if err := unix.PtraceGetRegs(tid, &regs); err != nil {
			t.Fatal(err)
		}
		var op [2]byte
		unix.PtracePeekText(tid, uintptr(regs.Rip), op[:])
		nr, call, fd, at := regs.Rax, op == [2]byte{0x0f, 0x05}, int(regs.Rdi), regs.Rip
		if call && nr == unix.SYS_GETPPID {
			if marks++; marks == 2 {
				t.Logf("%d instructions, %d states", steps, x.looked)
				return
			}
		}
		if err := unix.PtraceSingleStep(tid); err != nil {
			t.Fatal(err)
		}
		stopped()
		if marks == 0 {
			continue
		}
		where := fmt.Sprintf("pc %#x", at)
		if call {
			if err := unix.PtraceGetRegs(tid, &regs); err != nil {
				t.Fatal(err)
			}
			where = "system call " + strconv.FormatUint(nr, 10)
			x.call(nr, fd, int64(regs.Rax))
		}
		if x.changed() || call && x.doubt != "" {
			x.look(fmt.Sprintf("%s in phase %d", where, c.Log.Phase.Load()))
		}
		if c.Log.Phase.Load() == phaseIdle {
			x.doubt, x.uncertain = "", c.Uncertain.Load()
		}
	}
}

// TestEveryInstruction steps through every operation and kills the broker after each instruction that changes the state.
func TestEveryInstruction(t *testing.T) {
	chosen := os.Getenv("MSGMUX_STEP")
	if chosen == "" {
		t.Skip("takes minutes: MSGMUX_STEP=all, or the name of a scene")
	}
	for name, s := range steppedScenes {
		if chosen != "all" && !strings.Contains(chosen, name) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			x := &stepper{t: t, geo: s.geo, by: make(map[string]uint64), had: make(map[uint64]int), said: make(map[uint64]bool), found: make(map[string]int), buf: make([]byte, 4<<20)}
			x.step(name)
			for what, n := range x.found {
				t.Errorf("%d times: %s", n, what)
			}
		})
	}
}
