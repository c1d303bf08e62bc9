// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/msgmux/msgmux/broker"
	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/internal/test"
	"github.com/msgmux/msgmux/internal/wire"
)

// withPatience is a channel whose sinks have this patience.
func withPatience(d time.Duration) func(*broker.Config) {
	return func(cfg *broker.Config) { cfg.Patience = d }
}

// blockedFor is for how long the sources have waited in all.
func blockedFor(b *brokertest.Broker) time.Duration {
	return time.Duration(b.Channel.Status().Sources.BlockedSecs * float64(time.Second))
}

// lagging waits until a sink is no longer waited for.
func lagging(t *testing.T, b *brokertest.Broker, id uint64) {
	t.Helper()
	test.Eventually(t, fmt.Sprintf("sink %d is lagging", id), func() bool { return sinkOf(t, b, id).State == "lagging" })
}

// TestPromise4_PauseCostsNothing: a sink that pauses for less than its patience loses nothing, again and again, though
// the source floods and all others wait for it.
func TestPromise4_PauseCostsNothing(t *testing.T) {
	t.Parallel()
	log := &keptLog{}
	// A ring of 2,000 messages, which a slow machine fills in a moment, too.
	b := brokertest.Start(t, withPatience(1500*time.Millisecond), keepLog(log), func(cfg *broker.Config) { cfg.Geometry.Size = 2 << 20 })
	fast, pausing := brokertest.NewSink(t, b.Dir), brokertest.NewSink(t, b.Dir)
	stop := make(chan struct{})
	sent := flood(brokertest.NewSource(t, b.Dir), 1, 1000, stop)
	atFast := drained(fast, stop, nil)
	pauses := 0
	atPausing := drained(pausing, stop, func(n uint64) {
		if n%4000 == 3999 && pauses < 4 {
			pauses++
			time.Sleep(600 * time.Millisecond)
		}
	})
	test.Eventually(t, "the sink has paused often", func() bool {
		// It owes more than its patience by then; but it is never that much behind.
		return sinkOf(t, b, pausing.ID).Accepted > 17000
	})
	close(stop)
	n := <-sent
	if a, p := <-atFast, <-atPausing; a != n || p != n || pauses < 4 {
		t.Errorf("%d sent, %d and %d received; %d pauses", n, a, p, pauses)
	}
	if lines := log.grep("sink-lagging"); len(lines) > 0 {
		t.Error(lines)
	}
	if blocked := blockedFor(b); blocked < 1500*time.Millisecond {
		t.Errorf("the sources waited for %s only: nobody was waited for", blocked)
	}
}

// TestPromise4_EqualSinks: sinks that are equally fast never lose to each other's jitter.
func TestPromise4_EqualSinks(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, withPatience(500*time.Millisecond))
	stop := make(chan struct{})
	// All are there before the first message: one that starts at the oldest has no patience before it has caught up.
	var sinks []*brokertest.Sink
	for range 4 {
		sinks = append(sinks, brokertest.NewSink(t, b.Dir))
	}
	sent := flood(brokertest.NewSource(t, b.Dir), 1, 1000, stop)
	var got []<-chan uint64
	for i, sink := range sinks {
		rnd := rand.New(rand.NewPCG(7, uint64(i)))
		got = append(got, drained(sink, stop, func(uint64) {
			if rnd.IntN(500) == 0 {
				time.Sleep(time.Duration(rnd.IntN(40)) * time.Millisecond)
			}
		}))
	}
	time.Sleep(1500 * time.Millisecond)
	close(stop)
	n := <-sent
	for i, c := range got {
		if g := <-c; g != n {
			t.Errorf("sink %d received %d of %d", i, g, n)
		}
	}
	if st := b.Channel.Status(); st.Lost != 0 || n < 2000 {
		t.Errorf("%d sent, %d lost", n, st.Lost)
	}
}

// TestPromise4_SlowerSink: a sink that is somewhat slower slows the rest down a little, and loses nothing, though it is
// behind by more than its patience all the time.
func TestPromise4_SlowerSink(t *testing.T) { // not beside others: it keeps to a pace
	for range 20 {
		if slowerSink(t) {
			return
		}
	}
	t.Error("this machine keeps no pace of 2 ms for two seconds")
}

// slowerSink says whether its sinks could keep to their pace, and one stayed behind the other; if so, it has looked at the
// channel.
func slowerSink(t *testing.T) bool {
	t.Helper()
	b := brokertest.Start(t, withPatience(400*time.Millisecond), func(cfg *broker.Config) { cfg.Geometry.Size = 2 << 20 })
	stop := make(chan struct{})
	var latest atomic.Int64 // how late a sink came to its next message at the worst, ns
	paced := func(after, every time.Duration) func(uint64) {
		next := time.Now().Add(after)
		return func(uint64) {
			time.Sleep(time.Until(next))
			// What it was kept waiting for is gone: it does not catch up.
			if now := time.Now(); now.After(next) {
				latest.Store(max(latest.Load(), int64(now.Sub(next))))
				next = now
			}
			next = next.Add(every)
		}
	}
	fast, slow := brokertest.NewSink(t, b.Dir), brokertest.NewSink(t, b.Dir)
	// The ring holds 280 of them, so the slow one stays 560 ms behind the other.
	atFast := drained(fast, stop, paced(0, 2000*time.Microsecond))
	atSlow := drained(slow, stop, paced(560*time.Millisecond, 2080*time.Microsecond))
	sent := flood(brokertest.NewSource(t, b.Dir), 1, 7400, stop)
	var wrong []string
	behind := true
	for began := time.Now(); time.Since(began) < 1500*time.Millisecond; time.Sleep(100 * time.Millisecond) {
		f, s := sinkOf(t, b, fast.ID), sinkOf(t, b, slow.ID)
		if s.State == "lagging" {
			wrong = append(wrong, fmt.Sprintf("%+v, %+v", f, s))
		}
		behind = behind && (time.Since(began) < 700*time.Millisecond || f.Next >= s.Next+210)
	}
	close(stop)
	n := <-sent
	if f, s := <-atFast, <-atSlow; f != n || s != n {
		wrong = append(wrong, fmt.Sprintf("%d sent, %d and %d received", n, f, s))
	}
	if !behind || len(wrong) > 0 && time.Duration(latest.Load()) > 30*time.Millisecond {
		return false // what a sink lost that was late for want of a processor says nothing
	}
	if len(wrong) > 0 {
		t.Error(wrong)
	}
	return true
}

// TestPromise4_HungSinks: sinks that hang, however many, are waited for one patience together, and then left behind;
// the others lose nothing. When they have caught up they are waited for again.
func TestPromise4_HungSinks(t *testing.T) {
	t.Parallel()
	const patience = 800 * time.Millisecond
	log := &keptLog{}
	b := brokertest.Start(t, withPatience(patience), keepLog(log))
	healthy := []*brokertest.Sink{brokertest.NewSink(t, b.Dir), brokertest.NewSink(t, b.Dir)}
	hung := []*brokertest.Sink{brokertest.NewSink(t, b.Dir), brokertest.NewSink(t, b.Dir), brokertest.NewSink(t, b.Dir)}
	stop := make(chan struct{})
	var got []<-chan uint64
	for _, s := range healthy {
		got = append(got, drained(s, stop, nil))
	}
	began := time.Now()
	sent := flood(brokertest.NewSource(t, b.Dir), 1, 1000, stop)
	for _, s := range hung {
		lagging(t, b, s.ID)
	}
	took, blocked := time.Since(began), blockedFor(b)
	if took < patience || blocked < patience*9/10 {
		t.Errorf("left behind after %s, the sources had waited for %s", took, blocked)
	}
	if blocked > 5*patience/2 {
		t.Errorf("the sources waited for %s: for one after the other", blocked)
	}
	before := b.Channel.Status().Entered
	test.Eventually(t, "the channel goes on", func() bool { return b.Channel.Status().Entered > before+5000 })
	close(stop)
	n := <-sent
	for i, c := range got {
		if g := <-c; g != n {
			t.Errorf("healthy sink %d received %d of %d", i, g, n)
		}
	}
	log.logged(t, 3, "sink-lagging")
	for _, s := range hung {
		state := sinkOf(t, b, s.ID)
		if state.Lost == 0 || state.Accepted+state.Lost+state.Waiting != n {
			t.Errorf("%+v of %d", state, n)
		}
		for i := uint64(0); i < n-state.Lost; i++ {
			if _, err := s.Receive(); err != nil {
				t.Fatalf("message %d of %d that were not lost: %v", i, n-state.Lost, err)
			}
		}
		receivesNothing(t, s, "a sink that has caught up")
		test.Eventually(t, "it is waited for again", func() bool {
			state = sinkOf(t, b, s.ID)
			return state.State == "ready" && state.PatienceLeft == patience.Seconds()
		})
	}
	log.logged(t, 3, "sink-recovered")
}

// TestPromise4_NoPatience: a sink with patience 0, and a tap, registered or declared, are never waited for.
func TestPromise4_NoPatience(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		option   string
		declared bool
	}{{"patience=0", false}, {"tap=yes", false}, {"patience=0", true}, {"tap=yes", true}} {
		t.Run(fmt.Sprintf("%s,declared=%v", test.option, test.declared), func(t *testing.T) {
			log := &keptLog{}
			options, change := optionsIn(t)
			b := brokertest.Start(t, keepLog(log), change)
			sink := brokertest.NewSink(t, b.Dir)
			var id uint64
			if test.declared {
				writeFile(t, options+"/hung.conf", test.option)
				brokertest.NewSocket(t, b.Dir+"/sinks/hung")
				id = becomes(t, b, "hung", "ready").ID
			} else {
				id = brokertest.NewSink(t, b.Dir, test.option).ID
			}
			source := brokertest.NewSource(t, b.Dir)
			const total = 5000
			stop := make(chan struct{})
			got := drained(sink, stop, nil)
			for i := range uint64(total) {
				if err := source.Send(stamped(1, i, 1000)); err != nil {
					t.Fatal(err)
				}
			}
			close(stop)
			if n := <-got; n != total {
				t.Errorf("the other sink received %d of %d", n, total)
			}
			s := sinkOf(t, b, id)
			if s.Lost == 0 || s.Accepted+s.Lost+s.Waiting != total {
				t.Errorf("%+v", s)
			}
			if blocked := blockedFor(b); blocked > 300*time.Millisecond {
				t.Errorf("the sources waited for %s", blocked)
			}
			log.logged(t, 0, "sink-lagging") // being left behind is its way of life
		})
	}
}

// TestPromise4_Forever: a sink that must have everything stops the channel, and the status says so; until somebody
// changes its patience.
func TestPromise4_Forever(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, withPatience(100*time.Millisecond))
	sink, hung := brokertest.NewSink(t, b.Dir), brokertest.NewSink(t, b.Dir, "patience=forever", "label=must-have")
	stop := make(chan struct{})
	got := drained(sink, stop, nil)
	sent := flood(brokertest.NewSource(t, b.Dir), 1, 1000, stop)
	test.Eventually(t, "the sources have waited for five times its patience", func() bool {
		return b.Channel.Status().Sources.ForSeconds > 0.5
	})
	st, s := b.Channel.Status(), sinkOf(t, b, hung.ID)
	if !st.Sources.Blocked || st.Sources.Sink != "must-have" || st.Sources.Why != "sink must-have" {
		t.Errorf("sources: %+v", st.Sources)
	}
	if s.Lost != 0 || s.State != "stalled" || s.Patience != "forever" || s.PatienceLeft != -1 {
		t.Errorf("sink: %+v", s)
	}
	before := st.Entered
	if a := brokertest.Ask(t, b.Dir, wire.Request{Op: wire.OpSet, Sink: "must-have", Patience: "0"}); !a.OK {
		t.Fatal(a.Error)
	}
	test.Eventually(t, "the channel goes on", func() bool { return b.Channel.Status().Entered > before+2000 })
	close(stop)
	if n, g := <-sent, <-got; n != g {
		t.Errorf("the other sink received %d of %d", g, n)
	}
}

// TestPromise4_MoreForSome: more than the usual patience is for root, not for everybody; less is.
func TestPromise4_MoreForSome(t *testing.T) {
	needRoot(t)
	b := brokertest.Start(t)
	openToAll(t, b.Dir)
	mine := strangersSocket(t, brokertest.Name())
	for _, test := range []struct {
		line string
		uid  uint32
		code string
	}{
		{"patience=1001ms", stranger, wire.CodeDenied}, {"patience=forever", stranger, wire.CodeDenied},
		{"patience=forever", 0, ""}, {"patience=1m", 0, ""}, {"patience=1s", stranger, ""}, {"patience=0", stranger, ""},
	} {
		var r wire.Reply
		if test.uid == 0 { // whose word counts from a socket of root's
			r = brokertest.Register(t, b.Dir, mine.Name, test.line)
		} else {
			r = registerAs(t, b.Dir, test.uid, nil, mine.Name, test.line)
		}
		if code := codeOf(r.Err); code != test.code {
			t.Errorf("%s asked for by %d: %q, want %q", test.line, test.uid, code, test.code)
		}
	}
	for _, socket := range []string{"subscribe"} {
		if _, r := brokertest.Greet(t, b.Dir, socket, "patience=forever"); r.Err != nil {
			t.Errorf("%s as root: %v", socket, r.Err)
		}
	}
	_, sinks := b.Channel.List()
	if e := b.Channel.SetPatience(stranger, sinks[0].Label, time.Minute); codeOf(e) != wire.CodeDenied {
		t.Errorf("set by its owner: %v", e)
	}
	if e := b.Channel.SetPatience(stranger, sinks[0].Label, time.Millisecond); e != nil {
		t.Errorf("set by its owner: %v", e)
	}
}

func codeOf(e *wire.Error) string {
	if e == nil {
		return ""
	}
	return e.Code
}

// TestPromise4_OneAccountForAUser: the sinks of one ordinary user are charged together, and what they owe is only paid
// back, by a tenth of the time: not forgiven by catching up, nor by going away and coming back under a new name.
func TestPromise4_OneAccountForAUser(t *testing.T) {
	needRoot(t)
	t.Parallel()
	b := brokertest.Start(t)
	openToAll(t, b.Dir)
	add := func() *brokertest.Sink {
		s := strangersSocket(t, brokertest.Name())
		r := registerAs(t, b.Dir, stranger, nil, s.Name)
		if r.Err != nil {
			t.Fatal(r.Err)
		}
		s.ID = r.ID
		return s
	}
	spent := func(s *brokertest.Sink, who string) {
		t.Helper()
		test.Eventually(t, who+" has little patience left", func() bool { return sinkOf(t, b, s.ID).PatienceLeft < 0.6 })
	}
	fast, hung := brokertest.NewSink(t, b.Dir), add()
	stop := make(chan struct{})
	got := drained(fast, stop, nil)
	sent := flood(brokertest.NewSource(t, b.Dir), 1, 1000, stop)
	lagging(t, b, hung.ID)
	close(stop) // nobody is charged from here on
	if n, g := <-sent, <-got; n != g {
		t.Errorf("root's sink received %d of %d", g, n)
	}
	second := add()
	spent(second, "another sink of that user")
	readAll(t, b, hung)
	if s := sinkOf(t, b, hung.ID); s.State != "ready" {
		t.Errorf("%+v", s)
	}
	spent(hung, "one that has caught up")
	for _, s := range []*brokertest.Sink{hung, second} {
		if r := registerAs(t, b.Dir, stranger, nil, s.Name, "remove"); r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	spent(add(), "one that comes when all others are gone")
	if left := sinkOf(t, b, fast.ID).PatienceLeft; left != 1 {
		t.Errorf("root's sink has %.1f s of patience left", left)
	}
}

// TestPromise4_CatchingUp: who starts at the oldest message is not waited for before it has caught up once.
func TestPromise4_CatchingUp(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, withPatience(700*time.Millisecond))
	sink := brokertest.NewSink(t, b.Dir)
	source := brokertest.NewSource(t, b.Dir)
	for i := range uint64(500) {
		if err := source.Send(stamped(1, i, 1000)); err != nil {
			t.Fatal(err)
		}
		receiveSeq(t, sink, 1, i, i+1)
	}
	late := brokertest.NewSink(t, b.Dir, "start=oldest")
	stop := make(chan struct{})
	got := drained(sink, stop, nil)
	sent := flood(source, 2, 1000, stop)
	test.Eventually(t, "the ring goes round", func() bool { return b.Channel.Status().Entered > 8000 })
	if blocked := blockedFor(b); blocked > 300*time.Millisecond {
		t.Errorf("the sources waited for %s for a sink that was not there when it began", blocked)
	}
	if s := sinkOf(t, b, late.ID); s.Lost == 0 {
		t.Errorf("%+v", s)
	}
	close(stop)
	<-sent
	<-got

	// It catches up, and then it has its patience.
	readAll(t, b, late)
	if s := sinkOf(t, b, late.ID); s.Waiting != 0 || s.State != "ready" {
		t.Fatalf("%+v", s)
	}
	before := blockedFor(b)
	stop = make(chan struct{})
	got = drained(sink, stop, nil)
	sent = flood(source, 3, 1000, stop)
	lagging(t, b, late.ID)
	if blocked := blockedFor(b) - before; blocked < 600*time.Millisecond {
		t.Errorf("the sources waited for %s only, for a sink that had caught up", blocked)
	}
	close(stop)
	<-sent
	<-got
}

// TestPromise4_StoppedBroker: a broker that is stopped for 10 s costs no sink its patience: its clock advances by at
// most 50 ms for that.
func TestPromise4_StoppedBroker(t *testing.T) {
	t.Parallel()
	for _, hung := range []bool{false, true} {
		t.Run(fmt.Sprintf("hung=%v", hung), func(t *testing.T) {
			t.Parallel()
			p := startProcess(t, "--buffer", "1M", "--patience", "2s")
			stop := make(chan struct{})
			sinks := []*brokertest.Sink{brokertest.NewSink(t, p.Dir), brokertest.NewSink(t, p.Dir)}
			var got []<-chan uint64
			for _, s := range sinks {
				got = append(got, drained(s, stop, nil))
			}
			ids := []uint64{sinks[0].ID, sinks[1].ID}
			if hung {
				ids = append(ids, brokertest.NewSink(t, p.Dir, "patience=1m").ID)
			}
			sent := flood(brokertest.NewSource(t, p.Dir), 1, 1000, stop)
			time.Sleep(700 * time.Millisecond)
			if hung {
				test.Eventually(t, "it is waited for", func() bool {
					_, all := p.status(t)
					return all[ids[2]].PatienceLeft < 59.9
				})
			}

			began := time.Now()
			_, before := p.status(t)
			p.signal(t, syscall.SIGSTOP)
			ran := time.Since(began)
			time.Sleep(10 * time.Second)
			began = time.Now()
			p.signal(t, syscall.SIGCONT)
			time.Sleep(100 * time.Millisecond) // so that it has looked at the clock
			_, after := p.status(t)
			ran += time.Since(began)

			for _, id := range ids {
				was, is := before[id], after[id]
				spent := time.Duration((was.PatienceLeft - is.PatienceLeft) * float64(time.Second))
				if spent > ran+50*time.Millisecond {
					t.Errorf("sink %d was charged %s while the broker ran for %s", id, spent, ran)
				}
				if is.Lost > 0 || is.State == "lagging" {
					t.Errorf("%+v", is)
				}
			}
			if hung {
				// What waits for it would wait a minute.
				brokertest.Ask(t, p.Dir, wire.Request{Op: wire.OpDrop, Sink: fmt.Sprint("#", ids[2])})
			}
			close(stop)
			n := <-sent
			for i, c := range got {
				if g := <-c; g != n {
					t.Errorf("sink %d received %d of %d", i, g, n)
				}
			}
		})
	}
}

// TestPromise4_Framed: one of four framed sinks is stopped. The other three lose nothing, and have their rate back once
// its patience is spent; the stopped one is told exactly what it lost.
func TestPromise4_Framed(t *testing.T) {
	b := brokertest.Start(t, withPatience(500*time.Millisecond))
	publisher := brokertest.NewPublisher(t, b.Dir)
	var received [3]atomic.Uint64
	stop := make(chan struct{})
	ended := make(chan error, 3)
	for i := range received {
		c := brokertest.NewSubscriber(t, b.Dir)
		go func() {
			next := uint64(0)
			for {
				p, err := c.ReceiveWithin(200 * time.Millisecond)
				if err != nil {
					select {
					case <-stop:
						ended <- nil
						return
					default:
						continue
					}
				}
				if p.First != next || p.Lost != 0 {
					ended <- fmt.Errorf("record %d instead of %d, lost %d", p.First, next, p.Lost)
					return
				}
				wire.EachRecord(p.Records, func([]byte) bool { next++; return true })
				received[i].Store(next)
			}
		}()
	}
	stopped := brokertest.NewSubscriber(t, b.Dir)
	message := make([]byte, 256)
	total := uint64(0)
	send := func(d time.Duration) (rate float64) {
		n, began := 0, time.Now()
		for time.Since(began) < d {
			if err := publisher.Send(message, message, message, message, message, message, message, message); err != nil {
				t.Fatal(err)
			}
			n += 8
		}
		total += uint64(n)
		return float64(n) / time.Since(began).Seconds()
	}
	// For a while it reads, as the others do, so that there is a rate to compare with.
	var read atomic.Uint64
	enough, reading := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(reading)
		for {
			p, err := stopped.ReceiveWithin(100 * time.Millisecond)
			if err == nil {
				wire.EachRecord(p.Records, func([]byte) bool { read.Add(1); return true })
				continue
			}
			select {
			case <-enough:
				return
			default:
			}
		}
	}()
	whole := send(500 * time.Millisecond)
	test.Eventually(t, "it has read everything", func() bool { return read.Load() == total })
	close(enough)
	<-reading
	base := total
	send(1500 * time.Millisecond) // in which its patience is spent
	if s := sinkOf(t, b, stopped.ID); s.State != "lagging" {
		t.Fatalf("%+v", s)
	}
	// 0.9 of the rate is what it is; here others may use the machine. A channel that waited for the sink would have less
	// than a hundredth.
	rest := send(400 * time.Millisecond)
	for range 10 {
		if rest < whole/4 {
			rest = send(400 * time.Millisecond)
		}
	}
	if rest < whole/10 {
		t.Errorf("%.0f messages/s with all, %.0f with one left behind", whole, rest)
	}
	test.Eventually(t, "all have entered", func() bool { return b.Channel.Status().Entered == total })
	next, got, gaps, lost := base, base, uint64(0), uint64(0)
	for next < total {
		p, err := stopped.Receive()
		if err != nil {
			t.Fatal(err)
		}
		gaps += p.First - next
		lost = p.Lost
		next = p.First
		wire.EachRecord(p.Records, func([]byte) bool { next++; got++; return true })
	}
	if gaps != lost || got+lost != total || lost == 0 {
		t.Errorf("received %d, gaps of %d, told of %d lost, of %d", got, gaps, lost, total)
	}
	// It may have the last packet before the broker knows.
	test.Eventually(t, "the broker says the same", func() bool {
		s := sinkOf(t, b, stopped.ID)
		return s.Lost == lost && s.Accepted == got
	})
	close(stop)
	for i := range received {
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if n := received[i].Load(); n != total {
			t.Errorf("sink %d received %d of %d", i, n, total)
		}
	}
}
