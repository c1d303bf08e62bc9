// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"runtime"

	"github.com/msgmux/msgmux/broker/ring/mem"
)

// stable runs read until word, odd while the data thread changes what it guards, was even and the same before and
// after. The data thread never waits for a reader, so a reader may have to try again; it gives up its turn then.
func stable(word *mem.Uint32, read func()) {
	for {
		before := word.Load()
		if before&1 == 0 {
			read()
			if word.Load() == before {
				return
			}
		}
		runtime.Gosched()
	}
}
