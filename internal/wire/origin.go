// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"encoding/binary"
	"math"
)

// A packet to a sink with meta=yes tells, between its header and the records, their origins. Each holds from the record that it
// names up to that of the next one, the first from the first record on:
//
//	 0           8          16          20         24                  24 + count*size
//	+-----------+----------+-----------+----------+--------+--------+---+--------+--------+----
//	| u64 first | u64 lost | u32 count | u32 size | origin | origin |...| record | record | ...
//	+-----------+----------+-----------+----------+--------+--------+---+--------+--------+----
//
//	 0          8          16         20        24        28           30          32          size
//	+----------+----------+----------+---------+---------+------------+-----------+-----------+
//	| u64 from | i64 time | i32 pid  | u32 uid | u32 gid | u16 source | u16 flags | to come   |
//	+----------+----------+----------+---------+---------+------------+-----------+-----------+
const (
	// MetaHeader is the size in bytes of the header of a packet with origins.
	MetaHeader = 24
	// OriginSize is the size in bytes of an origin.
	OriginSize = 32
	// MaxOrigins is how many origins a packet has at most. They come on top of what a packet without has at most.
	MaxOrigins = 100
	// originKnown is the bit of flags that says that pid, uid and gid are known.
	originKnown = 1
)

// Origin is who sent messages, and when they were received. The zero Origin is not known.
type Origin struct {
	Time     int64 // of receipt, ns since 1970; 0: not known
	PID      int32
	UID, GID uint32
	Source   uint16 // which of the channel's own sockets and queues, from 1 on; 0: a connection, or not known
	Known    bool   // PID, UID and GID are
}

// PutMetaHeader writes the header of a packet with count origins into the first MetaHeader bytes of dst.
func PutMetaHeader(dst []byte, first, lost uint64, count int) {
	PutSinkHeader(dst, first, lost)
	binary.LittleEndian.PutUint32(dst[SinkHeader:], uint32(count))
	binary.LittleEndian.PutUint32(dst[SinkHeader+4:MetaHeader], OriginSize)
}

// PutOrigin writes o, which holds from the message from on, into the first OriginSize bytes of dst.
func PutOrigin(dst []byte, from uint64, o Origin) {
	flags := uint16(0)
	if o.Known {
		flags = originKnown
	}
	e := binary.LittleEndian
	dst = dst[:OriginSize]
	e.PutUint64(dst, from)
	e.PutUint64(dst[8:], uint64(o.Time))
	e.PutUint32(dst[16:], uint32(o.PID))
	e.PutUint32(dst[20:], o.UID)
	e.PutUint32(dst[24:], o.GID)
	e.PutUint16(dst[28:], o.Source)
	e.PutUint16(dst[30:], flags)
}

// ParseOrigin reads what PutOrigin writes from the first OriginSize bytes of b.
func ParseOrigin(b []byte) (from uint64, o Origin) {
	e := binary.LittleEndian
	b = b[:OriginSize]
	return e.Uint64(b), Origin{Time: int64(e.Uint64(b[8:])), PID: int32(e.Uint32(b[16:])), UID: e.Uint32(b[20:]), GID: e.Uint32(b[24:]),
		Source: e.Uint16(b[28:]), Known: e.Uint16(b[30:])&originKnown != 0}
}

// ParseMetaPacket is ParseSinkPacket for a packet with origins.
func ParseMetaPacket(b []byte) (SinkPacket, error) {
	if len(b) < MetaHeader {
		return SinkPacket{}, Refuse(CodeBadPacket, "a packet of %d bytes is shorter than its header", len(b))
	}
	e := binary.LittleEndian
	count, size := uint64(e.Uint32(b[SinkHeader:])), uint64(e.Uint32(b[SinkHeader+4:]))
	if count == 0 || size < OriginSize || count*size > uint64(len(b)-MetaHeader) {
		return SinkPacket{}, Refuse(CodeBadPacket, "%d origins of %d bytes end outside the packet, or are none", count, size)
	}
	end := MetaHeader + int(count*size)
	records, payload, err := checkRecords(b[end:], SinkHeader, math.MaxInt)
	if err != nil {
		return SinkPacket{}, err
	}
	p := SinkPacket{First: e.Uint64(b), Lost: e.Uint64(b[8:]), Origins: b[MetaHeader:end], OriginSize: int(size), Records: b[end:],
		Count: records, Bytes: payload}
	behind := p.First + uint64(records)
	for i, next := 0, p.First; i < len(p.Origins); i += p.OriginSize {
		from, _ := ParseOrigin(p.Origins[i:])
		if i == 0 && from != p.First || from < next || from >= behind {
			return SinkPacket{}, Refuse(CodeBadPacket, "an origin holds from %d on, in a packet of %d records from %d on", from, records, p.First)
		}
		next = from + 1
	}
	return p, nil
}

// OriginOf is the origin of the message seq of the packet. Of a packet without origins it is not known.
func (p *SinkPacket) OriginOf(seq uint64) (o Origin) {
	for b := p.Origins; len(b) > 0; b = b[p.OriginSize:] {
		from, next := ParseOrigin(b)
		if from > seq {
			break
		}
		o = next
	}
	return o
}
