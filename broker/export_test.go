// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"time"

	"github.com/msgmux/msgmux/broker/ring"
)

// SetBlockedTimes makes a short wait a long one, before any broker begins; the result sets it back, after all have ended.
func SetBlockedTimes(check, long time.Duration) (restore func()) {
	oldCheck, oldLong := blockedCheck, blockedLong
	blockedCheck, blockedLong = check, long
	return func() { blockedCheck, blockedLong = oldCheck, oldLong }
}

// SetGoneAfter makes the entry of a static sink that is gone for d forgotten.
func SetGoneAfter(cfg *Config, d time.Duration) { cfg.goneAfter = d }

// NewLooks returns what looks at a channel without sinks: at a moment, and over how many seconds its rates are then.
func NewLooks() func(now time.Time) (seconds float64) {
	var r rates
	return func(now time.Time) float64 {
		_, seconds := r.since(now)
		r.keep(now, &ring.Totals{}, nil)
		return seconds
	}
}
