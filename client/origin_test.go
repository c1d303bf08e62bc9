// SPDX-License-Identifier: Apache-2.0

package msgmux_test

import (
	"os"
	"testing"
	"time"

	"github.com/msgmux/msgmux/broker/brokertest"
	msgmux "github.com/msgmux/msgmux/client"
)

// TestOrigin: a sink that asks is told of each message whose it is, however it is received; one that does not is told nothing.
func TestOrigin(t *testing.T) {
	broker := brokertest.Start(t)
	channel := msgmux.Channel{RuntimeDir: broker.Dir}
	asks, plain := subscribe(t, channel, msgmux.SinkOptions{Origin: true}), subscribe(t, channel, msgmux.SinkOptions{})
	framed := dial(t, channel)
	datagrams, err := channel.Dial(inTime(t), msgmux.SourceOptions{Datagrams: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { datagrams.Close() })
	began := time.Now()
	batch := framed.Batch()
	for _, text := range []string{"a", "", "b"} {
		if err := batch.Add(inTime(t), []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := batch.Flush(inTime(t)); err != nil {
		t.Fatal(err)
	}
	want := msgmux.Origin{Known: true, PID: os.Getpid(), UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}
	check := func(m msgmux.Message) {
		t.Helper()
		if at := m.Origin.Received; at.Before(began) || at.After(time.Now()) {
			t.Errorf("message %d was received at %v, and sent after %v", m.Seq, at, began)
		}
		got := *m.Origin
		if got.Received = (time.Time{}); got != want {
			t.Errorf("message %d comes from %+v instead of %+v", m.Seq, got, want)
		}
	}
	for range 2 {
		m, err := asks.Receive(inTime(t))
		if err != nil {
			t.Fatal(err)
		}
		check(m)
	}
	for m, err := range asks.Messages(inTime(t)) {
		if err != nil {
			t.Fatal(err)
		}
		check(*m)
		if m.Seq == 3 {
			break
		}
		want.Source = 1
		if err := datagrams.Send(inTime(t), []byte("c")); err != nil {
			t.Fatal(err)
		}
	}
	for range 4 {
		if m, err := plain.Receive(inTime(t)); err != nil || m.Origin != nil {
			t.Errorf("a sink that does not ask is told %+v, %v", m.Origin, err)
		}
	}
}
