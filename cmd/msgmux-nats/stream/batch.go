// SPDX-License-Identifier: Apache-2.0

package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Batch is letters that are under way together: each is stored directly behind the one before it, or neither it nor any behind it
// is. It may be of any length: letters are put into it while those before them are on their way, until End. It is for one
// goroutine, and after any error it is not known how many are stored: then batch and tail are of no use. A link has one at a time.
type Batch struct {
	link    *Link
	tail    *Tail
	message nats.Msg // of which each letter takes what is the same in all
	reply   []byte   // what the address of each answer begins with
	begin   int      // length of that
	every   int
	first   uint64 // sequence number of the first letter
	put     uint64 // letters
	stored  uint64
	ends    bool      // nothing more is put
	moved   time.Time // when something was put that was waited for from then on, or acknowledged
}

// The parts of the subject that the letters of a batch are to be answered at (ADR-50, fast ingest):
//
//	INBOX . BATCH . FLOW . GAPS . NUMBER . OPERATION . $FI
//
// FLOW is how many letters are acknowledged at once, at most 500; what is acknowledged so is stored, and so is all before it, since
// gaps fail. The last operation is a message that is not stored.
const (
	batchGaps   = "fail" // a letter that is missing, or refused, ends the batch
	batchStart  = "0"
	batchAppend = "1"
	batchEnd    = "3"
	batchSuffix = "$FI"
	batchMost   = 500
)

// answersAhead is how many answers may come before one is taken: more than there are for what may be under way.
const answersAhead = 1 << 15

// listen has the answers to batches come to this link.
func (l *Link) listen() error {
	if l.answers != nil {
		return nil
	}
	answers := make(chan *nats.Msg, answersAhead)
	l.inbox = l.conn.NewInbox()
	if _, err := l.conn.ChanSubscribe(l.inbox+".>", answers); err != nil {
		return l.notPublished(context.Background(), err)
	}
	l.answers = answers
	return nil
}

// Begin begins a batch behind tail, of which every so many letters are acknowledged together.
func (l *Link) Begin(tail *Tail, every int) (*Batch, error) {
	if err := l.listen(); err != nil {
		return nil, err
	}
	b := &Batch{link: l, tail: tail, every: min(max(every, 1), batchMost), first: tail.All + 1}
	// No other batch of the stream may have its name, also of a link that is over.
	b.reply = fmt.Appendf(nil, "%s.%s.%d.%s.", l.inbox, strconv.FormatUint(rand.Uint64(), 36), b.every, batchGaps)
	b.begin = len(b.reply)
	b.message.Subject = tail.Subject
	return b, nil
}

// Put sends letters, and does not wait for them to be stored. It may block while the connection takes nothing. The letters may be
// used again afterwards.
func (b *Batch) Put(letters []Letter) error {
	if b.put == b.stored {
		b.moved = time.Now()
	}
	for i := range letters {
		operation := batchAppend
		if b.put == 0 {
			operation = batchStart
		}
		b.message.Header = letters[i].header(b.message.Header)
		number(b.message.Header, jetstream.ExpectedLastSeqHeader, b.first+b.put-1)
		b.message.Data = letters[i].Payload
		b.put++
		if err := b.publish(b.put, operation); err != nil {
			return err
		}
	}
	return nil
}

// End has all that was put acknowledged, and ends the batch with it.
func (b *Batch) End() error {
	if b.put == b.stored {
		b.moved = time.Now()
	}
	b.ends, b.message.Header, b.message.Data = true, nil, nil
	return b.publish(b.put+1, batchEnd)
}

// publish sends the message as that number of the batch.
func (b *Batch) publish(number uint64, operation string) error {
	b.reply = strconv.AppendUint(b.reply[:b.begin], number, 10)
	b.reply = append(b.reply, "."+operation+"."+batchSuffix...)
	b.message.Reply = string(b.reply)
	if err := b.link.conn.PublishMsg(&b.message); err != nil {
		return b.link.notPublished(context.Background(), err)
	}
	return nil
}

// UnderWay is how many letters were put and are not acknowledged.
func (b *Batch) UnderWay() int { return int(b.put - b.stored) }

// Every is how many letters are acknowledged together.
func (b *Batch) Every() int { return b.every }

// Ends says whether nothing more may be put.
func (b *Batch) Ends() bool { return b.ends }

// Answers are what Take takes.
func (b *Batch) Answers() <-chan *nats.Msg { return b.link.answers }

// Take takes an answer of the server: stored is how many letters of the batch are stored up to now, over says that it was the last
// answer, and that tail was moved. ErrMoved as with Publish.
func (b *Batch) Take(reply *nats.Msg) (stored uint64, over bool, err error) {
	fail := func(err error) (uint64, bool, error) {
		return 0, false, b.link.notPublished(context.Background(), err)
	}
	if !strings.HasPrefix(reply.Subject, string(b.reply[:b.begin])) {
		return b.stored, false, nil // a late one, to the batch before
	}
	if len(reply.Data) == 0 && reply.Header.Get("Status") == "503" {
		return fail(nats.ErrNoResponders)
	}
	var a answer
	if err := json.Unmarshal(reply.Data, &a); err != nil {
		return fail(err)
	}
	switch {
	case a.Error != nil:
		return fail(a.Error)
	case a.Type == "ack" && a.Sequence <= b.put:
		if a.Sequence > b.stored {
			b.stored, b.moved = a.Sequence, time.Now()
		}
		return b.stored, false, nil
	case a.Type != "":
		return fail(fmt.Errorf("%w (%s)", ErrGap, reply.Data))
	case a.Stream != b.link.stream || !b.ends || a.Count != b.put || a.Sequence != b.first+b.put-1:
		return fail(fmt.Errorf("the answer is of %d messages up to %d of stream %q, and there were %d up to %d", a.Count, a.Sequence, a.Stream, b.put, b.first+b.put-1))
	}
	b.stored = b.put
	b.tail.Behind, b.tail.All = a.Sequence, a.Sequence
	return b.stored, true, nil
}

// errSilent is an answer that does not come.
var errSilent = errors.New("the server does not answer")

// Overdue is an error if the server is silent for longer than it may take to answer while letters are under way that it has to
// acknowledge, or the end: between two answers it has no more to store than are acknowledged together.
func (b *Batch) Overdue() error {
	if (b.put > b.stored || b.ends) && time.Since(b.moved) > answerWithin {
		return b.link.notPublished(context.Background(), errSilent)
	}
	return nil
}

// await takes answers until the last one.
func (b *Batch) await(ctx context.Context) error {
	look := time.NewTicker(answerWithin / 5)
	defer look.Stop()
	for {
		select {
		case reply := <-b.link.answers:
			if _, over, err := b.Take(reply); err != nil || over {
				return err
			}
		case <-look.C:
			if err := b.Overdue(); err != nil {
				return err
			}
		case <-b.link.life.Done():
			return b.link.notPublished(ctx, context.Cause(b.link.life))
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
