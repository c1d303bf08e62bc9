// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/wire"
)

// TestPromise3_WaitsForWhoCanTakeIt: a message that the socket of one sink can never take is that sink's loss. It leaves the
// ring when another one has accepted it, also one that is away just now, and whatever is accepted after it; if the other leaves
// for good, nobody is left, and it goes.
func TestPromise3_WaitsForWhoCanTakeIt(t *testing.T) {
	for _, stays := range []bool{true, false} {
		g := newRig(t, small())
		narrow := g.add(wish{Kind: Static, Label: "narrow"}, false)
		away := g.add(wish{Kind: Static, Label: "away"}, false)
		g.enter([]byte("both have this"))
		g.send(narrow)
		g.send(away)
		g.read(away)
		g.r.Connect(away, false, 0)
		large := bytes.Repeat([]byte("x"), 20_000)
		for range 200 { // more than the ring holds
			if g.enter(large).Full {
				break
			}
			if g.r.Behind(narrow) && !g.r.TooLarge(narrow) {
				t.Fatal("it waits for somebody else to take it")
			}
			if g.enter([]byte("small")).Full {
				break
			}
			g.send(narrow)
			g.read(narrow)
		}
		if !g.r.Full() {
			t.Fatalf("messages that nobody has accepted are gone: delivered %d, tail %d, head %d", g.r.Delivered().Seq, g.r.Tail().Seq, g.r.Head().Seq)
		}
		if g.r.Delivered().Seq != 1 {
			t.Errorf("delivered is %d, and the second message was accepted by nobody", g.r.Delivered().Seq)
		}
		if !stays {
			g.r.Remove(away)
			if out := g.r.Append(); out.Full || g.r.Delivered().Seq < 2 {
				t.Errorf("nobody is left who could take it, and it waits: %+v, delivered %d", out, g.r.Delivered().Seq)
			}
			continue
		}
		g.r.Connect(away, true, 1)
		var got [][]byte
		for g.r.Behind(away) {
			g.send(away)
			got = append(got, g.read(away)...)
		}
		if away.cursor.Lost() != 0 || len(got) < 50 || !bytes.Equal(got[0], large) {
			t.Errorf("%d lost, %d messages", away.cursor.Lost(), len(got))
		}
	}
}

// TestShareLeavesOutWhatNoneCanTake: a message that one member of a share can never take goes to another one; it is lost when
// none can take it.
func TestShareLeavesOutWhatNoneCanTake(t *testing.T) {
	g := newRig(t, small())
	narrow := g.add(wish{Kind: Static, Label: "narrow", Group: "g"}, false)
	wide := g.add(wish{Kind: Static, Label: "wide", Group: "g"}, false)
	g.enter([]byte("large"))
	g.enter([]byte("small"))
	if g.r.TooLarge(narrow) {
		t.Fatal("lost, and another one could take it")
	}
	if g.r.Behind(narrow) || !g.r.Behind(wide) {
		t.Fatalf("offered again to who cannot take it: %v, to the other: %v", g.r.Behind(narrow), g.r.Behind(wide))
	}
	if n, errno := g.send(wide); n != 2 || errno != 0 || wide.cursor.Lost() != 0 {
		t.Fatalf("%d messages, %v, %d lost", n, errno, wide.cursor.Lost())
	}
	g.enter([]byte("for both"))
	if !g.r.Behind(narrow) {
		t.Fatal("gets nothing any more")
	}
	g.send(narrow)
	g.enter([]byte("too large for both"))
	if g.r.TooLarge(wide) || !g.r.TooLarge(narrow) || wide.cursor.Lost() != 1 {
		t.Errorf("%d lost", wide.cursor.Lost())
	}
	// One that is not there takes nothing.
	g.enter([]byte("too large for who is there"))
	g.r.Connect(wide, false, 0)
	if !g.r.TooLarge(narrow) || wide.cursor.Lost() != 2 {
		t.Errorf("%d lost", wide.cursor.Lost())
	}
}

// TestFullRingGrows: what waits for room goes along when a ring is moved, so that a full one can be given more room.
func TestFullRingGrows(t *testing.T) {
	for name, kind := range map[string]uint32{"datagrams": Datagrams, "packets": Packets} {
		t.Run(name, func(t *testing.T) {
			g := newRig(t, small())
			if kind == Packets {
				g = packets(t, small())
			}
			s := g.add(wish{Kind: Dynamic, Label: "s"}, false)
			var want [][]byte
			for i := 0; !g.r.Full(); i++ {
				var packet []byte
				for k := range 3 {
					m := numbered(3*i+k, 20_001)
					want = append(want, m)
					if packet = wire.AppendRecord(packet, m); kind == Datagrams {
						g.write(m)
					}
				}
				if kind == Packets {
					g.write(packet)
				}
				if n, errno := g.r.Receive(g.in[1], kind, From{}, MaxBatch); n == 0 {
					t.Fatal(errno)
				}
				g.r.Append()
			}
			if !g.r.Landed() || g.r.c.Slots.Load().next() == 0 && g.r.c.Offset.Load() == 0 {
				t.Fatal("nothing waits, or all of it")
			}
			epoch := g.r.Epoch()
			n, err := g.moved(Geometry{Size: 4 * MinSize, MaxMessage: 64 << 10, MaxSinks: 16})
			if err != nil {
				t.Fatal(err)
			}
			if n.Epoch() != epoch {
				t.Error("the numbering goes on, under another name")
			}
			out := g.out[s]
			g.r = n
			if o := n.Append(); o.Full || n.Landed() || n.Head().Seq != uint64(len(want)) {
				t.Fatalf("%+v, %d messages of %d", o, n.Head().Seq, len(want))
			}
			s = n.Sink(s.ID())
			g.out = map[*Sink][2]int{s: out}
			n.Connect(s, true, 1)
			var got [][]byte
			for n.Behind(s) {
				if _, errno := n.Send(s, out[0]); errno != 0 && errno != unix.EAGAIN {
					t.Fatal(errno)
				}
				got = append(got, g.read(s)...)
			}
			if !equalAll(got, want) {
				t.Errorf("%d messages of %d, or others", len(got), len(want))
			}
		})
	}
}

// TestTotalsNeverGoBack: what sinks have accepted is counted once, in the table or among those that are gone, whenever somebody
// looks.
func TestTotalsNeverGoBack(t *testing.T) {
	g := newRig(t, small())
	stop, over := make(chan struct{}), make(chan struct{})
	var back, looks int
	go func() {
		defer close(over)
		var last uint64
		for {
			select {
			case <-stop:
				return
			default:
			}
			t, _ := g.r.Snapshot(nil)
			if looks++; t.Accepted < last {
				back++
			}
			last = t.Accepted
		}
	}()
	keeper := g.add(wish{Kind: Dynamic, Label: "keeper"}, false)
	for range 3000 {
		s, err := g.r.Add(Spec{ID: g.r.NewID(), Kind: Dynamic, Label: "s"}, Reading{}, false)
		if err != nil {
			t.Fatal(err)
		}
		g.out[s] = g.out[keeper]
		g.r.Connect(s, true, 1)
		g.enter([]byte("message"))
		g.send(s)
		g.send(keeper)
		g.read(keeper)
		g.r.Remove(s)
	}
	close(stop)
	<-over
	if back > 0 || looks < 10 {
		t.Errorf("the total went back %d times in %d looks", back, looks)
	}
}

// TestBlockerIsSomebody: while there are sinks, the sources wait for one of them.
func TestBlockerIsSomebody(t *testing.T) {
	g := newRig(t, small())
	g.add(wish{Kind: Dynamic, Label: "tap", Tap: true}, false)
	if g.r.Blocker() != nil {
		t.Error("a tap is waited for")
	}
	a, b := g.add(wish{Kind: Dynamic, Label: "a"}, false), g.add(wish{Kind: Dynamic, Label: "b"}, false)
	for range 3 {
		g.enter([]byte("message"))
	}
	g.send(a)
	if got := g.r.Blocker(); got != b.cursor {
		t.Errorf("%+v", got)
	}
	g.r.setFlag(b.cursor, flagLagging, true)
	if got := g.r.Blocker(); got != a.cursor {
		t.Error("one that was left behind is waited for")
	}
	g.r.setFlag(a.cursor, flagLagging, true)
	if got := g.r.Blocker(); got != a.cursor {
		t.Error("of two that were left behind, not the one that needs less is named")
	}
}

// TestContended: the rule of patience needs to look again and again only if somebody may be charged.
func TestContended(t *testing.T) {
	g := newRig(t, small())
	a := g.add(wish{Kind: Dynamic, Label: "a"}, false)
	g.add(wish{Kind: Dynamic, Label: "tap", Tap: true}, false)
	for !g.r.Full() {
		g.enter(make([]byte, 60_000))
	}
	if g.r.Contended() {
		t.Error("the only sink is waited for without end, so nothing changes")
	}
	g.add(wish{Kind: Dynamic, Label: "b"}, false)
	if !g.r.Contended() {
		t.Error("two sinks, and nobody judges them")
	}
	g.r.Connect(a, false, 0)
	if !g.r.Contended() {
		t.Error("one that is away is judged as well")
	}
}
