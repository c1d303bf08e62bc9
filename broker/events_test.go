// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/msgmux/msgmux/broker"
	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/broker/journal"
	"github.com/msgmux/msgmux/internal/test"
	"github.com/msgmux/msgmux/internal/wire"
)

// next is the next event of a watcher.
func next(t *testing.T, events <-chan wire.Event) wire.Event {
	t.Helper()
	select {
	case e := <-events:
		return e
	case <-time.After(brokertest.Within):
		t.Fatal("no event")
	}
	return wire.Event{}
}

// TestWatchersAreTold what happens to a sink from its first to its last moment.
func TestWatchersAreTold(t *testing.T) {
	j := new(keptLog)
	b := brokertest.Start(t, keepLog(j))
	events, dropped, stop := b.Channel.Watch(16)
	fast := brokertest.NewSink(t, b.Dir, "label=fast")
	if e := next(t, events); e.Kind != wire.EventAdded || e.Label != "fast" || e.SinkKind != "dynamic" {
		t.Fatalf("got %+v", e)
	}
	slow := brokertest.NewSink(t, b.Dir, "label=slow", "patience=20ms")
	added := next(t, events)
	// A tap lags without a word.
	brokertest.NewSink(t, b.Dir, "label=eye", "tap=yes")
	next(t, events)

	source := brokertest.NewSource(t, b.Dir)
	go func() {
		for {
			if _, err := fast.ReceiveWithin(time.Minute); err != nil {
				return
			}
		}
	}()
	var lagging *wire.Event
	for lagging == nil {
		if err := source.Send(make([]byte, 16<<10)); err != nil {
			t.Fatal(err)
		}
		select {
		case e := <-events:
			lagging = &e
		default:
		}
	}
	if s := sinkOf(t, b, added.ID); s.State == "lagging" && time.Since(time.Unix(s.LaggingSince, 0)) > 10*time.Second {
		t.Errorf("it lags since %d", s.LaggingSince)
	}
	if lagging.Kind != wire.EventLagging || lagging.ID != added.ID || lagging.Label != "slow" || lagging.Waiting == 0 {
		t.Errorf("got %+v", lagging)
	}
	for _, err := slow.ReceiveWithin(200 * time.Millisecond); err == nil; {
		_, err = slow.ReceiveWithin(200 * time.Millisecond)
	}
	e := next(t, events)
	if s := sinkOf(t, b, added.ID); s.LaggingSince != 0 {
		t.Errorf("it lags no more, since %d", s.LaggingSince)
	}
	if e.Kind != wire.EventRecovered || e.ID != added.ID || e.Lost == 0 {
		t.Errorf("got %+v", e)
	}
	if reply := brokertest.Register(t, b.Dir, slow.Name, "remove"); reply.Err != nil {
		t.Fatal(reply.Err)
	}
	if e = next(t, events); e.Kind != wire.EventRemoved || e.ID != added.ID || e.Lost == 0 {
		t.Errorf("got %+v", e)
	}
	for _, event := range []string{journal.EventLagging, journal.EventRecovered} {
		if n := len(j.grep(event + ":")); n != 1 {
			t.Errorf("%d lines of %s: %q", n, event, j.grep(event+":"))
		}
	}
	if dropped() != 0 || len(events) != 0 {
		t.Errorf("%d dropped, %d left", dropped(), len(events))
	}
	stop()
	brokertest.NewSink(t, b.Dir)
	if len(events) != 0 {
		t.Error("told after stop")
	}
}

// TestSlowWatcherLosesEvents and has them counted; nobody waits for it.
func TestSlowWatcherLosesEvents(t *testing.T) {
	b := brokertest.Start(t)
	_, dropped, stop := b.Channel.Watch(2)
	defer stop()
	other, _, stopOther := b.Channel.Watch(64)
	defer stopOther()
	for range 5 {
		brokertest.NewSink(t, b.Dir)
	}
	if dropped() != 3 || len(other) != 5 {
		t.Errorf("%d dropped, and the other has %d", dropped(), len(other))
	}
}

// TestLongWaitIsSaidOnce, and its end: for want of a sink if somebody waits, and for a sink that takes nothing.
func TestLongWaitIsSaidOnce(t *testing.T) {
	j := new(keptLog)
	b := brokertest.Start(t, keepLog(j), func(cfg *broker.Config) { broker.SetBlockedTimes(cfg, 10*time.Millisecond, 100*time.Millisecond) })
	time.Sleep(300 * time.Millisecond)
	if said := j.grep(journal.EventBlocked); len(said) > 0 {
		t.Errorf("nobody waits, and still %q", said)
	}
	source := brokertest.NewSource(t, b.Dir)
	if err := source.Send(nil); err != nil {
		t.Fatal(err)
	}
	test.Eventually(t, "a line", func() bool { return len(j.grep(journal.EventBlocked, "no sink")) == 1 })
	sink := brokertest.NewSink(t, b.Dir, "label=hung", "patience=forever")
	test.Eventually(t, "its end", func() bool { return len(j.grep(journal.EventUnblocked)) == 1 })
	for source.TrySend(make([]byte, 64<<10)) == nil || b.Channel.Status().Sources.Blocked == false {
	}
	test.Eventually(t, "a line", func() bool { return len(j.grep(journal.EventBlocked, "sink=hung")) == 1 })
	time.Sleep(200 * time.Millisecond)
	if said := j.grep(journal.EventBlocked); len(said) != 2 {
		t.Errorf("said %q", said)
	}
	sink.Close()
	test.Eventually(t, "its end", func() bool { return b.Channel.Status().Sinks.Total == 0 })
}

// stuck is a log that takes nothing until it is let go.
type stuck struct {
	slog.Handler
	release chan struct{}
}

func (s stuck) Handle(context.Context, slog.Record) error { <-s.release; return nil }

// TestLogThatTakesNothing delays no message, and the end of the broker for a moment only.
func TestLogThatTakesNothing(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	b := brokertest.Start(t, func(c *broker.Config) { c.Log = stuck{c.Log, release} })
	sink := brokertest.NewSink(t, b.Dir)
	source := brokertest.NewSource(t, b.Dir)
	for range 600 { // more than there is room for lines
		brokertest.NewSink(t, b.Dir).Close()
		brokertest.Register(t, b.Dir, brokertest.Name())
		source.Send([]byte("x"))
		if _, err := sink.Receive(); err != nil {
			t.Fatal(err)
		}
	}
	if n := b.Channel.Status().LogDropped; n == 0 {
		t.Error("no line was dropped")
	}
	began := time.Now()
	b.Stop()
	if d := time.Since(began); d > 6*time.Second { // two of them are the drain of a broker that was started by hand
		t.Errorf("the end took %v", d)
	}
}
