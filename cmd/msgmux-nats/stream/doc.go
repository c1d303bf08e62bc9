// SPDX-License-Identifier: Apache-2.0

// Package stream is what the bridge does with a JetStream stream: it reads the position that the last message on a subject
// has, publishes behind it and behind nothing else, and follows a stream in its order. It knows nothing of channels.
//
//	position.go   a place in the order of a channel, and what is written of it into headers
//	link.go       one connection, for one attempt; it is never made again
//	state.go      what the server says of the stream, and whether it can hold a position
//	publish.go    messages directly behind one another
//	batch.go      many of them under way at a time
//	follow.go     a stream in its order, from a sequence number on
//	bookmark.go   where a reader goes on that has forgotten it
//	errors.go     what is told apart of what can go wrong
//
// What it relies on of nats-server, 2.14 or later, and what its tests try on a real one:
//
//   - A message with Nats-Expected-Last-Subject-Sequence is stored if the last one on its subject has that number, and refused
//     otherwise; so it is with Nats-Expected-Last-Sequence and the whole stream. Also after restarts and changes of the leader,
//     and without any window of time.
//   - A batch in which gaps fail (allow_batched, ADR-50) ends with the first message that is refused or missing: what comes
//     after it is not stored, whatever it expects. What it acknowledges on the way, up to a number, is stored, and is on a
//     majority of the replicas; nothing has to end a batch for that.
//   - A request for the last message that goes to the stream's leader, and not to any replica (direct get), is answered by what
//     is stored there.
//
// Expecting a sequence number is not enough for messages that are under way together, each of which expects the number that the
// one before it is going to get: if somebody else's message gets that number, the first is refused and the second stored. The
// same happens when messages of a connection that broke arrive late, and their numbers were given to others. Therefore
// either one message is under way at a time, or several in one batch that ends with the first refusal.
//
// Nats-Msg-Id is not used: outside of the stream's window of duplicates, repeats are stored again. Nor is
// Nats-Expected-Last-Msg-Id: a replica that was brought up to date by its leader's snapshot does not know the last one.
//
// The package makes no compatibility promise.
package stream
