// SPDX-License-Identifier: Apache-2.0

package msgmux_test

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/client/brokertest"
)

// marking is a marked source that the channel's broker, which is the test, has taken.
func marking(t testing.TB, channel msgmux.Channel, listener *net.UnixListener) (*msgmux.Source, *peer) {
	t.Helper()
	return dialledWith(t, channel, listener, msgmux.SourceOptions{Label: "tail", Marks: true, Keep: time.Minute},
		"ok id=7 epoch=1 mark=5 max-message=4194304\n")
}

// TestForgetEndsWithTheSink that is closed while the broker does not read.
func TestForgetEndsWithTheSink(t *testing.T) {
	channel := folder(t)
	sink, broker := subscribed(t, channel, listen(t, channel, "subscribe"), msgmux.SinkOptions{Share: "work", Keep: time.Minute, Ack: true})
	for n := range uint64(1000) { // in a share each is acknowledged at once, until there is no room for that
		broker.deliver(t, n, 0, "x")
		if _, err := sink.Receive(inTime(t)); err != nil {
			t.Fatal(err)
		}
		if err := sink.Ack(n + 1); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*shortly)
	defer cancel()
	forgotten := make(chan error, 1)
	go func() { forgotten <- sink.Forget(ctx) }()
	time.Sleep(shortly)
	if len(forgotten) > 0 {
		t.Fatalf("the broker does not read: %v", <-forgotten)
	}
	sink.Close()
	if err := <-forgotten; !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

// TestForgetTellsThatNobodyHeard: what is kept stays when a connection goes, and the caller has to know.
func TestForgetTellsThatNobodyHeard(t *testing.T) {
	channel := folder(t)
	subscribe, publish := listen(t, channel, "subscribe"), listen(t, channel, "publish")
	sink, broker := subscribed(t, channel, subscribe, msgmux.SinkOptions{Label: "db", Keep: time.Minute})
	broker.Close()
	if err := sink.Forget(inTime(t)); !errors.Is(err, msgmux.ErrHungUp) {
		t.Errorf("the sink: %v", err)
	}
	if err := sink.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the sink is open: %v", err)
	}
	for _, test := range []struct {
		last string
		want error
	}{
		{"", msgmux.ErrNoBroker},
		{"error in-use another connection has taken the place of this one\n", msgmux.ErrInUse},
	} {
		source, broker := marking(t, channel, publish)
		if test.last != "" {
			broker.Write([]byte(test.last))
		}
		broker.Close()
		if err := source.Forget(inTime(t)); !errors.Is(err, test.want) {
			t.Errorf("the source, after %q: %v", test.last, err)
		}
		if err := source.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("the source is open: %v", err)
		}
	}
}

// TestForgetTellsThatNobodyHeardOfAStage is about a source that says it in memory, which is there still when the broker has gone.
func TestForgetTellsThatNobodyHeardOfAStage(t *testing.T) {
	broker := brokertest.Start(t, brokertest.Options{})
	source := staged(t, broker.Channel, msgmux.SourceOptions{Label: "tail", Marks: true, Keep: time.Minute, Stage: true})
	broker.Stop()
	if err := source.Forget(inTime(t)); err == nil {
		t.Error("a broker that has stopped has heard it")
	} else {
		t.Log(err)
	}
	if err := source.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the source is open: %v", err)
	}
}
