// SPDX-License-Identifier: Apache-2.0

package view

import (
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// stageOf is a stage, the smallest, at both ends.
func stageOf(t *testing.T) (*Stage, *Writer) {
	t.Helper()
	s, fd, err := NewStage(minStage)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(); sys.Close(fd) })
	w, err := NewWriter(fd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return s, w
}

// TestPutBesideTheEnd: a broker that ends a connection stores that, and then looks for the last time how far the source has written. A
// source that looked for the end before it wrote may have come too late: it finds out, for it sends a packet that fails.
func TestPutBesideTheEnd(t *testing.T) {
	s, w := stageOf(t)
	record := wire.AppendRecord(nil, []byte("x"))
	if done, wake := w.Put(record, 0, false); !done || wake {
		t.Fatalf("the first: %t, %t", done, wake)
	}
	s.End()
	last := s.Head()
	if done, wake := w.Put(record, 0, false); !done || !wake || s.Head() == last {
		t.Errorf("one beside the end: %t, %t", done, wake)
	}
}

// TestBothLook: the source stores head and looks whether the broker sleeps, the broker stores that it sleeps and looks at head, at the same
// moment, again and again. One of them at least must see what the other stored: else what was put lies there, and nobody knows of it. The
// same holds of the end, and of room. The race detector's atomic stores are weaker than those of any other program.
func TestBothLook(t *testing.T) {
	s, w := stageOf(t)
	const rounds = 20_000
	record := wire.AppendRecord(nil, []byte("x"))
	meet := func(what string, source, broker func() (sees bool), between func()) {
		var here, there atomic.Uint32
		saw := make(chan bool)
		go func() {
			for n := range uint32(rounds) {
				for there.Store(n + 1); here.Load() <= n; {
					runtime.Gosched()
				}
				saw <- source()
			}
		}()
		missed := 0
		for n := range uint32(rounds) {
			for here.Store(n + 1); there.Load() <= n; {
				runtime.Gosched()
			}
			sees := broker()
			if !<-saw && !sees {
				missed++
			}
			between()
		}
		if missed > 0 {
			t.Errorf("%s: in %d of %d rounds neither saw what the other had stored", what, missed, rounds)
		}
	}
	var at uint64 // what had been written before
	meet("sleep",
		func() bool { _, wake := w.Put(record, 0, false); return wake },
		func() bool { return !s.Sleep(at) },
		func() { at = s.Head(); s.Take(at) })
	meet("end",
		func() bool { _, wake := w.Put(record, 0, false); return wake },
		func() bool { s.End(); return s.Head() != at },
		func() { s.over.Store(0); at = s.Head(); s.Take(at) })
	fill := func() { w.pos += w.size; at = w.pos }
	fill()
	meet("room",
		func() bool { return !w.Want(0) },
		func() bool { s.Take(at); return s.Wants() },
		fill)
}
