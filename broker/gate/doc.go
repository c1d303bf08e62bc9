// SPDX-License-Identifier: Apache-2.0

// Package gate lets sinks and sources in. Each of its goroutines may block; none of them holds the roster longer than for one
// thing that does not.
//
//	gate.go       what the others have in common; begin, run, end
//	join.go       the way in, the same for all: reserve, store, barrier, enter, open, and what undoes it
//	registrar.go  registrations: peek, prove, join, answer, consume
//	door.go       framed clients: accept, hello, join
//	folder.go     static sinks: what is declared
//	reach.go      static sinks: connecting those that are absent
//	handover.go   queues and static sinks that an administrator hands over
//	reaper.go     sinks that died without a word
//
// It knows nothing of messages, of the ring's files, or of how the status is shown.
//
// The package makes no compatibility promise.
package gate
