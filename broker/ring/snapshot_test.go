// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"testing"
	"time"
)

// TestSnapshotWhileSlotsChangeHands: sinks come and go in the same slot while others look. Whoever looks sees the numbers
// of one sink and never those of two.
func TestSnapshotWhileSlotsChangeHands(t *testing.T) {
	g := newRig(t, small())
	keeper := g.add(wish{Kind: Dynamic, Label: "keeper"}, false)
	stop, bad := make(chan struct{}), make(chan Numbers, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		var buf []Numbers
		for {
			select {
			case <-stop:
				return
			default:
			}
			_, buf = g.r.Snapshot(buf[:0])
			for _, n := range buf {
				if n.Accepted > 1<<40 || n.Lost > 1<<40 {
					select {
					case bad <- n:
					default:
					}
				}
			}
		}
	}()
	for range 100 {
		g.enter([]byte("message"))
		g.send(keeper)
		g.read(keeper)
	}
	// One begins behind all of these, and the next one before them.
	oldest := false
	for began := time.Now(); time.Since(began) < 500*time.Millisecond; oldest = !oldest {
		s, err := g.r.Add(Spec{ID: g.r.NewID(), Kind: Dynamic, Label: "s"}, Reading{Start: from(oldest)}, false)
		if err != nil {
			t.Fatal(err)
		}
		g.r.Remove(s)
	}
	close(stop)
	<-done
	select {
	case n := <-bad:
		t.Errorf("%+v", n)
	default:
	}
}
