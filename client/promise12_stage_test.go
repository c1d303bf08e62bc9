// SPDX-License-Identifier: Apache-2.0

package msgmux_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/client/brokertest"
	"github.com/msgmux/msgmux/internal/test"
)

// staged opens a channel for sending by a stage.
func staged(t *testing.T, channel msgmux.Channel, options msgmux.SourceOptions) *msgmux.Source {
	t.Helper()
	options.Stage = true
	source, err := channel.Dial(inTime(t), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { source.Close() })
	if !source.Stats().Stage {
		t.Fatal("it sends packets")
	}
	return source
}

// TestPromise12_GoStage: a source with a stage sends what any other one sends, alone and in batches, of any size, to whoever receives;
// several goroutines use it at once.
func TestPromise12_GoStage(t *testing.T) {
	broker := brokertest.Start(t, brokertest.Options{})
	source := staged(t, broker.Channel, msgmux.SourceOptions{})
	sink := subscribeTo(t, broker.Channel, msgmux.SinkOptions{Patience: new(msgmux.Forever)})
	view := subscribeTo(t, broker.Channel, msgmux.SinkOptions{View: true, Patience: new(msgmux.Forever)})
	if n := source.MaxMessage(); n != 256<<10 {
		t.Errorf("a message may have %d bytes", n)
	}
	const goroutines, each = 4, 5000
	var all sync.WaitGroup
	for g := range goroutines {
		all.Go(func() {
			batch := source.Batch()
			for i := range each {
				message := fmt.Appendf(nil, "%d %d %s", g, i, bytes.Repeat([]byte("x"), i%700))
				var err error
				if g%2 == 0 {
					err = source.Send(inTime(t), message)
				} else {
					err = batch.Add(inTime(t), message)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
			if err := batch.Flush(inTime(t)); err != nil {
				t.Error(err)
			}
		})
	}
	var readers sync.WaitGroup
	for _, s := range []*msgmux.Sink{sink, view} {
		readers.Go(func() {
			var next [goroutines]int
			for n := range goroutines * each {
				m, err := s.Receive(inTime(t))
				if err != nil {
					t.Errorf("after %d: %v", n, err)
					return
				}
				var g, i int
				if _, err := fmt.Sscan(string(m.Payload), &g, &i); err != nil || i != next[g] || len(m.Payload) != len(fmt.Sprintf("%d %d ", g, i))+i%700 {
					t.Errorf("%.20q after %d of %d: %v", m.Payload, next[g], g, err)
					return
				}
				next[g]++
			}
		})
	}
	all.Wait()
	readers.Wait()
	if t.Failed() {
		return
	}
	large := bytes.Repeat([]byte("y"), 256<<10)
	if err := source.Send(inTime(t), large); err != nil {
		t.Fatal(err)
	}
	if m, err := view.Receive(inTime(t)); err != nil || !bytes.Equal(m.Payload, large) {
		t.Errorf("a large one: %d bytes, %v", len(m.Payload), err)
	}
	if err := source.Send(inTime(t), append(large, 0)); !errors.Is(err, msgmux.ErrTooLarge) {
		t.Errorf("one that is too large: %v", err)
	}
	if s := source.Stats(); s.Messages != goroutines*each+1 {
		t.Errorf("%+v", s)
	}
}

// TestPromise12_GoStageFull: with nobody to take them messages stay in the stage until that is full; then a source that waits ends with
// its context or with Close, and what it had sent before is in the channel.
func TestPromise12_GoStageFull(t *testing.T) {
	broker := brokertest.Start(t, brokertest.Options{})
	source := staged(t, broker.Channel, msgmux.SourceOptions{})
	n := fill(t, source)
	if n < 20_000 {
		t.Errorf("a stage held %d messages", n)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := source.Send(ctx, make([]byte, 100)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a send that waits: %v", err)
	}
	ended := make(chan error, 1)
	blocked := source.Stats().Blocked
	go func() { ended <- source.Send(context.Background(), make([]byte, 100)) }()
	test.Eventually(t, "it waits", func() bool { return source.Stats().Blocked > blocked })
	if err := source.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("a send that was closed: %v", err)
	}
	sink := subscribeTo(t, broker.Channel, msgmux.SinkOptions{})
	for i := range n {
		if m, err := sink.Receive(inTime(t)); err != nil || string(m.Payload) != fmt.Sprintf("filling %d", i) {
			t.Fatalf("message %d of %d is %q, %v", i, n, m.Payload, err)
		}
	}
	if m, err := sink.Receive(inTimeOf(t, 50*time.Millisecond)); err == nil {
		t.Errorf("%q came, too", m.Payload)
	}
	if err := source.Send(inTime(t), nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a send after Close: %v", err)
	}
}

func inTimeOf(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// TestPromise12_GoStageMarks: a marked source with a stage goes on from its mark.
func TestPromise12_GoStageMarks(t *testing.T) {
	broker := brokertest.Start(t, brokertest.Options{})
	options := msgmux.SourceOptions{Label: "log", Marks: true, Keep: time.Minute}
	source := staged(t, broker.Channel, options)
	sink := subscribeTo(t, broker.Channel, msgmux.SinkOptions{})
	send := func(from, to int) {
		t.Helper()
		batch := source.Batch()
		for i := from; i < to; i++ {
			if err := batch.Add(inTime(t), fmt.Append(nil, i)); err != nil {
				t.Fatal(err)
			}
			if err := batch.Mark(uint64(i) + 1); err != nil {
				t.Fatal(err)
			}
			if i%3 == 0 {
				if err := batch.Flush(inTime(t)); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := batch.Flush(inTime(t)); err != nil {
			t.Fatal(err)
		}
	}
	if m := source.Mark(); m != 0 {
		t.Errorf("it begins at %d", m)
	}
	send(0, 1000)
	source.Close()
	source = staged(t, broker.Channel, options)
	if m := source.Mark(); m != 1000 {
		t.Errorf("it goes on at %d", m)
	}
	if _, err := broker.Channel.Dial(inTime(t), options); !errors.Is(err, msgmux.ErrInUse) {
		t.Errorf("a second one: %v", err)
	}
	send(1000, 1010)
	options.Replace = true
	other := staged(t, broker.Channel, options)
	if m := other.Mark(); m != 1010 {
		t.Errorf("the one in its place goes on at %d", m)
	}
	if err := source.Send(inTime(t), []byte("x")); !errors.Is(err, msgmux.ErrInUse) {
		t.Errorf("the one before: %v", err)
	}
	for i := range 1010 {
		if m, err := sink.Receive(inTime(t)); err != nil || string(m.Payload) != fmt.Sprint(i) {
			t.Fatalf("message %d is %q, %v", i, m.Payload, err)
		}
	}
	if err := other.Forget(inTime(t)); err != nil {
		t.Fatal(err)
	}
	options.Replace = false
	test.Eventually(t, "it is forgotten", func() bool {
		s, err := broker.Channel.Dial(inTime(t), options)
		if err != nil {
			return false
		}
		defer s.Close()
		return s.Mark() == 0
	})
}

// TestPromise12_GoStageEnds: when the channel stops, a source with a stage hears of it, however it is; and it is connected again when
// there is one.
func TestPromise12_GoStageEnds(t *testing.T) {
	broker := brokertest.Start(t, brokertest.Options{RuntimeDir: t.TempDir()})
	source := staged(t, broker.Channel, msgmux.SourceOptions{})
	sink := subscribeTo(t, broker.Channel, msgmux.SinkOptions{})
	sendNumbers(t, source, 0, 3)
	receives(t, sink, 0, 1, 2)
	broker.Stop()
	if err := source.Send(inTime(t), []byte("3")); !errors.Is(err, msgmux.ErrNoBroker) {
		t.Errorf("without a broker: %v", err)
	}
	brokertest.Start(t, brokertest.Options{RuntimeDir: broker.Channel.RuntimeDir})
	sendNumbers(t, source, 4, 5)
	if !source.Stats().Stage {
		t.Error("it sends packets")
	}
	receives(t, subscribeTo(t, broker.Channel, msgmux.SinkOptions{}), 4)
}

// TestPromise12_GoStageReplaced: a marked source that waits for room when another one takes its place is told, once. The call after that
// connects again.
func TestPromise12_GoStageReplaced(t *testing.T) {
	broker := brokertest.Start(t, brokertest.Options{})
	options := msgmux.SourceOptions{Label: "log", Marks: true, Keep: time.Minute, Replace: true}
	source := staged(t, broker.Channel, options)
	fill(t, source)
	ended := make(chan error, 1)
	go func() { ended <- source.Send(inTime(t), make([]byte, 1000)) }()
	test.Eventually(t, "it waits", func() bool { return source.Stats().Blocked > 0 })
	other := make(chan error, 1)
	go func() {
		s, err := broker.Channel.Dial(inTime(t), options)
		if err == nil {
			err = s.Close()
		}
		other <- err
	}()
	if err := <-ended; !errors.Is(err, msgmux.ErrInUse) {
		t.Errorf("the one that waits: %v", err)
	}
	sink := subscribeTo(t, broker.Channel, msgmux.SinkOptions{})
	go func() {
		for {
			if _, err := sink.Receive(context.Background()); err != nil {
				return
			}
		}
	}()
	if err := <-other; err != nil {
		t.Errorf("the one in its place: %v", err)
	}
	if err := source.Send(inTime(t), []byte("x")); err != nil {
		t.Errorf("the call after that: %v", err)
	}
}
