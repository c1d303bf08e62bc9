// SPDX-License-Identifier: Apache-2.0

package stream

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// A bookmark is a durable consumer that nobody consumes by. Its acknowledged floor is up to where somebody has read, and is only
// looked at by a reader that has forgotten it: it may lag behind.

// Bookmark tells up to which sequence number the bookmark of that name stands; known is false if there is none.
func (l *Link) Bookmark(ctx context.Context, name string) (sequence uint64, known bool, err error) {
	within, cancel := l.during(ctx)
	defer cancel()
	consumer, err := l.js.Consumer(within, l.stream, name)
	switch {
	case errors.Is(err, jetstream.ErrConsumerNotFound):
		return 0, false, nil
	case err != nil:
		return 0, false, fmt.Errorf("cannot look at consumer %s of stream %s: %w", name, l.stream, l.orCause(ctx, err))
	}
	info := consumer.CachedInfo()
	// Before it is moved for the first time its floor is 0 in a cluster, and it is never moved to before its start.
	return max(info.AckFloor.Stream, max(info.Config.OptStartSeq, 1)-1), true, nil
}

// SetBookmark puts the bookmark of that name behind the message with that sequence number, and makes it if it is not there.
func (l *Link) SetBookmark(ctx context.Context, name string, subjects []string, sequence uint64) error {
	within, cancel := l.during(ctx)
	defer cancel()
	// Nobody would answer the request to move a consumer that is not there.
	_, err := l.js.Consumer(within, l.stream, name)
	switch {
	case err == nil:
		_, err = l.js.ResetConsumerToSequence(within, l.stream, name, sequence+1)
	case errors.Is(err, jetstream.ErrConsumerNotFound):
		// It is made where it is to stand: between two requests it would stand at the stream's beginning.
		_, err = l.js.CreateConsumer(within, l.stream, jetstream.ConsumerConfig{
			Durable: name, Description: "where a reader goes on that has forgotten it; nobody consumes by this", FilterSubjects: subjects,
			DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: sequence + 1, AckPolicy: jetstream.AckAllPolicy,
		})
	}
	if err != nil {
		return fmt.Errorf("cannot move consumer %s of stream %s: %w", name, l.stream, l.orCause(ctx, err))
	}
	return nil
}

// Waiting tells how many messages are behind the bookmark of that name.
func (l *Link) Waiting(ctx context.Context, name string) (uint64, error) {
	within, cancel := l.during(ctx)
	defer cancel()
	consumer, err := l.js.Consumer(within, l.stream, name)
	if err != nil {
		return 0, fmt.Errorf("cannot look at consumer %s of stream %s: %w", name, l.stream, l.orCause(ctx, err))
	}
	return consumer.CachedInfo().NumPending, nil
}

// RemoveBookmark removes the bookmark of that name, if there is one.
func (l *Link) RemoveBookmark(ctx context.Context, name string) error {
	within, cancel := l.during(ctx)
	defer cancel()
	if err := l.js.DeleteConsumer(within, l.stream, name); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return fmt.Errorf("cannot remove consumer %s of stream %s: %w", name, l.stream, l.orCause(ctx, err))
	}
	return nil
}
