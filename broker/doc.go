// SPDX-License-Identifier: Apache-2.0

// Package broker is the channel: sources, one ring, many sinks. It takes the channel's sockets, a clock and sys.Ops,
// and runs one thread that does all data work, with goroutines beside it for whatever can wait.
//
// Rooms, each in files of its own:
//
//	channel.go    what a channel is made of; start, restart, stop
//	handover.go   queues and static sinks that an administrator hands over
//	loop.go       the data thread: epoll, receive, send, patience
//	outlet.go     a sink's sending socket, and what its errors mean
//	sinks.go      the table: who is taken over, let in, dropped, forgotten
//	door.go       framed clients: accept, hello, store, enter, ok
//	registrar.go  registrations: peek, prove, store, enter, answer, consume
//	folder.go     static sinks
//	reaper.go     sinks that died without a word
//	status.go     what the control socket tells
//	rates.go      how fast messages pass, from one look to the next
//	blocked.go    a word when sources wait for long
//
// It knows nothing of D-Bus, HTTP or JSON sockets, and nothing of command lines.
//
// The package makes no compatibility promise.
package broker
