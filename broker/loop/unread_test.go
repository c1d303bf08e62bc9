// SPDX-License-Identifier: Apache-2.0

package loop

import (
	"testing"

	"github.com/msgmux/msgmux/broker/ring"
)

// TestCertainlyUnread is what two looks in a row have found: one may have met a sink while it read.
func TestCertainlyUnread(t *testing.T) {
	l, _ := roomyLoop(t)
	fd, _ := connection(t)
	s, err := l.ring.Add(ring.Spec{ID: l.ring.NewID(), Kind: ring.Dynamic}, ring.Reading{}, false)
	if err != nil {
		t.Fatal(err)
	}
	l.open(s, fd, 1, nil)
	o := l.byID[s.ID()]
	for i, look := range []struct {
		left    int
		certain bool
	}{{768, false}, {768, true}, {0, false}, {0, false}, {768, false}} {
		s.SeenTo(s.Took(), look.left)
		if got := o.certain(); got != look.certain {
			t.Errorf("look %d, which found %d bytes: %v", i, look.left, got)
		}
	}
}
