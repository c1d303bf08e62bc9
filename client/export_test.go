// SPDX-License-Identifier: Apache-2.0

package msgmux

import "math"

// WaitInThePoller keeps every call of this process from waiting in the kernel, for comparison.
func WaitInThePoller() { leaveToPoller(math.MaxInt64) }

// WaitInKernel says whether a call of this process waits in the kernel now.
func WaitInKernel() bool { return waits.Load() > 0 }
