// SPDX-License-Identifier: Apache-2.0

package stream

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Delivery is a message of the stream, in its turn.
type Delivery struct {
	Sequence uint64
	Pending  uint64 // how many are behind it
	Stored   time.Time
	Ours     bool // a bridge has written it: Stamp is what it says
	Stamp    Stamp
	Payload  []byte
}

const (
	// ahead and aheadBytes bound what the server sends ahead of what is taken. A single message is sent also if it is larger, with
	// besides that may take besides its payload and headers.
	ahead      = 8192
	aheadBytes = 8 << 20
	besides    = 16 << 10
	// atHand is how many more wait to be taken: of full packets about as many bytes.
	atHand = 128
	// heartbeat is how often the server shows a sign of life while there is nothing to be sent.
	heartbeat = 2 * time.Second
	// forgetAfter is when the server forgets the consumer of an attempt that is over.
	forgetAfter = 30 * time.Second
)

// Follow delivers the messages on these subjects from sequence number from on, each once and in the stream's order, until ctx or
// the link ends, or something is wrong: then it closes the channel, and failed says why. Each call has a consumer of its own, so
// that nothing goes to an attempt that is over.
func (l *Link) Follow(ctx context.Context, subjects []string, from uint64) (deliveries <-chan Delivery, failed func() error, err error) {
	within, cancel := l.during(ctx)
	defer cancel()
	fail := func(err error) (<-chan Delivery, func() error, error) {
		return nil, nil, fmt.Errorf("cannot follow stream %s: %w", l.stream, l.orCause(ctx, err))
	}
	consumer, err := l.js.CreateConsumer(within, l.stream, jetstream.ConsumerConfig{
		Description: "an attempt of msgmux-nats", FilterSubjects: subjects, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: max(from, 1),
		AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, Replicas: 1, InactiveThreshold: forgetAfter,
	})
	if err != nil {
		return fail(err)
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessagesWithBytesLimit(ahead, max(aheadBytes, l.MaxPayload()+besides)), jetstream.PullHeartbeat(heartbeat),
		jetstream.WithMessagesErrOnMissingHeartbeat(true))
	if err != nil {
		return fail(err)
	}
	to := make(chan Delivery, atHand)
	var end error
	go func() {
		defer close(to)
		defer messages.Stop()
		order := order{before: max(from, 1) - 1}
		for {
			message, err := messages.Next(jetstream.NextContext(ctx))
			if err == nil && l.life.Err() != nil {
				err = context.Cause(l.life)
			}
			var d Delivery
			if err == nil {
				d, err = order.take(message)
			}
			if err != nil {
				end = fmt.Errorf("cannot follow stream %s: %w", l.stream, l.orCause(ctx, err))
				return
			}
			select {
			case to <- d:
			case <-ctx.Done():
				end = ctx.Err()
				return
			}
		}
	}()
	return to, func() error { return end }, nil
}

// order sees to it that nothing comes twice, and that nothing is passed over.
type order struct {
	before uint64 // the stream's number of the last message that came
	number uint64 // the consumer's, which begins with 1 and leaves no number out
}

// take is a message as a delivery.
func (o *order) take(m jetstream.Msg) (d Delivery, err error) {
	about, err := m.Metadata()
	if err != nil {
		return d, err
	}
	if about.Sequence.Consumer != o.number+1 || about.Sequence.Stream <= o.before {
		return d, fmt.Errorf("%w: after the consumer's %d, the stream's %d, comes its %d, the stream's %d", ErrGap, o.number, o.before,
			about.Sequence.Consumer, about.Sequence.Stream)
	}
	d = Delivery{Sequence: about.Sequence.Stream, Pending: about.NumPending, Stored: about.Timestamp, Payload: m.Data()}
	if d.Stamp, d.Ours, err = ParseStamp(m.Headers()); err != nil {
		return d, fmt.Errorf("message %d: %w", d.Sequence, err)
	}
	o.before, o.number = about.Sequence.Stream, about.Sequence.Consumer
	return d, nil
}
