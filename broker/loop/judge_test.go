// SPDX-License-Identifier: Apache-2.0

package loop

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/internal/sys"
)

// idleLoop is a data thread that does not run, with n sinks that have read everything.
func idleLoop(t *testing.T, n int) *loop {
	t.Helper()
	r, err := ring.Create(ring.Geometry{Size: ring.MinSize, MaxMessage: 1024, MaxSinks: uint64(max(1, n)), MaxClients: 10}, 1, ring.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Retire)
	l := new(loop)
	if err := l.init(&Config{Ring: r, Ops: sys.Kernel{}}, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.close)
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(ends[0]); unix.Close(ends[1]) })
	for range n {
		s, err := r.Add(ring.Spec{ID: r.NewID(), Kind: ring.Dynamic}, ring.Reading{}, false)
		if err != nil {
			t.Fatal(err)
		}
		l.open(s, ends[0], 1, nil)
	}
	return l
}

// TestJudgingScales: while the ring is full the rule of patience asks every few ms of each sink whether it has read
// everything. What one answer costs does not grow with the number of sinks.
func TestJudgingScales(t *testing.T) {
	each := func(n int) time.Duration {
		l := idleLoop(t, n)
		best := time.Hour
		for range 5 {
			began := time.Now()
			for s := range l.ring.Sinks {
				if !l.hasReadAll(s.Cursor()) {
					t.Fatal("a sink that was sent nothing has something to read")
				}
			}
			best = min(best, time.Since(began)/time.Duration(n))
		}
		return best
	}
	few, many := each(100), each(4000)
	t.Logf("%s each of 100, %s each of 4,000", few, many)
	if many > 8*few {
		t.Errorf("%s each of 100 sinks, %s each of 4,000", few, many)
	}
}
