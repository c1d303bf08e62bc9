// SPDX-License-Identifier: Apache-2.0

// Package loop is the data thread. It receives from the sources, sends to the sinks, applies the rule of patience, and knows
// who is in the channel: the roster.
//
// Whoever holds a *Roster is on the data thread, between two of its operations. There is one way to get one: Thread.Call.
// (The function that New is given has it earlier, when there is no thread yet.) What other goroutines may read without it is
// what Thread offers beside Call; none of that makes the data thread wait. Nothing here blocks but the wait for events.
//
//	thread.go    the data thread as all others see it
//	loop.go      its turns: events, receive, send, patience
//	roster.go    who is in the channel: admitted, entered, found, dropped, forgotten
//	limits.go    what may be asked for, and by whom
//	quota.go     who may have how many sinks and connected sources
//	label.go     what sinks are called
//	commands.go  what people may do to a sink
//	adopt.go     those that a predecessor has left
//	outlet.go    a sink's sending socket, and what its errors mean
//	effort.go    what calls to a socket take, and who is dropped for it
//	source.go    a socket that messages come from
//	client.go    connections: hello taken, ok sent, opened, ended
//	blocked.go   why the sources are blocked, published
//	say.go       what is logged of messages and verdicts
//
// It knows nothing of how sockets are found, listened on, or proven to be somebody's; its refusals name the flags that set
// the limits, and it reads none.
//
// The package makes no compatibility promise.
package loop
