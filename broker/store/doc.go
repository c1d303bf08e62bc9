// SPDX-License-Identifier: Apache-2.0

// Package store keeps what outlives the process: the ring's two files, and the connected sockets of sinks and sources, all in
// the service manager's descriptor store. It finds the ring that a predecessor left, moves it to another shape, or sets it
// aside; and it is where descriptors end, out of the store and closed. Without a service manager nothing outlives the process,
// and the same calls do less.
//
// It knows nothing of who is let in or why, of the data thread, or of messages.
//
// The package makes no compatibility promise.
package store
