// SPDX-License-Identifier: Apache-2.0

package wire

import "encoding/binary"

// What a client says on its connection beside messages.
//
//	an acknowledgement, from a sink with ack=yes          the mark in front of a packet, from a source with mark=yes
//
//	 0          8                                          0          8
//	+----------+                                          +----------+--------+--------+----
//	| u64 done |                                          | u64 mark | record | record | ...
//	+----------+                                          +----------+--------+--------+----
//
// and, from both, the five bytes of Leave: what was kept for the client is not needed any more.

// AckSize is the size of an acknowledgement in bytes.
const AckSize = 8

// MarkSize is the size in bytes of the mark in front of a packet from a marked source.
const MarkSize = 8

// Leave is what a client says that leaves for good.
const Leave = "leave"

// AppendAck appends an acknowledgement: everything numbered below done is done.
func AppendAck(dst []byte, done uint64) []byte { return binary.LittleEndian.AppendUint64(dst, done) }

// Said is what a sink with ack=yes has said.
type Said struct {
	Done    uint64 // everything numbered below is done
	Leaving bool   // nothing is to be kept for it
}

// ParseSaid reads what a sink with ack=yes says. The error is an *Error with CodeBadAck.
func ParseSaid(b []byte) (s Said, err error) {
	switch {
	case len(b) == AckSize:
		return Said{Done: binary.LittleEndian.Uint64(b)}, nil
	case string(b) == Leave:
		return Said{Leaving: true}, nil
	}
	return Said{}, Refuse(CodeBadAck, "a packet of %d bytes: want %d, or %q", len(b), AckSize, Leave)
}
