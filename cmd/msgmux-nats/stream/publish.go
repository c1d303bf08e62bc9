// SPDX-License-Identifier: Apache-2.0

package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Letter is a message to be stored.
type Letter struct {
	Stamp
	Payload []byte
}

// Tail is the end of a stream as far as one subject goes: where to publish, and behind what.
type Tail struct {
	Subject string
	Behind  uint64 // sequence number of the last message on the subject; 0 if there is none
	All     uint64 // of the last message of the whole stream

	// Batches has several letters be under way at the same time. It is right only where nobody else may publish to the stream
	// (State.Alone), and where the stream takes batches (State.Batched).
	Batches bool
}

// Publish stores letters directly behind tail and behind one another, and moves tail. It returns when the stream has
// acknowledged all of them. ErrMoved if something else is there: then the letters before it are stored, and none after it.
// After any error it is not known how many are stored, and tail is of no use any more.
func (l *Link) Publish(ctx context.Context, tail *Tail, letters []Letter) error {
	if tail.Batches && len(letters) > 1 {
		b, err := l.Begin(tail, len(letters))
		if err != nil {
			return err
		}
		if err := errors.Join(b.Put(letters), b.End()); err != nil {
			return err
		}
		return b.await(ctx)
	}
	for i := range letters {
		if err := l.one(ctx, tail, &letters[i]); err != nil {
			return err
		}
	}
	return nil
}

// answer is what the server says to a message.
type answer struct {
	Error    *jetstream.APIError `json:"error"`
	Type     string              `json:"type"` // "" for the acknowledgement of a message or of a whole batch
	Stream   string              `json:"stream"`
	Sequence uint64              `json:"seq"`
	Count    uint64              `json:"count"`
}

// one publishes one letter by itself.
func (l *Link) one(ctx context.Context, tail *Tail, letter *Letter) error {
	within, cancel := l.during(ctx)
	defer cancel()
	header := letter.header(nil)
	number(header, jetstream.ExpectedLastSubjSeqHeader, tail.Behind)
	reply, err := l.conn.RequestMsgWithContext(within, &nats.Msg{Subject: tail.Subject, Header: header, Data: letter.Payload})
	if err != nil {
		return l.notPublished(ctx, err)
	}
	var a answer
	if err := json.Unmarshal(reply.Data, &a); err != nil {
		return l.notPublished(ctx, err)
	}
	if a.Error != nil {
		return l.notPublished(ctx, a.Error)
	}
	if a.Stream != l.stream || a.Sequence <= tail.Behind {
		return l.notPublished(ctx, fmt.Errorf("the answer is of message %d of stream %q", a.Sequence, a.Stream))
	}
	tail.Behind, tail.All = a.Sequence, a.Sequence
	return nil
}

func (l *Link) notPublished(ctx context.Context, err error) error {
	return fmt.Errorf("cannot publish to stream %s: %w", l.stream, l.orCause(ctx, err))
}

// MaxPayload is how large the payload of a message may be, headers included, in bytes, as the server has told.
func (l *Link) MaxPayload() int { return int(l.conn.MaxPayload()) }

// IsPassing says whether err may be over in a moment: the servers are away, start, or elect a leader. What is not passing is
// for a person to look at.
func IsPassing(err error) bool {
	for _, lasting := range []error{ErrGone, ErrUnfit, ErrSealed, ErrFull, ErrTooLarge, ErrRefused} {
		if errors.Is(err, lasting) {
			return false
		}
	}
	return true
}
