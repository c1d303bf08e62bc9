// SPDX-License-Identifier: Apache-2.0

package loop

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/internal/sys"
)

// newThread is a data thread that does not run, and gets its commands one at a time.
func newThread(t *testing.T) *Thread {
	t.Helper()
	r, err := ring.Create(ring.Geometry{Size: ring.MinSize, MaxMessage: 1024, MaxSinks: 1, MaxClients: 1}, 1, ring.Options{})
	if err != nil {
		t.Fatal(err)
	}
	th, err := New(Config{Ring: r, Ops: sys.Kernel{}}, func(*Roster) error { return nil })
	if err != nil {
		r.Retire()
		t.Fatal(err)
	}
	t.Cleanup(th.Close)
	th.commands = make(chan func(*loop), 1)
	return th
}

// TestCallThatRan: a command that the data thread has run, and ended right after, has run for its caller, too: he would undo what the
// roster owns by now.
func TestCallThatRan(t *testing.T) {
	th := newThread(t)
	for i := range 100 {
		th.over = make(chan struct{})
		th.commands <- func(*loop) {} // so that the caller waits until both is over
		var ran atomic.Bool
		said := make(chan bool)
		go func() { said <- th.Call(func(*Roster) { ran.Store(true) }) }()
		time.Sleep(time.Millisecond)
		for range 2 {
			(<-th.commands)(&th.loop)
		}
		close(th.over)
		if done := <-said; done != ran.Load() {
			t.Fatalf("call %d: it is said to have run: %t", i, done)
		}
	}
}

// TestCallTooLate: a command that the data thread has ended before is said never to run.
func TestCallTooLate(t *testing.T) {
	th := newThread(t)
	close(th.over)
	for range 3 {
		if th.Call(func(*Roster) { t.Error("it runs") }) {
			t.Error("it is said to have run")
		}
	}
}
