// SPDX-License-Identifier: Apache-2.0

// Package ring is the memory of a channel: one byte ring with many cursors, and everything else that must outlive the
// process, in two memfds. It holds the layout, the operation log with its commit records, recovery, the table of
// sinks, the rule of patience and a read-only snapshot.
//
// It knows descriptors only as numbers that it is told to receive from or send to. It knows nothing of how a sink was
// found, of epoll, of the service manager, or of anything above.
//
// One thread, the data thread, calls every method that changes something; [Ring.Snapshot] may be called from any
// goroutine at any time. docs/design.md says why it is built like this and lists the invariants.
//
// The package makes no compatibility promise.
package ring
