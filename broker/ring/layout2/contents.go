// SPDX-License-Identifier: Apache-2.0

package layout2

import "time"

// Reasons why a message was refused: indices of Totals.Refused.
const (
	TooLarge  = 0 // larger than Geometry.MaxMessage
	BadPacket = 1 // a packet of a framed source that is not records
)

// Totals are the numbers of the channel. Counts are messages.
type Totals struct {
	Head, Tail, Delivered Place
	Clock                 time.Duration // channel time
	NextID                uint64        // no id from here on was ever used
	Starts                uint64        // brokers that have opened the ring
	Since                 int64         // when it was made, unix seconds
	Refused               [numReasons]uint64
	GoneAccepted          uint64 // by sinks that are gone
	GoneLost              uint64
	GoneAbandoned         uint64
	Uncertain             uint64
	Attempts              uint32 // brokers that have begun with the registration at the head of the queue
}

func (r *Ring) readTotals() {
	c := r.c
	r.Totals = Totals{Head: c.Head, Tail: c.Tail, Delivered: c.Delivered, Clock: time.Duration(c.Clock), NextID: c.NextID,
		Starts: c.Starts, Since: c.Since, Refused: c.Refused, GoneAccepted: c.GoneAccepted, GoneLost: c.GoneLost,
		GoneAbandoned: c.GoneAbandoned, Uncertain: c.Uncertain, Attempts: c.Attempts}
}

// Records are the n bytes of the ring from position pos on, in one piece; records lie between Totals.Tail and Totals.Head.
// They are the Ring's, valid until Close, and must not be written to: they are the file's.
//
// Preconditions: n is at most Geometry.Size.
func (r *Ring) Records(pos, n uint64) []byte {
	begin := pos & r.mask
	return r.twice[begin : begin+n : begin+n]
}

// FirstAccepted is the channel time, in ms modulo 2^32, when a sink first accepted the record with number seq.
//
// Preconditions: seq is from Totals.Tail to before Totals.Delivered.
func (r *Ring) FirstAccepted(seq uint64) uint32 { return r.indexed(seq).At }
