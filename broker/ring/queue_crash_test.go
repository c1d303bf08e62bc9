// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/sys"
)

// TestKilledWhileGiving: a broker can be killed between any two of the words that a message given to a queue moves. Its
// successor takes up the ring in each case; the message counts as given, or is given again and counted as uncertain.
func TestKilledWhileGiving(t *testing.T) {
	for name, c := range map[string]struct {
		torn      func(c *control, e *entry, from, end Place)
		given     bool
		uncertain uint64
	}{
		"before anything":              {func(*control, *entry, Place, Place) {}, false, 1},
		"cursor's position":            {func(_ *control, e *entry, _, end Place) { e.Cursor.Pos.Store(end.Pos) }, false, 1},
		"cursor":                       {func(_ *control, e *entry, _, end Place) { e.Cursor.store(end) }, true, 0},
		"cursor, delivered's position": {func(c *control, e *entry, _, end Place) { e.Cursor.store(end); c.Delivered.Pos.Store(end.Pos) }, true, 0},
		"cursor and delivered":         {func(c *control, e *entry, _, end Place) { e.Cursor.store(end); c.Delivered.store(end) }, true, 0},
		"cursor, delivered is further": {func(c *control, e *entry, _, end Place) { e.Cursor.store(end); c.Delivered.store(c.Head.load()) }, true, 0},
		"position, delivered is beyond": {func(c *control, e *entry, _, end Place) {
			e.Cursor.Pos.Store(end.Pos)
			c.Delivered.store(c.Head.load())
		}, false, 1},
	} {
		t.Run(name, func(t *testing.T) {
			ops := &stop{at: "put.sent"}
			g := newRig(t, small())
			s := g.add(Spec{Kind: Static, Label: "q"}, false)
			s.Queue(true)
			for range 3 {
				g.enter([]byte("twelve bytes"))
			}
			queue := openQueue(t, "out")
			from := s.Cursor()
			g.r.ops = ops
			ops.dies(func() { g.r.Send(s, queue) })
			end := g.r.place(from, from.Seq+1)
			c.torn(g.r.c, s.e, from, end)
			before := g.r.Delivered().Seq
			r := g.reopen()
			want := from
			if c.given {
				want = end
			}
			if got := r.Find(s.ID()).Cursor(); got != want {
				t.Errorf("the cursor is at %v, want %v", got, want)
			}
			if got := r.Delivered(); got.Seq != max(before, want.Seq) || got != r.place(from, got.Seq) {
				t.Errorf("delivered is %v, the cursor %v", got, want)
			}
			if n := r.totals().Uncertain; n != c.uncertain {
				t.Errorf("%d uncertain, want %d", n, c.uncertain)
			}
		})
	}
}

// TestKilledAfterTaking: what a kill leaves behind a batch that was taken whole, from an earlier and longer one, is not
// taken for a message that was lost.
func TestKilledAfterTaking(t *testing.T) {
	g := newRig(t, small())
	g.add(Spec{Kind: Dynamic, Label: "s"}, false)
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
	if n, errno := g.r.Receive(queue, Queues, 8); n != 8 || errno != 0 {
		t.Fatal(n, errno)
	}
	g.r.Append()
	fill(4)
	ops := &stop{at: "take.landed"}
	g.r.ops = ops
	ops.dies(func() { g.r.Receive(queue, Queues, 2) })
	r := g.reopen()
	if n := r.totals().Uncertain; n != 0 || r.c.Landed.Load() != 2 {
		t.Errorf("%d uncertain, %d landed: all of them are known", n, r.c.Landed.Load())
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
