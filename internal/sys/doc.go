// SPDX-License-Identifier: Apache-2.0

// Package sys is the wall between msgmux and the kernel: the system calls that the broker makes, with their retry
// rules, and the ownership of descriptors. It knows nothing of messages, sinks or rings.
//
// The calls of the data thread go through [Ops], so that a test can stop, kill or fail the broker at any one of them.
//
// The package makes no compatibility promise.
package sys
