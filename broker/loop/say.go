// SPDX-License-Identifier: Apache-2.0

package loop

import (
	"log/slog"
	"time"

	"github.com/msgmux/msgmux/broker/journal"
	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/internal/wire"
)

// sayVerdicts logs what the rule of patience has decided.
func (r *Roster) sayVerdicts() {
	for _, v := range r.ring.Verdicts() {
		r.sayVerdict(v)
	}
}

// sayVerdict logs that a sink was left behind or forgiven. With a patience of a millisecond somebody's sink may be so often:
// that is not to fill the journal.
func (r *Roster) sayVerdict(v ring.Verdict) {
	c, spec, name := v.Cursor, v.Cursor.Spec(), v.Cursor.Name()
	if spec.Tap || spec.Patience == 0 {
		return // never waited for: being left behind is its way of life
	}
	waiting, lost := r.ring.Head().Seq-c.Place().Seq, c.Lost()
	attrs := []slog.Attr{slog.String("sink", name), slog.Uint64("waiting", waiting), slog.Uint64("lost", lost)}
	if v.Lagging {
		r.lagging.Store(spec.ID, time.Now())
		r.log.Watchers.Notify(cursorEvent(wire.EventLagging, c, waiting, lost))
		r.log.Limited(r.verdicts, spec.UID, "lagging:"+name, slog.LevelWarn, journal.EventLagging,
			"sink is no longer waited for: it loses the oldest messages until it has caught up", attrs...)
	} else {
		r.lagging.Delete(spec.ID)
		r.log.Watchers.Notify(cursorEvent(wire.EventRecovered, c, waiting, lost))
		r.log.Limited(r.verdicts, spec.UID, "recovered:"+name, slog.LevelInfo, journal.EventRecovered, "sink has caught up", attrs...)
	}
}

// sayRefused logs that n messages did not enter the ring.
func (r *Roster) sayRefused(n int) {
	r.log.Limited(r.limiter, 0, "message", slog.LevelWarn, journal.EventRefused,
		"message refused: larger than --max-message, or no records", slog.Int("messages", n))
}

// sayTooLarge logs that a sink's socket can never take a message.
func (r *Roster) sayTooLarge(o *outlet) {
	text := "message lost to a sink: it is larger than the socket's send buffer; raise --queue or net.core.wmem_max"
	if o.queue {
		text = "message lost to a sink: it is larger than the message queue takes; make the queue with a larger mq_msgsize"
	}
	spec := o.sink.Spec()
	r.log.Limited(r.limiter, spec.UID, "too-large-for:"+spec.Label, slog.LevelWarn, journal.EventTooLarge, text, slog.String("sink", spec.Label))
}

// cursorEvent is what the watchers get to know of a cursor: as of its sink, if it is not a share's.
func cursorEvent(kind string, c *ring.Cursor, waiting, lost uint64) wire.Event {
	if s := c.Sole(); s != nil {
		return sinkEvent(kind, s.Spec(), waiting, lost)
	}
	return wire.Event{Kind: kind, ID: c.ID(), Label: c.Name(), SinkKind: "share", UID: c.Spec().UID, Waiting: waiting, Lost: lost}
}

// sinkEvent is what the watchers get to know of a sink.
func sinkEvent(kind string, s *ring.Spec, waiting, lost uint64) wire.Event {
	return wire.Event{Kind: kind, ID: s.ID, Label: s.Label, SinkKind: s.Kind.String(), UID: s.UID, Waiting: waiting, Lost: lost}
}
