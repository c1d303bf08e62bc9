// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"log/slog"
	"time"

	"github.com/msgmux/msgmux/broker/journal"
	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/internal/wire"
)

// sayVerdict logs that a sink was left behind or forgiven. With a patience of a millisecond somebody's sink may be so often:
// that is not to fill the journal.
func (l *loop) sayVerdict(v ring.Verdict) {
	spec := v.Sink.Spec()
	if spec.Tap || spec.Patience == 0 {
		return // never waited for: being left behind is its way of life
	}
	waiting, lost := l.ring.Head().Seq-v.Sink.Cursor().Seq, v.Sink.Lost()
	attrs := []slog.Attr{slog.String("sink", spec.Label), slog.Uint64("waiting", waiting), slog.Uint64("lost", lost)}
	if v.Lagging {
		l.lagging.Store(spec.ID, time.Now())
		l.log.Watchers.Notify(event(wire.EventLagging, spec, waiting, lost))
		l.log.Limited(l.verdicts, spec.UID, "lagging:"+spec.Label, slog.LevelWarn, journal.EventLagging,
			"sink is no longer waited for: it loses the oldest messages until it has caught up", attrs...)
	} else {
		l.lagging.Delete(spec.ID)
		l.log.Watchers.Notify(event(wire.EventRecovered, spec, waiting, lost))
		l.log.Limited(l.verdicts, spec.UID, "recovered:"+spec.Label, slog.LevelInfo, journal.EventRecovered, "sink has caught up", attrs...)
	}
}

// sayRefused logs that n messages did not enter the ring.
func (l *loop) sayRefused(n int) {
	l.log.Limited(l.limiter, 0, "message", slog.LevelWarn, journal.EventRefused,
		"message refused: larger than --max-message, or no records", slog.Int("messages", n))
}

// sayTooLarge logs that a sink's socket can never take a message.
func (l *loop) sayTooLarge(s *ring.Sink) {
	l.log.Limited(l.limiter, s.Spec().UID, "too-large-for:"+s.Spec().Label, slog.LevelWarn, journal.EventTooLarge,
		"message lost to a sink: it is larger than the socket's send buffer; raise --queue or net.core.wmem_max",
		slog.String("sink", s.Spec().Label))
}

// event is what the watchers get to know of a sink.
func event(kind string, s *ring.Spec, waiting, lost uint64) wire.Event {
	return wire.Event{Kind: kind, ID: s.ID, Label: s.Label, SinkKind: s.Kind.String(), UID: s.UID, Waiting: waiting, Lost: lost}
}
