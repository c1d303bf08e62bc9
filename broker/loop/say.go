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
	spec := v.Sink.Spec()
	if spec.Tap || spec.Patience == 0 {
		return // never waited for: being left behind is its way of life
	}
	waiting, lost := r.ring.Head().Seq-v.Sink.Cursor().Seq, v.Sink.Lost()
	attrs := []slog.Attr{slog.String("sink", spec.Label), slog.Uint64("waiting", waiting), slog.Uint64("lost", lost)}
	if v.Lagging {
		r.lagging.Store(spec.ID, time.Now())
		r.log.Watchers.Notify(sinkEvent(wire.EventLagging, spec, waiting, lost))
		r.log.Limited(r.verdicts, spec.UID, "lagging:"+spec.Label, slog.LevelWarn, journal.EventLagging,
			"sink is no longer waited for: it loses the oldest messages until it has caught up", attrs...)
	} else {
		r.lagging.Delete(spec.ID)
		r.log.Watchers.Notify(sinkEvent(wire.EventRecovered, spec, waiting, lost))
		r.log.Limited(r.verdicts, spec.UID, "recovered:"+spec.Label, slog.LevelInfo, journal.EventRecovered, "sink has caught up", attrs...)
	}
}

// sayRefused logs that n messages did not enter the ring.
func (r *Roster) sayRefused(n int) {
	r.log.Limited(r.limiter, 0, "message", slog.LevelWarn, journal.EventRefused,
		"message refused: larger than --max-message, or no records", slog.Int("messages", n))
}

// sayTooLarge logs that a sink's socket can never take a message.
func (r *Roster) sayTooLarge(s *ring.Sink) {
	r.log.Limited(r.limiter, s.Spec().UID, "too-large-for:"+s.Spec().Label, slog.LevelWarn, journal.EventTooLarge,
		"message lost to a sink: it is larger than the socket's send buffer; raise --queue or net.core.wmem_max",
		slog.String("sink", s.Spec().Label))
}

// sinkEvent is what the watchers get to know of a sink.
func sinkEvent(kind string, s *ring.Spec, waiting, lost uint64) wire.Event {
	return wire.Event{Kind: kind, ID: s.ID, Label: s.Label, SinkKind: s.Kind.String(), UID: s.UID, Waiting: waiting, Lost: lost}
}
