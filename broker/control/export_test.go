// SPDX-License-Identifier: Apache-2.0

package control

import "time"

// SetPatience is how long the bus may take to read what is sent to it.
func (b *Bus) SetPatience(d time.Duration) { b.patience = d }
