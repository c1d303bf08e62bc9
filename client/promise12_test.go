// SPDX-License-Identifier: Apache-2.0

package msgmux_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/client/brokertest"
	"github.com/msgmux/msgmux/internal/test"
)

// Promise 12, as a Go program has it: a sink in view sees only whole messages of its own future.

// TestPromise12_GoClient: a sink in view gets what is sent, sleeps and is woken, and is done with what it has asked to go on from.
func TestPromise12_GoClient(t *testing.T) {
	broker := brokertest.Start(t, brokertest.Options{})
	options := msgmux.SinkOptions{Label: "db", Keep: time.Minute, View: true}
	sink := subscribeTo(t, broker.Channel, options)
	if !sink.Stats().View {
		t.Fatal("it has frames")
	}
	source := dial(t, broker.Channel)
	sendNumbers(t, source, 0, 5)
	receives(t, sink, 0, 1, 2)
	go func() {
		time.Sleep(20 * time.Millisecond)
		sendNumbers(t, source, 5, 7)
	}()
	receives(t, sink, 3, 4, 5, 6)
	test.Eventually(t, "the broker has seen what is done", func() bool {
		_, sinks, err := broker.Channel.Sinks(inTime(t))
		return err == nil && len(sinks) == 1 && sinks[0].Next == 6
	})
	if err := sink.Close(); err != nil {
		t.Fatal(err)
	}
	sink = again(t, broker.Channel, options)
	receives(t, sink, 6)
	if !sink.Stats().View {
		t.Error("it has frames")
	}
}

// flooding sends numbered messages until stop, and returns how many they were.
func flooding(t *testing.T, channel msgmux.Channel, stop <-chan struct{}) <-chan int {
	t.Helper()
	source, done := dial(t, channel), make(chan int, 1)
	go func() {
		batch := source.Batch()
		for n := 0; ; n++ {
			select {
			case <-stop:
				if err := batch.Flush(context.Background()); err != nil {
					t.Error(err)
				}
				done <- n
				return
			default:
			}
			if err := batch.Add(context.Background(), fmt.Append(nil, n, strings.Repeat(" ", n%500))); err != nil {
				t.Error(err)
				done <- n
				return
			}
		}
	}()
	return done
}

func numberOf(m msgmux.Message) int {
	n, err := strconv.Atoi(strings.TrimSpace(string(m.Payload)))
	if err != nil {
		return -1
	}
	return n
}

// TestPromise12_GoBusy: a sink in view that never sleeps gets everything in order, one message larger than all buffers among it, and is
// told when another takes its place. The other one goes on where it was.
func TestPromise12_GoBusy(t *testing.T) {
	broker := brokertest.Start(t, brokertest.Options{})
	options := msgmux.SinkOptions{Label: "db", Keep: time.Minute, View: true, Patience: new(msgmux.Forever), Replace: true}
	first := subscribeTo(t, broker.Channel, options)
	stop, over := make(chan struct{}), make(chan error, 1)
	done := flooding(t, broker.Channel, stop)
	var reached atomic.Int64
	go func() {
		next := 0
		over <- each(context.Background(), first, func(m msgmux.Message) error {
			if n := numberOf(m); n != next {
				return fmt.Errorf("message %d is %d", next, n)
			}
			next++
			reached.Store(int64(next))
			return nil
		})
	}()
	test.Eventually(t, "much has come", func() bool { return reached.Load() > 20_000 })
	second := subscribeTo(t, broker.Channel, options)
	if err := <-over; !errors.Is(err, msgmux.ErrInUse) {
		t.Errorf("the first one ends with %v", err)
	}
	close(stop)
	end, last := dial(t, broker.Channel), -1
	var total atomic.Int64
	go func() { // which waits for the sink
		total.Store(int64(<-done))
		if err := end.Send(inTime(t), make([]byte, 200<<10)); err != nil {
			t.Error(err)
		}
	}()
	// What two sources have sent comes in any order.
	for large := false; !large || last != int(total.Load())-1; {
		p, err := second.ReceivePacket(inTime(t))
		if err != nil {
			t.Fatalf("%v; large: %v, the last one was %d of %d", err, large, last, total.Load())
		}
		for m := range p.Messages() {
			if len(m.Payload) == 200<<10 {
				large = true
				continue
			}
			if n := numberOf(m); last >= 0 && n != last+1 || last < 0 && n > int(reached.Load()) {
				t.Fatalf("%d after %d; the first one came to %d", n, last, reached.Load())
			} else {
				last = n
			}
		}
	}
}

// TestPromise12_GoLeftBehind: what a sink in view misses it is told of, exactly.
func TestPromise12_GoLeftBehind(t *testing.T) {
	broker := brokertest.Start(t, brokertest.Options{})
	var lost atomic.Uint64
	slow := subscribeTo(t, broker.Channel, msgmux.SinkOptions{View: true, Patience: new(time.Duration), OnGap: func(g msgmux.Gap) { lost.Add(g.Lost) }})
	quick := subscribeTo(t, broker.Channel, msgmux.SinkOptions{View: true, Patience: new(msgmux.Forever)})
	stop := make(chan struct{})
	done := flooding(t, broker.Channel, stop)
	received := 0
	for m, err := range quick.Messages(inTime(t)) {
		if err != nil || numberOf(*m) != received {
			t.Fatalf("%d is %q, %v", received, m.Payload, err)
		}
		if received++; received > 40_000 {
			break
		}
	}
	close(stop)
	go func() {
		for _, err := range quick.Messages(context.Background()) {
			if err != nil {
				return
			}
		}
	}()
	total, had, next := <-done, 0, 0
	for next < total {
		m, err := slow.Receive(inTime(t))
		if err != nil {
			t.Fatal(err)
		}
		n := numberOf(m)
		if n < next {
			t.Fatalf("%d after %d", n, next-1)
		}
		had, next = had+1, n+1
	}
	if stats := slow.Stats(); int(lost.Load())+had != total || lost.Load() == 0 || stats.Lost != lost.Load() {
		t.Errorf("%d came and %d were lost of %d: %+v", had, lost.Load(), total, stats)
	}
}

// TestPromise12_GoEnds: a sink in view reads what there was when its broker stopped, and then hears of that; one that is closed in the
// middle of anything ends.
func TestPromise12_GoEnds(t *testing.T) {
	broker := brokertest.Start(t, brokertest.Options{})
	sink := subscribeTo(t, broker.Channel, msgmux.SinkOptions{View: true, Ack: true})
	waits := subscribeTo(t, broker.Channel, msgmux.SinkOptions{View: true})
	within := subscribeTo(t, broker.Channel, msgmux.SinkOptions{View: true})
	source := dial(t, broker.Channel)
	sendNumbers(t, source, 0, 100)
	for m, err := range within.Messages(inTime(t)) {
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				t.Errorf("closed in its loop: %v", err)
			}
			break
		}
		if numberOf(*m) == 50 {
			within.Close()
		} else if numberOf(*m) > 50 {
			t.Fatal("it goes on after Close")
		}
	}
	ended := make(chan error, 1)
	go func() {
		ended <- each(context.Background(), waits, func(msgmux.Message) error { return nil })
	}()
	test.Eventually(t, "it waits", func() bool { return waits.Stats().Messages == 100 })
	waits.Close()
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed while it waits: %v", err)
	}
	receives(t, sink, 0)
	broker.Stop()
	for i := 1; i < 100; i++ {
		receives(t, sink, i)
	}
	if err := sink.Ack(100); err != nil {
		t.Error(err)
	}
	if _, err := sink.Receive(inTime(t)); !errors.Is(err, msgmux.ErrHungUp) {
		t.Errorf("at the end: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := sink.Receive(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that is done: %v", err)
	}
}

// TestPromise12_GoReconnects: a sink in view finds the next broker, and is told that all is anew.
func TestPromise12_GoReconnects(t *testing.T) {
	channel := folder(t)
	broker := brokertest.Start(t, brokertest.Options{RuntimeDir: channel.RuntimeDir})
	var gaps []msgmux.Gap
	sink := subscribeTo(t, channel, msgmux.SinkOptions{View: true, Reconnect: true, OnGap: func(g msgmux.Gap) { gaps = append(gaps, g) }})
	sendNumbers(t, dial(t, channel), 0, 3)
	receives(t, sink, 0, 1, 2)
	broker.Stop()
	brokertest.Start(t, brokertest.Options{RuntimeDir: channel.RuntimeDir})
	sendNumbers(t, dial(t, channel), 7, 9)
	receives(t, sink, 7, 8)
	if len(gaps) != 1 || !gaps[0].Anew || !sink.Stats().View {
		t.Errorf("%+v, in view: %v", gaps, sink.Stats().View)
	}
}

// TestPromise12_GoFrames: where a broker does not have it, messages come in packets, and are acknowledged.
func TestPromise12_GoFrames(t *testing.T) {
	channel := folder(t)
	listener := listen(t, channel, "subscribe")
	for _, why := range []string{"unknown-option there is no option view", "unsupported there is no procfs"} {
		came := make(chan *msgmux.Sink, 1)
		go func() {
			sink, err := channel.Subscribe(context.Background(), msgmux.SinkOptions{View: true})
			if err != nil {
				t.Error(err)
			}
			came <- sink
		}()
		if p := admit(t, listener, "error "+why+"\n"); !p.hello.View {
			t.Errorf("%+v", p.hello)
		}
		p := admit(t, listener, "ok id=7 epoch=5 next=3\n")
		if p.hello.View || !p.hello.Ack {
			t.Errorf("the second time: %+v", p.hello)
		}
		sink := <-came
		if sink == nil {
			return
		}
		p.deliver(t, 3, 0, "3", "4")
		receives(t, sink, 3, 4)
		if sink.Stats().View {
			t.Error("it says that it is in view")
		}
		if err := sink.Close(); err != nil {
			t.Error(err)
		}
		if said := p.packet(t); binary.LittleEndian.Uint64(said) != 4 {
			t.Errorf("it said %x", said)
		}
	}
}

// TestPromise12_GoInPlace: what is read in place is what was sent, in order, and done when the next is asked for; of what was overwritten
// while it was used a sink hears, and it is lost by count.
func TestPromise12_GoInPlace(t *testing.T) {
	broker := brokertest.Start(t, brokertest.Options{})
	var lost atomic.Uint64
	options := msgmux.SinkOptions{Label: "place", View: true, Keep: time.Minute, Patience: new(msgmux.Forever)}
	sink := subscribeTo(t, broker.Channel, options)
	slow := subscribeTo(t, broker.Channel, msgmux.SinkOptions{View: true, Patience: new(time.Duration), OnGap: func(g msgmux.Gap) { lost.Add(g.Lost) }})
	frames := subscribeTo(t, broker.Channel, msgmux.SinkOptions{Patience: new(msgmux.Forever)})
	stop, next := make(chan struct{}), 0
	done := flooding(t, broker.Channel, stop)
	in := func(sink *msgmux.Sink, next *int) error {
		return sink.InPlace(inTime(t), func(p msgmux.Packet) error {
			n := 0
			for m := range p.Messages() {
				if numberOf(m) != *next {
					return fmt.Errorf("%d is %q", *next, m.Payload)
				}
				n, *next = n+1, *next+1
			}
			if n != p.Count {
				return fmt.Errorf("%d messages of %d", n, p.Count)
			}
			return nil
		})
	}
	var over sync.WaitGroup
	over.Go(func() { // one that is sent packets is given those
		for next := 0; next < 30_000; {
			if err := in(frames, &next); err != nil {
				t.Error(err)
				return
			}
		}
		frames.Close()
	})
	for next < 30_000 {
		if err := in(sink, &next); err != nil {
			t.Fatal(err)
		}
	}
	// One who takes his time is overtaken, while the other goes on.
	overwritten := slow.InPlace(inTime(t), func(p msgmux.Packet) error {
		for at := p.Seq; next < int(at)+40_000; {
			if err := in(sink, &next); err != nil {
				return err
			}
		}
		for m := range p.Messages() { // whatever they are by now
			if len(m.Payload) > len(p.Records) {
				return errors.New("a message that is larger than what it is in")
			}
		}
		return nil
	})
	if !errors.Is(overwritten, msgmux.ErrOverwritten) {
		t.Errorf("what was overwritten: %v", overwritten)
	}
	close(stop)
	over.Wait()
	for total := <-done; next < total; {
		if err := in(sink, &next); err != nil {
			t.Fatal(err)
		}
	}
	had := 0
	for seen := 0; seen < next; {
		if err := slow.InPlace(inTime(t), func(p msgmux.Packet) error {
			for m := range p.Messages() {
				had, seen = had+1, numberOf(m)+1
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	if had+int(lost.Load()) != next || lost.Load() == 0 {
		t.Errorf("%d came and %d were lost of %d", had, lost.Load(), next)
	}
	failed := errors.New("no")
	sendNumbers(t, dial(t, broker.Channel), next, next+1)
	if err := sink.InPlace(inTime(t), func(msgmux.Packet) error { return failed }); !errors.Is(err, failed) {
		t.Errorf("an error of who uses it: %v", err)
	}
	test.Eventually(t, "what was read is done", func() bool {
		_, sinks, err := broker.Channel.Sinks(inTime(t))
		return err == nil && sinks[0].Next+1 >= uint64(next)
	})
}
