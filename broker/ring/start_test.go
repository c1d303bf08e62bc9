// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"fmt"
	"testing"

	"github.com/msgmux/msgmux/internal/wire"
)

// from is the start of a sink that wants what is kept, or not.
func from(oldest bool) wire.Start {
	if oldest {
		return wire.StartOldest
	}
	return wire.StartNow
}

// TestASinkBeginsWhereItAsksTo: at any record that is kept and that some sink has had, and nowhere else.
func TestASinkBeginsWhereItAsksTo(t *testing.T) {
	g := newRig(t, small())
	first := g.add(wish{Kind: Dynamic, Label: "first"}, false)
	message := func(i int) []byte { return fmt.Appendf(make([]byte, i%700), "message %d", i) }
	n := 0
	enter := func(count int) {
		for range count {
			if g.enter(message(n)); g.r.Full() {
				t.Fatal("the ring is full")
			}
			n++
		}
	}
	took := func(count int) {
		for range count {
			enter(1)
			g.send(first)
			g.read(first)
		}
	}
	for g.r.Tail().Seq < 100 { // until it has gone around, so that the oldest is not the first
		took(1)
	}
	took(50)
	enter(10) // that nobody has had
	tail, delivered := g.r.Tail().Seq, g.r.Delivered().Seq
	if delivered != uint64(n-10) || delivered-tail < 20 {
		t.Fatalf("tail %d, delivered %d of %d", tail, delivered, n)
	}
	for _, test := range []struct {
		start wire.Start
		want  uint64
	}{
		{wire.StartNow, delivered}, {wire.StartOldest, tail}, {wire.StartLast(5), delivered}, {wire.StartLast(25), delivered - 15},
		{wire.StartAt(0, 3), tail}, {wire.StartAt(0, tail+7), tail + 7}, {wire.StartAt(g.r.Epoch(), tail+7), tail + 7},
		{wire.StartAt(g.r.Epoch()+1, tail+7), tail}, {wire.StartAt(0, delivered+3), delivered},
	} {
		s, err := g.r.Add(Spec{ID: g.r.NewID(), Kind: Dynamic, Label: "s"}, Reading{Start: test.start}, false)
		if err != nil {
			t.Fatal(err)
		}
		at := s.Cursor().Place()
		got := g.r.data.Slice(at.Pos&g.r.mask+wire.RecordHeader, uint64(g.r.length(at.Pos)))
		if s.Cursor().Start() != test.want || at.Seq != test.want || string(got) != string(message(int(test.want))) {
			t.Errorf("%s: begins at %d with %q, want %d", test.start, s.Cursor().Start(), got, test.want)
		}
		if s.cursor.catching != (test.want < delivered) {
			t.Errorf("%s: catching up: %v", test.start, s.cursor.catching)
		}
		if err := g.r.check(); err != nil {
			t.Error(err)
		}
		g.r.Remove(s)
	}
}

// TestEpochsAreOneRings: its successors have the same, other rings have others.
func TestEpochsAreOneRings(t *testing.T) {
	g := newRig(t, small())
	epoch := g.r.Epoch()
	seen := map[uint64]bool{epoch: true}
	for range 20 {
		if other := newRig(t, small()).r.Epoch(); seen[other] || other == 0 {
			t.Errorf("the epoch %x is used twice", other)
		} else {
			seen[other] = true
		}
	}
	if r := g.reopen(); r.Epoch() != epoch {
		t.Errorf("the successor's epoch is %x, it was %x", r.Epoch(), epoch)
	}
}
