// SPDX-License-Identifier: Apache-2.0

package loop

import (
	"fmt"
	"time"

	"github.com/msgmux/msgmux/broker/journal"
	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/broker/store"
	"github.com/msgmux/msgmux/internal/sys"
)

// Thread is the data thread as all others see it. Its methods may be called from any goroutine but the data thread's own.
type Thread struct {
	loop     loop
	commands chan func(*loop)
	over     chan struct{} // closed when the data thread has ended
}

// Config says what a Thread is made of.
type Config struct {
	Ring   *ring.Ring // the Thread owns it
	Store  *store.Store
	Log    *journal.Log
	Ops    sys.Ops
	Limits Limits

	Beat      func()        // a sign of life, given by the data thread; it must not block. nil: none
	BeatEvery time.Duration // how often at most
}

// commandsRoom is how many commands may be waiting for the data thread; who has another one waits for room.
const commandsRoom = 64

// New makes the data thread, which begins with Run. Before that, begin has the roster: nothing has been received yet. With
// an error the ring is the caller's again.
func New(c Config, begin func(*Roster) error) (*Thread, error) {
	t := &Thread{commands: make(chan func(*loop), commandsRoom), over: make(chan struct{})}
	if err := t.loop.init(&c, t.commands); err != nil {
		return nil, fmt.Errorf("cannot make the loop: %w", err)
	}
	if err := begin(&t.loop.Roster); err != nil {
		t.loop.close()
		return nil, err
	}
	t.loop.publishBlocked()
	return t, nil
}

// Run is the data thread until Stop.
func (t *Thread) Run() {
	defer close(t.over)
	t.loop.run()
}

// Call has f run by the data thread between two operations, and returns when that is done. f must not block. False: it will
// never run, because the data thread has ended. Only callers that live longer than the channel need to look.
func (t *Thread) Call(f func(*Roster)) bool {
	return t.call(func(l *loop) { f(&l.Roster) })
}

func (t *Thread) call(f func(*loop)) bool {
	done := make(chan struct{})
	t.do(func(l *loop) { f(l); close(done) })
	select {
	case <-done:
		return true
	case <-t.over:
	}
	select { // f may have been the last that ran: of two that are ready select takes either
	case <-done:
		return true
	default:
		return false
	}
}

// do has f run by the data thread. It waits for room in the queue, and not for f.
func (t *Thread) do(f func(*loop)) {
	select {
	case t.commands <- f:
		t.loop.wake.Signal()
	case <-t.over:
	}
}

// StopReceiving ends the turns of the sources: what they still send stays in their queues.
func (t *Thread) StopReceiving() { t.call((*loop).stopReceiving) }

// IsIdle says whether nothing is left that any sink would take.
func (t *Thread) IsIdle() (idle bool) {
	t.call(func(l *loop) { idle = l.isIdle() })
	return idle
}

// Stop ends the data thread, and returns when it has ended.
func (t *Thread) Stop() {
	t.do(func(l *loop) { l.stopping = true })
	<-t.over
}

// Close closes the sockets of sinks and connected sources, and the ring. The data thread has ended, or was never begun. Nothing
// may be called afterwards.
func (t *Thread) Close() {
	for _, o := range t.loop.outlets {
		if o.view != nil {
			o.view.Close()
		}
		sys.Close(o.fd)
	}
	for _, s := range t.loop.sources {
		if s.stage != nil {
			s.stage.Close()
		}
		if s.client != nil {
			sys.Close(s.fd)
		}
	}
	t.loop.close()
	t.loop.ring.Retire()
}

// Snapshot is ring.Ring.Snapshot.
func (t *Thread) Snapshot(buf []ring.Numbers) (ring.Totals, []ring.Numbers) {
	return t.loop.ring.Snapshot(buf)
}

// Connected calls yield for every sink whose socket is connected, in no order, until it returns false. cookie is the kernel's
// for that socket.
func (t *Thread) Connected(yield func(spec *ring.Spec, cookie uint64) bool) {
	t.Sockets(func(s *ring.Sink, cookie uint64) bool { return yield(s.Spec(), cookie) })
}

// Sockets is Connected with the sinks themselves, of which only what any goroutine may do is for the caller.
func (t *Thread) Sockets(yield func(s *ring.Sink, cookie uint64) bool) {
	for s := range t.loop.ring.Sinks {
		if cookie := s.Cookie(); cookie != 0 && !yield(s, cookie) {
			return
		}
	}
}

// Landed is how many messages have been received and are not in the ring yet.
func (t *Thread) Landed() uint64 { return t.loop.ring.Waiting() }

// Attempt is ring.Ring.Attempt: only the registrar calls it.
func (t *Thread) Attempt() (before uint32) { return t.loop.ring.Attempt() }

// Attempted is ring.Ring.Attempted: only the registrar calls it.
func (t *Thread) Attempted() bool { return t.loop.ring.Attempted() }

// Blocked is why the sources are blocked now, nil if they are not.
func (t *Thread) Blocked() *Blockage { return t.loop.blocked.load() }

// Own are the channel's own sources.
func (t *Thread) Own() []OwnSource { return t.loop.own }

// Connected sources, and what waits in their connections.
type Connections struct {
	Sources int
	Waiting int    // how many of them have something that is not received
	Bytes   uint64 // of that, in packets
}

// Connections looks at the connected sources, on the data thread: it is for when the sources are blocked, and it has nothing else to
// do. It blocks until that is done.
func (t *Thread) Connections() (c Connections) {
	t.call(func(l *loop) {
		for _, s := range l.sources {
			if s.client == nil {
				continue
			}
			c.Sources++
			if n := s.unreceived(); n > 0 {
				c.Waiting++
				c.Bytes += n
			}
		}
	})
	return c
}

// BlockedFor is how long the sources have been blocked in all, without the blockage of now.
func (t *Thread) BlockedFor() time.Duration { return time.Duration(t.loop.blockedFor.Load()) }

// LaggingSince is since when a sink or share with that id has not been waited for, if so.
func (t *Thread) LaggingSince(id uint64) (since time.Time, ok bool) {
	v, ok := t.loop.lagging.Load(id)
	if ok {
		since = v.(time.Time)
	}
	return since, ok
}

// KeptUntil is when what is kept under that id goes, if it has nobody now and does not stay for ever.
func (t *Thread) KeptUntil(id uint64) (until time.Time, ok bool) {
	v, ok := t.loop.expiries.Load(id)
	if ok {
		until = v.(time.Time)
	}
	return until, ok
}

// Vacated is raised when a static sink has lost its socket, and may be connected again.
func (t *Thread) Vacated() Signal { return t.loop.vacated }

// Signal says that something has happened, once or more, since it was last received.
type Signal chan struct{}

// NewSignal makes one that is not raised.
func NewSignal() Signal { return make(Signal, 1) }

// Raise raises it. One that is raised already stays so. It does not block.
func (s Signal) Raise() {
	select {
	case s <- struct{}{}:
	default:
	}
}
