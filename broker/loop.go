// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"runtime"
	"sync/atomic"
	"time"

	"syscall"

	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/broker/sys"
)

const (
	// passLimit cuts a pass over the sinks, so that sources get their turn when there are very many sinks.
	passLimit = 5 * time.Millisecond
	// pollEvery is how often a busy loop looks at epoll: commands, stalled sinks that can take more.
	pollEvery = time.Millisecond
	// gather is how many messages the sources' turns collect before the sinks get them. Longer bursts wake a sink
	// less often, which is most of what a delivery costs.
	gather = 256
	// turnBytes ends a source's turn early.
	turnBytes = 64 << 10
	// noWakeup is when a sink is tried again whose socket gave an error that no event follows (ENOBUFS, ENOMEM).
	noWakeup = 10 * time.Millisecond
	// somebodyWaits is how often the loop wakes while a sink is lagging or owes time.
	somebodyWaits = ring.MaxStep
	// sampleEvery is the mean distance of the moments at which the rule of patience looks while the ring is full.
	sampleEvery = 5 * time.Millisecond
	// maxBackoff limits how long a stalled sink is not tried without an event: should one ever be lost.
	maxBackoff = time.Second
)

// Keys of what epoll watches. An outlet has its sink's id.
const (
	keyCommands = 1 << 63
	keySource   = 1 << 62 // plus the index in loop.sources
)

// loop is the data thread. Nothing in it waits but EpollWait.
type loop struct {
	ring    *ring.Ring
	ops     sys.Ops
	ep      *sys.Epoll
	journal *journal
	limiter limiter

	commands chan func()
	wake     *sys.Eventfd

	sources []*source
	turn    int // whose turn it is among the sources
	outlets []*outlet
	byID    map[uint64]*outlet
	first   int // where the next pass over the outlets begins

	// Published for the other goroutines.
	blocked    atomic.Pointer[blockage]
	blockedFor atomic.Int64 // ns, in all, the blockage that goes on left out
	beat       func()       // the watchdog's, called by time; nil without one
	retired    func(o *outlet, why syscall.Errno)

	began    time.Time
	now      time.Duration // since began, as of the last look at the clock
	turned   time.Duration // when patience was last applied
	sample   time.Duration // when it is to look again
	polled   time.Duration
	retryAt  time.Duration // when the earliest backed-off outlet is tried; 0 for none
	watching bool          // the sources are watched for input
	stopping bool
	seed     uint32
	idle     func(*ring.Sink) bool // bound once: a method value allocates
	events   [128]sys.Event
}

// source is a socket that messages come from.
type source struct {
	fd    int
	kind  uint32 // ring.Datagrams or ring.Packets
	ready bool   // epoll said so, and it was not found empty since
}

// blockage is why the sources wait.
type blockage struct {
	since time.Time
	sink  *ring.Sink // the sink that is waited for; nil: there is none
}

func newLoop(r *ring.Ring, ops sys.Ops, j *journal) (*loop, error) {
	ep, err := sys.NewEpoll()
	if err != nil {
		return nil, err
	}
	wake, err := sys.NewEventfd()
	if err != nil {
		ep.Close()
		return nil, err
	}
	l := &loop{ring: r, ops: ops, ep: ep, wake: wake, journal: j, commands: make(chan func(), 64),
		byID: make(map[uint64]*outlet), limiter: make(limiter), seed: 1}
	l.idle = l.hasReadAll
	return l, ep.Add(wake.FD(), sys.Readable, keyCommands)
}

// do has f run by the data thread between two operations. It waits for room in the queue, and not for f. It must not
// be called by the data thread.
func (l *loop) do(f func()) {
	l.commands <- f
	l.wake.Signal()
}

// call is do, and waits until f has run.
func (l *loop) call(f func()) {
	done := make(chan struct{})
	l.do(func() { f(); close(done) })
	<-done
}

// run is the data thread until a command sets stopping.
func (l *loop) run() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	l.began = time.Now()
	for !l.stopping {
		if l.tick(); l.blocked.Load() != nil {
			l.tellBlocked()
		}
		l.poll(l.timeout())
		for !l.stopping && l.pass() {
			if l.tick() >= l.polled+pollEvery {
				l.poll(0)
			}
		}
	}
}

// pass moves what can be moved once round: sources, ring, sinks. It says whether another pass may move more.
func (l *loop) pass() bool {
	received := l.receive()
	sent, cut := l.deliver()
	return received || sent || cut
}

// tick looks at the clock and does what is due by it. It is called after every system call that may have taken long.
func (l *loop) tick() time.Duration {
	l.now = time.Since(l.began)
	if l.beat != nil {
		l.beat()
	}
	if l.now >= l.sample {
		l.judge()
	}
	return l.now
}

// judge applies the rule of patience at a moment that has nothing to do with what sinks or sources just did.
func (l *loop) judge() {
	changed := l.ring.Turn(l.now-l.turned, l.idle)
	l.turned = l.now
	// Between half and one and a half times the mean: whatever beats regularly is met at all its phases.
	l.seed ^= l.seed << 13
	l.seed ^= l.seed >> 17
	l.seed ^= l.seed << 5
	l.sample = l.now + sampleEvery/2 + sampleEvery*time.Duration(l.seed%1024)/1024
	if changed {
		for _, v := range l.ring.Verdicts() {
			l.journal.verdict(v, l.ring.Head())
		}
		l.ring.Append()
	}
	l.tellBlocked()
}

// hasReadAll says whether a sink that was sent everything has also read it; for a share, whether a member has.
func (l *loop) hasReadAll(s *ring.Sink) bool {
	for _, o := range l.outlets {
		if o.sink.Uses(s) {
			if n, err := sys.OutQueue(o.fd); err == nil && n == 0 {
				return true
			}
		}
	}
	return false
}

// timeout is how long epoll may wait: -1 for ever.
func (l *loop) timeout() time.Duration {
	at := time.Duration(-1)
	due := func(t time.Duration) {
		if at < 0 || t < at {
			at = t
		}
	}
	if l.ring.Full() {
		due(l.sample)
	} else if l.ring.Owing() {
		due(l.turned + somebodyWaits)
	}
	if l.retryAt > 0 {
		due(l.retryAt)
	}
	if l.beat != nil {
		due(l.now + time.Second/2)
	}
	if at < 0 {
		return -1
	}
	return max(0, at-l.now)
}

// poll takes events, waiting for at most d (-1: for ever).
func (l *loop) poll(d time.Duration) {
	l.watch(l.receiving())
	n, _ := l.ops.EpollWait("poll", l.ep.FD(), l.events[:], d)
	l.tick()
	l.polled = l.now
	for i := range l.events[:n] {
		ev := &l.events[i]
		switch key := sys.Key(ev); {
		case key == keyCommands:
			l.wake.Drain()
		case key&keySource != 0:
			l.sources[key&^keySource].ready = true
		default:
			if o := l.byID[key]; o != nil {
				o.wakeUp()
			}
		}
	}
	if n > 0 || l.retryAt > 0 && l.now >= l.retryAt {
		l.tryAll()
	}
	for more := true; more && !l.stopping; {
		select {
		case f := <-l.commands:
			f()
		default:
			more = false
		}
	}
}

// tryAll makes every outlet that has waited long enough be tried again. Every wake-up comes here: whichever sink it
// was about, others may have become able to take more.
func (l *loop) tryAll() {
	l.retryAt = 0
	for _, o := range l.outlets {
		if !o.writable && o.tryAt > 0 {
			if l.now >= o.tryAt {
				o.writable = true
			} else if l.retryAt == 0 || o.tryAt < l.retryAt {
				l.retryAt = o.tryAt
			}
		}
	}
}

// receiving says whether sources may be read at all: somebody can take messages, and nothing waits for room.
func (l *loop) receiving() bool {
	return !l.ring.Landed() && l.ring.HasReceiver()
}

// watch has epoll tell of input on the sources, or not: while they are not read, it would tell at every turn.
func (l *loop) watch(yes bool) {
	if yes == l.watching {
		return
	}
	l.watching = yes
	events := uint32(0)
	if yes {
		events = sys.Readable
	}
	for i, s := range l.sources {
		s.ready = false
		l.ep.Modify(s.fd, events, keySource|uint64(i))
	}
}

// receive gives the sources their turns until enough is gathered for the sinks, and moves what landed into the ring.
// It says whether sources may have more.
func (l *loop) receive() (more bool) {
	if l.ring.Landed() {
		l.ring.Append()
	}
	for got, empty := 0, 0; got < gather && empty < len(l.sources) && l.receiving(); {
		s := l.sources[l.turn]
		if l.turn++; l.turn == len(l.sources) {
			l.turn = 0
		}
		if !s.ready {
			empty++
			continue
		}
		empty = 0
		n := l.takeTurn(s)
		got += n
		more = more || s.ready
	}
	return more
}

// takeTurn gives one source its turn: up to 64 datagrams or one packet.
func (l *loop) takeTurn(s *source) (n int) {
	n, errno := l.ring.Receive(s.fd, s.kind, ring.MaxBatch)
	switch {
	case errno == syscall.EAGAIN:
		s.ready = false
		return 0
	case errno != 0:
		// It was hidden behind an earlier success and comes once; what is queued is still there.
		return 0
	}
	s.ready = n == ring.MaxBatch
	out := l.ring.Append()
	if out.Refused > 0 {
		l.journal.refused(l.limiter, out.Refused)
	}
	return n
}

// deliver offers every sink that is behind what is next for it. cut says that the pass ended before all had a turn.
func (l *loop) deliver() (sent, cut bool) {
	deadline := l.now + passLimit
	n := len(l.outlets)
	for range n {
		if l.first >= n {
			l.first = 0
		}
		o := l.outlets[l.first]
		l.first++
		if !o.writable || !l.ring.Behind(o.sink) {
			continue
		}
		if l.offer(o) {
			sent = true
		}
		if l.tick() > deadline || len(l.outlets) != n {
			return sent, true
		}
	}
	return sent, false
}

// tellBlocked publishes why the sources wait, when that changes.
func (l *loop) tellBlocked() {
	old := l.blocked.Load()
	none := !l.ring.HasReceiver()
	if !none && !l.ring.Full() {
		if old != nil {
			l.blockedFor.Add(int64(time.Since(old.since)))
			l.blocked.Store(nil)
		}
		return
	}
	b := blockage{since: time.Now()}
	if !none {
		b.sink = l.ring.Blocker()
	}
	if old != nil {
		if old.sink == b.sink {
			return
		}
		b.since = old.since
	}
	l.blocked.Store(&b)
}

// stopReceiving ends the turns of the sources: what they still send waits in their queues.
func (l *loop) stopReceiving() {
	for _, s := range l.sources {
		l.ep.Remove(s.fd)
	}
	l.sources, l.watching, l.turn = nil, false, 0
	l.pass()
}

// idleNow says whether nothing is left that any sink would take.
func (l *loop) idleNow() bool {
	if l.ring.Landed() {
		return false
	}
	for _, o := range l.outlets {
		if l.ring.Behind(o.sink) {
			return false
		}
	}
	return true
}

// addSource gives the loop a socket to receive from.
func (l *loop) addSource(fd int, kind uint32) error {
	l.sources = append(l.sources, &source{fd: fd, kind: kind})
	return l.ep.Add(fd, 0, keySource|uint64(len(l.sources)-1))
}
