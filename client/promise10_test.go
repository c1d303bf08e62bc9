// SPDX-License-Identifier: Apache-2.0

package msgmux_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/client/brokertest"
	"github.com/msgmux/msgmux/internal/test"
	"github.com/msgmux/msgmux/internal/wire"
)

// Promise 10, as a Go program has it: the ends may die too.

func subscribeTo(t *testing.T, channel msgmux.Channel, options msgmux.SinkOptions) *msgmux.Sink {
	t.Helper()
	sink, err := channel.Subscribe(inTime(t), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sink.Close() })
	return sink
}

func sendNumbers(t *testing.T, source *msgmux.Source, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		if err := source.Send(inTime(t), fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
	}
}

func receives(t *testing.T, sink *msgmux.Sink, want ...int) (last msgmux.Message) {
	t.Helper()
	for _, n := range want {
		m, err := sink.Receive(inTime(t))
		if err != nil || string(m.Payload) != fmt.Sprint(n) {
			t.Fatalf("got %q, %v, want %d", m.Payload, err, n)
		}
		last = m
	}
	return last
}

// TestPromise10_DoneByAsking: a kept sink is done with a message when it asks for the next one, and comes back to that.
func TestPromise10_DoneByAsking(t *testing.T) {
	broker := brokertest.Start(t, brokertest.Options{})
	kept := msgmux.SinkOptions{Label: "db", Keep: time.Minute}
	sink := subscribeTo(t, broker.Channel, kept)
	source := dial(t, broker.Channel)
	sendNumbers(t, source, 0, 5)
	receives(t, sink, 0, 1, 2)
	if err := sink.Close(); err != nil {
		t.Fatal(err)
	}
	sink = again(t, broker.Channel, kept)
	receives(t, sink, 2, 3)
	if _, err := broker.Channel.Subscribe(inTime(t), kept); !errors.Is(err, msgmux.ErrInUse) {
		t.Errorf("a second one: %v", err)
	}
	test.Eventually(t, "the broker has heard that 2 is done", func() bool {
		_, sinks, err := broker.Channel.Sinks(inTime(t))
		return err == nil && len(sinks) == 1 && sinks[0].Next == 3
	})
	kept.Replace = true
	next := subscribeTo(t, broker.Channel, kept)
	for i := 0; ; i++ {
		if _, err := sink.Receive(inTime(t)); err != nil {
			if !errors.Is(err, msgmux.ErrInUse) {
				t.Errorf("the one before: %v", err)
			}
			break
		} else if i > 2 {
			t.Fatal("the one before goes on")
		}
	}
	receives(t, next, 3, 4)
	if err := next.Forget(inTime(t)); err != nil {
		t.Fatal(err)
	}
	test.Eventually(t, "nothing is kept", func() bool {
		_, sinks, err := broker.Channel.Sinks(inTime(t))
		return err == nil && len(sinks) == 0
	})
}

// TestPromise10_DoneByTurns: in a loop a message is done when its turn has ended, also in the middle of a packet; one whose turn was left
// is not.
func TestPromise10_DoneByTurns(t *testing.T) {
	for _, view := range []bool{false, true} {
		broker := brokertest.Start(t, brokertest.Options{})
		source := dial(t, broker.Channel)
		kept := msgmux.SinkOptions{Label: fmt.Sprint("view-", view), Keep: time.Minute, View: view}
		sink := subscribeTo(t, broker.Channel, kept)
		packet := source.Batch()
		for i := range 40 {
			if err := packet.Add(inTime(t), fmt.Append(nil, i)); err != nil {
				t.Fatal(err)
			}
		}
		if err := packet.Flush(inTime(t)); err != nil {
			t.Fatal(err)
		}
		turns := func(n int, last func() (goesOn bool)) {
			t.Helper()
			ctx, cancel := context.WithCancel(inTime(t))
			defer cancel()
			for _, err := range sink.Messages(ctx) {
				if err != nil {
					if !errors.Is(err, context.Canceled) {
						t.Fatal(err)
					}
					break
				}
				if n--; n > 0 {
					continue
				}
				if cancel(); !last() {
					break
				}
			}
			if err := sink.Close(); err != nil {
				t.Fatal(err)
			}
			sink = again(t, broker.Channel, kept)
		}
		turns(3, func() bool { return false })
		receives(t, sink, 2)
		turns(2, func() bool { return true })
		receives(t, sink, 5)
		// Somebody who takes his time over each: what is done is known while he is in the middle of the packet.
		for m, err := range sink.Messages(inTime(t)) {
			if err != nil {
				t.Fatal(err)
			}
			if string(m.Payload) != "39" {
				continue
			}
			test.Eventually(t, "most of the packet is known to be done", func() bool {
				_, sinks, err := broker.Channel.Sinks(inTime(t))
				return err == nil && len(sinks) > 0 && sinks[len(sinks)-1].Next > m.Seq-20
			})
			break
		}
		if err := sink.Forget(inTime(t)); err != nil {
			t.Fatal(err)
		}
	}
}

// again subscribes when the broker has seen that the connection before is gone.
func again(t *testing.T, channel msgmux.Channel, options msgmux.SinkOptions) (sink *msgmux.Sink) {
	t.Helper()
	test.Eventually(t, "the name is free", func() bool {
		var err error
		sink, err = channel.Subscribe(inTime(t), options)
		if err != nil && !errors.Is(err, msgmux.ErrInUse) {
			t.Fatal(err)
		}
		return err == nil
	})
	t.Cleanup(func() { sink.Close() })
	return sink
}

// TestPromise10_OwnBooks: a program that writes its place down with its results gets each message once, whatever it has said.
func TestPromise10_OwnBooks(t *testing.T) {
	broker := brokertest.Start(t, brokertest.Options{})
	kept := msgmux.SinkOptions{Label: "db", Keep: time.Minute, Ack: true}
	sink := subscribeTo(t, broker.Channel, kept)
	source := dial(t, broker.Channel)
	sendNumbers(t, source, 0, 10)
	m := receives(t, sink, 0, 1, 2, 3)
	if err := sink.Ack(m.Seq - 1); err != nil { // two of four
		t.Fatal(err)
	}
	place := msgmux.Position{Epoch: sink.Epoch(), Seq: m.Seq + 1} // and all four are in the books
	if p, err := msgmux.ParsePosition(place.String()); err != nil || p != place {
		t.Errorf("%s is read as %+v, %v", place, p, err)
	}
	sink.Close()
	kept.From = place
	sink = again(t, broker.Channel, kept)
	receives(t, sink, 4, 5)
	sink.Close()
	kept.From.Epoch++
	test.Eventually(t, "another epoch is an error", func() bool {
		_, err := broker.Channel.Subscribe(inTime(t), kept)
		return errors.Is(err, msgmux.ErrEpoch)
	})
	kept.From = msgmux.Position{}
	sink = again(t, broker.Channel, kept)
	receives(t, sink, 4)
	if err := (&msgmux.Sink{}).Ack(1); err == nil {
		t.Error("the zero Sink acknowledges")
	}
	if err := subscribeTo(t, broker.Channel, msgmux.SinkOptions{}).Ack(1); !errors.Is(err, msgmux.ErrBadOption) {
		t.Errorf("a sink that did not ask for it: %v", err)
	}
}

// TestPromise10_DoneMeanwhile: what is said to be done while the sink is connected again is said, and not before the broker has sent it on the
// new connection, where it would be an error.
func TestPromise10_DoneMeanwhile(t *testing.T) {
	channel := folder(t)
	listener := listen(t, channel, "subscribe")
	sink, first := subscribedWith(t, channel, listener, msgmux.SinkOptions{Ack: true, Reconnect: true}, "ok id=7 label=a epoch=5 next=100\n")
	first.deliver(t, 100, 0, "0", "1", "2", "3", "4", "5")
	receives(t, sink, 0, 1, 2, 3, 4, 5)
	said := func(p *peer, want uint64) {
		t.Helper()
		if got := p.packet(t); !bytes.Equal(got, wire.AppendAck(nil, want)) {
			t.Errorf("it said %q, and %d is done", got, want)
		}
	}
	ack := func(done uint64) {
		t.Helper()
		if err := sink.Ack(done); err != nil {
			t.Error(err)
		}
	}
	ack(102)
	said(first, 102)
	first.Close()
	got := make(chan string)
	go func() {
		m, err := sink.Receive(inTime(t))
		if err != nil {
			t.Error(err)
		}
		got <- string(m.Payload)
	}()
	second := admit(t, listener, "")
	if want := (wire.Position{Epoch: 5, Seq: 102}); second.hello.From != want {
		t.Errorf("it comes back with %+v, want %+v", second.hello.From, want)
	}
	ack(104)
	if _, err := second.Write([]byte("ok id=7 label=a epoch=5 next=102\n")); err != nil {
		t.Fatal(err)
	}
	time.Sleep(shortly)
	ack(105)
	second.SetReadDeadline(time.Now().Add(4 * shortly))
	if n, err := second.Read(make([]byte, 100)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("it says something of what was not sent: %d bytes, %v", n, err)
	}
	second.deliver(t, 102, 0, "2", "3")
	said(second, 104)
	second.deliver(t, 104, 0, "4", "5", "6")
	said(second, 105)
	if m := <-got; m != "6" {
		t.Errorf("%q came", m)
	}
}

// TestPromise10_LostAndHad: what a sink had, and was not done with, is no loss to it when the channel has given that up while it was away.
func TestPromise10_LostAndHad(t *testing.T) {
	t.Parallel() // it waits for a second
	channel := folder(t)
	listener := listen(t, channel, "subscribe")
	var gaps []msgmux.Gap
	options := msgmux.SinkOptions{Ack: true, Reconnect: true, OnGap: func(g msgmux.Gap) { gaps = append(gaps, g) }}
	sink, broker := subscribedWith(t, channel, listener, options, "ok id=7 label=a epoch=5 next=100\n")
	broker.deliver(t, 100, 0, "0", "1", "2", "3", "4", "5")
	receives(t, sink, 0, 1, 2, 3, 4, 5)
	if err := sink.Ack(102); err != nil {
		t.Fatal(err)
	}
	broker.Close()
	got := make(chan error, 1)
	go func() {
		m, err := sink.Receive(inTime(t))
		if err == nil && m.Seq != 108 {
			err = fmt.Errorf("message %d came", m.Seq)
		}
		got <- err
	}()
	admit(t, listener, "ok id=7 label=a epoch=5 next=102\n").deliver(t, 108, 6, "8")
	if err := <-got; err != nil {
		t.Error(err)
	}
	if want := (msgmux.Gap{Before: 108, Lost: 2}); len(gaps) != 1 || gaps[0] != want || sink.Stats().Lost != 2 {
		t.Errorf("it was told %+v, and counts %+v", gaps, sink.Stats())
	}
}

// TestPromise10_AnotherEpoch: who acknowledges by numbers and connects again where they have begun anew is told so, as often as it asks.
func TestPromise10_AnotherEpoch(t *testing.T) {
	dir := test.Folder(t)
	broker := brokertest.Start(t, brokertest.Options{RuntimeDir: dir})
	sink := subscribeTo(t, broker.Channel, msgmux.SinkOptions{Ack: true, Reconnect: true})
	broker.Stop()
	brokertest.Start(t, brokertest.Options{RuntimeDir: dir})
	for i := range 3 {
		if _, err := sink.Receive(inTime(t)); !errors.Is(err, msgmux.ErrEpoch) {
			t.Errorf("call %d: %v", i, err)
		}
	}
}

// TestPromise10_Gaps: what the channel has not kept is told.
func TestPromise10_Gaps(t *testing.T) {
	broker := brokertest.Start(t, brokertest.Options{Patience: time.Millisecond})
	source := dial(t, broker.Channel)
	reader := subscribeTo(t, broker.Channel, msgmux.SinkOptions{})
	go func() {
		for range reader.Messages(t.Context()) {
		}
	}()
	var gaps []msgmux.Gap
	kept := msgmux.SinkOptions{Label: "db", Keep: time.Minute, OnGap: func(g msgmux.Gap) { gaps = append(gaps, g) }}
	sink := subscribeTo(t, broker.Channel, kept)
	sendNumbers(t, source, 0, 2)
	first := receives(t, sink, 0, 1)
	sink.Close()
	big := make([]byte, 100_000)
	for range 30 {
		if err := source.Send(inTime(t), big); err != nil {
			t.Fatal(err)
		}
	}
	sink = again(t, broker.Channel, kept)
	m, err := sink.Receive(inTime(t))
	if err != nil || len(gaps) != 1 || gaps[0].Before != m.Seq || gaps[0].Lost != m.Seq-first.Seq || gaps[0].Lost < 15 {
		t.Errorf("%d, %v after %+v", m.Seq, err, gaps)
	}
}

// TestPromise10_Marks: a source that comes back knows what is in the channel.
func TestPromise10_Marks(t *testing.T) {
	broker := brokertest.Start(t, brokertest.Options{})
	sink := subscribeTo(t, broker.Channel, msgmux.SinkOptions{})
	options := msgmux.SourceOptions{Label: "tail", Marks: true, Keep: time.Minute}
	source, err := broker.Channel.Dial(inTime(t), options)
	if err != nil || source.Mark() != 0 {
		t.Fatal(err)
	}
	if _, err := broker.Channel.Dial(inTime(t), options); !errors.Is(err, msgmux.ErrInUse) {
		t.Errorf("a second one: %v", err)
	}
	batch := source.Batch()
	for i := range 3 {
		if err := errors.Join(batch.Add(inTime(t), fmt.Append(nil, i)), batch.Mark(uint64(100+i))); err != nil {
			t.Fatal(err)
		}
	}
	if source.Mark() != 0 {
		t.Errorf("before anything was sent: %d", source.Mark())
	}
	if err := batch.Flush(inTime(t)); err != nil || source.Mark() != 102 {
		t.Errorf("%d, %v", source.Mark(), err)
	}
	source.Close()
	if source, err = broker.Channel.Dial(inTime(t), options); err != nil || source.Mark() != 102 {
		t.Fatalf("back at %d, %v", source.Mark(), err)
	}
	receives(t, sink, 0, 1, 2)
	batch = source.Batch()
	if err := errors.Join(batch.Mark(200), batch.Flush(inTime(t)), source.Send(inTime(t), []byte("3"))); err != nil {
		t.Fatal(err)
	}
	receives(t, sink, 3)
	if err := source.Forget(inTime(t)); err != nil {
		t.Fatal(err)
	}
	test.Eventually(t, "the mark is forgotten", func() bool {
		s, err := broker.Channel.Dial(inTime(t), options)
		return err == nil && s.Mark() == 0 && s.Close() == nil
	})
}

// TestPromise10_Workers: each of a share's messages is done by one of its members, also when members go without being done.
func TestPromise10_Workers(t *testing.T) {
	broker := brokertest.Start(t, brokertest.Options{})
	options := msgmux.SinkOptions{Share: "work", Batch: 2, Keep: time.Minute}
	quitter := subscribeTo(t, broker.Channel, options)
	source := dial(t, broker.Channel)
	sendNumbers(t, source, 0, 1)
	receives(t, quitter, 0)
	worker := subscribeTo(t, broker.Channel, options)
	sendNumbers(t, source, 1, 50)
	for m, err := range worker.Messages(inTime(t)) {
		if err != nil || string(m.Payload) == "20" {
			break
		}
	}
	quitter.Close() // 0 is not done
	done := map[string]int{}
	for m, err := range worker.Messages(inTime(t)) {
		if err != nil {
			t.Fatal(err)
		}
		if done[string(m.Payload)]++; string(m.Payload) == "49" || done["0"] > 0 && done["48"] > 0 {
			break
		}
	}
	if done["0"] != 1 || done["20"] > 1 || done["21"] != 1 {
		t.Errorf("%v", done)
	}
}
