// SPDX-License-Identifier: Apache-2.0

// Package broker is the channel: it opens, runs and closes the rooms that make one.
//
//	journal   what the channel says: log lines, events, counts of outcomes
//	owner     who owns a socket
//	ring      the messages, the table of sinks, and the log of operations
//	store     what outlives the process: the ring's files, sockets in the descriptor store
//	loop      the data thread, and the roster: who is in the channel
//	gate      the ways in: registrations, framed clients, static sinks
//	status    how the channel is
//
// Each of them uses only what stands above it. control, beside it, is what people look through.
//
// It knows nothing of D-Bus, HTTP or JSON sockets, and reads no command line; refusals name the flags of cmd/msgmuxd.
//
// The package makes no compatibility promise.
package broker
