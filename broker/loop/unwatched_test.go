// SPDX-License-Identifier: Apache-2.0

package loop

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/internal/sys"
)

// TestUnwatchedClient: what epoll does not take, for want of memory or because its user has too many, is not served, and
// the loop keeps nothing of it: the number of its descriptor is soon somebody else's. A file stands for it here, which
// epoll never takes.
func TestUnwatchedClient(t *testing.T) {
	l := idleLoop(t, 1)
	before := len(l.outlets)
	fd, err := sys.CreateMemfd("file", 1)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	s, err := l.ring.Add(ring.Spec{ID: l.ring.NewID(), Kind: ring.Framed}, ring.Reading{}, true)
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.ring.AddClient(ring.ClientSpec{ID: l.ring.NewID()})
	if err != nil {
		t.Fatal(err)
	}
	if l.openConnection(s, fd, nil) || l.addClient(c, fd, nil) == nil {
		t.Fatal("a file is watched")
	}
	if len(l.outlets) != before || l.byID[s.ID()] != nil || len(l.sources) != 0 || len(l.queue) != 0 {
		t.Errorf("%d outlets, %d sources, %d turns, %v", len(l.outlets)-before, len(l.sources), len(l.queue), l.byID[s.ID()])
	}
	if s.Cookie() != 0 {
		t.Error("it counts as connected")
	}
}
