// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/internal/wire"
)

// Events of the journal. The name of an event is stable; tools may look for it.
const (
	EventStarted    = "started"
	EventStopping   = "stopping"
	EventHeld       = "held"           // what a stop leaves behind
	EventRingBroken = "ring-broken"    // a ring was set aside
	EventNotMoved   = "ring-not-moved" // changed options have to wait
	EventSinkAdded  = "sink-added"     // debug
	EventSinkGone   = "sink-gone"      // debug
	EventLagging    = "sink-lagging"   // a sink is no longer waited for
	EventRecovered  = "sink-recovered"
	EventTooLarge   = "sink-too-large"  // a sink's socket cannot take a message
	EventBlocked    = "sources-blocked" // for longer than a patient sink explains
	EventUnblocked  = "sources-go-on"
	EventRefused    = "message-refused"
	EventNotAdded   = "registration-refused"
	EventStatic     = "static-sink"
	EventInternal   = "internal"
)

// journalRoom is how many lines may wait to be written.
const journalRoom = 256

// journal writes log lines in a goroutine of its own. Nobody who logs waits: a line that finds no room is dropped and
// counted.
type journal struct {
	lines   chan slog.Record // never closed: somebody may be late
	ended   chan struct{}    // closed when nothing more is to be written
	log     slog.Handler
	dropped atomic.Uint64
	done    sync.WaitGroup

	watchers watchers
	verdicts limiter  // the data thread's
	lagging  sync.Map // of id to time.Time: since when; an entry goes with the state, or with the sink
}

// limiter lets a line through at most once a minute for each user and reason, with bounded memory. It belongs to one
// goroutine: each that logs for strangers has its own.
type limiter map[limitKey]*limit

// limitKey is what a line is limited by: who caused it, and how.
type limitKey struct {
	uid    uint32
	reason string
}

type limit struct {
	until time.Time
	count int // lines held back
}

const (
	limitPeriod = time.Minute
	limitTable  = 512 // entries; beyond, all strangers share one
)

// everybody is the uid of the entry that is used when the table is full.
const everybody = ^uint32(0)

func newJournal(h slog.Handler) *journal {
	j := &journal{lines: make(chan slog.Record, journalRoom), ended: make(chan struct{}), log: h, verdicts: make(limiter)}
	j.done.Go(j.write)
	return j
}

// write writes lines until the end, and then those that wait.
func (j *journal) write() {
	for {
		select {
		case r := <-j.lines:
			j.log.Handle(context.Background(), r)
			continue
		case <-j.ended:
		}
		for {
			select {
			case r := <-j.lines:
				j.log.Handle(context.Background(), r)
			default:
				return
			}
		}
	}
}

// closePatience bounds how long the end of a broker waits for whoever reads its lines.
const closePatience = 2 * time.Second

// close writes what is waiting, and ends; a journal that takes nothing keeps nobody from ending. What is logged afterwards
// is not written.
func (j *journal) close() {
	close(j.ended)
	written := make(chan struct{})
	go func() { defer close(written); j.done.Wait() }()
	select {
	case <-written:
	case <-time.After(closePatience):
	}
}

// event logs a line. It does not wait.
func (j *journal) event(level slog.Level, event, text string, attrs ...slog.Attr) {
	if !j.log.Enabled(context.Background(), level) {
		return
	}
	r := slog.NewRecord(time.Now(), level, text, 0)
	r.AddAttrs(slog.String("event", event))
	r.AddAttrs(attrs...)
	select {
	case j.lines <- r:
	default:
		j.dropped.Add(1)
	}
}

// allow says whether a line may go out now, and how many were held back since the last one.
func (m limiter) allow(uid uint32, reason string) (held int, ok bool) {
	now := time.Now()
	key := limitKey{uid, reason}
	if m[key] == nil && len(m) >= limitTable {
		for k, l := range m {
			if now.After(l.until) {
				delete(m, k)
			}
		}
		if len(m) >= limitTable {
			key = limitKey{everybody, ""}
		}
	}
	l := m[key]
	if l == nil {
		l = new(limit)
		m[key] = l
	}
	if now.Before(l.until) {
		l.count++
		return 0, false
	}
	held, l.until, l.count = l.count, now.Add(limitPeriod), 0
	return held, true
}

// limitedEvent is event, as far as m allows.
func (j *journal) limitedEvent(m limiter, uid uint32, reason string, level slog.Level, event, text string, attrs ...slog.Attr) {
	if held, ok := m.allow(uid, reason); ok {
		if held > 0 {
			attrs = append(attrs, slog.Int("held_back", held))
		}
		j.event(level, event, text, attrs...)
	}
}

// verdict tells that a sink was left behind or forgiven. The data thread calls it. Somebody's sink may be so often, with
// a patience of a millisecond: that is not to fill the journal.
func (j *journal) verdict(v ring.Verdict, head ring.Place) {
	spec := v.Sink.Spec()
	if spec.Tap || spec.Patience == 0 {
		return // never waited for: being left behind is its way of life
	}
	waiting, lost := head.Seq-v.Sink.Cursor().Seq, v.Sink.Lost()
	attrs := []slog.Attr{slog.String("sink", spec.Label), slog.Uint64("waiting", waiting), slog.Uint64("lost", lost)}
	if v.Lagging {
		j.lagging.Store(spec.ID, time.Now())
		j.watchers.tell(wire.EventLagging, spec, waiting, lost)
		j.limitedEvent(j.verdicts, spec.UID, "lagging:"+spec.Label, slog.LevelWarn, EventLagging,
			"sink is no longer waited for: it loses the oldest messages until it has caught up", attrs...)
	} else {
		j.lagging.Delete(spec.ID)
		j.watchers.tell(wire.EventRecovered, spec, waiting, lost)
		j.limitedEvent(j.verdicts, spec.UID, "recovered:"+spec.Label, slog.LevelInfo, EventRecovered, "sink has caught up", attrs...)
	}
}

// refused tells that messages did not enter the ring.
func (j *journal) refused(m limiter, n int) {
	j.limitedEvent(m, 0, "message", slog.LevelWarn, EventRefused,
		"message refused: larger than --max-message, or no records", slog.Int("messages", n))
}

// tooLargeFor tells that a sink's socket can never take a message.
func (j *journal) tooLargeFor(m limiter, s *ring.Sink) {
	j.limitedEvent(m, s.Spec().UID, "too-large-for:"+s.Spec().Label, slog.LevelWarn, EventTooLarge,
		"message lost to a sink: it is larger than the socket's send buffer; raise --queue or net.core.wmem_max",
		slog.String("sink", s.Spec().Label))
}
