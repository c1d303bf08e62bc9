// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
)

// moved makes a ring of another shape and moves g's into it.
func (g *rig) moved(to Geometry) (*Ring, error) {
	g.t.Helper()
	n, err := Create(to, g.r.Generation()+1, Options{Unpublished: true})
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(n.Retire)
	if err := g.r.MoveTo(n); err != nil {
		return nil, err
	}
	d, s := n.Descriptors()
	if _, err := Open(d, s, Options{}); !errors.Is(err, ErrBroken) {
		g.t.Fatalf("an unpublished ring was opened: %v", err)
	}
	n.Publish()
	return n, nil
}

func TestMoveKeepsEverything(t *testing.T) {
	for _, to := range []Geometry{
		{Size: 4 << 20, MaxMessage: 1 << 20, MaxSinks: 100, MaxClients: 3},
		{Size: MinSize, MaxMessage: 5 << 10, MaxSinks: 2},
		small(),
	} {
		g := newRig(t, Geometry{Size: 2 << 20, MaxMessage: 64 << 10, MaxSinks: 16})
		a, b := g.add(wish{Kind: Dynamic, Label: "a", Address: "@a"}, false), g.add(wish{Kind: Dynamic, Label: "b"}, false)
		var want [][]byte
		for i := range 3000 { // several times round the ring
			m := bytes.Repeat([]byte{byte(i)}, i%5000)
			g.enter(m)
			want = append(want, m)
			g.send(a)
			g.read(a)
			if i < 2900 {
				g.send(b)
				g.read(b)
				want = want[:0]
			}
		}
		n, err := g.moved(to)
		if err != nil {
			t.Fatal(err)
		}
		if err := n.check(); err != nil {
			t.Fatal(err)
		}
		nb := n.Sink(b.ID())
		if nb == nil || nb.cursor.Place() != b.cursor.Place() || n.Sink(a.ID()).cursor.Place() != n.Head() || n.Head() != g.r.Head() || n.Geometry() != to {
			t.Fatalf("%+v: b %v, head %v instead of %v, %v", to, nb, n.Head(), b.cursor.Place(), g.r.Head())
		}
		g.r, g.out = n, map[*Sink][2]int{nb: g.out[b]}
		var got [][]byte
		for n.Behind(nb) {
			if _, errno := n.Send(nb, g.out[nb][0]); errno != 0 && len(got) == len(want) {
				t.Fatal(errno)
			}
			got = append(got, g.read(nb)...)
		}
		if !equalAll(got, want) {
			t.Fatalf("%+v: %d messages instead of %d, or others", to, len(got), len(want))
		}
		if n.NewID() <= b.ID() {
			t.Fatal("id used twice")
		}
	}
}

func equalAll(a, b [][]byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !bytes.Equal(a[i], b[i]) {
			return false
		}
	}
	return true
}

func TestMoveRefusesWhatDoesNotFit(t *testing.T) {
	g := newRig(t, Geometry{Size: 4 << 20, MaxMessage: 64 << 10, MaxSinks: 16})
	g.add(wish{Kind: Dynamic, Label: "a"}, false)
	for i := range 100 {
		g.enter(bytes.Repeat([]byte{1}, 20000+i))
	}
	for _, to := range []Geometry{small(), {Size: 4 << 20, MaxMessage: 100, MaxSinks: 16}} {
		if _, err := g.moved(to); !errors.Is(err, ErrDoesNotFit) {
			t.Fatalf("%s: %v", fmt.Sprint(to), err)
		}
	}
}
