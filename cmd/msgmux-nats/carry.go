// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/cmd/msgmux-nats/stream"
)

const (
	// most and mostBytes bound what is under way together: enough for a round trip of a tenth of a second at full speed.
	most      = 16384
	mostBytes = 8 << 20
	// atOnce and atOnceBytes are how much is published before answers are looked at again.
	atOnce      = 512
	atOnceBytes = 256 << 10
	// answerBytes are about how many the letters have that the server acknowledges together: a small part of what may be under
	// way, so that there is always something to go on with.
	answerBytes = 512 << 10
	// endAfter is how long nothing more comes from the channel before what is under way is to be acknowledged to the last letter.
	endAfter = 5 * time.Millisecond
	// fullPacket is how many bytes of records one message of the stream has with packets=yes, unless it is a single record: they
	// have to fit a packet of any client (docs/protocol.md).
	fullPacket = 64<<10 - 16
	// ahead is how many packets are received ahead of what is published.
	ahead = 16
	// room is how many bytes the headers of a letter may take.
	room = 512
)

// writing is what is to be published next, and what is under way.
type writing struct {
	*bridge
	link *stream.Link
	sink *msgmux.Sink
	tail *stream.Tail

	next    stream.Position // of the next record
	lost    uint64          // directly before the next record
	letters []stream.Letter // to be published next
	bytes   int             // of their records
	records uint64

	batch    *stream.Batch // nil while nothing is under way
	put      uint64        // letters of the batch
	underWay uint64        // bytes of the batch that are not acknowledged
	parts    []part        // of the batch, those that are not acknowledged
}

// part is what was put at once.
type part struct {
	until                    uint64 // letters of the batch, these included
	done                     uint64 // the number behind the last record
	records, letters, volume uint64
}

// carry carries packets from the sink to the stream.
func (w *writing) carry(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer context.AfterFunc(w.link.Life(), func() { cancel(context.Cause(w.link.Life())) })()
	packets, unused, ended := make(chan parcel, ahead), make(chan []byte, 2*ahead), make(chan struct{})
	defer func() {
		cancel(nil)
		<-ended
	}()
	go func() {
		defer close(ended)
		if w.Origin {
			cancel(receiveEach(ctx, w.sink, packets))
		} else {
			cancel(receive(ctx, w.sink, packets, unused))
		}
	}()
	look, idle := time.NewTicker(time.Second), time.NewTimer(endAfter)
	defer look.Stop()
	defer idle.Stop()
	for {
		from, answers := packets, (<-chan *nats.Msg)(nil)
		if w.batch != nil {
			answers = w.batch.Answers()
			if !w.hasRoom() {
				from = nil
			}
		}
		var err error
		select {
		case p := <-from:
			err = w.take(ctx, p, packets, unused)
			idle.Reset(endAfter)
		case answer := <-answers:
			err = w.settle(answer)
			idle.Reset(endAfter)
		case <-idle.C:
			if w.batch != nil && w.hasRoom() && len(packets) == 0 {
				err = w.batch.End()
			}
		case <-look.C:
			if w.batch != nil {
				err = w.batch.Overdue()
			}
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		if err != nil {
			return err
		}
	}
}

// parcel is a packet of the channel; or, with its origin, one message, which then is the payload and no record.
type parcel struct {
	msgmux.Packet
	origin string // "": not asked for
}

// receiveEach takes messages from the sink, each with its origin.
func receiveEach(ctx context.Context, sink *msgmux.Sink, to chan<- parcel) error {
	for {
		m, err := sink.Receive(ctx)
		if err != nil {
			return err
		}
		select {
		case to <- parcel{msgmux.Packet{Seq: m.Seq, Count: 1, Records: m.Payload}, originOf(m.Origin)}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// originOf is what the stream says of an origin.
func originOf(o *msgmux.Origin) string {
	text := "unknown"
	if o.Known {
		text = fmt.Sprintf("pid=%d uid=%d gid=%d", o.PID, o.UID, o.GID)
	}
	if !o.Received.IsZero() {
		text += " received=" + o.Received.UTC().Format(time.RFC3339Nano)
	}
	return text
}

// receive takes packets from the sink, each into memory of its own: that of one that is not used any more, if there is.
func receive(ctx context.Context, sink *msgmux.Sink, to chan<- parcel, unused <-chan []byte) error {
	for {
		p, err := sink.ReceivePacket(ctx)
		if err != nil {
			return err
		}
		var memory []byte
		select {
		case memory = <-unused:
		default:
			memory = make([]byte, 0, max(len(p.Records), fullPacket))
		}
		p.Records = append(memory[:0], p.Records...)
		select {
		case to <- parcel{Packet: p}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// take publishes a packet, together with what else is there already.
func (w *writing) take(ctx context.Context, p parcel, more <-chan parcel, unused chan<- []byte) error {
	var memory [ahead][]byte // of the packets; it is free when they are published
	n := 0
	for again := true; again; {
		if err := w.add(p); err != nil {
			return err
		}
		memory[n], n = p.Records, n+1
		if again = n < ahead && len(w.letters) < atOnce && w.bytes < atOnceBytes; again {
			select {
			case p = <-more:
			default:
				again = false
			}
		}
	}
	if err := w.publish(ctx); err != nil {
		return err
	}
	for _, m := range memory[:n] {
		if cap(m) <= 2*fullPacket { // a large record's is not kept
			select {
			case unused <- m:
			default:
			}
		}
	}
	return nil
}

// add makes letters of a packet. They are parts of its records.
func (w *writing) add(p parcel) error {
	if p.Seq < w.next.Seq {
		return fmt.Errorf("the channel has sent %d again, after %d", p.Seq, w.next.Seq)
	}
	if missing := p.Seq - w.next.Seq; missing > 0 {
		w.lost += missing
		from := w.next
		w.next.Seq = p.Seq
		if w.report.misses(from, w.next) {
			w.log.Warn("messages are missing in the stream", slog.Uint64("missing", missing), slog.String("before", w.next.String()),
				slog.String("why", "the channel has left the bridge behind, or the stream has lost what it had acknowledged"))
		}
	}
	w.bytes += len(p.Records)
	switch {
	case p.origin != "":
		w.letter(p.Records, 1)
		w.letters[len(w.letters)-1].Origin = p.origin
	case w.Packets:
		w.packet(p.Records, uint64(p.Count))
	default:
		for m := range p.Messages() {
			w.letter(m.Payload, 1)
		}
	}
	return nil
}

// letter adds a letter of the next n records.
func (w *writing) letter(payload []byte, n uint64) {
	stamp := stream.Stamp{Position: w.next, Writer: w.Writer, Count: n, Packet: w.Packets, Lost: w.lost}
	w.letters = append(w.letters, stream.Letter{Stamp: stamp, Payload: payload})
	w.next.Seq, w.records, w.lost = w.next.Seq+n, w.records+n, 0
}

// packet adds the next n records to the last letter if they fit, or makes a letter of them.
func (w *writing) packet(records []byte, n uint64) {
	if len(w.letters) > 0 && w.lost == 0 {
		last := &w.letters[len(w.letters)-1]
		if len(last.Payload)+len(records) <= fullPacket && last.Next() == w.next {
			last.Payload = append(last.Payload, records...)
			last.Count += n
			w.next.Seq, w.records = w.next.Seq+n, w.records+n
			return
		}
	}
	w.letter(records, n)
}

// publish has the letters stored: in a batch that goes on, or at once.
func (w *writing) publish(ctx context.Context) error {
	for _, l := range w.letters {
		if len(l.Payload)+room > w.link.MaxPayload() {
			return fmt.Errorf("cannot publish %v: %w: it has %d bytes, and the server takes %d with headers (max_payload)", l.Position, stream.ErrTooLarge, len(l.Payload), w.link.MaxPayload())
		}
	}
	put := w.putEach
	if w.tail.Batches {
		put = w.putBatch
	}
	if err := put(ctx); err != nil {
		return err
	}
	w.letters, w.bytes, w.records = w.letters[:0], 0, 0
	return nil
}

// putEach has one letter after the other stored. Each has its time, and is acknowledged for itself: a packet of the channel may be
// thousands, and every one takes the way to the server and back.
func (w *writing) putEach(ctx context.Context) error {
	for i := range w.letters {
		done := w.report.work()
		err := w.link.Publish(ctx, w.tail, w.letters[i:i+1])
		done()
		if err != nil {
			return w.refused(err)
		}
		l := &w.letters[i]
		if err := w.acknowledge(part{done: l.Next().Seq, records: l.Count, letters: 1, volume: uint64(len(l.Payload))}); err != nil {
			return err
		}
	}
	return nil
}

// putBatch puts the letters into the batch that is under way, or into a new one.
func (w *writing) putBatch(context.Context) (err error) {
	defer w.report.work()()
	these := part{done: w.next.Seq, records: w.records, letters: uint64(len(w.letters)), volume: uint64(w.bytes)}
	if w.batch == nil {
		if w.batch, err = w.link.Begin(w.tail, max(1, answerBytes*len(w.letters)/(w.bytes+1))); err != nil {
			return err
		}
		w.put, w.underWay = 0, 0
	}
	if err := w.batch.Put(w.letters); err != nil {
		return err
	}
	w.put += these.letters
	w.underWay += these.volume
	these.until = w.put
	w.parts = append(w.parts, these)
	return w.goOn()
}

// goOn ends the batch if nothing more may be put and nothing that is under way would be acknowledged without that: of fewer letters than
// are acknowledged together the server says nothing.
func (w *writing) goOn() error {
	if w.batch.Ends() || w.hasRoom() || w.batch.UnderWay() >= w.batch.Every() {
		return nil
	}
	return w.batch.End()
}

// hasRoom says whether more may be under way than is.
func (w *writing) hasRoom() bool {
	return !w.batch.Ends() && w.batch.UnderWay() < most && w.underWay < mostBytes
}

// settle takes an answer of the stream to what is under way.
func (w *writing) settle(answer *nats.Msg) error {
	stored, over, err := w.batch.Take(answer)
	if err != nil {
		return w.refused(err)
	}
	n := 0
	for ; n < len(w.parts) && w.parts[n].until <= stored; n++ {
		w.underWay -= w.parts[n].volume
		if err := w.acknowledge(w.parts[n]); err != nil {
			return err
		}
	}
	w.parts = w.parts[:copy(w.parts, w.parts[n:])]
	if over {
		w.batch = nil
		return nil
	}
	return w.goOn()
}

// acknowledge tells the channel what the stream has stored.
func (w *writing) acknowledge(p part) error {
	w.report.acknowledged(w.next.Epoch, p.records, p.letters, p.volume)
	return w.sink.Ack(p.done)
}

// refused counts what was refused because the stream had moved on.
func (w *writing) refused(err error) error {
	if errors.Is(err, stream.ErrMoved) {
		w.report.refused.Add(1)
	}
	return err
}
