// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/internal/wire"
)

// Status is the state of the channel. It may be called from any goroutine, and does not make the data thread wait.
func (c *Channel) Status() wire.Status {
	st, _ := c.look(false)
	return st
}

// List is Status and all sinks.
func (c *Channel) List() (wire.Status, []wire.Sink) { return c.look(true) }

func (c *Channel) look(list bool) (wire.Status, []wire.Sink) {
	c.life.RLock()
	defer c.life.RUnlock()
	if c.closed {
		return wire.Status{}, nil
	}
	// One look at a time: it is short, and leaves no garbage of the size of the sink table behind.
	c.looking.Lock()
	defer c.looking.Unlock()
	now := time.Now()
	t, numbers := c.ring.Snapshot(c.numbers[:0])
	c.numbers = numbers
	then, seconds := c.rates.since(now)
	st := wire.Status{
		Version: c.cfg.Version, Channel: c.cfg.Name, PID: os.Getpid(), RuntimeDir: c.cfg.RuntimeDir,
		Generation: t.Generation, Starts: t.Starts, SinceUnix: c.began.Unix(), RingSince: t.Since,
		Buffer: t.Geometry.Size, Used: t.Head.Pos - t.Tail.Pos, MaxMessage: t.Geometry.MaxMessage,
		MaxSinks: t.Geometry.MaxSinks, MaxClients: t.Geometry.MaxClients,
		Received: t.Received(), Entered: t.Entered(), EnteredBytes: t.Head.Pos, Landed: c.ring.Waiting(), Refused: t.RefusedBy(),
		Accepted: t.Accepted, Lost: t.Lost, Abandoned: t.Abandoned,
		Delivered: t.Delivered.Seq, Tail: t.Tail.Seq, Uncertain: t.Uncertain,
		Registrations: c.outcomes.all(), LogDropped: c.journal.dropped.Load(),
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
		if n.Spec.Kind == ring.Share {
			continue
		}
		s := c.sinkStatus(n)
		if then != nil {
			s.Rate = perSecond(n.Took, then.took(n), seconds)
		}
		count(&st.Sinks, &s)
		if list {
			sinks = append(sinks, s)
		}
	}
	st.Sources = c.sources()
	c.rates.keep(now, &t, numbers)
	return st, sinks
}

// sinkStatus is one sink as the control socket shows it.
func (c *Channel) sinkStatus(n *ring.Numbers) wire.Sink {
	s := wire.Sink{
		ID: n.Spec.ID, Label: n.Spec.Label, Kind: n.Spec.Kind.String(), Address: n.Spec.Address, UID: n.Spec.UID,
		Share: n.Spec.Group, Tap: n.Spec.Tap, Frames: n.Spec.Frames,
		Patience: wire.FormatPatience(n.Spec.Patience), PatienceLeft: -1,
		Start: n.Start, Next: n.Cursor.Seq, Accepted: n.Accepted, Lost: n.Lost, Waiting: n.Waiting, LagBytes: n.LagBytes,
		SinceUnix: n.Spec.Since,
	}
	if n.Queue {
		s.Kind = "queue"
	}
	if n.Spec.Group != "" {
		s.Accepted = n.Took
	}
	if n.Spec.Patience != wire.Forever {
		s.PatienceLeft = max(0, n.Spec.Patience-n.Owed).Seconds()
	}
	switch {
	case n.Absent:
		s.State = "absent"
	case n.Lagging:
		s.State = "lagging"
		// A share lags as one.
		if since, ok := c.journal.lagging.Load(cmp.Or(n.Spec.ShareID, n.Spec.ID)); ok {
			s.LaggingSince = since.(time.Time).Unix()
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

// sources says whether the sources wait, and why.
func (c *Channel) sources() (s wire.Sources) {
	b := c.loop.blocked.load()
	past := time.Duration(c.loop.blockedFor.Load())
	if b != nil {
		s.Blocked = true
		s.ForSeconds = time.Since(b.since).Seconds()
		past += time.Since(b.since)
		s.Why = "no sink"
		if b.sink != nil {
			s.Sink = b.sink.Spec().Label
			s.Why = "sink " + s.Sink
		}
	}
	s.BlockedSecs = past.Seconds()
	return s
}

// command is loop.call for who may ask while the channel ends.
func (c *Channel) command(f func()) *wire.Error {
	if !c.loop.call(f) {
		return wire.Refuse(wire.CodeBusy, "the broker is stopping")
	}
	return nil
}

// Drop removes a dynamic sink, or a static one whose entry in the folder is gone. uid is who asks: its owner, root or the
// broker's user. It may block for some seconds, where the folder of static sinks does.
func (c *Channel) Drop(uid uint32, name string) (refusal *wire.Error) {
	var static wire.Sink // what has to be asked of the folder
	stopping := c.command(func() {
		var s *ring.Sink
		if s, refusal = c.find(name); refusal != nil {
			return
		}
		switch spec := s.Spec(); {
		case !c.mayChange(uid, spec):
			refusal = wire.Refuse(wire.CodeDenied, "sink %q belongs to user %d", spec.Label, spec.UID)
		case spec.Kind == ring.Static:
			static = wire.Sink{ID: spec.ID, Label: spec.Label}
		default:
			c.drop(s)
		}
	})
	if static.ID != 0 {
		return c.dropStatic(static)
	}
	return cmp.Or(stopping, refusal)
}

// removalWithin is how long the folder of static sinks may take to answer.
const removalWithin = 5 * time.Second

// dropStatic has the folder forget a sink that is not declared any more.
func (c *Channel) dropStatic(sink wire.Sink) *wire.Error {
	timer := time.NewTimer(removalWithin)
	defer timer.Stop()
	answer := make(chan bool, 1)
	select {
	case c.removals <- removal{sink.ID, answer}:
	case <-timer.C:
		return wire.Refuse(wire.CodeBusy, "the folder of static sinks does not answer")
	}
	select {
	case gone := <-answer:
		if !gone {
			return wire.Refuse(wire.CodeDenied, "sink %q is static: take its entry out of the folder first", sink.Label)
		}
		return nil
	case <-timer.C:
		return wire.Refuse(wire.CodeBusy, "the folder of static sinks does not answer")
	}
}

// SetPatience changes how long others wait for a sink. uid is who asks.
func (c *Channel) SetPatience(uid uint32, name string, d time.Duration) (refusal *wire.Error) {
	stopping := c.command(func() {
		var s *ring.Sink
		if s, refusal = c.find(name); refusal != nil {
			return
		}
		spec := *s.Spec()
		switch {
		case !c.mayChange(uid, &spec):
			refusal = wire.Refuse(wire.CodeDenied, "sink %q belongs to user %d", spec.Label, spec.UID)
		case spec.Tap:
			refusal = wire.Refuse(wire.CodeBadOption, "sink %q is a tap: it is never waited for", spec.Label)
		case c.ordinary(uid) && d > c.cfg.Patience:
			refusal = wire.Refuse(wire.CodeDenied, "more than %s is for root and the broker's user", wire.FormatPatience(c.cfg.Patience))
		default:
			c.ring.SetPatience(s, d)
		}
	})
	return cmp.Or(stopping, refusal)
}

// statusLine is what systemctl status shows.
func (c *Channel) statusLine() string {
	st := c.Status()
	var b strings.Builder
	fmt.Fprintf(&b, "%s (%d static, %d dynamic", plural(uint64(st.Sinks.Total), "sink"), st.Sinks.Static, st.Sinks.Dynamic)
	sep := "; "
	for _, x := range []struct {
		n    int
		word string
	}{{st.Sinks.Lagging, "lagging"}, {st.Sinks.Absent, "absent"}} {
		if x.n > 0 {
			fmt.Fprintf(&b, "%s%d %s", sep, x.n, x.word)
			sep = ", "
		}
	}
	fmt.Fprintf(&b, "), %s in, %s out, %s lost", grouped(st.Received), grouped(st.Accepted), grouped(st.Lost))
	if st.Sources.Blocked && st.Sources.ForSeconds >= 1 {
		fmt.Fprintf(&b, "; sources blocked %d s: %s", int(st.Sources.ForSeconds), st.Sources.Why)
	}
	return b.String()
}

func plural(n uint64, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return grouped(n) + " " + word + "s"
}

// grouped writes 12345 as 12,345.
func grouped(n uint64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// report keeps the service manager's status line: at once when the set of sinks changes, and at most once a second.
func (c *Channel) report(ctx context.Context) {
	if c.cfg.Notifier == nil {
		return
	}
	last := ""
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if line := c.statusLine(); line != last {
			last = line
			c.cfg.Notifier.Status(line)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		// The ticker is the limit; what changed meanwhile is in the line that comes next.
		select {
		case <-c.changed:
		default:
		}
	}
}
