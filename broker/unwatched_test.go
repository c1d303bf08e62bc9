// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// TestUnwatchedClient: what epoll does not take, for want of memory or because its user has too many, is not served, and
// the loop keeps nothing of it: the number of its descriptor is soon somebody else's. A file stands for it here, which
// epoll never takes.
func TestUnwatchedClient(t *testing.T) {
	l := idleLoop(t, 1)
	c := &Channel{loop: l, ring: l.ring}
	before := len(l.outlets)
	for _, kind := range []ring.Kind{ring.Source, ring.Framed} {
		s, err := l.ring.Add(ring.Spec{ID: l.ring.NewID(), Kind: kind}, wire.StartNow, true)
		if err != nil {
			t.Fatal(err)
		}
		fd, err := sys.CreateMemfd("file", 1)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if c.openClient(s, fd) {
			t.Fatal("a file is watched")
		}
		if len(l.outlets) != before || l.byID[s.ID()] != nil || len(l.sources) != 0 || len(l.queue) != 0 {
			t.Errorf("%v: %d outlets, %d sources, %d turns, %v", kind, len(l.outlets)-before, len(l.sources), len(l.queue), l.byID[s.ID()])
		}
		if s.Cookie() != 0 {
			t.Errorf("%v: it counts as connected", kind)
		}
	}
}
