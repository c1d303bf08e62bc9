// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/sys"
)

// TestKilledAfterTaking: what a kill leaves behind a batch that was taken whole, from an earlier and longer one, is not
// taken for a message that was lost.
func TestKilledAfterTaking(t *testing.T) {
	g := newRig(t, small())
	g.add(wish{Kind: Dynamic, Label: "s"}, false)
	queue := openQueue(t, "in")
	var k sys.Kernel
	fill := func(n int) {
		for range n {
			if errno := k.QueueSend("", queue, []byte("message")); errno != 0 {
				t.Fatal(errno)
			}
		}
	}
	fill(8)
	if n, errno := g.r.Receive(queue, Queues, From{}, 8); n != 8 || errno != 0 {
		t.Fatal(n, errno)
	}
	g.r.Append()
	fill(4)
	ops := &stop{at: "take.landed"}
	g.r.ops = ops
	ops.dies(func() { g.r.Receive(queue, Queues, From{}, 2) })
	r := g.reopen()
	if n := r.totals().Uncertain; n != 0 || r.c.Slots.Load() != newSlots(0, 2) {
		t.Errorf("%d uncertain, %#x landed: all of them are known", n, r.c.Slots.Load())
	}
}

// stop ends what it is asked for at a seam, as a kill would.
type stop struct {
	sys.Kernel
	at string
}

func (s *stop) Seam(name string) {
	if name == s.at {
		panic(unix.SIGKILL)
	}
}

func (s *stop) dies(f func()) {
	defer func() {
		if recover() == nil {
			panic("it came through")
		}
	}()
	f()
}
