// SPDX-License-Identifier: Apache-2.0

// Package ring is the memory of a channel: one byte ring with many cursors, and everything else that must outlive the
// process, in two memfds.
//
//	layout_unsafe.go  what the two files hold
//	ring.go           making and mapping them
//	cursor.go sink.go client.go table.go
//	                  who reads and who sends, and how they are entered
//	op.go op_*.go     the operation log: what each operation writes down, does, and how a successor does it again
//	recover.go        taking over what a predecessor has left, and checking all of it
//	index.go landing.go reclaim.go
//	                  where a record begins; what has not entered yet; how room is made
//	patience.go turn.go
//	                  the rule of patience, and its moments
//	snapshot.go       the numbers, for others
//	move.go upgrade.go salvage.go
//	                  another shape; the layout before; what is left of a broken ring
//
// It is told descriptors as numbers, to receive from or to send to. It knows nothing of how a sink was found or proven, of
// epoll, of the service manager, or of anything above.
//
// One thread, the data thread, calls everything that is not said to be for any goroutine. docs/design.md says why it is
// built like this and lists the invariants.
//
// The package makes no compatibility promise.
package ring
