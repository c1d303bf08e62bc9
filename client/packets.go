// SPDX-License-Identifier: Apache-2.0

package msgmux

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"net"

	"github.com/msgmux/msgmux/internal/wire"
)

// Packet is what a sink got at once, for programs that carry messages on without looking at each.
type Packet struct {
	Seq   uint64 // the number of its first message; each further one has the next
	Count int    // how many messages it holds, one at least

	// Records are the messages as docs/protocol.md has them: less than 64 KiB, unless there is only one.
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

// ParsePacket makes a packet, without a number, of records that somebody else has carried. It does not copy them. It fails
// with ErrBadOption if they are not whole, or none.
func ParsePacket(records []byte) (Packet, error) {
	n, err := wire.CheckRecords(records, MaxMessage)
	if err != nil {
		return Packet{}, badValue("read a packet", err)
	}
	return Packet{Count: n, Records: records}, nil
}

// ReceivePacket is Receive for all messages that came at once, or what is left of them; Origin is not told. Records is the
// sink's own memory until the next call of a method that receives; without SinkOptions.Ack the packet is done then. On an
// inherited socket without frames it fails with errors.ErrUnsupported.
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
	if s.closed.Load() {
		return Packet{}, net.ErrClosed
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

// AddPacket is Add for all messages of a packet, which stay together.
func (b *Batch) AddPacket(ctx context.Context, p Packet) error {
	if b.source == nil {
		return opError("send", "", net.ErrClosed)
	}
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
