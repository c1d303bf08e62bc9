// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"sync"
	"testing"
	"time"

	"github.com/msgmux/msgmux/broker"
	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/internal/test"
	"github.com/msgmux/msgmux/internal/wire"
)

// readAll reads a sink until it has read everything, and returns the numbers of what it received.
func readAll(t *testing.T, b *brokertest.Broker, s *brokertest.Sink) (got []uint64) {
	t.Helper()
	for {
		m, err := s.ReceiveWithin(100 * time.Millisecond)
		if err != nil && waiting(b, s.ID) {
			continue
		}
		if err != nil {
			return got
		}
		_, seq, ok := stamp(m)
		if !ok {
			t.Fatalf("message %d is not whole", len(got))
		}
		got = append(got, seq)
	}
}

// waiting says whether the broker still has something for a sink.
func waiting(b *brokertest.Broker, id uint64) bool {
	s, there := findSink(b, id)
	return there && s.Waiting > 0
}

// TestPromise5_EveryLossIsCounted: what a sink lost is in its account, exactly, in the log once an episode, and in-band
// where packets can tell it; and accepted + lost + waiting is what entered since it began, at every moment.
func TestPromise5_EveryLossIsCounted(t *testing.T) {
	log := &keptLog{}
	b := brokertest.Start(t, withPatience(50*time.Millisecond), keepLog(log))
	source := brokertest.NewSource(t, b.Dir)
	fast := brokertest.NewSink(t, b.Dir)
	const early = 10 // before the others come
	for i := range uint64(early) {
		if err := source.Send(stamped(1, i, 1000)); err != nil {
			t.Fatal(err)
		}
	}
	receiveSeq(t, fast, 1, 0, early)
	slow, never := brokertest.NewSink(t, b.Dir), brokertest.NewSink(t, b.Dir, "patience=0")
	packed, framed := brokertest.NewSink(t, b.Dir, "frames=yes"), brokertest.NewSubscriber(t, b.Dir)
	ids := []uint64{slow.ID, never.ID, packed.ID, framed.ID}

	stop := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() { // at every moment
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			st, sinks := b.Channel.List()
			if st.Received != st.Entered || st.Tail > st.Delivered || st.Delivered > st.Entered {
				t.Errorf("%+v", st)
				return
			}
			for _, s := range sinks {
				// The sums are made at a moment between two looks at what has entered.
				after := b.Channel.Status().Entered
				if sum := s.Accepted + s.Lost + s.Waiting; sum < st.Entered-s.Start || sum > after-s.Start {
					t.Errorf("%s: %d accepted + %d lost + %d waiting, of %d to %d", s.Label, s.Accepted, s.Lost, s.Waiting, st.Entered-s.Start, after-s.Start)
					return
				}
			}
		}
	})
	const total = 9000
	got := drained(fast, stop, nil)
	for i := uint64(early); i < total; i++ {
		if err := source.Send(stamped(1, i, 1000)); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []uint64{slow.ID, packed.ID, framed.ID} {
		lagging(t, b, id)
	}
	close(stop)
	watch.Wait()
	if n := <-got; n != total-early {
		t.Errorf("the fast sink received %d of %d", n, total-early)
	}
	seen := map[uint64]uint64{slow.ID: uint64(len(readAll(t, b, slow))), never.ID: uint64(len(readAll(t, b, never)))}
	told := make(map[uint64]uint64)
	for id, receive := range map[uint64]func() ([]byte, error){
		packed.ID: func() ([]byte, error) { return packed.ReceiveWithin(150 * time.Millisecond) },
		framed.ID: func() ([]byte, error) { return framed.ReceivePacketWithin(150 * time.Millisecond) },
	} {
		next, gaps := uint64(early), uint64(0)
		for {
			raw, err := receive()
			if err != nil && waiting(b, id) {
				continue
			}
			if err != nil {
				break
			}
			p, err := wire.ParseSinkPacket(raw)
			if err != nil {
				t.Fatal(err)
			}
			gaps += p.First - next
			next, told[id] = p.First, p.Lost
			if gaps != p.Lost {
				t.Fatalf("sink %d: %d are missing and it is told of %d", id, gaps, p.Lost)
			}
			wire.EachRecord(p.Records, func(m []byte) bool {
				if _, seq, ok := stamp(m); !ok || seq != next {
					t.Errorf("sink %d: message %d instead of %d", id, seq, next)
				}
				next++
				seen[id]++
				return true
			})
		}
		if next != total {
			t.Errorf("sink %d: the last one it got is %d", id, next)
		}
	}
	var lost uint64
	for _, id := range ids {
		s := sinkOf(t, b, id)
		if s.Start != early || s.Lost == 0 || s.Waiting != 0 || s.Accepted != seen[id] || s.Accepted+s.Lost != total-early {
			t.Errorf("sink %d received %d of %d: %+v", id, seen[id], total-early, s)
		}
		if n, ok := told[id]; ok && n != s.Lost {
			t.Errorf("sink %d lost %d and was told of %d", id, s.Lost, n)
		}
		lost += s.Lost
		want := 1
		if id == never.ID {
			want = 0 // never waited for
		}
		log.logged(t, want, "sink-lagging", "sink="+s.Label+" ")
	}
	st := counted(b)
	if st.Lost != lost || st.Accepted != uint64(total)+4*uint64(total-early)-lost || st.Received != total {
		t.Errorf("%+v; lost %d", st, lost)
	}
}

// TestPromise5_Abandoned: what waits for a sink that goes is abandoned, and the channel's totals keep what it counted.
func TestPromise5_Abandoned(t *testing.T) {
	for _, how := range []string{"removed", "dropped", "closed", "hung up"} {
		t.Run(how, func(t *testing.T) {
			b := brokertest.Start(t)
			fast := brokertest.NewSink(t, b.Dir)
			var hung *brokertest.Sink
			var framed *brokertest.Client
			var id uint64
			if how == "hung up" {
				framed = brokertest.NewSubscriber(t, b.Dir)
				id = framed.ID
			} else {
				hung = brokertest.NewSink(t, b.Dir)
				id = hung.ID
			}
			source := brokertest.NewSource(t, b.Dir)
			const total = 400
			for i := range uint64(total) {
				if err := source.Send(stamped(1, i, 2000)); err != nil {
					t.Fatal(err)
				}
				receiveSeq(t, fast, 1, i, i+1)
			}
			before := sinkOf(t, b, id)
			if before.Accepted == 0 || before.Waiting == 0 || before.Accepted+before.Waiting != total {
				t.Fatalf("%+v", before)
			}
			switch how {
			case "removed":
				if r := brokertest.Register(t, b.Dir, hung.Name, "remove"); r.Err != nil {
					t.Fatal(r.Err)
				}
			case "dropped":
				if a := brokertest.Ask(t, b.Dir, wire.Request{Op: wire.OpDrop, Sink: before.Label}); !a.OK {
					t.Fatal(a.Error)
				}
			case "closed":
				hung.Close()
			case "hung up":
				framed.Close()
			}
			gone(t, b, id)
			if st := counted(b); st.Abandoned != before.Waiting || st.Accepted != total+before.Accepted || st.Lost != 0 {
				t.Errorf("%+v after %+v", st, before)
			}
			if how == "removed" {
				// What is in its queue is still its own.
				if n := len(readAll(t, b, hung)); uint64(n) != before.Accepted {
					t.Errorf("read %d of %d after removal", n, before.Accepted)
				}
			}
			if how == "dropped" {
				receiveSeq(t, hung, 1, 0, before.Accepted)
			}
		})
	}
}

// TestPromise5_Refused: what did not enter is counted by reason, so that received = entered + refused.
func TestPromise5_Refused(t *testing.T) {
	log := &keptLog{}
	b := brokertest.Start(t, keepLog(log), func(cfg *broker.Config) { cfg.Geometry.MaxMessage = 1000 })
	sink, source := brokertest.NewSink(t, b.Dir), brokertest.NewSource(t, b.Dir)
	refused := uint64(0)
	for i := range uint64(300) {
		size := 500
		if i%3 == 2 {
			size, refused = 1001+int(i), refused+1
		}
		if err := source.Send(stamped(1, i, size)); err != nil {
			t.Fatal(err)
		}
		if size == 500 {
			receiveSeq(t, sink, 1, i, i+1)
		}
	}
	test.Eventually(t, "all are counted", func() bool { return b.Channel.Status().Refused["too-large"] == refused })
	st := b.Channel.Status()
	var sum uint64
	for _, n := range st.Refused {
		sum += n
	}
	if st.Received != 300 || st.Entered != 300-refused || st.Received != st.Entered+sum {
		t.Errorf("received %d, entered %d, refused %v", st.Received, st.Entered, st.Refused)
	}
	log.logged(t, 1, "message-refused")
}

// TestPromise5_Share: the members of a share are charged together: each message is accepted by one of them or lost to
// all, and what each took itself is told.
func TestPromise5_Share(t *testing.T) {
	b := brokertest.Start(t, withPatience(50*time.Millisecond))
	source, fast := brokertest.NewSource(t, b.Dir), brokertest.NewSink(t, b.Dir)
	one, two := brokertest.NewSink(t, b.Dir, "share=w"), brokertest.NewSink(t, b.Dir, "share=w")
	const total = 6000
	stop := make(chan struct{})
	got := drained(fast, stop, nil)
	for i := range uint64(total) {
		if err := source.Send(stamped(1, i, 1000)); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	<-got
	first, second := readAll(t, b, one), readAll(t, b, two)
	s1, s2 := sinkOf(t, b, one.ID), sinkOf(t, b, two.ID)
	if s1.Lost == 0 || s1.Lost != s2.Lost || uint64(len(first)+len(second))+s1.Lost != total {
		t.Errorf("%d and %d received, of %d: %+v %+v", len(first), len(second), total, s1, s2)
	}
	if s1.Accepted != uint64(len(first)) || s2.Accepted != uint64(len(second)) {
		t.Errorf("%d and %d received: %+v %+v", len(first), len(second), s1, s2)
	}
	had := make(map[uint64]bool)
	for _, seq := range append(first, second...) {
		if had[seq] {
			t.Fatalf("message %d was delivered twice", seq)
		}
		had[seq] = true
	}
	if st := counted(b); st.Lost != s1.Lost || st.Accepted != 2*total-s1.Lost {
		t.Errorf("accepted %d, lost %d; the share lost %d", st.Accepted, st.Lost, s1.Lost)
	}
	// A member that leaves takes nothing from the account; the last one closes it.
	for _, s := range []*brokertest.Sink{one, two} {
		if r := brokertest.Register(t, b.Dir, s.Name, "remove"); r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	if st := counted(b); st.Lost != s1.Lost || st.Accepted != 2*total-s1.Lost || st.Abandoned != 0 || st.Sinks.Total != 1 {
		t.Errorf("%+v", st)
	}
}

// TestPromise5_Episodes: whoever watches is told each time that a sink is left behind and each time that it has caught
// up; the log has the first of each in a minute.
func TestPromise5_Episodes(t *testing.T) {
	log := &keptLog{}
	b := brokertest.Start(t, withPatience(50*time.Millisecond), keepLog(log))
	source, fast, slow := brokertest.NewSource(t, b.Dir), brokertest.NewSink(t, b.Dir), brokertest.NewSink(t, b.Dir)
	events, _, unwatch := b.Channel.Watch(16)
	defer unwatch()
	var sent, lost uint64
	for range 2 {
		stop := make(chan struct{})
		got := drained(fast, stop, nil)
		for range 5000 {
			if err := source.Send(stamped(1, sent, 1000)); err != nil {
				t.Fatal(err)
			}
			sent++
		}
		if e := next(t, events); e.Kind != wire.EventLagging || e.ID != slow.ID || e.Lost != lost {
			t.Fatalf("%+v; lost %d so far", e, lost)
		}
		close(stop)
		<-got
		readAll(t, b, slow)
		if e := next(t, events); e.Kind != wire.EventRecovered || e.ID != slow.ID {
			t.Fatalf("%+v", e)
		}
		lost = sinkOf(t, b, slow.ID).Lost
	}
	log.logged(t, 1, "sink-lagging")
	log.logged(t, 1, "sink-recovered")
}
