// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/cmd/msgmux-nats/stream"
)

// out is one attempt from the channel to the stream: O1 to O4 of doc.go.
func (b *bridge) out(ctx context.Context) error {
	b.report.enter("connecting")
	link, state, err := b.link(ctx)
	if err != nil {
		return err
	}
	defer link.Close()
	if err := state.CanHold(b.Out); err != nil {
		return err
	}
	// After the state: what is stored in between is then in last, or is behind tail.All, and keeps everything out.
	last, err := link.Last(ctx, b.Out)
	if err != nil {
		return err
	}
	if err := b.isOurs(last); err != nil {
		return err
	}
	sink, next, err := b.subscribe(ctx, last)
	if err != nil {
		return err
	}
	defer sink.Close()
	tail := stream.Tail{Subject: b.Out, Behind: last.Sequence, All: max(state.Last, last.Sequence), Batches: state.Alone(b.Out) && state.Batched()}
	w := writing{bridge: b, link: link, sink: sink, tail: &tail, next: next}
	b.report.enter("joined to " + link.Server())
	return w.carry(ctx)
}

// isOurs refuses a subject of which the last message is not this bridge's.
func (b *bridge) isOurs(last stream.Last) error {
	switch {
	case last.Sequence == 0:
		return nil
	case !last.Ours:
		return fmt.Errorf("cannot publish to %s: %w: message %d of stream %s, the last one there, is of no bridge", b.Out, stream.ErrForeign, last.Sequence, b.Stream)
	case last.Stamp.Writer != b.Writer:
		return fmt.Errorf("cannot publish to %s: %w: message %d of stream %s, the last one there, is of %s, and this is %s", b.Out, stream.ErrForeign,
			last.Sequence, b.Stream, last.Stamp.Writer, b.Writer)
	}
	return nil
}

// subscribe connects the kept sink where the stream ends. next is what comes next there: what comes behind it was lost in between.
func (b *bridge) subscribe(ctx context.Context, last stream.Last) (sink *msgmux.Sink, next stream.Position, err error) {
	o := msgmux.SinkOptions{Label: b.label(), Keep: b.Keep, Patience: b.Patience, Ack: true, View: !b.Origin, Origin: b.Origin}
	if last.Ours {
		o.From = msgmux.Position(last.Stamp.Next())
	}
	sink, err = b.Channel.Subscribe(ctx, o)
	if errors.Is(err, msgmux.ErrEpoch) {
		// Of a new life of the channel's numbers nothing is in the stream.
		o.From, o.Start = msgmux.Position{}, msgmux.Oldest()
		sink, err = b.Channel.Subscribe(ctx, o)
	}
	if err != nil || o.From != (msgmux.Position{}) {
		return sink, last.Stamp.Next(), err
	}
	// The stream knows nothing of the channel's present life, and has to get all from where the sink began: unless the channel knows better.
	status, err := sink.Status(ctx)
	if err == nil && (status.Accepted > 0 || b.report.stored(sink.Epoch())) {
		what := "has no message on " + b.Out
		if last.Ours {
			what = fmt.Sprintf("ends with %v on %s", last.Stamp.Position, b.Out)
		}
		err = fmt.Errorf("cannot go on: %w: it has acknowledged messages of the channel's present life, %x, and now stream %s %s", errAnew, sink.Epoch(), b.Stream, what)
	}
	if err != nil {
		return nil, next, errors.Join(err, sink.Close())
	}
	return sink, stream.Position{Epoch: sink.Epoch(), Seq: status.Start}, nil
}
