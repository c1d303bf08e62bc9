// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/cmd/msgmux-nats/stream"
)

// pouring is what is on its way into the channel.
type pouring struct {
	*bridge
	source *msgmux.Source
	batch  *msgmux.Batch

	records, bytes, messages uint64 // since it was sent last; messages are those of the stream
	sequence                 uint64 // of the last message
	pending                  uint64 // how many the stream has behind it

	done atomic.Uint64 // up to which message everything is in the channel, or left aside

	all     bool          // every message of the stream is to come
	removed atomic.Uint64 // how many of them the stream has removed before they came
}

// run pours until something is wrong, or there is no more to come.
func (p *pouring) run(ctx context.Context, deliveries <-chan stream.Delivery, failed func() error) error {
	for {
		if err := p.pour(ctx, deliveries); err != nil {
			return err
		}
		if d, open := <-deliveries; !open {
			return failed()
		} else if err := p.take(ctx, d); err != nil {
			return err
		}
	}
}

// pour takes what is there, and sends what is left of it when nothing more is.
func (p *pouring) pour(ctx context.Context, deliveries <-chan stream.Delivery) error {
	for {
		select {
		case d, open := <-deliveries:
			if !open {
				return p.flush(ctx) // why, the next look tells
			}
			if err := p.take(ctx, d); err != nil {
				return err
			}
		default:
			return p.flush(ctx)
		}
	}
}

// take adds the records of a message to the batch, in one packet, with the mark that holds then. What is there already may be sent
// before, with the mark that it has.
func (p *pouring) take(ctx context.Context, d stream.Delivery) error {
	if d.Sequence != sequenceOf(d.Sequence) {
		return fmt.Errorf("the sequence number %d does not fit a mark", d.Sequence)
	}
	if len(d.Payload) > p.source.MaxMessage() {
		if err := p.flush(ctx); err != nil { // what is before it gets there, whatever becomes of it
			return err
		}
	}
	switch {
	case d.Ours && d.Stamp.Writer == p.Writer: // it began here
		p.report.echoes.Add(1)
	case d.Ours && d.Stamp.Packet:
		packet, err := msgmux.ParsePacket(d.Payload)
		if err == nil && uint64(packet.Count) != d.Stamp.Count {
			err = fmt.Errorf("it says that there are %d, and there are %d", d.Stamp.Count, packet.Count)
		}
		if err != nil {
			return errors.Join(fmt.Errorf("message %d: %w: its records cannot be read: %w", d.Sequence, stream.ErrForeign, err), p.flush(ctx))
		}
		if err := p.batch.AddPacket(ctx, packet); err != nil {
			return fmt.Errorf("message %d: %w", d.Sequence, err)
		}
		p.records, p.bytes = p.records+d.Stamp.Count, p.bytes+uint64(len(d.Payload))
	default:
		if err := p.batch.Add(ctx, d.Payload); err != nil {
			return fmt.Errorf("message %d: %w", d.Sequence, err)
		}
		p.records, p.bytes = p.records+1, p.bytes+uint64(len(d.Payload))
	}
	if p.all {
		p.removed.Add(d.Sequence - p.sequence - 1)
	}
	p.sequence, p.pending, p.messages = d.Sequence, d.Pending, p.messages+1
	return p.batch.Mark(markOf(d.Sequence, d.Stored))
}

// flush sends what is left.
func (p *pouring) flush(ctx context.Context) error {
	if p.messages == 0 {
		return nil
	}
	if err := p.batch.Flush(ctx); err != nil {
		return err
	}
	p.report.poured(p.records, p.messages, p.bytes, p.pending)
	p.done.Store(p.sequence)
	p.records, p.bytes, p.messages = 0, 0, 0
	return nil
}
