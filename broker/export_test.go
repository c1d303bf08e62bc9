// SPDX-License-Identifier: Apache-2.0

package broker

import "time"

// SetBlockedTimes makes a short wait a long one, before any broker begins; the result sets it back, after all have ended.
func SetBlockedTimes(check, long time.Duration) (restore func()) {
	oldCheck, oldLong := blockedCheck, blockedLong
	blockedCheck, blockedLong = check, long
	return func() { blockedCheck, blockedLong = oldCheck, oldLong }
}

// SetGoneAfter makes the entry of a static sink that is gone for d forgotten.
func SetGoneAfter(cfg *Config, d time.Duration) { cfg.goneAfter = d }
