// SPDX-License-Identifier: Apache-2.0

package stream_test

import (
	"errors"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/msgmux/msgmux/cmd/msgmux-nats/stream"
)

// until takes answers until so many letters are stored, or an error comes.
func until(t *testing.T, b *stream.Batch, letters uint64) (over bool, err error) {
	t.Helper()
	for stored := uint64(0); stored < letters && !over && err == nil; {
		select {
		case answer := <-b.Answers():
			stored, over, err = b.Take(answer)
		case <-time.After(20 * time.Second):
			t.Fatalf("of %d letters %d are under way", letters, b.UnderWay())
		}
	}
	return over, err
}

// TestABatchGoesOn while what was put before is acknowledged, until its end; and another one after it.
func TestABatchGoesOn(t *testing.T) {
	f := newFixture(t, jetstream.StreamConfig{Subjects: []string{"m"}, AllowBatchPublish: true})
	tail := stream.Tail{Subject: "m", Batches: true}
	next := uint64(0)
	for range 2 {
		b, err := f.Begin(&tail, 8)
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if err := b.Put(letters(next, 20)); err != nil {
				t.Fatal(err)
			}
			next += 20
		}
		if over, err := until(t, b, 56); over || err != nil { // without an end, every eighth is acknowledged
			t.Fatalf("over %v, %v", over, err)
		}
		if n := b.UnderWay(); n != 4 || b.Ends() {
			t.Errorf("%d are under way, and it ends: %v", n, b.Ends())
		}
		if got := uint64(len(f.stored(t))); got < next-4 {
			t.Errorf("%d are acknowledged, and %d are stored", next-4, got)
		}
		if err := b.End(); err != nil {
			t.Fatal(err)
		}
		if over, err := until(t, b, 61); !over || err != nil || b.UnderWay() != 0 {
			t.Fatalf("over %v, %v, %d under way", over, err, b.UnderWay())
		}
		if tail.Behind != next || tail.All != next {
			t.Errorf("after %d: %+v", next, tail)
		}
	}
	if got := len(f.stored(t)); got != 120 {
		t.Errorf("%d are stored, and 120 were put", got)
	}
}

// TestABatchEndsWhereSomebodyElseWrites however long it has gone on: nothing is stored behind that.
func TestABatchEndsWhereSomebodyElseWrites(t *testing.T) {
	f := newFixture(t, jetstream.StreamConfig{Subjects: []string{"m"}, AllowBatchPublish: true})
	tail := stream.Tail{Subject: "m", Batches: true}
	b, err := f.Begin(&tail, 1)
	if err == nil {
		err = b.Put(letters(0, 3))
	}
	if err == nil {
		_, err = until(t, b, 3)
	}
	if err == nil {
		_, err = f.js.Publish(t.Context(), "m", []byte("somebody else's"))
	}
	if err == nil {
		err = b.Put(letters(3, 3))
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := until(t, b, 6); !errors.Is(err, stream.ErrMoved) {
		t.Errorf("behind somebody else's: %v", err)
	}
	expect(t, "at last", f.stored(t), "0", "1", "2", "somebody else's")
}

// TestASilentServer is noticed while letters are under way.
func TestASilentServer(t *testing.T) {
	f := newFixture(t, jetstream.StreamConfig{Subjects: []string{"m"}, AllowBatchPublish: true})
	b, err := f.Begin(&stream.Tail{Subject: "m", Batches: true}, 1)
	if err == nil {
		err = f.server.Process().Signal(syscall.SIGSTOP)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Overdue(); err != nil {
		t.Errorf("while nothing is under way: %v", err)
	}
	if err := b.Put(letters(0, 1)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is noticed", func() bool { return b.Overdue() != nil })
}

// TestAServerThatIsSilentAtTheEnd of a batch is noticed as well, when all that was put is stored already: nothing else would come.
func TestAServerThatIsSilentAtTheEnd(t *testing.T) {
	f := newFixture(t, jetstream.StreamConfig{Subjects: []string{"m"}, AllowBatchPublish: true})
	b, err := f.Begin(&stream.Tail{Subject: "m", Batches: true}, 1)
	if err == nil {
		err = b.Put(letters(0, 1))
	}
	if err == nil {
		_, err = until(t, b, 1)
	}
	if err == nil {
		err = f.server.Process().Signal(syscall.SIGSTOP)
	}
	if err == nil {
		err = b.End()
	}
	if err != nil || b.Overdue() != nil {
		t.Fatal(err, b.Overdue())
	}
	eventually(t, "it is noticed", func() bool { return b.Overdue() != nil })
}
