// SPDX-License-Identifier: Apache-2.0

package crashtest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/activation"
	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// parkedAt are the seams at which rings are left for bytes to be flipped in: of each operation those after which
// recovery has something to do. The last one is never met: such a ring is left between two operations.
var parkedAt = []string{
	"recv.taken", "append.logged", "append.head", "send.logged", "send.sent", "skip.logged", "skip.cursor", "tail.logged",
	"tail.delivered", "add.filled", "greet.sent", "update.logged", "update.identity", "remove.logged", "remove.totals",
	"consume.taken", "nowhere",
}

// parker stops whoever comes by a seam, by a panic.
type parker struct {
	sys.Kernel
	at string
}

func (p *parker) Seam(name string) {
	if name == p.at {
		panic(p)
	}
}

// pair is two connected sockets.
func pair(t *testing.T, kind int) (a, b int) {
	t.Helper()
	p, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(p[0]); unix.Close(p[1]) })
	return p[0], p[1]
}

// left is the two files of a ring as its process left them.
type left struct{ data, state []byte }

// park runs a ring through all of its operations until it comes by a seam, and returns what is left of it.
func park(t *testing.T, at string) *left {
	t.Helper()
	ops := &parker{}
	r, err := ring.Create(ring.Geometry{Size: ring.MinSize, MaxMessage: 64 << 10, MaxSinks: 8, MaxClients: 4}, 1, ring.Options{Ops: ops})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Retire()
	func() {
		defer func() {
			if p := recover(); p != nil && p != any(ops) {
				panic(p)
			}
		}()
		exercise(t, r, ops, at)
		if at != "nowhere" {
			t.Fatalf("the ring did not come by %s", at)
		}
	}()
	d, s := r.Descriptors()
	return &left{contents(t, d), contents(t, s)}
}

func contents(t *testing.T, fd int) []byte {
	t.Helper()
	size, err := sys.FileSize(fd)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, size)
	if n, err := unix.Pread(fd, b, 0); err != nil || n != len(b) {
		t.Fatalf("cannot read a memfd: %d %v", n, err)
	}
	return b
}

// exercise is a short life of a ring, with something of everything. ops stop it at a seam once it is busy.
func exercise(t *testing.T, r *ring.Ring, ops *parker, at string) {
	source, in := pair(t, unix.SOCK_DGRAM)
	feed, packets := pair(t, unix.SOCK_SEQPACKET)
	letters, register := pair(t, unix.SOCK_DGRAM)
	add := func(spec ring.Spec, how ring.CursorSpec) (*ring.Sink, int, int) {
		spec.ID = r.NewID()
		s, err := r.Add(spec, ring.Reading{CursorSpec: how}, false)
		if err != nil {
			t.Fatal(err)
		}
		kind := unix.SOCK_DGRAM
		if spec.Kind == ring.Framed {
			kind = unix.SOCK_SEQPACKET
		}
		out, end := pair(t, kind)
		r.Connect(s, true, spec.ID)
		return s, out, end
	}
	type sink struct {
		s       *ring.Sink
		fd, end int
	}
	var sinks []sink
	for _, want := range []struct {
		spec ring.Spec
		how  ring.CursorSpec
	}{
		{ring.Spec{Kind: ring.Dynamic, Label: "a", Address: "@a", UID: 1, Inode: 11}, ring.CursorSpec{Patience: wire.Forever, UID: 1}},
		{ring.Spec{Kind: ring.Static, Label: "b", Address: "/b", Frames: true}, ring.CursorSpec{Patience: time.Second}},
		{ring.Spec{Kind: ring.Framed, Label: "c", Frames: true, Meta: true, UID: 5}, ring.CursorSpec{Patience: time.Second, Ordinary: true, UID: 5}},
		{ring.Spec{Kind: ring.Dynamic, Label: "d", Inode: 12}, ring.CursorSpec{Share: "g", Patience: time.Second}},
		{ring.Spec{Kind: ring.Dynamic, Label: "e", Inode: 13}, ring.CursorSpec{Share: "g", Patience: time.Second}},
		{ring.Spec{Kind: ring.Dynamic, Label: "t", Inode: 14}, ring.CursorSpec{Tap: true}},
	} {
		s, fd, end := add(want.spec, want.how)
		sinks = append(sinks, sink{s, fd, end})
	}
	add(ring.Spec{Kind: ring.Dynamic, Label: "hung", Inode: 15}, ring.CursorSpec{}) // no patience, and nothing is sent to it
	buf := make([]byte, 128<<10)
	never := func(*ring.Cursor) bool { return false }
	for i := range 120 {
		if i == 90 {
			ops.at = at // by now the ring is full, and all that it holds has been overwritten
		}
		for j := range 1 + i%5 {
			send(source, make([]byte, (i*977+j*4001)%20000), unix.MSG_DONTWAIT)
		}
		r.Receive(in, ring.Datagrams, ring.From{}, ring.MaxBatch)
		for r.Append(); r.Landed(); r.Append() {
			r.Turn(0, never)
		}
		if i%7 == 0 {
			send(feed, wire.AppendRecord(wire.AppendRecord(nil, buf[:i]), buf[:100]), unix.MSG_DONTWAIT)
			r.Receive(packets, ring.Packets, ring.From{Client: 9}, 1)
			for r.Append(); r.Landed(); r.Append() {
				r.Turn(0, never)
			}
		}
		for n, s := range sinks {
			// Some are always a little behind.
			for k := 0; r.Behind(s.s) && k < 1+i%3+n; k++ {
				if _, errno := r.Send(s.s, s.fd); errno != 0 {
					break
				}
			}
			for drained := false; !drained; {
				_, err := receive(s.end, buf, unix.MSG_DONTWAIT)
				drained = err != nil
			}
		}
		if i%10 != 9 {
			continue
		}
		r.Update(sinks[0].s, *sinks[0].s.Spec(), *sinks[0].s.Cursor().Spec())
		send(letters, []byte("@x"), unix.MSG_DONTWAIT)
		r.Consume(register)
		guest, _, _ := add(ring.Spec{Kind: ring.Dynamic, Label: "guest"}, ring.CursorSpec{})
		client, err := r.AddClient(ring.ClientSpec{ID: r.NewID(), Label: "client"})
		if err != nil {
			t.Fatal(err)
		}
		fd, _ := pair(t, unix.SOCK_SEQPACKET)
		r.GreetClient(client, fd, []byte("ok id=1\n"))
		r.Remove(guest)
		r.RemoveClient(client)
	}
}

// flip is one thing that happened to a byte.
type flip struct {
	state bool // in the state file, or in the data file
	at    int
	by    byte // xor
}

func (f flip) String() string {
	return fmt.Sprintf("%s byte %d ^ %#02x", map[bool]string{true: "state", false: "data"}[f.state], f.at, f.by)
}

// flips are all bytes of the headers and of the page that holds positions and log, and a sample of what else is not 0.
func (l *left) flips(random *rand.Rand, sample int) (all []flip) {
	const page, used = 4096, 1536 // no structure in a page goes that far
	bit := func() byte { return 1 << random.IntN(8) }
	for i := range 128 {
		all = append(all, flip{true, i, bit()}, flip{false, i, bit()}, flip{true, i, 0xff})
	}
	for i := page; i < page+used; i++ {
		if all = append(all, flip{true, i, bit()}); l.state[i] != 0 {
			all = append(all, flip{true, i, 0xff})
		}
	}
	for _, b := range []struct {
		state bool
		bytes []byte
	}{{true, l.state}, {false, l.data}} {
		for n := 0; n < sample; {
			i := page + random.IntN(len(b.bytes)-page)
			// The landing zone and the ring are large, and mostly bytes of messages.
			if b.state && n%2 == 0 {
				i = 2*page + random.IntN(64*page)
			}
			if b.bytes[i] != 0 || random.IntN(50) == 0 {
				all = append(all, flip{b.state, i, bit()})
				n++
			}
		}
	}
	return all
}

// comesUp opens a ring that was left, with one byte flipped, and works with it. It must be refused or work; it must not
// end this process.
func comesUp(l *left, f flip, fds [2]int, ends [][2]int) (broken bool, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v\n%s", p, debug.Stack())
		}
	}()
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	// Of the landing zone, the largest part of the state by far, only the beginning: the rest is bytes of messages that
	// the last ring may have left.
	for i, b := range [][]byte{l.data, l.state[:min(1<<20, len(l.state))]} {
		if _, err := unix.Pwrite(fds[i], b, 0); err != nil {
			return false, err
		}
	}
	fd, b := fds[0], l.data
	if f.state {
		fd, b = fds[1], l.state
	}
	if _, err := unix.Pwrite(fd, []byte{b[f.at] ^ f.by}, int64(f.at)); err != nil {
		return false, err
	}
	defer unix.Pwrite(fd, b[f.at:f.at+1], int64(f.at))
	// A Ring closes its descriptors.
	var own [2]int
	for i := range fds {
		if own[i], err = unix.FcntlInt(uintptr(fds[i]), unix.F_DUPFD_CLOEXEC, 0); err != nil {
			return false, err
		}
	}
	ring.GenerationOf(own[0])
	r, err := ring.Open(own[0], own[1], ring.Options{})
	if err != nil {
		if !errors.Is(err, ring.ErrBroken) {
			return false, err
		}
		ring.Salvage(own[1])
		unix.Close(own[0])
		unix.Close(own[1])
		return true, nil
	}
	defer r.Retire()
	return false, tryOut(r, ends)
}

// tryOut uses a ring: what a source sends must reach a new sink, and all old ones must come to the end. ends are the
// sockets for one source and many sinks.
func tryOut(r *ring.Ring, ends [][2]int) error {
	r.Snapshot(nil)
	s, err := r.Add(ring.Spec{ID: r.NewID(), Kind: ring.Dynamic, Label: "new"}, ring.Reading{CursorSpec: ring.CursorSpec{Patience: wire.Forever}}, false)
	if err != nil {
		return err
	}
	var sinks []*ring.Sink
	for s := range r.Sinks {
		r.Connect(s, true, 1)
		sinks = append(sinks, s)
	}
	text := []byte("hello")
	if err := send(ends[0][0], text, unix.MSG_DONTWAIT); err != nil {
		return err
	}
	got, sent, buf := false, false, make([]byte, 128<<10)
	for range 5000 {
		if r.Append(); !r.Landed() {
			n, _ := r.Receive(ends[0][1], ring.Datagrams, ring.From{}, 1)
			sent = sent || n > 0
			r.Append()
		}
		behind := false
		for i, o := range sinks {
			out := ends[1+i]
			if !r.Behind(o) {
				continue
			}
			behind = true
			if _, errno := r.Send(o, out[0]); errno == unix.EMSGSIZE {
				r.TooLarge(o)
			}
			for {
				n, err := receive(out[1], buf, unix.MSG_DONTWAIT)
				if err != nil {
					break
				}
				got = got || o == s && string(buf[:min(n, len(buf))]) == string(text)
			}
		}
		if !behind && sent && !r.Landed() {
			break
		}
		r.Turn(time.Millisecond, func(*ring.Cursor) bool { return true })
	}
	if !got {
		return errors.New("the message did not come")
	}
	totals, numbers := r.Snapshot(nil)
	for _, n := range numbers {
		if n.Cursor != totals.Head {
			return fmt.Errorf("sink %s is at %d/%d, and the head at %d/%d", n.Spec.Label, n.Cursor.Pos, n.Cursor.Seq, totals.Head.Pos, totals.Head.Seq)
		}
	}
	r.Update(s, *s.Spec(), *s.Cursor().Spec())
	for _, s := range sinks {
		r.Remove(s)
	}
	for s := range r.Clients {
		r.RemoveClient(s)
	}
	r.Snapshot(nil)
	return nil
}

// TestPromise7_FlippedBytes flips bytes in rings that were left in the middle of each operation, one at a time. Whatever
// it is, a successor comes up: with the ring, or knowing that it is broken.
func TestPromise7_FlippedBytes(t *testing.T) {
	random := rand.New(rand.NewPCG(seed(t), 0))
	var ends [][2]int
	for range 20 {
		a, b := pair(t, unix.SOCK_DGRAM)
		ends = append(ends, [2]int{a, b})
	}
	// With 10,000 kills each byte is flipped in every ring.
	soak := kills(t)
	sample, share := max(60, soak*3/10), min(16, max(1, 10_000/soak))
	began, tried, broken := time.Now(), 0, 0
	for n, at := range parkedAt {
		l := park(t, at)
		var fds [2]int
		for i, b := range [][]byte{l.data, l.state} {
			fd, err := sys.CreateMemfd("flipped", int64(len(b)))
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			if _, err := unix.Pwrite(fd, b, 0); err != nil {
				t.Fatal(err)
			}
			fds[i] = fd
		}
		for i, f := range l.flips(random, sample) {
			// Each byte is flipped in some of the rings.
			if (i+n)%share != 0 {
				continue
			}
			dog := time.AfterFunc(hang, func() { panic(fmt.Sprintf("hangs: parked at %s, %s", at, f)) })
			wasBroken, err := comesUp(l, f, fds, ends)
			dog.Stop()
			if err != nil {
				t.Errorf("parked at %s, %s: %v", at, f, err)
			}
			if tried++; wasBroken {
				broken++
			}
		}
		if t.Failed() {
			return
		}
	}
	t.Logf("%d flips, %d of them found out, in %v", tried, broken, time.Since(began))
	if broken == 0 {
		t.Error("no flipped byte was found out: the test flips the wrong ones")
	}
}

// TestPromise7_FlippedBytesUnderABroker flips bytes between a kill and the next start of a real broker, which must be
// ready in time each time and serve: a sink of before, once it has registered again, and a new one.
func TestPromise7_FlippedBytesUnderABroker(t *testing.T) {
	random := rand.New(rand.NewPCG(seed(t), 0))
	k := newKeeper(t)
	up(t, k, Death{})
	old, err := NewSink(k.Setup.Dir, &Traffic{Largest: 1 << 10}, "old", ByName, wire.Options{}, Fast)
	if err != nil {
		t.Fatal(err)
	}
	defer old.close()
	rounds := max(40, kills(t)/5)
	for n := range rounds {
		old.ID = 0 // another one, perhaps, if the ring was set aside
		if err := old.Register(); err != nil {
			t.Fatalf("%v\n%s", err, k.Log())
		}
		reaches(t, k, old)
		if n%4 == 0 {
			works(t, k, fmt.Sprintf("new-%d", n))
		}
		if err := k.Kill(); err != nil {
			t.Fatal(err)
		}
		f := flipStored(t, k, random)
		began := time.Now()
		if err := k.Start(Death{}); err != nil {
			t.Fatal(err)
		}
		if err := k.AwaitReady(); err != nil {
			t.Fatalf("after %s: %v\n%s", f, err, k.Log())
		}
		if d := time.Since(began); d > hang {
			t.Errorf("after %s the broker was ready after %v only", f, d)
		}
	}
	if log := k.tail(1 << 20); strings.Contains(log, "panic:") {
		t.Errorf("a broker panicked:\n%s", log)
	}
}

// flipStored flips a byte of the memory that the service manager holds.
func flipStored(t *testing.T, k *Keeper, random *rand.Rand) flip {
	t.Helper()
	base, isState := activation.StateName, true
	if random.IntN(5) == 0 {
		base, isState = activation.DataName, false
	}
	fd, err := k.Memory(base)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	b := contents(t, fd)
	at := 0
	switch random.IntN(4) {
	case 0:
		at = random.IntN(80) // the header
	case 1, 2:
		at = 4096 + random.IntN(1024) // positions and log, or records
	default:
		for at = random.IntN(len(b)); b[at] == 0; at = random.IntN(len(b)) {
		}
	}
	f := flip{isState, at, 1 << random.IntN(8)}
	if _, err := unix.Pwrite(fd, []byte{b[at] ^ f.by}, int64(at)); err != nil {
		t.Fatal(err)
	}
	return f
}
