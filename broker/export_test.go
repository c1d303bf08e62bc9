// SPDX-License-Identifier: Apache-2.0

package broker

import "time"

// SetBlockedTimes makes a short wait a long one.
func SetBlockedTimes(cfg *Config, check, long time.Duration) {
	cfg.blockedCheck, cfg.blockedLong = check, long
}

// SetGoneAfter makes the entry of a static sink that is gone for d forgotten.
func SetGoneAfter(cfg *Config, d time.Duration) { cfg.goneAfter = d }
