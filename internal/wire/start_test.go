// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"testing"

	"github.com/msgmux/msgmux/internal/wire"
)

// TestStartIsWithinTheRing and never beyond what some sink has had.
func TestStartIsWithinTheRing(t *testing.T) {
	const epoch, tail, delivered, head = 5, 100, 200, 210
	for _, test := range []struct {
		start wire.Start
		text  string
		want  uint64
	}{
		{wire.StartNow, "now", delivered},
		{wire.Start{}, "now", delivered},
		{wire.StartOldest, "oldest", tail},
		{wire.StartLast(0), "-0", delivered},
		{wire.StartLast(9), "-9", delivered}, // those that no sink has had come in any case
		{wire.StartLast(11), "-11", 199},
		{wire.StartLast(1000), "-1000", tail},
		{wire.StartAt(0, 0), "0", tail},
		{wire.StartAt(0, 99), "99", tail},
		{wire.StartAt(0, 150), "150", 150},
		{wire.StartAt(0, 205), "205", delivered},
		{wire.StartAt(0, 1<<64-1), "18446744073709551615", delivered},
		{wire.StartAt(epoch, 150), "5:150", 150},
		{wire.StartAt(0xabc, 150), "abc:150", tail},
	} {
		if got := test.start.In(epoch, tail, delivered, head); got != test.want || test.start.String() != test.text {
			t.Errorf("%s begins at %d, want %s and %d", test.start, got, test.text, test.want)
		}
	}
	if got := wire.StartLast(1<<63).In(1, 0, 3, 7); got != 0 {
		t.Errorf("more than there ever were: begins at %d", got)
	}
}
