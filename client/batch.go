// SPDX-License-Identifier: Apache-2.0

package msgmux

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"slices"
	"syscall"

	"github.com/msgmux/msgmux/internal/wire"
)

// Batch collects messages and sends them many in one packet, which costs little more than sending one. It is for one
// goroutine at a time; a source may have several. A packet is in the channel as a whole or not at all; on a channel
// without a publish socket messages go one by one.
//
// Add what is there, then Flush: waiting for more gains little, because while the channel is busy Flush waits and more
// comes by itself. What could not be sent stays collected. A batch needs no closing. The zero Batch is as one of a source
// that was closed.
type Batch struct {
	source *Source
	packet []byte // records, back to back
	load   load   // what they hold
	mark   uint64 // of a marked source: what holds with them
	marks  bool   // mark was said since it was sent last
}

// Batch makes an empty batch.
func (s *Source) Batch() *Batch { return &Batch{source: s} }

// Len is how many messages are collected and not sent.
func (b *Batch) Len() int { return b.load.messages }

// Fits says whether Add takes a message of size bytes without sending anything first, as an empty batch always does.
func (b *Batch) Fits(size int) bool {
	return b.load.messages == 0 || len(b.packet)+wire.Padded(size) <= wire.MaxPacket
}

// Add puts a copy of a message behind those that were collected. If a packet, of 64 KiB, has no room for it too, they are
// sent first, which may block, and fail as Flush does: then the message was not added. ErrTooLarge is as with Send.
func (b *Batch) Add(ctx context.Context, message []byte) error {
	payload, err := b.Make(ctx, len(message))
	copy(payload, message)
	return err
}

// Make is Add without the copy: it returns the place for a payload of size bytes, 0 to MaxMessage, which is not cleared. It
// may be used until the next call of any of the batch's methods.
func (b *Batch) Make(ctx context.Context, size int) ([]byte, error) {
	if b.source == nil {
		return nil, opError("send", "", net.ErrClosed)
	}
	if !b.source.takes(size) {
		if err := b.source.tooLarge(ctx, size); err != nil {
			return nil, err
		}
	}
	if !b.Fits(size) {
		if err := b.Flush(ctx); err != nil {
			return nil, err
		}
	}
	begin, end := len(b.packet), len(b.packet)+wire.Padded(size)
	b.packet = slices.Grow(b.packet, end-begin)[:end]
	record := b.packet[begin:]
	binary.LittleEndian.PutUint32(record[len(record)-4:], 0) // some of that is behind the payload
	binary.LittleEndian.PutUint32(record, uint32(size))
	b.load.messages++
	b.load.bytes += size
	return record[wire.RecordHeader:][:size:size], nil
}

// tooLarge is what Send would say about a message of that size, before it is sent.
func (s *Source) tooLarge(ctx context.Context, size int) error {
	if err := s.turn.take(ctx); err != nil {
		return opError("send", s.path, err)
	}
	defer s.giveTurn()
	return opError("send", s.path, s.admit(ctx, size, true))
}

// Flush sends what was collected, and waits while the channel takes nothing, until ctx is done. A message for which it
// returns ErrTooLarge is left out; all else is as with Send.
func (b *Batch) Flush(ctx context.Context) error {
	if b.load.messages == 0 && !b.marks {
		return nil
	}
	s := b.source
	if err := s.turn.take(ctx); err != nil {
		return opError("send", s.path, err)
	}
	defer s.giveTurn()
	return opError("send", s.path, b.transmit(ctx, true))
}

// TryFlush is to Flush as TrySend is to Send.
func (b *Batch) TryFlush() error {
	if b.load.messages == 0 && !b.marks {
		return nil
	}
	s := b.source
	if err := s.turn.try(); err != nil {
		return opError("send", s.path, err)
	}
	defer s.giveTurn()
	return opError("send", s.path, b.transmit(context.Background(), false))
}

// transmit sends what was collected and keeps what could not be sent.
//
// Preconditions: the caller has the turn of the source.
func (b *Batch) transmit(ctx context.Context, wait bool) error {
	b.source.load = b.load
	if b.source.options.Marks {
		mark := b.source.mark.Load()
		if b.marks {
			mark = b.mark
		}
		err := b.source.sendMarked(ctx, mark, b.packet, wait)
		if err == nil || errors.Is(err, syscall.EMSGSIZE) {
			b.packet, b.load = b.packet[:0], load{} // what is too large will never be sent; the mark still is
		}
		b.marks = b.marks && err != nil
		return err
	}
	rest, err := b.source.transmit(ctx, b.packet, wait)
	if len(rest) < len(b.packet) {
		b.packet = b.packet[:copy(b.packet, rest)]
		b.load = load{}
		wire.EachRecord(b.packet, func(payload []byte) bool {
			b.load.messages++
			b.load.bytes += len(payload)
			return true
		})
	}
	return err
}
