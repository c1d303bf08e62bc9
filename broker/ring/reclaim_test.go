// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// counter counts how often the broker comes by each seam.
type counter struct {
	sys.Kernel
	n map[string]int
}

func (c *counter) Seam(name string) { c.n[name]++ }

// TestRoomForABatch: over a sink that lags, room is made for what is landed at once, whatever runs out first, bytes or index
// entries, and whatever the largest message may be. Room for one record at a time would cost an operation for each.
func TestRoomForABatch(t *testing.T) {
	const batch, rounds = 64, 50
	for _, size := range []int{0, 20, 100, 260, 1000} {
		for _, kind := range []uint32{Datagrams, Packets} {
			for _, most := range []uint64{2000, 64 << 10} {
				t.Run(fmt.Sprintf("%d bytes, kind %d, messages up to %d", size, kind, most), func(t *testing.T) {
					geo := Geometry{Size: MinSize, MaxMessage: most, MaxSinks: 16}
					g := newRig(t, geo)
					if kind == Packets {
						g = packets(t, geo)
					} else if err := unix.SetsockoptInt(g.in[0], unix.SOL_SOCKET, unix.SO_SNDBUF, 1<<20); err != nil {
						t.Fatal(err)
					}
					tap := g.add(wish{Kind: Dynamic, Label: "tap", Tap: true}, false)
					s := g.add(wish{Kind: Dynamic, Label: "s"}, false)
					count := &counter{n: map[string]int{}}
					g.r.ops = count
					round := func() {
						t.Helper()
						var packet []byte
						for got := 0; got < batch; {
							if kind == Packets {
								packet, got = wire.AppendRecord(packet, make([]byte, size)), got+1
								continue
							}
							k := 0
							for ; got+k < batch && unix.Send(g.in[0], make([]byte, size), unix.MSG_DONTWAIT) == nil; k++ {
							}
							got += k
							g.land(t, kind, k)
						}
						if kind == Packets {
							g.write(packet)
							g.land(t, kind, 1)
						}
						for g.r.Behind(s) {
							g.r.accepted(s, s.cursor.Place().Seq, g.r.Head(), 0) // as if it had it all
						}
					}
					for g.r.Tail().Seq == 0 { // until the ring has been full once
						round()
					}
					clear(count.n)
					lost := tap.cursor.Lost()
					for range rounds {
						round()
					}
					if tap.cursor.Lost() == lost {
						t.Fatal("the tap loses nothing, so this shows nothing")
					}
					// A batch comes in a few receives, and room for one that is in the way may have to be made in two steps.
					if tails := count.n["tail.logged"]; tails > 2*count.n["recv.logged"] {
						t.Errorf("room was made %d times for %d messages from %d receives", tails, rounds*batch, count.n["recv.logged"])
					}
					if err := g.r.check(); err != nil {
						t.Error(err)
					}
				})
			}
		}
	}
}

// land receives what was written, n datagrams or packets, and takes it into the ring.
func (g *rig) land(t *testing.T, kind uint32, n int) {
	t.Helper()
	for n > 0 {
		k, errno := g.r.Receive(g.in[1], kind, From{}, MaxBatch)
		if errno != 0 {
			t.Fatal(errno)
		}
		n -= k
		if out := g.r.Append(); out.Full {
			if !g.r.Turn(0, func(*Cursor) bool { return false }) {
				t.Fatal("the ring stays full")
			}
			g.r.Append()
		}
		if g.r.Landed() {
			t.Fatal("not all of it has entered")
		}
	}
}
