// SPDX-License-Identifier: Apache-2.0

package fair_test

import (
	"testing"

	"github.com/msgmux/msgmux/internal/fair"
)

// place is one that somebody has: of which user, and whether it may be taken away.
type place struct {
	uid  uint32
	kept bool
}

func TestLeaver(t *testing.T) {
	for name, test := range map[string]struct {
		all  []place
		want int
	}{
		"alone":                     {[]place{{1, false}}, 0},
		"one each: who came first":  {[]place{{1, false}, {2, false}, {3, false}}, 0},
		"who has most":              {[]place{{1, false}, {2, false}, {2, false}}, 1},
		"of the one with most":      {[]place{{1, false}, {2, true}, {2, false}, {2, false}}, 2},
		"what is kept does not add": {[]place{{2, true}, {2, true}, {1, false}}, 2},
		"all are kept":              {[]place{{2, true}, {1, true}}, 0},
		"two have as many":          {[]place{{3, true}, {2, false}, {1, false}, {1, false}, {2, false}}, 1},
	} {
		got := fair.Leaver(test.all, func(p place) uint32 { return p.uid }, func(p place) bool { return !p.kept })
		if got != test.want {
			t.Errorf("%s: %d has to go, want %d", name, got, test.want)
		}
	}
}
