// SPDX-License-Identifier: Apache-2.0

package loop

import (
	"runtime"
	"testing"
	"time"

	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// keptLoop is a data thread that does not run, with n kept sinks that are on a connection.
func keptLoop(t *testing.T, n int) (l *loop, sinks []*ring.Sink) {
	t.Helper()
	l = stagedLoopOf(t, n)
	l.ring.Sinks(func(s *ring.Sink) bool { l.forget(s); return true })
	for range n {
		s, err := l.ring.Add(ring.Spec{ID: l.ring.NewID(), Kind: ring.Framed, UID: 1000, Frames: true},
			ring.Reading{CursorSpec: ring.CursorSpec{Ack: true, UID: 1000, Keep: time.Minute}}, false)
		if err != nil {
			t.Fatal(err)
		}
		sinks = append(sinks, s)
	}
	return l, sinks
}

// TestKeepingScales: what it costs that a kept sink goes away, and that its time is over, does not grow with how many there are: all of
// them may go at once.
func TestKeepingScales(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	each := func(n int) (away, over time.Duration) {
		away, over = time.Hour, time.Hour
		for range 3 {
			l, sinks := keptLoop(t, n)
			began := sys.ThreadTime() // others may be busy on this machine
			for _, s := range sinks {
				l.leave(s)
			}
			away = min(away, (sys.ThreadTime()-began)/time.Duration(n))
			began = sys.ThreadTime()
			l.expire(time.Now().Add(time.Hour))
			over = min(over, (sys.ThreadTime()-began)/time.Duration(n))
			if l.ring.Sinks(func(*ring.Sink) bool { t.Fatal("a sink is left"); return false }); !l.nextExpiry.IsZero() {
				t.Fatal("something is kept still")
			}
		}
		return away, over
	}
	fewAway, fewOver := each(100)
	manyAway, manyOver := each(4000)
	t.Logf("each of 100: away in %s, over in %s; each of 4,000: %s, %s", fewAway, fewOver, manyAway, manyOver)
	if manyAway > 12*fewAway || manyOver > 12*fewOver {
		t.Error("it grows with their number")
	}
}

// TestNextExpiry: the data thread wakes for who is kept for the shortest time, whoever goes away after him.
func TestNextExpiry(t *testing.T) {
	l, _ := keptLoop(t, 0)
	began := time.Now()
	for id, d := range []time.Duration{time.Hour, time.Second, time.Minute, wire.Forever} {
		l.keep(uint64(id), d)
	}
	if d := l.nextExpiry.Sub(began); d < time.Second || d > time.Minute {
		t.Errorf("it looks in %s", d)
	}
	l.unkeep(1)
	l.expire(began.Add(10 * time.Second))
	if d := l.nextExpiry.Sub(began); d < time.Minute || d > time.Hour {
		t.Errorf("the first one is back, and it looks in %s", d)
	}
	if _, there := l.expiries.Load(uint64(2)); !there {
		t.Error("who is kept for longer is not any more")
	}
}
