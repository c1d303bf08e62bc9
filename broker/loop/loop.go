// SPDX-License-Identifier: Apache-2.0

package loop

import (
	"fmt"
	"runtime"
	"slices"
	"syscall"
	"time"

	"github.com/msgmux/msgmux/broker/journal"
	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/internal/sys"
)

const (
	// passLimit cuts a pass over the sinks, so that sources get their turn when there are very many sinks.
	passLimit = 5 * time.Millisecond
	// pollEvery is how often a busy loop looks at epoll: commands, stalled sinks that can take more.
	pollEvery = time.Millisecond
	// gather is how many messages the sources' turns collect before the sinks get them, gatherBytes how many bytes, and
	// gatherCalls how many packets. Longer bursts wake a sink less often, which is most of what a delivery costs.
	gather      = 1024
	gatherBytes = 256 << 10
	gatherCalls = 256
	// inARow is how many packets a sink may have before the next sink has its turn. It is woken for the first.
	inARow = 4
	// turnBytes is about what a source gets in one turn while others wait for theirs.
	turnBytes = 64 << 10
	// noWakeup is when a sink is tried again whose socket gave an error that no event follows (ENOBUFS, ENOMEM).
	noWakeup = 10 * time.Millisecond
	// owingEvery is how often the loop wakes while a sink is lagging or owes time.
	owingEvery = ring.MaxStep
	// sampleEvery is the mean distance of the moments at which the rule of patience looks while the ring is full.
	sampleEvery = 5 * time.Millisecond
	// maxBackoff limits how long a stalled sink is not tried without an event: should one ever be lost.
	maxBackoff = time.Second
)

// loop is the data thread's own: the roster, and what it takes to move messages. Nothing in it blocks but EpollWait.
type loop struct {
	Roster
	commands chan func(*loop)

	beat      func() // nil: none
	beatEvery time.Duration
	beatNext  time.Duration

	now      time.Duration // since began, as of the last look at the clock
	turned   time.Duration // when patience was last applied
	sample   time.Duration // when it is to look again
	polled   time.Duration
	retryAt  time.Duration // when the earliest backed-off outlet is tried; 0 for none
	first    int           // where the next pass over the outlets begins
	closed   bool          // nothing is received any more
	owing    bool          // a sink is lagging or owes time, as of the last look
	moved    bool          // a verdict has made room, and messages have entered
	stopping bool
	seed     uint32
	idle     func(*ring.Cursor) bool // bound once: a method value allocates
	taken    takings
	broom    *sys.Broom
	events   [128]sys.Event
}

// init makes a loop at the place where it stays.
func (l *loop) init(c *Config, commands chan func(*loop)) error {
	ep, err := sys.NewEpoll()
	if err != nil {
		return err
	}
	if _, errno := c.Ops.EpollWait("poll", ep.FD(), make([]sys.Event, 1), 0); errno != 0 {
		ep.Close()
		return fmt.Errorf("cannot wait for events, which takes epoll_pwait2 (Linux 5.11, and a filter of system calls that knows it): %w", errno)
	}
	wake, err := sys.NewEventfd()
	if err != nil {
		ep.Close()
		return err
	}
	*l = loop{commands: commands, beat: c.Beat, beatEvery: c.BeatEvery, seed: 1, broom: sys.NewBroom(unringAtOnce), Roster: Roster{
		ring: c.Ring, ops: c.Ops, store: c.Store, log: c.Log, limits: c.Limits, ep: ep, wake: wake,
		limiter: make(journal.Limiter), verdicts: make(journal.Limiter), vacated: NewSignal(),
		sources: make(map[uint64]*source), byID: make(map[uint64]*outlet),
		labels: make(map[string]uint64), bookkeeping: newBookkeeping()}}
	l.idle = l.hasReadAll
	l.viewFD, l.viewErr = c.Ring.OpenView()
	if err := ep.Add(wake.FD(), sys.Readable, keyCommands); err != nil {
		l.close()
		return err
	}
	return nil
}

// close closes what init made.
func (l *loop) close() {
	l.ep.Close()
	l.wake.Close()
	if l.viewErr == nil {
		sys.Close(l.viewFD)
	}
}

// run is the data thread until a command sets stopping.
func (l *loop) run() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	l.checked, l.used = l.clock(), sys.ThreadTime()
	for !l.stopping {
		// With nobody to receive, sources with a stage get no turn in which the broker would go to sleep for them.
		if l.tick(); l.blocked.waiting || l.ring.Full() || l.stages > 0 && !l.ring.HasReceiver() {
			l.publishBlocked()
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
	l.readClock()
	return l.act()
}

func (l *loop) readClock() { l.now = l.clock() }

// act does what is due by now.
func (l *loop) act() time.Duration {
	l.check(l.now)
	if l.beat != nil && l.now >= l.beatNext {
		l.beatNext = l.now + l.beatEvery
		l.beat()
	}
	if l.now >= l.sample {
		l.judge()
		l.readClock() // nobody's call has taken that time
	}
	return l.now
}

// judge applies the rule of patience at a moment that has nothing to do with what sinks or sources just did.
func (l *loop) judge() {
	moved := l.views > 0 && l.ring.Full() && l.readPages()
	changed := l.ring.Turn(l.now-l.turned, l.idle) || moved
	l.turned, l.owing = l.now, l.ring.Owing()
	// Between half and one and a half times the mean: whatever beats regularly is met at all its phases.
	l.seed ^= l.seed << 13
	l.seed ^= l.seed >> 17
	l.seed ^= l.seed << 5
	l.sample = l.now + sampleEvery/2 + sampleEvery*time.Duration(l.seed%1024)/1024
	if changed {
		l.sayVerdicts()
		l.appended(l.ring.Append())
		l.moved = true
	}
	l.publishBlocked()
}

// hasReadAll says whether the sink of a cursor has read everything that it was sent; of a share, whether one of them has. It is
// asked of every cursor within one turn, so only a share has all outlets looked through.
func (l *loop) hasReadAll(c *ring.Cursor) bool {
	if s := c.Sole(); s != nil {
		o := l.byID[s.ID()]
		return o != nil && o.hasReadAll()
	}
	return slices.ContainsFunc(l.outlets, func(o *outlet) bool { return o.sink.Cursor() == c && o.hasReadAll() })
}

// timeout is how long to wait for events: -1 for ever.
func (l *loop) timeout() time.Duration {
	if l.moved {
		l.moved = false // a verdict has given the sinks something, since they had their turn
		return 0
	}
	at := time.Duration(-1)
	due := func(t time.Duration) {
		if at < 0 || t < at {
			at = t
		}
	}
	if l.ring.Contended() {
		due(l.sample)
	} else if l.owing {
		due(l.turned + owingEvery)
	}
	if l.retryAt > 0 {
		due(l.retryAt)
	}
	if l.untold {
		due(l.now + noWakeup)
	}
	if l.lookAt > 0 {
		due(l.lookAt)
	}
	if !l.nextExpiry.IsZero() {
		due(l.nextExpiry.Sub(l.began))
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
	n, _ := l.ops.EpollWait("poll", l.ep.FD(), l.events[:], d)
	l.tick()
	l.polled = l.now
	for i := range l.events[:n] {
		ev := &l.events[i]
		switch key := sys.Key(ev); {
		case key == keyCommands:
			l.wake.Drain()
		case l.byID[key] != nil:
			l.wakeUp(l.byID[key], ev.Events)
		case l.sources[key] != nil:
			l.hear(l.sources[key], ev.Events)
		}
	}
	if l.retryAt > 0 && l.now >= l.retryAt {
		l.tryBackedOff()
	}
	if l.untold {
		l.tellUntold()
	}
	if l.lookAt > 0 && l.now >= l.lookAt {
		l.askAcks()
	}
	if !l.nextExpiry.IsZero() && l.now >= l.nextExpiry.Sub(l.began) {
		l.expire(l.began.Add(l.now))
	}
	for more := true; more && !l.stopping; {
		select {
		case f := <-l.commands:
			f(l)
			l.readClock()
		default:
			more = false
		}
	}
}

// tryBackedOff has those outlets tried again that have waited for their time without an event.
func (l *loop) tryBackedOff() {
	l.retryAt = 0
	for _, o := range l.outlets {
		if !o.writable && o.tryAt > 0 {
			if l.now >= o.tryAt {
				o.writable = true
			} else {
				l.retryBy(o.tryAt)
			}
		}
	}
	l.endRests(false)
}

// receiving says whether sources may be read at all: somebody can take messages, and nothing waits for room.
func (l *loop) receiving() bool {
	return !l.closed && !l.ring.Landed() && l.ring.HasReceiver()
}

// hear is epoll telling of s: it has something, or it hung up. One that has left nothing behind goes at once: while
// nothing is received, its turn would not come, and those who come and go would fill the table.
func (l *loop) hear(s *source, events uint32) {
	if s.stage != nil {
		s.rung = s.rung || events&sys.Readable != 0
		if events&^uint32(sys.Readable) != 0 {
			s.close()
			if s.unreceived() == 0 {
				l.endSource(s, nil, s.stage.words.Leaves())
				return
			}
		}
	} else if s.client != nil && events&^uint32(sys.Readable) != 0 {
		if n, err := sys.InQueue(s.fd); err == nil && n == 0 {
			l.end(s, nil)
			return
		}
	}
	l.enqueue(s)
	if !l.blocked.waiting {
		l.publishBlocked()
	}
}

// receive gives the sources their turns until enough is gathered for the sinks, and moves what landed into the ring.
// It says whether sources may have more.
func (l *loop) receive() (more bool) {
	if l.ring.Landed() {
		l.append()
	}
	// A source that is busy is asked again at once. Any other one is asked again after the sinks had theirs: mostly it has
	// nothing, and finding that out costs a call.
	l.beginTaking()
	enough := l.ring.Head().Pos + gatherBytes
	for got, turns := 0, len(l.queue); got < gather && l.ring.Head().Pos < enough && turns > 0 && len(l.queue) > 0 && l.receiving(); turns-- {
		s := l.queue[0]
		l.queue = l.queue[:copy(l.queue, l.queue[1:])]
		s.queued = false
		n, busy := l.takeTurn(s)
		if got += n; busy {
			turns++
		}
		if l.taken.units >= takenUnits {
			l.endTaking()
			l.beginTaking()
		}
	}
	l.endTaking()
	return len(l.queue) > 0 && l.receiving()
}

// takeTurn gives one source its turn: one packet, or up to 64 datagrams, fewer if they are large and others wait. A
// source that may have more is queued again. It returns how many messages came, and whether it probably has more.
func (l *loop) takeTurn(s *source) (n int, busy bool) {
	if s.rests(l.now) {
		l.rest(s)
		return 0, false
	}
	limit := ring.MaxBatch
	if len(l.queue) > 0 && s.fair > 0 {
		limit = s.fair
	}
	if s.stage != nil {
		return l.takeStaged(s), false
	}
	before := l.ring.Head().Pos
	n, errno := l.take(s, limit)
	switch {
	case errno == syscall.EAGAIN:
		s.streak = 0
		return 0, false
	case n > 0 && l.ring.Empty():
		why := whyEmpty(s.fd)
		if why == nil && s.waits() { // the end was told before what was sent last: see whyEmpty
			l.enqueue(s)
		} else {
			l.end(s, why)
		}
		return 0, false
	case errno != 0 && s.client != nil && s.errors == maxErrors:
		l.end(s, nil)
		return 0, false
	case errno != 0:
		// It comes once, and what is queued is still there: hidden behind an earlier success (recvmmsg), or telling
		// that a client closed its end with something unread (ECONNRESET), which takes nothing from what it sent.
		s.errors++
		l.enqueue(s)
		return 0, false
	}
	s.errors = 0
	s.streak++
	l.enqueue(s)
	out := l.append()
	if s.excessive(l.now) && l.sources[s.key] == s {
		l.dismissSource(s)
	}
	if bytes := int(l.ring.Head().Pos - before); bytes > 0 {
		s.fair = min(max(1, n*turnBytes/bytes), ring.MaxBatch)
	}
	if ring.IsPacket(s.kind) {
		// One that comes alone fills its turn, too. Where two came without a pause, more do.
		return max(gather/gatherCalls, out.Entered), s.streak > 1
	}
	// What is refused adds nothing to the ring, and costs as much as a packet.
	return n + out.Refused*(gather/gatherCalls-1), n == limit
}

// append moves what landed into the ring. A sink with no patience that stands in the way is left behind at once.
func (l *loop) append() ring.Outcome {
	out := l.ring.Append()
	l.appended(out)
	if out.Full && l.acks > 0 && l.acksForRoom() {
		more := l.ring.Append()
		l.appended(more)
		more.Entered += out.Entered
		out = more
	}
	if out.Full && l.ring.Turn(0, l.idle) {
		l.sayVerdicts()
		more := l.ring.Append()
		l.appended(more)
		out.Entered += more.Entered
	}
	return out
}

// appended tells of what was refused: the journal, and a connected source, also one whose packet a predecessor received.
func (l *loop) appended(out ring.Outcome) {
	if out.Refused > 0 {
		l.sayRefused(out.Refused)
	}
	if s := l.sources[out.From]; s != nil && (out.Bad != nil || out.Leaving) {
		l.endSource(s, out.Bad, out.Leaving)
	} else if out.Leaving {
		l.forgetSource(l.ring.Client(out.From), true)
		l.unkeep(out.From)
	}
	if out.Leaving {
		l.appended(l.ring.Append())
	}
	if s := l.sources[out.From]; s != nil && s.stage != nil {
		l.tellRoom(s)
	}
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
		switch {
		case o.view != nil:
			if !l.serve(o) {
				continue
			}
		case !o.writable || !l.ring.Behind(o.sink):
			continue
		case l.give(o):
			sent = true
		}
		l.readClock()
		l.audit(&o.effort)
		if l.act() > deadline || len(l.outlets) != n {
			return sent, true
		}
	}
	return sent, false
}

// give offers o what is next for it: one call's worth, or some packets, as long as it takes them. In a share the others have theirs
// before. It says whether the sink's cursor moved.
func (l *loop) give(o *outlet) (moved bool) {
	moved = l.offer(o)
	if !o.connected || o.sink.Cursor().Size() > 1 {
		return moved
	}
	for more := 1; more < inARow && o.writable && l.byID[o.sink.ID()] == o && l.ring.Behind(o.sink) && !l.wasCostly(&o.effort); more++ {
		moved = l.offer(o) || moved
	}
	return moved
}

// stopReceiving ends the turns of the sources: what they still send stays in their queues.
func (l *loop) stopReceiving() {
	l.closed = true
	l.pass()
}

// isIdle says whether nothing is left that any sink would take.
func (l *loop) isIdle() bool {
	if l.ring.Landed() {
		return false
	}
	for _, o := range l.outlets {
		if l.ring.Behind(o.sink) || o.view != nil && o.view.words.Sleeps() == 0 && o.view.words.Done() < l.ring.Head().Seq {
			return false
		}
	}
	return true
}
