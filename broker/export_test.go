// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"time"

	"github.com/msgmux/msgmux/internal/subuid"
)

// SetBlockedTimes makes a short wait a long one.
func SetBlockedTimes(cfg *Config, check, long time.Duration) {
	cfg.blockedCheck, cfg.blockedLong = check, long
}

// SetGoneAfter makes the entry of a static sink that is gone for d forgotten.
func SetGoneAfter(cfg *Config, d time.Duration) { cfg.goneAfter = d }

// SetLacked says what the process lacks to send others' credentials.
func SetLacked(cfg *Config, capabilities ...string) { cfg.lacked = append([]string{}, capabilities...) }

// SetUsers makes a file say whose subordinate uids are whose, instead of the host's.
func SetUsers(cfg *Config, f *subuid.File) { cfg.users = f }
