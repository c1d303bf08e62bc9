// SPDX-License-Identifier: Apache-2.0

// Command msgmux-nats joins a channel of this host to a JetStream stream of NATS servers: out, from the channel to the stream, or
// in, from the stream to the channel. See msgmux-nats(8). It keeps nothing, neither on disk nor in a server: it reads where it was
// from where its messages are, and each message gets there once and in order, whatever is killed and whenever.
//
// # What must hold
//
// Whoever changes this program changes it against this page. An attempt is one connection to the servers and one to the channel.
//
// Out:
//
//	O1  There is one position: that of the last message on the subject in the stream, which says whose it is (writer), in which life
//	    of the channel's numbers (epoch), and up to which number. It is read from the stream's leader.
//	O2  A message is stored directly behind the last message that was known, or not at all. It expects that one's sequence number; of
//	    several that are under way together all are in one batch, which ends with the first that is refused.
//	O3  The channel is told "done" of what the stream has acknowledged, and of nothing else.
//	O4  After any error, any doubt, or any end of a connection, everything is dropped: connections, what was received, what is under
//	    way. Then it begins with O1. No message is ever sent again from memory.
//
// From these: what a dead attempt has sent may be stored late, or never. If it is stored before O1 is read, the position says so. If
// after, the place that the new attempt has read is taken, so nothing of the new attempt is stored (O2), and it begins again. If the
// new attempt was first, nothing of the old one fits any more. So no record is stored twice, and none behind a later one. What was
// not stored was not acknowledged (O3), so the channel has it still, or has counted it as lost.
//
// In:
//
//	I1  There is one position: the mark in the channel, which the broker stores by the operation that lets the packet in. It names
//	    the last message of the stream that is in the channel, and when that was stored.
//	I2  The records of one message of the stream are in one packet, and a packet's mark is the message of its last record.
//	I3  Messages are taken in the stream's order and without gap from behind the mark; a gap in the consumer's numbers ends the attempt.
//	I4  As O4.
//
// From these: a packet is in the channel with its mark, or neither is. So the next attempt begins exactly behind what is in.
//
// If the channel itself was lost, with the host's memory, its numbers have a new epoch and its marks are gone. Out goes on with
// everything that the new channel has: nothing of it is in the stream. In goes on at a bookmark in the stream, a durable
// consumer that nobody consumes by, which follows the mark within seconds; up to that much may come again, to a channel that has
// forgotten it. With start=new there is a bookmark before there is anything else: where it begins is decided once.
//
// A position that contradicts itself is never guessed at, see errors in out.go and in.go: the program ends with a status
// that says what it is, and goes on when a person has mended it.
//
// Both ways on one host there are two channels, one for what is said there and one for what comes from elsewhere, and in leaves
// aside what has this host's writer. So no message comes back where it began.
//
//	main.go     the commands
//	attempt.go  attempts, one after the other, and when to stop
//	out.go      one attempt from a channel to a stream
//	carry.go    what is under way to the stream
//	in.go       one attempt from a stream to a channel
//	forget.go   beginning anew, when a person has decided so
//	pour.go     messages of a stream as packets of the channel
//	exit.go     the statuses it ends with
//	report.go   what it says of itself: counts, status line, watchdog
//	metrics.go  the same as metrics
//	settings/   the file of settings
//	stream/     the far end
package main
