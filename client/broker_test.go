// SPDX-License-Identifier: Apache-2.0

package msgmux_test

// The client beside a real broker.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"syscall"
	"testing"
	"time"

	"github.com/msgmux/msgmux/broker/brokertest"
	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/internal/test"
)

// realChannel starts a broker for a test.
func realChannel(t *testing.T) msgmux.Channel {
	t.Helper()
	return msgmux.Channel{RuntimeDir: brokertest.Start(t).Dir}
}

// TestMessagesPassThroughABroker whole and in order.
func TestMessagesPassThroughABroker(t *testing.T) {
	channel := realChannel(t)
	sinks := []*msgmux.Sink{
		subscribe(t, channel, msgmux.SinkOptions{}), subscribe(t, channel, msgmux.SinkOptions{Label: "file"}),
	}
	source := dial(t, channel)
	var messages [][]byte
	for _, size := range []int{0, 1, 3, 4096, 0, 64 << 10, 200_000, 256 << 10} {
		if size > largest(t) {
			continue
		}
		message := make([]byte, size)
		for i := range message {
			message[i] = byte(rand.Uint32())
		}
		messages = append(messages, message)
	}
	go func() {
		for _, message := range messages {
			if err := source.Send(context.Background(), message); err != nil {
				t.Error(err)
			}
		}
	}()
	for i, want := range messages {
		for _, sink := range sinks {
			if got, err := sink.Receive(inTime(t)); err != nil || !bytes.Equal(got.Payload, want) {
				t.Fatalf("message %d of %d bytes: got %d bytes and %v", i, len(want), len(got.Payload), err)
			}
		}
	}
	status, listed, err := channel.Sinks(inTime(t))
	if err != nil || status.Entered != uint64(len(messages)) || len(listed) != 2 ||
		listed[0].ID != sinks[0].ID() || listed[1].ID != sinks[1].ID() || listed[1].Label != "file" || sinks[1].Label() != "file" {
		t.Errorf("got %+v and %v", listed, err)
	}
	for _, sink := range sinks {
		if err := sink.Close(); err != nil {
			t.Error(err)
		}
	}
	test.Eventually(t, "the end of both", func() bool {
		_, listed, err := channel.Sinks(inTime(t))
		return err == nil && len(listed) == 0
	})
}

// TestABrokerRefuses what only it can judge, with its code.
func TestABrokerRefuses(t *testing.T) {
	channel := realChannel(t)
	var failed *msgmux.OpError
	sink := subscribe(t, channel, msgmux.SinkOptions{Label: "one"})
	if err := channel.Drop(inTime(t), "#99"); !errors.Is(err, msgmux.ErrNotFound) || !errors.As(err, &failed) || failed.Code != "not-found" {
		t.Errorf("got %v", err)
	}
	if err := channel.Drop(inTime(t), fmt.Sprintf("#%d", sink.ID())); err != nil {
		t.Error(err)
	}
	// The broker has forgotten it; leaving is not an error for who does not care.
	if err := sink.Close(); err != nil {
		t.Error(err)
	}

	for i := range 100 {
		sink, err := channel.Subscribe(inTime(t), msgmux.SinkOptions{Label: fmt.Sprint("s", i)})
		if err == nil {
			t.Cleanup(func() { sink.Close() })
			continue
		}
		if !errors.Is(err, msgmux.ErrRefused) || !errors.As(err, &failed) || failed.Code != "quota" || i < 32 {
			t.Errorf("sink %d: got %v", i, err)
		}
		return
	}
	t.Error("100 sinks were taken where 64 may be")
}

// TestSinksOfAShareDivideMessages between two of one process.
func TestSinksOfAShareDivideMessages(t *testing.T) {
	const all = 300
	channel := realChannel(t)
	source := dial(t, channel)
	came := make(chan string, all)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	for range 2 {
		sink := subscribe(t, channel, msgmux.SinkOptions{Share: "writers"})
		go func() {
			ended <- each(ctx, sink, func(message msgmux.Message) error {
				came <- string(message.Payload)
				return nil
			})
		}()
	}
	for i := range all {
		if err := source.Send(inTime(t), fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[string]bool{}
	for range all {
		select {
		case message := <-came:
			if seen[message] {
				t.Errorf("message %s came twice", message)
			}
			seen[message] = true
		case <-time.After(soon):
			t.Fatalf("%d of %d messages have come", len(seen), all)
		}
	}
	cancel()
	for range 2 {
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
}

// TestTheClientLeavesNothingOpen counts descriptors before and after its whole life.
func TestTheClientLeavesNothingOpen(t *testing.T) {
	channel := realChannel(t)
	// The collector would close what nobody refers to any more.
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	open := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	far := announce(t, syscall.SOCK_DGRAM, "archive")
	life := func() {
		sink, err := msgmux.Inherited("archive", msgmux.InheritedOptions{})
		if err != nil {
			t.Fatal(err)
		}
		deliver(t, far, "x")
		framed := subscribe(t, channel, msgmux.SinkOptions{})
		source := dial(t, channel)
		if err := source.Send(inTime(t), []byte("x")); err != nil {
			t.Fatal(err)
		}
		for _, sink := range []*msgmux.Sink{sink, framed} {
			if _, err := sink.Receive(inTime(t)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := channel.Status(inTime(t)); err != nil {
			t.Fatal(err)
		}
		_ = channel.Drop(inTime(t), "nobody")
		sink.Close()
		framed.Close()
		source.Close()
	}
	life() // what is opened once and kept is open from here on
	test.Eventually(t, "the broker lets go of the first", func() bool {
		before := open()
		life()
		for range 20 {
			if open() <= before {
				return true
			}
			time.Sleep(10 * time.Millisecond) // the broker closes its end a little later
		}
		return false
	})
}
