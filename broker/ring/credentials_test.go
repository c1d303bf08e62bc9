// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/sys"
)

// TestCredentialsWithoutTheRight: a ring that a process goes on with which may not send others' credentials sends its own, and counts.
func TestCredentialsWithoutTheRight(t *testing.T) {
	g := newRig(t, small())
	pass := g.add(wish{Kind: Dynamic, Label: "pass", Credentials: true}, false)
	sys.PassCredentials(g.in[1], true)
	sys.PassCredentials(g.out[pass][1], true)
	const n = 20
	for range n {
		g.enter([]byte("message"))
	}
	if k, errno := g.send(pass); k != n && errno != unix.EAGAIN {
		t.Fatalf("%d, %v", k, errno)
	}
	control := make([]byte, sys.ControlSpace)
	sent := uint64(0)
	for {
		_, k, _, _, err := unix.Recvmsg(g.out[pass][1], g.buf, control, unix.MSG_DONTWAIT)
		if err != nil {
			break
		}
		sent++
		if who, ok := sys.FindCredentials(control[:k]); !ok || who.PID != int32(unix.Getpid()) {
			t.Errorf("from %+v", who)
		}
	}
	if totals, _ := g.r.Snapshot(nil); sent == 0 || totals.AsOwn != sent {
		t.Errorf("%d messages are counted of %d", totals.AsOwn, sent)
	}
}

// TestSlotSet counts across its words.
func TestSlotSet(t *testing.T) {
	var s slotSet
	for _, i := range []int{0, 1, 63, 64, 130, 255} {
		s.add(i)
	}
	for n, want := range map[int]uint64{0: 0, 1: 1, 2: 2, 63: 2, 64: 3, 65: 4, 130: 4, 131: 5, 255: 5, 256: 6, 512: 6} {
		if got := s.below(n); got != want {
			t.Errorf("%d of the first %d instead of %d", got, n, want)
		}
	}
	if s.has(2) || !s.has(130) {
		t.Error(s)
	}
}
