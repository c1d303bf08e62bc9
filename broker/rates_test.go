// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"math"
	"testing"
	"time"

	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/internal/wire"
)

// TestRatesAreSinceAnEarlierLook: what a rate says, times the seconds it is measured over, is what was counted between two
// looks; of the channel, of a sink, of one that came meanwhile, and of those that share.
func TestRatesAreSinceAnEarlierLook(t *testing.T) {
	b := brokertest.Start(t)
	source := brokertest.NewSource(t, b.Dir)
	type look struct {
		at       time.Time
		received uint64
		accepted map[uint64]uint64
	}
	looks := []look{{at: time.Now()}} // the broker has looked when it began
	var sinks []*brokertest.Sink
	for round := range 6 {
		options := []string{"patience=forever"}
		if round > 0 {
			options = append(options, "share=w")
		}
		if round < 3 {
			sinks = append(sinks, brokertest.NewSink(t, b.Dir, options...))
		}
		for range 20 << round {
			if err := source.Send(make([]byte, 10)); err != nil {
				t.Fatal(err)
			}
			for _, s := range sinks { // whoever of those that share has it
				s.ReceiveWithin(time.Microsecond)
			}
		}
		time.Sleep(300 * time.Millisecond)
		b.Channel.Drop(0, "nobody") // all that was sent is accounted for
		now := look{at: time.Now(), accepted: map[uint64]uint64{}}
		st, list := b.Channel.List()
		now.received = st.Received
		for _, s := range list {
			now.accepted[s.ID] = s.Accepted
		}
		counted := func(rate float64) float64 { return rate * st.RateSeconds }
		since := -1
		for i, l := range looks {
			if math.Abs(counted(st.ReceivedRate)-float64(now.received-l.received)) < 0.5 {
				since = i
			}
		}
		if since < 0 {
			t.Fatalf("%d messages, %v a second over %v s: since no look of %+v", now.received, st.ReceivedRate, st.RateSeconds, looks)
		}
		passed := now.at.Sub(looks[since].at).Seconds()
		if math.Abs(st.RateSeconds-passed) > 0.25 {
			t.Errorf("measured over %v s, and the look is %v s ago", st.RateSeconds, passed)
		}
		for _, s := range list {
			if want := float64(s.Accepted - looks[since].accepted[s.ID]); math.Abs(counted(s.Rate)-want) > 0.5 {
				t.Errorf("sink %d: %v a second over %v s, and it has accepted %v", s.ID, s.Rate, st.RateSeconds, want)
			}
		}
		looks = append(looks, now)
	}
}

// TestRatesOfAPlaceThatIsTakenAgain: a sink that has the place of one that is gone has a rate of its own.
func TestRatesOfAPlaceThatIsTakenAgain(t *testing.T) {
	b := brokertest.Start(t)
	source := brokertest.NewSource(t, b.Dir)
	var s *brokertest.Sink
	pass := func(n int) (wire.Status, wire.Sink) {
		t.Helper()
		for range n {
			if err := source.Send(make([]byte, 10)); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Receive(); err != nil {
				t.Fatal(err)
			}
		}
		b.Channel.Drop(0, "nobody")
		st, list := b.Channel.List()
		return st, list[0]
	}
	s = brokertest.NewSink(t, b.Dir)
	time.Sleep(time.Second)
	pass(1000) // kept
	b.Channel.Drop(0, "#1")
	s = brokertest.NewSink(t, b.Dir)
	time.Sleep(time.Second)
	st, now := pass(10)
	if got := now.Rate * st.RateSeconds; now.ID != s.ID || math.Abs(got-10) > 0.5 {
		t.Errorf("a rate of %v over %v s after 10 messages", now.Rate, st.RateSeconds)
	}
}
