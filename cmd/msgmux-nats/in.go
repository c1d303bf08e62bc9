// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"hash/fnv"
	"log/slog"
	"time"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/cmd/msgmux-nats/stream"
)

// A mark names a message of the stream: its sequence number, and above it 16 bits that follow from when it was stored, so that a
// message that got the same number in another life of the stream is not taken for it.
//
//	 63      48 47                      0
//	+----------+-------------------------+
//	| of time  | sequence number         |
//	+----------+-------------------------+
const sequenceBits = 48

func markOf(sequence uint64, stored time.Time) uint64 {
	h := fnv.New64a()
	fmt.Fprint(h, stored.UnixNano())
	return sequence | h.Sum64()<<sequenceBits
}

func sequenceOf(mark uint64) uint64 { return mark & (1<<sequenceBits - 1) }

// in is one attempt from the stream to the channel: I1 to I4 of doc.go.
func (b *bridge) in(ctx context.Context) error {
	b.report.enter("connecting")
	link, state, err := b.link(ctx)
	if err != nil {
		return err
	}
	defer link.Close()
	source, err := b.Channel.Dial(ctx, msgmux.SourceOptions{Label: b.label(), Marks: true, Keep: b.Keep})
	if err != nil {
		return err
	}
	defer source.Close()
	behind, err := b.behind(ctx, link, state, source.Mark())
	if err != nil {
		return err
	}
	if state.First > behind+1 && behind > 0 {
		b.log.Warn("the stream has removed messages before they were read", slog.Uint64("at most", state.First-behind-1), slog.Uint64("before", state.First))
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Also while the channel takes nothing: what it would take then is read again.
	defer context.AfterFunc(link.Life(), cancel)()
	deliveries, failed, err := link.Follow(ctx, b.In, behind+1)
	if err != nil {
		return err
	}
	b.report.enter("joined to " + link.Server())
	p := pouring{bridge: b, source: source, batch: source.Batch(), all: state.All(b.In)}
	p.sequence = max(behind, state.First-min(state.First, 1)) // what was removed before it began was said
	p.done.Store(behind)
	kept := make(chan struct{})
	go func() {
		defer close(kept)
		b.keepBookmark(ctx, link, &p)
	}()
	defer func() {
		cancel()
		<-kept
	}()
	err = p.run(ctx, deliveries, failed)
	if link.Life().Err() != nil {
		return context.Cause(link.Life())
	}
	return err
}

// behind is the sequence number of the message that is the last one in the channel.
func (b *bridge) behind(ctx context.Context, link *stream.Link, state stream.State, mark uint64) (uint64, error) {
	sequence := sequenceOf(mark)
	if mark != 0 {
		if sequence > state.Last {
			return 0, fmt.Errorf("cannot go on: %w: the channel has its message %d, and the last of stream %s is %d", errAnew, sequence, b.Stream, state.Last)
		}
		stored, there, err := link.StoredAt(ctx, sequence)
		if err != nil {
			return 0, err
		}
		if there && markOf(sequence, stored) != mark {
			return 0, fmt.Errorf("cannot go on: %w: its message %d, stored at %v, is not the one that the channel has", errAnew, sequence, stored.UTC().Format(time.RFC3339Nano))
		}
		return sequence, nil
	}
	sequence, known, err := link.Bookmark(ctx, b.bookmark())
	switch {
	case err != nil:
		return 0, err
	case known && sequence > state.Last:
		return 0, fmt.Errorf("cannot go on: %w: %d was read of it, and the last of stream %s is %d", errAnew, sequence, b.Stream, state.Last)
	case known:
		b.log.Info("the channel does not know how far it was fed", slog.Uint64("goes on behind", sequence))
		return sequence, nil
	case b.New:
		// It has begun with that, also if it is killed before anything comes.
		return state.Last, link.SetBookmark(ctx, b.bookmark(), b.In, state.Last)
	}
	return 0, nil
}

// bookmark is the name of the consumer that is the bookmark: that of a channel and what it is fed of.
func (b *bridge) bookmark() string {
	h := fnv.New64a()
	fmt.Fprint(h, b.Writer, b.In)
	return fmt.Sprintf("msgmux-%s-%x", b.Name, h.Sum64())
}

const bookmarkEvery = 2 * time.Second

// keepBookmark puts the bookmark behind what is in the channel, now and then, and at the end. It is no part of what is exact:
// what goes wrong with it is only logged. It also says what never comes, and while the channel takes nothing, how much waits.
func (b *bridge) keepBookmark(ctx context.Context, link *stream.Link, p *pouring) {
	every := time.NewTicker(bookmarkEvery)
	defer every.Stop()
	put := ^uint64(0)
	for more := true; more; {
		within := ctx
		select {
		case <-every.C:
		case <-ctx.Done():
			var cancel context.CancelFunc
			within, cancel = context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			more = false
		}
		if n := p.removed.Swap(0); n > 0 {
			b.log.Warn("the stream has removed messages before they were read", slog.Uint64("messages", n))
		}
		switch at := p.done.Load(); {
		case link.Life().Err() != nil:
		case at != put:
			if err := link.SetBookmark(within, b.bookmark(), b.In, at); err != nil {
				b.log.Debug("the bookmark is not moved", slog.Any("error", err))
				continue
			}
			put = at
		case more:
			if waiting, err := link.Waiting(within, b.bookmark()); err == nil {
				b.report.lag.Store(waiting)
			}
		}
	}
}
