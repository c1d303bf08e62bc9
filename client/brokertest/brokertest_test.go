// SPDX-License-Identifier: Apache-2.0

package brokertest_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"testing"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/client/brokertest"
)

// TestBrokersAreReal, as their options say, and leave nothing behind.
func TestBrokersAreReal(t *testing.T) {
	processors := runtime.GOMAXPROCS(0)
	b := brokertest.Start(t, brokertest.Options{MaxMessage: 1000, MaxSinks: 3, Buffer: 2 << 20, Patience: 7e9})
	t.Setenv(msgmux.EnvRuntimeDir, b.Channel.RuntimeDir)
	channel, err := msgmux.Default()
	if err != nil || channel != b.Channel {
		t.Errorf("the default channel is %v, %v", channel, err)
	}
	ctx := t.Context()
	source, err := channel.Dial(ctx, msgmux.SourceOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	var sinks []*msgmux.Sink
	for range 3 {
		sink, err := channel.Subscribe(ctx, msgmux.SinkOptions{Reconnect: true})
		if err != nil {
			t.Fatal(err)
		}
		defer sink.Close()
		sinks = append(sinks, sink)
	}
	if _, err := channel.Subscribe(ctx, msgmux.SinkOptions{}); !errors.Is(err, msgmux.ErrRefused) {
		t.Errorf("a fourth sink: %v", err)
	}
	status, err := sinks[0].Status(ctx)
	if all, failed := channel.Status(ctx); err != nil || failed != nil || status.Patience != 7e9 || all.Buffer != 2<<20 || source.MaxMessage() != 1000 {
		t.Errorf("%+v, %+v, at most %d bytes: %v", status, all, source.MaxMessage(), err)
	}
	if err := source.Send(ctx, []byte("one")); err != nil {
		t.Fatal(err)
	}
	for _, sink := range sinks {
		if m, err := sink.Receive(ctx); err != nil || string(m.Payload) != "one" {
			t.Errorf("got %q and %v", m.Payload, err)
		}
	}
	b.Stop()
	b.Stop()
	if err := source.Send(ctx, nil); !errors.Is(err, msgmux.ErrNoBroker) {
		t.Errorf("stopped: %v", err)
	}
	if _, err := os.Stat(channel.RuntimeDir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its folder: %v", err)
	}
	if n := runtime.GOMAXPROCS(0); n != processors {
		t.Errorf("GOMAXPROCS was %d and is %d", processors, n)
	}
	if _, err := brokertest.Run(brokertest.Options{Buffer: 12345}); err == nil {
		t.Error("a ring of 12345 bytes can be had")
	}
}

// TestBrokersFollowOneAnother in one folder, and sinks find the next one.
func TestBrokersFollowOneAnother(t *testing.T) {
	dir, err := os.MkdirTemp("", "mm")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	b := brokertest.Start(t, brokertest.Options{RuntimeDir: dir})
	sink, err := b.Channel.Subscribe(t.Context(), msgmux.SinkOptions{Reconnect: true})
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	b.Stop()
	b = brokertest.Start(t, brokertest.Options{RuntimeDir: dir})
	source, err := b.Channel.Dial(t.Context(), msgmux.SourceOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	if err := source.Send(t.Context(), []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if m, err := sink.Receive(t.Context()); err != nil || string(m.Payload) != "hello" {
		t.Errorf("got %q and %v", m.Payload, err)
	}
}

// TestArchive is what the documentation shows.
func TestArchive(t *testing.T) {
	broker := brokertest.Start(t, brokertest.Options{}) // ends with the test
	sink, err := broker.Channel.Subscribe(t.Context(), msgmux.SinkOptions{Label: "archive"})
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	source, err := broker.Channel.Dial(t.Context(), msgmux.SourceOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	if err := source.Send(t.Context(), []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if message, err := sink.Receive(t.Context()); err != nil || string(message.Payload) != "hello" {
		t.Errorf("got %q and %v", message.Payload, err)
	}
}

// A broker where there is no test.
func ExampleRun() {
	broker, err := brokertest.Run(brokertest.Options{})
	if err != nil {
		panic(err)
	}
	defer broker.Stop()
	status, err := broker.Channel.Status(context.Background())
	fmt.Println(status.MaxMessage, status.Sinks.Total, err)
	// Output: 262144 0 <nil>
}
