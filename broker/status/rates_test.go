// SPDX-License-Identifier: Apache-2.0

package status

import (
	"math"
	"testing"
	"time"

	"github.com/msgmux/msgmux/broker/ring"
)

// TestRatesOverWhichTime: at least a second where there is a look for it, less where there is not, and never one that is long ago.
func TestRatesOverWhichTime(t *testing.T) {
	began := time.Now()
	var r rates
	looks := func(now time.Time) (seconds float64) {
		_, seconds = r.since(now)
		r.keep(now, &ring.Totals{}, nil)
		return seconds
	}
	for _, test := range []struct {
		at, over time.Duration // over 0: no rate is known
	}{
		{0, 0}, {10 * time.Millisecond, 0}, {50 * time.Millisecond, 50 * time.Millisecond}, {500 * time.Millisecond, 500 * time.Millisecond},
		{time.Second, time.Second}, {1500 * time.Millisecond, 1500 * time.Millisecond}, {2 * time.Second, time.Second},
		{2100 * time.Millisecond, 1100 * time.Millisecond}, {11 * time.Second, 9 * time.Second}, {12 * time.Second, time.Second},
		{30 * time.Second, 0}, {30*time.Second + 30*time.Millisecond, 30 * time.Millisecond}, {31 * time.Second, time.Second},
		{31900 * time.Millisecond, 900 * time.Millisecond}, {32800 * time.Millisecond, 900 * time.Millisecond},
	} {
		if got := looks(began.Add(test.at)); math.Abs(got-test.over.Seconds()) > 1e-6 {
			t.Errorf("at %v over %v s, want %v", test.at, got, test.over)
		}
	}
}
