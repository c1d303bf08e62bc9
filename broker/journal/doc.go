// SPDX-License-Identifier: Apache-2.0

// Package journal is what a channel says: log lines, what happens to its sinks, and how registrations ended. Nothing in it
// makes its caller wait. A line or an event that finds no room is dropped and counted.
//
// It knows nothing of the ring, of sockets, or of who reads what it says.
//
// The package makes no compatibility promise.
package journal
