// SPDX-License-Identifier: Apache-2.0

package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// State is what the server says of a stream.
type State struct {
	Created     time.Time
	First, Last uint64 // sequence numbers of the oldest message kept, and of the newest there ever was
	Messages    uint64
	config      jetstream.StreamConfig
}

// Life tells one life of the stream from another that has the same name. It is never 0.
func (s State) Life() uint16 {
	h := fnv.New64a()
	fmt.Fprint(h, s.Created.UnixNano())
	return uint16(h.Sum64()%(1<<16-1)) + 1
}

// State asks for the state. ErrGone if there is no such stream, which right after the start of a server may yet come.
func (l *Link) State(ctx context.Context) (State, error) {
	within, cancel := l.during(ctx)
	defer cancel()
	stream, err := l.js.Stream(within, l.stream)
	if err != nil {
		return State{}, fmt.Errorf("cannot look at stream %s: %w", l.stream, l.orCause(ctx, err))
	}
	info := stream.CachedInfo()
	return State{Created: info.Created, First: info.State.FirstSeq, Last: info.State.LastSeq, Messages: info.State.Msgs, config: info.Config}, nil
}

// CanHold says whether the stream can hold a position on that subject: ErrSealed, or ErrUnfit with the reason, if it cannot.
func (s State) CanHold(subject string) error {
	c := s.config
	reason := ""
	switch {
	case c.Sealed:
		return fmt.Errorf("cannot publish to stream %s: %w", c.Name, ErrSealed)
	case c.Mirror != nil:
		reason = "it is a mirror: publish to the stream that it mirrors"
	case !slices.ContainsFunc(c.Subjects, func(s string) bool { return Matches(s, subject) }):
		reason = fmt.Sprintf("its subjects (%s) do not take %s", strings.Join(c.Subjects, ", "), subject)
	case c.SubjectTransform != nil && c.SubjectTransform.Destination != "":
		reason = "it stores messages under other subjects (subject_transform), where their position is not found again"
	case c.Retention != jetstream.LimitsPolicy:
		reason = fmt.Sprintf("its retention is %s: the last message, which has the position, goes when it was consumed; retention by limits keeps it", c.Retention)
	case c.NoAck:
		reason = "it acknowledges nothing (no_ack)"
	case c.Storage == jetstream.MemoryStorage && c.Replicas < 2:
		reason = "it is in the memory of one server, which a restart empties; storage in files, or replicas, keep it"
	case c.PersistMode == jetstream.AsyncPersistMode:
		reason = "it acknowledges what it has not written (persist_mode async)"
	default:
		return nil
	}
	return fmt.Errorf("cannot publish to stream %s: %w: %s", c.Name, ErrUnfit, reason)
}

// Alone says whether nobody but whoever publishes on subject can publish to the stream.
func (s State) Alone(subject string) bool {
	return len(s.config.Subjects) == 1 && s.config.Subjects[0] == subject && len(s.config.Sources) == 0
}

// All says whether every message of the stream is on one of these subjects, so that no sequence number is left out for another.
func (s State) All(subjects []string) bool {
	return !slices.ContainsFunc(s.config.Subjects, func(taken string) bool {
		return !slices.ContainsFunc(subjects, func(s string) bool { return s == taken || s == ">" })
	}) && s.config.Mirror == nil && len(s.config.Sources) == 0
}

// Batched says whether the stream takes batches of messages that are stored as they come.
func (s State) Batched() bool { return s.config.AllowBatchPublish }

// Matches says whether a subject with wildcards takes one without.
func Matches(pattern, subject string) bool {
	want, have := strings.Split(pattern, "."), strings.Split(subject, ".")
	for i, token := range want {
		switch {
		case token == ">":
			return len(have) > i
		case i >= len(have), token != "*" && token != have[i]:
			return false
		}
	}
	return len(want) == len(have)
}

// Last is the last message on a subject.
type Last struct {
	Sequence uint64 // 0 if there is none
	Ours     bool   // a bridge has written it: Stamp is what it says
	Stamp    Stamp
}

// Last asks for the last message on a subject.
func (l *Link) Last(ctx context.Context, subject string) (last Last, err error) {
	m, err := l.message(ctx, struct {
		Subject string `json:"last_by_subj"`
	}{subject})
	last.Sequence = m.Sequence
	if err == nil && len(m.Header) > 0 {
		var header nats.Header
		if header, err = nats.DecodeHeadersMsg(m.Header); err == nil {
			last.Stamp, last.Ours, err = ParseStamp(header)
		}
	}
	if err != nil {
		return Last{}, fmt.Errorf("cannot read the last message of stream %s: %w", l.stream, err)
	}
	return last, nil
}

// StoredAt asks the leader of the stream when the message of that sequence number was stored; there is false if it was removed.
func (l *Link) StoredAt(ctx context.Context, sequence uint64) (at time.Time, there bool, err error) {
	m, err := l.message(ctx, struct {
		Sequence uint64 `json:"seq"`
	}{sequence})
	if err != nil {
		return at, false, fmt.Errorf("cannot read message %d of stream %s: %w", sequence, l.stream, err)
	}
	return m.Time, m.Sequence == sequence, nil
}

// stored is a message as the server shows it.
type stored struct {
	Sequence uint64    `json:"seq"` // 0: there is none
	Header   []byte    `json:"hdrs"`
	Time     time.Time `json:"time"`
}

// message asks the leader of the stream for a message: a replica might not have it yet.
func (l *Link) message(ctx context.Context, which any) (m stored, err error) {
	within, cancel := l.during(ctx)
	defer cancel()
	request, err := json.Marshal(which)
	if err != nil {
		return m, err
	}
	answer, err := l.conn.RequestWithContext(within, l.api+"STREAM.MSG.GET."+l.stream, request)
	if err != nil {
		return m, l.orCause(ctx, err)
	}
	var got struct {
		Error   *jetstream.APIError `json:"error"`
		Message stored              `json:"message"`
	}
	switch err = json.Unmarshal(answer.Data, &got); {
	case err != nil:
		return m, err
	case got.Error != nil && got.Error.ErrorCode == codeNoMessage:
		return m, nil
	case got.Error != nil:
		return m, classOf(got.Error)
	case got.Message.Sequence == 0:
		return m, errors.New("the answer is empty")
	}
	return got.Message, nil
}
