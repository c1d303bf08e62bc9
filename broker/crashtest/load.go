// SPDX-License-Identifier: Apache-2.0

package crashtest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/msgmux/msgmux/internal/wire"
)

// Load is everybody who uses a channel while its brokers are killed.
type Load struct {
	Keeper   *Keeper
	Traffic  Traffic
	Sources  []*Source
	Standing []*Sink // there from the first message to the last

	mu       sync.Mutex
	departed []*Sink   // guarded by mu, like passed and errs
	passed   []*Source // came, sent something, and hung up; among Sources once everybody is done
	errs     []error
	passing  atomic.Uint64 // messages of theirs

	abrupt  bool // some leave with messages unread, so the sums are bounds only
	stop    atomic.Bool
	calm    atomic.Bool    // as that of the sources
	transit sync.WaitGroup // those who come and go
}

// Shape is what differs from one load to the next.
type Shape struct {
	Sources []string // the way of each
	Comers  int      // how many sinks come and go at a time, and how many framed sources
	Abrupt  bool     // some of them close their sockets with messages unread
}

// forever is the option of a sink that must have everything.
func forever() wire.Options { return wire.Options{Patience: wire.Forever, PatienceSet: true} }

// within is the option of a sink that is left behind.
func within(d time.Duration) wire.Options { return wire.Options{Patience: d, PatienceSet: true} }

// standing are the sinks that are always there, one for each kind of sink and each way to be slow. Those that must have
// everything fill the ring when they pause, and those that are left behind lose then. The first one is the measure of
// all others: it never pauses, and what it got is taken to be the one order.
var standing = []struct {
	name, way string
	options   wire.Options
	pace      Pace
}{
	{"measure", ByName, forever(), Fast},
	{"path", ByPath, forever(), Stutter},
	{"declared", Static, forever(), Fast},
	{"connected", Subscribe, forever(), Fast},
	{"told", Subscribe, wire.Options{Patience: wire.Forever, PatienceSet: true, Meta: true}, Fast},
	{"framed", ByName, wire.Options{Patience: wire.Forever, PatienceSet: true, Frames: true, Meta: true}, Stutter},
	{"passed", ByPath, wire.Options{Patience: wire.Forever, PatienceSet: true, Credentials: true}, Fast},
	{"crew-a", ByName, wire.Options{Patience: wire.Forever, PatienceSet: true, Share: "crew"}, Stutter},
	{"crew-b", Subscribe, wire.Options{Patience: wire.Forever, PatienceSet: true, Share: "crew"}, Fast},
	{"tap", ByName, wire.Options{Tap: true}, Fast},
	{"slow", ByName, within(10 * time.Millisecond), Slow},
	{"slow-connected", Subscribe, within(0), Slow},
	{"slow-declared", Static, within(5 * time.Millisecond), Slow},
	{"hung", ByPath, within(20 * time.Millisecond), Hung},
}

// NewLoad starts a broker for k and lets everybody come. With an error there is nothing to end but k.
func NewLoad(k *Keeper, t Traffic, shape Shape) (*Load, error) {
	l := &Load{Keeper: k, Traffic: t, abrupt: shape.Abrupt}
	l.Traffic.Began, l.Traffic.Second = time.Now(), make(map[int]bool)
	for i, how := range shape.Sources {
		l.Traffic.Second[i] = how == NonBlocking
	}
	dir := k.Setup.Dir
	for _, d := range standing {
		s, err := NewSink(dir, &l.Traffic, d.name, d.way, d.options, d.pace)
		if err != nil {
			return nil, err
		}
		l.Standing = append(l.Standing, s)
	}
	if err := errors.Join(k.Start(Death{}), k.AwaitReady()); err != nil {
		return nil, err
	}
	for _, s := range l.Standing {
		if err := s.Join(); err != nil {
			return nil, err
		}
	}
	// Before the first message: who is declared has a place in the table only once the folder was looked at.
	err := until(patience, func() (bool, error) {
		_, sinks, err := k.List()
		return len(sinks) == len(l.Standing), err
	})
	if err != nil {
		return nil, fmt.Errorf("not all sinks have come: %w", err)
	}
	// From here on everything counts. Sources of packets have numbers of their own: see Polite.
	numbers := 0
	for _, how := range shape.Sources {
		number := numbers
		if how == Publish {
			number += Polite
		}
		numbers++
		l.Sources = append(l.Sources, StartSource(dir, &l.Traffic, number, how))
	}
	for i := range shape.Comers {
		l.transit.Go(func() { l.comeAndGo(i) })
		l.transit.Go(func() { l.passBy(i) })
	}
	l.transit.Go(l.renew)
	return l, nil
}

// until calls done every few milliseconds until it says yes or has an error, or d is over: that is an error.
func until(d time.Duration, done func() (bool, error)) error {
	for deadline := time.Now().Add(d); ; time.Sleep(3 * time.Millisecond) {
		if ok, err := done(); ok || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not after %v", d)
		}
	}
}

func (l *Load) failed(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.errs = append(l.errs, err)
}

// comeAndGo is one place that sinks of all kinds take one after the other.
func (l *Load) comeAndGo(place int) {
	random := rand.New(rand.NewPCG(l.Traffic.Seed, 1<<32+uint64(place)))
	ways := []string{ByName, ByName, ByPath, Subscribe}
	kinds := []func() wire.Options{
		forever,
		func() wire.Options { return wire.Options{} },
		func() wire.Options { o := forever(); o.Start = wire.StartOldest; return o },
		func() wire.Options { return wire.Options{Tap: true} },
		func() wire.Options { o := forever(); o.Frames = true; return o },
		func() wire.Options { o := forever(); o.Frames, o.Meta = true, true; return o },
		func() wire.Options { o := forever(); o.Share = "crew"; return o },
		func() wire.Options { o := forever(); o.Credentials = true; return o },
	}
	for n := 0; !l.stop.Load(); n++ {
		way, o := ways[random.IntN(len(ways))], kinds[random.IntN(len(kinds))]()
		if way == Subscribe {
			o.Frames = false // goes without saying
		}
		how := []leaving{removed, shut, abruptly}[random.IntN(3)]
		if how == abruptly && (!l.abrupt || o.Share != "") {
			how = removed // what it takes along would be missing from the share
		}
		if err := l.visit(fmt.Sprintf("visitor-%d-%d", place, n), way, o, how, random); err != nil {
			l.failed(err)
			return
		}
	}
}

// visit is one sink from coming to going.
func (l *Load) visit(name, way string, o wire.Options, how leaving, random *rand.Rand) error {
	s, err := NewSink(l.Keeper.Setup.Dir, &l.Traffic, name, way, o, []Pace{Fast, Stutter}[random.IntN(2)])
	if err != nil {
		return err
	}
	if err := s.Join(); err != nil {
		return err
	}
	// It leaves when it has seen enough, or when nothing comes: brokers may be dying faster than they deliver.
	enough := uint64(1 + random.IntN(2000))
	for deadline := time.Now().Add(time.Duration(random.IntN(300)) * time.Millisecond); time.Now().Before(deadline); {
		if s.Count.Load() >= enough {
			break
		}
		time.Sleep(time.Millisecond)
	}
	err = s.Leave(how)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.departed = append(l.departed, s)
	return err
}

// passBy is one place that framed sources take one after the other. Each hangs up as soon as its last packet is sent,
// mostly before the channel has read it: what was sent is in nevertheless.
func (l *Load) passBy(place int) {
	random := rand.New(rand.NewPCG(l.Traffic.Seed, 1<<33+uint64(place)))
	for n := 0; !l.stop.Load(); n++ {
		s := newSource(l.Keeper.Setup.Dir, &l.Traffic, 2*Polite+16*n+place, Publish)
		s.err = s.pass([]int{1, 5, 100, 1000}[random.IntN(4)], &l.calm, random)
		close(s.done)
		l.passing.Add(s.Sent.Load())
		l.mu.Lock()
		l.passed = append(l.passed, s)
		l.mu.Unlock()
		for pause := true; pause || l.calm.Load() && !l.stop.Load(); pause = false {
			time.Sleep(time.Duration(random.IntN(20)) * time.Millisecond)
		}
	}
}

// Sent is how many messages the channel has taken so far.
func (l *Load) Sent() (n uint64) {
	n = l.passing.Load()
	for _, s := range l.Sources {
		n += s.Sent.Load()
	}
	return n
}

// Calm makes the sources send little, and all sinks keep up with it, or lets them be as they were.
func (l *Load) Calm(yes bool) {
	l.calm.Store(yes)
	for _, s := range l.Sources {
		s.calm.Store(yes)
	}
	for i, s := range l.Standing {
		if yes {
			s.SetPace(Fast)
		} else {
			s.SetPace(standing[i].pace)
		}
	}
}

// renew registers a sink again and again, each time with another patience: nothing else may change.
func (l *Load) renew() {
	s := l.standing("slow")
	for d := time.Duration(0); !l.stop.Load(); d++ {
		s.Options.Patience = 10*time.Millisecond + d%10
		if err := s.Register(); err != nil {
			l.failed(err)
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// standing is the standing sink of that name.
func (l *Load) standing(name string) *Sink {
	for _, s := range l.Standing {
		if s.Name == name {
			return s
		}
	}
	panic("no sink " + name)
}

// Quiesce ends sources and visitors and waits until the channel has nothing left to do. A broker must be running. The
// errors are violations: somebody saw that brokers were killed, or messages are not where they should be.
func (l *Load) Quiesce() (errs []error) {
	l.stop.Store(true)
	l.transit.Wait()
	l.passing.Store(0)
	l.Sources = append(l.Sources, l.passed...)
	for _, s := range l.Sources {
		if err := s.Halt(); err != nil {
			errs = append(errs, err)
		}
	}
	sent := l.Sent()
	for _, s := range l.Standing {
		s.SetPace(Fast)
	}
	// First everything that was sent must be in the ring: then it is known how much the sinks are still to get.
	err := l.settle(func(st *wire.Status, _ []wire.Sink) error {
		if st.Received != sent {
			return fmt.Errorf("%d messages were sent and %d were received", sent, st.Received)
		}
		return nil
	})
	if err != nil {
		errs = append(errs, err)
	}
	err = l.settle(func(_ *wire.Status, sinks []wire.Sink) error {
		for _, s := range l.Standing {
			at := find(sinks, s.Name)
			if at == nil {
				return fmt.Errorf("sink %s is not there any more", s.Name)
			}
			if got := s.Count.Load(); at.Waiting != 0 || at.Accepted != got {
				return fmt.Errorf("sink %s: %d messages wait, %d were accepted, and it got %d", s.Name, at.Waiting, at.Accepted, got)
			}
		}
		return nil
	})
	if err != nil {
		errs = append(errs, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return append(errs, l.errs...)
}

// stuck is after how long without any progress the channel is taken to be at rest.
const stuck = 2500 * time.Millisecond

// settle waits until ok has no complaint, or nothing moves any more: then the complaint is the error.
func (l *Load) settle(ok func(*wire.Status, []wire.Sink) error) error {
	var complaint error
	var was uint64
	for moved := time.Now(); time.Since(moved) < stuck; time.Sleep(5 * time.Millisecond) {
		st, sinks, err := l.Keeper.List()
		if err != nil {
			return err
		}
		if complaint = ok(st, sinks); complaint == nil {
			return nil
		}
		is := st.Received
		for _, s := range l.Standing {
			is += s.Count.Load()
		}
		if is != was {
			was, moved = is, time.Now()
		}
	}
	return complaint
}

// find is the sink with that label.
func find(sinks []wire.Sink, label string) *wire.Sink {
	for i := range sinks {
		if sinks[i].Label == label {
			return &sinks[i]
		}
	}
	return nil
}

// Books closes the sinks and returns what there is to be compared. The broker must be at rest; another one is running
// afterwards.
func (l *Load) Books() (*Books, error) {
	k, want := l.Keeper, len(l.Standing)
	b := &Books{Traffic: &l.Traffic, Sources: l.Sources, Standing: l.Standing, Abrupt: l.abrupt}
	// Whoever left while nothing was sent is found by a look every few seconds, or by the next broker at once. Its descriptor
	// is closed when the store has let go of it.
	gone := until(200*time.Millisecond, func() (bool, error) {
		_, sinks, err := k.List()
		if err != nil {
			return false, err
		}
		b.Sinks = sinks
		b.Stored, _, err = k.Stored()
		return len(sinks) == want && len(b.Stored) == len(b.Kept()), err
	})
	if gone == nil {
		b.Open, _ = k.Descriptors()
	}
	if err := errors.Join(k.Stop(), k.Start(Death{}), k.AwaitReady()); err != nil {
		return nil, err
	}
	// Descriptors are taken out of the store a little after their entries.
	b.Restless = until(patience/4, func() (bool, error) {
		st, sinks, err := k.List()
		if err != nil {
			return false, err
		}
		b.Status, b.Sinks = st, sinks
		if b.Stored, b.Memory, err = k.Stored(); err != nil {
			return false, err
		}
		// A broker connects to declared sinks a moment after it is ready.
		absent := 0
		for _, s := range sinks {
			if s.State == "absent" {
				absent++
			}
		}
		return len(sinks) == want && len(b.Stored) == len(b.Kept()) && absent == 0, nil
	})
	_, b.OpenAnew = k.Descriptors()
	var err error
	if b.Faults, err = k.Faults(); err != nil {
		return nil, err
	}
	for _, s := range l.Standing {
		s.End()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	b.Departed = l.departed
	return b, nil
}
