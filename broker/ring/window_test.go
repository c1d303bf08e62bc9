// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"bytes"
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// packets is a rig whose source is a connection.
func packets(t *testing.T, geo Geometry) *rig {
	t.Helper()
	g := newRig(t, geo)
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(p[0]); unix.Close(p[1]) })
	g.in = p
	if err := unix.SetsockoptInt(p[0], unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 4<<20); err != nil {
		_ = unix.SetsockoptInt(p[0], unix.SOL_SOCKET, unix.SO_SNDBUF, 4<<20)
	}
	return g
}

// packet writes messages in one packet and receives it.
func (g *rig) packet(messages ...[]byte) {
	g.t.Helper()
	var b []byte
	for _, m := range messages {
		b = wire.AppendRecord(b, m)
	}
	g.write(b)
	if n, errno := g.r.Receive(g.in[1], Packets, From{}, MaxBatch); n != 1 || errno != 0 {
		g.t.Fatalf("receive: %d %v", n, errno)
	}
}

// numbered is a message of n bytes that no other one equals.
func numbered(i, n int) []byte {
	b := bytes.Repeat([]byte{byte(i*7 + 1)}, n)
	if n >= 4 {
		binary.LittleEndian.PutUint32(b, uint32(i))
	}
	return b
}

// TestPacketsLandInTheRing: many laps of packets, and each is received where it belongs: nothing is written to the landing
// zone at all.
func TestPacketsLandInTheRing(t *testing.T) {
	g := packets(t, small())
	s := g.add(wish{Kind: Dynamic, Label: "s"}, false)
	const untouched = 0xa5
	landing := g.r.landing.Slice(0, uint64(g.r.landing.Len()))
	for i := range landing {
		landing[i] = untouched
	}
	for i := range 400 {
		var want [][]byte
		for k := range 1 + i%5 {
			want = append(want, numbered(10*i+k, (i*977+k*331)%6000))
		}
		g.packet(want...)
		if g.r.c.Land.Load().inRing() == 0 {
			t.Fatalf("packet %d is not in the ring", i)
		}
		if out := g.r.Append(); out.Entered != len(want) || out.Refused+len(g.read(s)) != 0 || g.r.Landed() {
			t.Fatalf("packet %d: %+v", i, out)
		}
		if _, errno := g.send(s); errno != 0 {
			t.Fatal(errno)
		}
		got := g.read(s)
		if len(got) != len(want) {
			t.Fatalf("packet %d: %d messages of %d", i, len(got), len(want))
		}
		for k := range got {
			if !bytes.Equal(got[k], want[k]) {
				t.Fatalf("packet %d: message %d is another", i, k)
			}
		}
	}
	if g.r.Head().Pos < 3*MinSize {
		t.Fatalf("only %d bytes, not several laps", g.r.Head().Pos)
	}
	if bytes.Count(landing, []byte{untouched}) != len(landing) {
		t.Error("the landing zone was written to")
	}
	if err := g.r.check(); err != nil {
		t.Error(err)
	}
}

// TestPacketLargerThanItsWindow: what has no place in the window goes on in the landing zone, and the message is whole.
func TestPacketLargerThanItsWindow(t *testing.T) {
	g := packets(t, Geometry{Size: MinSize, MaxMessage: MinSize / 2, MaxSinks: 16})
	for _, n := range []int{wire.MaxPacket - wire.RecordHeader, wire.MaxPacket - wire.RecordHeader + 1, 100_000, 200_000} {
		want := numbered(n, n)
		s := g.add(wish{Kind: Dynamic, Label: "s"}, false)
		_ = unix.SetsockoptInt(g.out[s][0], unix.SOL_SOCKET, unix.SO_SNDBUF, MinSize)
		g.packet(want)
		if l, fits := g.r.slot(0); !fits || !l.inRing || len(l.rest) != max(0, wire.Padded(n)-wire.MaxPacket) {
			t.Errorf("%d bytes: %d of them in the landing zone", n, len(l.rest))
		}
		if out := g.r.Append(); out.Entered != 1 {
			t.Fatalf("%d bytes: %+v", n, out)
		}
		if _, errno := g.send(s); errno != 0 {
			t.Fatal(errno)
		}
		if got := g.read(s); len(got) != 1 || !bytes.Equal(got[0], want) {
			t.Errorf("%d bytes came out as something else", n)
		}
		g.r.Remove(s)
	}
}

// TestWindowTakesNothingFromAnybody: what a sink has not had is never written over, and one that lags loses nothing for
// the sake of a window.
func TestWindowTakesNothingFromAnybody(t *testing.T) {
	g := packets(t, small())
	slow, fast := g.add(wish{Kind: Dynamic, Label: "slow"}, false), g.add(wish{Kind: Dynamic, Label: "fast"}, false)
	i := 0
	for ; !g.r.Full(); i++ {
		g.packet(numbered(i, 30_000))
		g.r.Append()
		g.send(fast)
		g.read(fast)
	}
	if want := MinSize / wire.Padded(30_000); i != want+1 || g.r.c.Land.Load().inRing() != 0 {
		t.Fatalf("full at message %d of %d, Split %d", i, want+1, g.r.c.Land.Load().inRing())
	}
	// The slow one is left behind: now room is made at its cost, as much as the landed message needs and no more.
	g.r.setFlag(slow.cursor, flagLagging, true)
	if out := g.r.Append(); out.Entered != 1 || slow.cursor.Lost() == 0 {
		t.Fatalf("%+v, %d lost", out, slow.cursor.Lost())
	}
	g.send(fast)
	g.read(fast)
	lost := slow.cursor.Lost()
	g.write(wire.AppendRecord(nil, []byte("one more")))
	if n, errno := g.r.Receive(g.in[1], Packets, From{}, 1); n != 1 || errno != 0 {
		t.Fatal(n, errno)
	}
	if slow.cursor.Lost() != lost {
		t.Errorf("%d lost for a window", slow.cursor.Lost()-lost)
	}
	if out := g.r.Append(); out.Entered != 1 {
		t.Fatalf("%+v", out)
	}
	if err := g.r.check(); err != nil {
		t.Error(err)
	}
}

// TestPacketOfManyRecords: how many messages a ring holds is a matter of their bytes alone.
func TestPacketOfManyRecords(t *testing.T) {
	g := packets(t, small())
	s := g.add(wish{Kind: Dynamic, Label: "s"}, false)
	const n = 9000
	var want [][]byte
	for i := range n {
		want = append(want, numbered(i, i%2)) // none or one byte
	}
	g.packet(want...)
	if out := g.r.Append(); out.Entered != n {
		t.Fatalf("%+v", out)
	}
	g.r = g.reopen()
	s = g.attach(s)
	var got [][]byte
	for rounds := 0; len(got) < n && rounds < 3*n; rounds++ {
		g.send(s)
		got = append(got, g.read(s)...)
	}
	if !equalAll(got, want) {
		t.Fatalf("%d messages of %d, or others", len(got), n)
	}
}

// attach connects what a successor has found of s to the same sockets.
func (g *rig) attach(s *Sink) *Sink {
	g.t.Helper()
	n := g.r.Sink(s.ID())
	if n == nil {
		g.t.Fatal("the sink is gone")
	}
	g.out[n] = g.out[s]
	g.r.Connect(n, true, 0)
	return n
}

// TestKilledWithAPacket: whenever a broker is killed while it takes a packet, the successor has all of it, once.
func TestKilledWithAPacket(t *testing.T) {
	for name, size := range map[string]int{"in its window": 1000, "larger than its window": 150_000} {
		for _, seam := range []string{"recv.taken", "recv.landed", "append.logged", "append.head", "append.done"} {
			t.Run(name+", "+seam, func(t *testing.T) {
				g := packets(t, Geometry{Size: MinSize, MaxMessage: MinSize / 2, MaxSinks: 16})
				s := g.add(wish{Kind: Dynamic, Label: "s"}, false)
				_ = unix.SetsockoptInt(g.out[s][0], unix.SOL_SOCKET, unix.SO_SNDBUF, MinSize)
				want := numbered(1, size)
				for i := range 30 { // not at the beginning of the ring
					g.packet(numbered(i, 20_000))
					g.r.Append()
					g.send(s)
					g.read(s)
				}
				ops := &stop{at: seam}
				g.r.ops = ops
				ops.dies(func() { g.packet(want); g.r.Append() })
				g.r = g.reopen()
				s = g.attach(s)
				g.r.Append()
				g.send(s)
				if got := g.read(s); len(got) != 1 || !bytes.Equal(got[0], want) {
					t.Errorf("%d messages, or another", len(got))
				}
			})
		}
	}
}

// TestFlippedSplit: a successor that cannot believe where a packet lies takes the ring for broken.
func TestFlippedSplit(t *testing.T) {
	for name, flip := range map[string]func(*Ring){
		"more than a packet can be": func(r *Ring) { r.c.Land.Store(newLand(Packets, 1<<30)) },
		"less than the packet":      func(r *Ring) { r.c.Land.Store(newLand(Packets, 5)) },
		"no packet at all":          func(r *Ring) { r.c.Land.Store(newLand(Datagrams, uint32(r.c.Land.Load().inRing()))) },
		"offset":                    func(r *Ring) { r.c.Offset.Store(1 << 40) },
		"length":                    func(r *Ring) { r.recv.Hdr[0].SetLen(1 << 29) },
	} {
		t.Run(name, func(t *testing.T) {
			g := packets(t, small())
			g.add(wish{Kind: Dynamic, Label: "s"}, false)
			g.packet([]byte("a message"), []byte("another"))
			flip(g.r)
			d, s := g.r.Descriptors()
			if r, err := Open(d, s, Options{}); err == nil {
				t.Errorf("taken over: %+v", r.Append())
			}
		})
	}
}

// TestWindowIsInMemory: before the kernel writes into a window its pages are there, whatever the packet needs of them.
func TestWindowIsInMemory(t *testing.T) {
	g := packets(t, Geometry{Size: 4 * MinSize, MaxMessage: 64 << 10, MaxSinks: 16})
	g.add(wish{Kind: Dynamic, Label: "s"}, false)
	fd, _ := g.r.Descriptors()
	blocks := func() int64 {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			t.Fatal(err)
		}
		return st.Blocks * 512
	}
	if n := blocks(); n > chunk {
		t.Fatalf("%d bytes are there before anything is received", n)
	}
	g.packet([]byte("short"))
	if n := blocks(); n < chunk+wire.MaxPacket {
		t.Errorf("%d bytes are there after the first packet", n)
	}
}

// TestQueueAfterPackets: what comes from elsewhere after a packet lies in the landing zone, and nowhere else.
func TestQueueAfterPackets(t *testing.T) {
	g := packets(t, small())
	s := g.add(wish{Kind: Dynamic, Label: "s"}, false)
	queue, socket := openQueue(t, "in"), pair(t)
	var k sys.Kernel
	for i := range 5 {
		g.packet([]byte("from a packet"))
		g.r.Append()
		if errno := k.QueueSend("", queue, []byte("from a queue")); errno != 0 {
			t.Fatal(errno)
		}
		if n, errno := g.r.Receive(queue, Queues, From{}, 8); n != 1 || errno != 0 {
			t.Fatal(n, errno)
		}
		g.r.Append()
		if err := unix.Send(socket[0], []byte("from a socket"), 0); err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 { // straight after a packet, too
			g.packet([]byte("another"))
			g.r.Append()
		}
		if n, errno := g.r.Receive(socket[1], Datagrams, From{}, 8); n != 1 || errno != 0 {
			t.Fatal(n, errno)
		}
		g.r.Append()
		g.send(s)
		got := bytes.Join(g.read(s), []byte("|"))
		want := "from a packet|from a queue|from a socket"
		if i%2 == 0 {
			want = "from a packet|from a queue|another|from a socket"
		}
		if string(got) != want {
			t.Fatalf("%q", got)
		}
	}
}
