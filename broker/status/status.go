// SPDX-License-Identifier: Apache-2.0

package status

import (
	"cmp"
	"context"
	"os"
	"sync"
	"time"

	"github.com/msgmux/msgmux/activation"
	"github.com/msgmux/msgmux/broker/journal"
	"github.com/msgmux/msgmux/broker/loop"
	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/internal/wire"
)

// Config says what a Board is made of.
type Config struct {
	Version    string
	Name       string // of the channel; "" is the default one
	RuntimeDir string
	Publish    string // where connected sources connect; "" for nowhere
	QueuesRoom uint64 // how many sinks' queues there is memory for

	Thread   *loop.Thread
	Log      *journal.Log
	Notifier *activation.Notifier // nil without a service manager

	// BlockedCheck is how often the Board looks whether the sources are blocked, and BlockedLong after how long that is worth
	// a line; 0: as usual.
	BlockedCheck, BlockedLong time.Duration
}

// Board shows how a channel is. Its methods may be called from any goroutine.
type Board struct {
	c     Config
	began time.Time

	life   sync.RWMutex // held while the channel is looked at, and by Close: never by the data thread
	closed bool

	looking sync.Mutex // held while the status is made: of what follows
	numbers []ring.Numbers
	rates   rates
}

// New makes the board of a channel that begins now.
func New(c Config) *Board {
	c.BlockedCheck = cmp.Or(c.BlockedCheck, blockedCheck)
	c.BlockedLong = cmp.Or(c.BlockedLong, blockedLong)
	return &Board{c: c, began: time.Now()}
}

// Close is for before the thread is closed: there is nothing to look at any more, and who still asks for the status gets an
// empty one.
func (b *Board) Close() {
	b.life.Lock()
	defer b.life.Unlock()
	b.closed = true
}

// Run keeps the service manager's line, and watches whether the sources are blocked, until ctx ends.
func (b *Board) Run(ctx context.Context) {
	var both sync.WaitGroup
	both.Go(func() { b.report(ctx) })
	both.Go(func() { b.watchBlocked(ctx) })
	both.Wait()
}

// Status is the state of the channel. It may be called from any goroutine, and does not make the data thread wait.
func (b *Board) Status() wire.Status {
	st, _ := b.look(false)
	return st
}

// List is Status and all sinks.
func (b *Board) List() (wire.Status, []wire.Sink) { return b.look(true) }

func (b *Board) look(list bool) (wire.Status, []wire.Sink) {
	b.life.RLock()
	defer b.life.RUnlock()
	if b.closed {
		return wire.Status{}, nil
	}
	// One look at a time: it is short, and leaves no garbage of the size of the sink table behind.
	b.looking.Lock()
	defer b.looking.Unlock()
	now := time.Now()
	t, numbers := b.c.Thread.Snapshot(b.numbers[:0])
	b.numbers = numbers
	then, seconds := b.rates.since(now)
	st := wire.Status{
		Version: b.c.Version, Channel: b.c.Name, PID: os.Getpid(), RuntimeDir: b.c.RuntimeDir,
		Generation: t.Generation, Starts: t.Starts, SinceUnix: b.began.Unix(), RingSince: t.Since,
		Buffer: t.Geometry.Size, Used: t.Head.Pos - t.Tail.Pos, MaxMessage: t.Geometry.MaxMessage,
		MaxSinks: t.Geometry.MaxSinks, SinksRoom: min(t.Geometry.MaxSinks, b.c.QueuesRoom), MaxClients: t.Geometry.MaxClients,
		Received: t.Received(), Entered: t.Entered(), EnteredBytes: t.Head.Pos, Landed: b.c.Thread.Landed(), Refused: t.RefusedBy(),
		Accepted: t.Accepted, Lost: t.Lost, LeftOut: t.LeftOut, Abandoned: t.Abandoned, Unread: t.Unread,
		Delivered: t.Delivered.Seq, Tail: t.Tail.Seq, Uncertain: t.Uncertain, AsOwn: t.AsOwn,
		Registrations: b.c.Log.Outcomes.All(), LogDropped: b.c.Log.Dropped(),
	}
	if then != nil {
		st.RateSeconds, st.ReceivedRate = seconds, perSecond(st.Received, then.received, seconds)
	}
	var sinks []wire.Sink
	if list {
		sinks = make([]wire.Sink, 0, len(numbers))
	}
	for i := range numbers {
		n := &numbers[i]
		s := b.sinkStatus(n)
		if then != nil {
			s.Rate = perSecond(n.Took, then.took(n), seconds)
		}
		count(&st.Sinks, &s)
		if list {
			sinks = append(sinks, s)
		}
	}
	st.Sources = b.sources()
	st.Sources.Sockets = b.sockets(st.Sources.Blocked)
	b.rates.keep(now, &t, numbers)
	return st, sinks
}

// sinkStatus is one sink as the control socket shows it.
func (b *Board) sinkStatus(n *ring.Numbers) wire.Sink {
	s := wire.Sink{
		ID: n.Spec.ID, Label: n.Spec.Label, Kind: n.Spec.Kind.String(), Address: n.Spec.Address, UID: n.Spec.UID,
		Share: n.Reading.Share, Tap: n.Reading.Tap, Frames: n.Spec.Frames,
		Patience: wire.FormatPatience(n.Reading.Patience), PatienceLeft: -1,
		Start: n.Start, Next: n.Cursor.Seq, Accepted: n.Accepted, Lost: n.Lost, LeftOut: n.LeftOut, Unread: n.Unread, Waiting: n.Waiting, LagBytes: n.LagBytes,
		SinceUnix: n.Spec.Since,
	}
	if n.Spec.Credentials {
		s.Credentials = "pass"
	}
	if n.Queue {
		s.Kind = "queue"
	}
	if n.Reading.Share != "" {
		s.Accepted = n.Took
	}
	if n.Reading.Patience != wire.Forever {
		s.PatienceLeft = max(0, n.Reading.Patience-n.Owed).Seconds()
	}
	s.Ack, s.View, s.Unacknowledged = n.Reading.Ack, n.Spec.View, n.Unacknowledged
	if n.Reading.Keep > 0 {
		s.Keep = wire.FormatPatience(n.Reading.Keep)
	}
	switch {
	case n.Absent:
		s.State = "absent"
		if !n.Left.IsZero() {
			s.AbsentSince = n.Left.Unix()
		}
		if until, ok := b.c.Thread.KeptUntil(n.Reading.ID); ok {
			s.KeptUntil = until.Unix()
		}
	case n.Lagging:
		s.State = "lagging"
		if since, ok := b.c.Thread.LaggingSince(n.Reading.ID); ok {
			s.LaggingSince = since.Unix()
		}
	case n.Stalled:
		s.State = "stalled"
	default:
		s.State = "ready"
	}
	return s
}

func count(n *wire.SinkCounts, s *wire.Sink) {
	n.Total++
	for _, c := range []struct {
		n   *int
		yes bool
	}{
		{&n.Static, s.Kind == "static" || s.Kind == "queue"}, {&n.Dynamic, s.Kind == "dynamic" || s.Kind == "framed"},
		{&n.Framed, s.Kind == "framed"}, {&n.Taps, s.Tap},
		{&n.Stalled, s.State == "stalled"}, {&n.Lagging, s.State == "lagging"}, {&n.Absent, s.State == "absent"},
	} {
		if c.yes {
			*c.n++
		}
	}
}
