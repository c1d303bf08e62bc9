// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"encoding/binary"
	"math"
)

// A record is a message as it lies in the ring and in a packet, integers little-endian:
//
//	 0        4                4+n       Padded(n)
//	+--------+----------------+---------+
//	| u32 n  | n payload bytes| 0-3 pad |
//	+--------+----------------+---------+
//
// A packet from a source is one record or more, back to back, and nothing else. A packet to a sink has a header in front:
//
//	 0           8           16
//	+-----------+-----------+--------+--------+----
//	| u64 first | u64 lost  | record | record | ...
//	+-----------+-----------+--------+--------+----
const (
	// MaxPacket is the longest packet in bytes, header included, but for the one that holds a single longer record.
	// 64 KiB is what the kernel still finds without hunting for contiguous memory.
	MaxPacket = 64 << 10
	// RecordHeader is the size in bytes of the length in front of a payload.
	RecordHeader = 4
	// SinkHeader is the size in bytes of the header of a packet to a sink.
	SinkHeader = 16
)

// Padded is the size in bytes of a record whose payload has n bytes: 4 + n, rounded up to a multiple of 4, so that every
// length in the ring is aligned. What a stranger has written as a length, up to 4 GiB, does not overflow either of the types.
func Padded[N int | uint64](n N) N { return (RecordHeader + n + 3) &^ 3 }

// AppendRecord appends the record of payload, which must be shorter than 4 GiB; its padding is zero.
func AppendRecord(dst, payload []byte) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(payload)))
	dst = append(dst, payload...)
	pad := Padded(len(payload)) - RecordHeader - len(payload)
	return append(dst, make([]byte, pad)...)
}

// CheckRecords judges a whole packet from a source, before any of it is used, and counts its records: at least one, each
// within the packet together with its padding (whose bytes do not matter), none over maxMessage bytes, nothing behind the
// last, and no more than MaxPacket unless there is only one. The error is an *Error with CodeBadPacket or CodeTooLarge.
func CheckRecords(b []byte, maxMessage int) (records int, err error) {
	records, _, err = checkRecords(b, 0, maxMessage)
	return records, err
}

// checkRecords is CheckRecords for a packet that has header more bytes in front of b. It also counts the bytes of the
// payloads.
func checkRecords(b []byte, header, maxMessage int) (records, payload int, err error) {
	for at := 0; at < len(b); records++ {
		left := b[at:]
		if len(left) < RecordHeader {
			return 0, 0, Refuse(CodeBadPacket, "%d bytes stand behind the last record of the packet", len(left))
		}
		// Compared as a u64: it may be more than an int holds.
		n := uint64(binary.LittleEndian.Uint32(left))
		if n > uint64(max(maxMessage, 0)) {
			return 0, 0, Refuse(CodeTooLarge, "a record of %d bytes is longer than the %d that are taken", n, maxMessage)
		}
		if n > uint64(len(left)) || Padded(int(n)) > len(left) {
			return 0, 0, Refuse(CodeBadPacket, "a record of %d bytes and its padding end outside the packet", n)
		}
		at += Padded(int(n))
		payload += int(n)
	}
	switch size := header + len(b); {
	case records == 0:
		return 0, 0, Refuse(CodeBadPacket, "the packet has no records")
	case records > 1 && size > MaxPacket:
		return 0, 0, Refuse(CodeTooLarge, "a packet of %d bytes is over %d and has more than one record", size, MaxPacket)
	}
	return records, payload, nil
}

// EachRecord calls yield with each payload in b, which must have passed CheckRecords, until yield returns false. The
// payloads are parts of b.
func EachRecord(b []byte, yield func(payload []byte) bool) {
	for len(b) > 0 {
		n := int(binary.LittleEndian.Uint32(b))
		end, next := RecordHeader+n, Padded(n)
		if next > len(b) { // it was overwritten: see view.Reader.Peek
			return
		}
		if !yield(b[RecordHeader:end:end]) {
			return
		}
		b = b[next:]
	}
}

// SinkPacket is a packet to a sink.
type SinkPacket struct {
	First   uint64 // the sequence number of the first record; each further record has the next
	Lost    uint64 // how many messages this sink has lost since it began
	Records []byte // as CheckRecords allows; for EachRecord
	Count   int    // how many records
	Bytes   int    // in their payloads

	// Of one with origins (meta=yes): they, each of OriginSize bytes, for ParseOrigin; see OriginOf.
	Origins    []byte
	OriginSize int
}

// ParseSinkPacket takes apart a packet from the broker. Records is a part of b. The error is an *Error with CodeBadPacket
// or CodeTooLarge.
func ParseSinkPacket(b []byte) (SinkPacket, error) {
	if len(b) < SinkHeader {
		return SinkPacket{}, Refuse(CodeBadPacket, "a packet of %d bytes is shorter than its header", len(b))
	}
	records := b[SinkHeader:]
	count, payload, err := checkRecords(records, SinkHeader, math.MaxInt)
	if err != nil {
		return SinkPacket{}, err
	}
	return SinkPacket{
		First:   binary.LittleEndian.Uint64(b),
		Lost:    binary.LittleEndian.Uint64(b[8:]),
		Records: records,
		Count:   count,
		Bytes:   payload,
	}, nil
}

// PutSinkHeader writes the header of a packet to a sink into the first SinkHeader bytes of dst.
func PutSinkHeader(dst []byte, first, lost uint64) {
	binary.LittleEndian.PutUint64(dst, first)
	binary.LittleEndian.PutUint64(dst[8:SinkHeader], lost)
}
