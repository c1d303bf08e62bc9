// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"bytes"
	"slices"
	"testing"

	"github.com/msgmux/msgmux/internal/wire"
)

// TestPacketsEndAtTheSamePlaces: a sink that begins a little behind where another one has begun, and comes by later, gets packets that
// end where the other one's did, round after round of the ring; and whoever comes first, no packet is longer than it may be, or more
// than an eighth shorter.
func TestPacketsEndAtTheSamePlaces(t *testing.T) {
	for _, size := range []int{20, 256, 3000} {
		g := newRig(t, small())
		before, behind := g.add(wish{Kind: Dynamic, Label: "before", Frames: true}, false), g.add(wish{Kind: Dynamic, Label: "behind", Frames: true}, false)
		ends := func(s *Sink, begin uint64) (ends []uint64) {
			for g.r.Behind(s) {
				if n, errno := g.r.Send(s, g.out[s][0]); n == 0 {
					t.Fatal(errno)
				}
				for _, b := range g.read(s) {
					p, err := wire.ParseSinkPacket(b)
					if err != nil || p.First != begin {
						t.Fatalf("a packet from %d on, %d was next: %v", p.First, begin, err)
					}
					if begin += uint64(p.Count); begin < g.r.Head().Seq && len(b) < wire.MaxPacket*7/8-wire.Padded(size) {
						t.Errorf("a packet of %d bytes", len(b))
					}
					ends = append(ends, begin)
				}
			}
			return ends
		}
		for round := range 6 {
			start := g.r.Head()
			g.enter(bytes.Repeat([]byte{1}, size))
			ends(behind, start.Seq)
			for g.r.Head().Pos-start.Pos < MinSize/2 {
				g.enter(bytes.Repeat([]byte{2}, size))
			}
			if round%2 == 1 {
				ends(behind, start.Seq+1)
				ends(before, start.Seq)
				continue
			}
			first, second := ends(before, start.Seq), ends(behind, start.Seq+1)
			if len(first) < 3 || !slices.Equal(first, second) {
				t.Errorf("packets with messages of %d bytes end before %v and %v", size, first, second)
			}
		}
	}
}
