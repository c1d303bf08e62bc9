// SPDX-License-Identifier: Apache-2.0

package msgmux_test

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	msgmux "github.com/msgmux/msgmux/client"
)

// TestOptionsThatNoBrokerTakes never reach one.
func TestOptionsThatNoBrokerTakes(t *testing.T) {
	channel := folder(t)
	listener := listen(t, channel, "subscribe")
	for _, options := range []msgmux.SinkOptions{
		{Label: "a b"}, {Label: "\x1b[31m"}, {Label: strings.Repeat("a", 65)}, {Share: "a/b"}, {Tap: true, Share: "x"},
		{Patience: new(-time.Second)},
	} {
		if _, err := channel.Subscribe(inTime(t), options); !errors.Is(err, msgmux.ErrBadOption) {
			t.Errorf("%+v: got %v", options, err)
		}
	}
	listener.SetDeadline(time.Now().Add(shortly))
	if _, err := listener.Accept(); err == nil {
		t.Error("one of them has connected")
	}
}

// TestReceiveGivesUp ends waits by deadline, by cancel and by Close, and goes on after the first two.
func TestReceiveGivesUp(t *testing.T) {
	channel := folder(t)
	sink, broker := subscribed(t, channel, listen(t, channel, "subscribe"), msgmux.SinkOptions{})
	ctx, cancel := context.WithTimeout(context.Background(), shortly)
	defer cancel()
	if _, err := sink.Receive(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a deadline: got %v", err)
	}
	ctx, cancel = context.WithCancel(context.Background())
	time.AfterFunc(shortly, cancel)
	if _, err := sink.Receive(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancel: got %v", err)
	}
	broker.deliver(t, 0, 0, "here")
	if _, err := sink.Receive(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that was over before: got %v", err)
	}
	if got, err := sink.Receive(inTime(t)); err != nil || string(got.Payload) != "here" {
		t.Errorf("got %q and %v", got.Payload, err)
	}
	received := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := sink.Receive(context.Background())
			received <- err
		}()
	}
	time.Sleep(shortly)
	sink.Close()
	for range 2 {
		if err := <-received; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Close: got %v", err)
		}
	}
}

// TestNothingComesAfterClose, also of what was in the sink's memory already, by any way of receiving.
func TestNothingComesAfterClose(t *testing.T) {
	channel := folder(t)
	sink, broker := subscribed(t, channel, listen(t, channel, "subscribe"), msgmux.SinkOptions{})
	broker.deliver(t, 0, 0, "one", "two", "three")
	if got, err := sink.Receive(inTime(t)); err != nil || string(got.Payload) != "one" {
		t.Fatalf("got %q and %v", got.Payload, err)
	}
	if err := sink.Close(); err != nil {
		t.Fatal(err)
	}
	for name, receive := range map[string]func() error{
		"Receive":       func() error { _, err := sink.Receive(inTime(t)); return err },
		"Messages":      func() error { return each(inTime(t), sink, func(msgmux.Message) error { return nil }) },
		"ReceivePacket": func() error { _, err := sink.ReceivePacket(inTime(t)); return err },
		"InPlace":       func() error { return sink.InPlace(inTime(t), func(msgmux.Packet) error { return nil }) },
	} {
		if err := receive(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// TestEachLendsMessages calls back for every message in order until it is told to stop.
func TestEachLendsMessages(t *testing.T) {
	channel := folder(t)
	sink, broker := subscribed(t, channel, listen(t, channel, "subscribe"), msgmux.SinkOptions{})
	messages := []string{"one", "", "three", "left"}
	broker.deliver(t, 0, 0, messages...)
	enough := errors.New("enough")
	var got []string
	err := each(inTime(t), sink, func(message msgmux.Message) error {
		if got = append(got, string(message.Payload)); len(got) == 3 {
			return enough
		}
		_ = append(message.Payload, "a write behind the slice must not reach the next message"...)
		return nil
	})
	if !errors.Is(err, enough) || !slices.Equal(got, messages[:3]) {
		t.Errorf("got %q and %v", got, err)
	}
	if got, err := sink.Receive(inTime(t)); err != nil || string(got.Payload) != "left" {
		t.Errorf("after Each: got %q and %v", got.Payload, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), shortly)
	defer cancel()
	if err := each(ctx, sink, func(msgmux.Message) error { return nil }); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a deadline: got %v", err)
	}
}
