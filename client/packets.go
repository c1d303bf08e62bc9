// SPDX-License-Identifier: Apache-2.0

package msgmux

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"

	"github.com/msgmux/msgmux/internal/wire"
)

// Packet is what a sink got at once, for programs that carry messages on without looking at each: docs/protocol.md says how
// records lie in it.
type Packet struct {
	// Seq is the number of its first message; each further one has the next.
	Seq uint64
	// Count is how many messages it holds, one at least.
	Count int
	// Records are the messages: each with its length before it and filled up to four bytes. They have less than 64 KiB, unless
	// there is only one.
	Records []byte
}

// Messages are the messages of the packet. Payloads are parts of Records.
func (p Packet) Messages() iter.Seq[Message] {
	return func(yield func(Message) bool) {
		seq := p.Seq
		wire.EachRecord(p.Records, func(payload []byte) bool {
			seq++
			return yield(Message{Payload: payload, Seq: seq - 1})
		})
	}
}

// ParsePacket makes a packet of records that somebody else has carried: count is how many there are. It fails with ErrBadOption if
// they are not whole records, or none at all. Records is not copied.
func ParsePacket(records []byte) (Packet, error) {
	n, err := wire.CheckRecords(records, MaxMessage)
	if err != nil {
		return Packet{}, badValue("read a packet", err)
	}
	return Packet{Count: n, Records: records}, nil
}

// ReceivePacket is Receive for all messages that came at once, or for what is left of them. Records is the sink's own memory, and
// holds them until the next call of a method that receives. With SinkOptions.Keep, and without Ack, the packet is done when the
// next one is asked for. On an inherited socket without frames it fails with errors.ErrUnsupported.
//
// SinkOptions.Origin does not go with it: the origins of a packet's messages are not told.
func (s *Sink) ReceivePacket(ctx context.Context) (Packet, error) {
	const op = "receive"
	if s.inherited && !s.framed {
		return Packet{}, opError(op, s.where, errors.ErrUnsupported)
	}
	if err := s.turn.take(ctx); err != nil {
		return Packet{}, opError(op, s.where, err)
	}
	defer s.giveTurn()
	p, err := s.nextPacket(ctx)
	return p, opError(op, s.where, err)
}

// nextPacket waits for messages, and returns all that are there at once.
//
// Preconditions: the caller has the turn.
func (s *Sink) nextPacket(ctx context.Context) (Packet, error) {
	s.moveOn()
	if !s.has() {
		release := interrupt(ctx, s.setReadDeadline)
		defer release()
		if err := s.fill(ctx); err != nil {
			return Packet{}, err
		}
	}
	in := &s.in
	if in.placed != nil {
		return Packet{Seq: in.seq, Count: in.peeked.Count, Records: in.placed}, nil
	}
	p := Packet{Seq: in.seq, Records: in.buffer[in.at:in.end:in.end]}
	var err error
	if p.Count, err = wire.CheckRecords(p.Records, math.MaxInt); err != nil {
		return Packet{}, fmt.Errorf("%w: %s", errBadPacket, err.Error()) // it was checked before
	}
	in.at, in.seq = in.end, in.seq+uint64(p.Count)
	if in.acks {
		in.given = in.seq
	}
	return p, nil
}

// AddPacket is Add for all messages of a packet: they are sent in one, together with what was collected before if there is room.
func (b *Batch) AddPacket(ctx context.Context, p Packet) error {
	size, largest := 0, 0
	wire.EachRecord(p.Records, func(payload []byte) bool {
		size, largest = size+len(payload), max(largest, len(payload))
		return true
	})
	if b.load.messages > 0 && len(b.packet)+len(p.Records) > wire.MaxPacket {
		if err := b.Flush(ctx); err != nil {
			return err
		}
	}
	if !b.source.takes(largest) {
		if err := b.source.tooLarge(ctx, largest); err != nil {
			return err
		}
	}
	b.packet = append(b.packet, p.Records...)
	b.load.messages, b.load.bytes = b.load.messages+p.Count, b.load.bytes+size
	return nil
}
