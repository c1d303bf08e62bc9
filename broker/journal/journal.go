// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// The names of events. They are stable: tools may look for them.
const (
	EventStarted    = "started"
	EventStopping   = "stopping"       // debug
	EventHeld       = "held"           // what a stop leaves behind
	EventRingBroken = "ring-broken"    // a ring was set aside
	EventNotMoved   = "ring-not-moved" // changed options have no effect before the next start
	EventSinkAdded  = "sink-added"     // debug
	EventSinkGone   = "sink-gone"      // debug
	EventLagging    = "sink-lagging"   // a sink is no longer waited for
	EventRecovered  = "sink-recovered"
	EventAbsent     = "kept-away"       // what is kept has nobody now
	EventKeptOver   = "kept-over"       // its time is over
	EventTooLarge   = "sink-too-large"  // a sink's socket cannot take a message
	EventCostly     = "too-costly"      // calls to a socket take too much processor time
	EventBlocked    = "sources-blocked" // for longer than a patient sink explains
	EventUnblocked  = "sources-go-on"
	EventRefused    = "message-refused"
	EventNotAdded   = "registration-refused"
	EventStatic     = "static-sink"
	EventStore      = "descriptor-store" // what the service manager keeps, or does not
	EventInternal   = "internal"
)

// linesRoom is how many lines may be waiting to be written.
const linesRoom = 256

// closePatience bounds how long Close waits for whoever reads the lines.
const closePatience = 2 * time.Second

// Log writes log lines in a goroutine of its own. Nobody who logs waits: a line that finds no room is dropped and
// counted. Its methods may be called from any goroutine.
type Log struct {
	Watchers Watchers
	Outcomes Outcomes

	// Owner says whose lines those about a uid are: see Limited. It is set before anything is logged, may be called from any
	// goroutine, and must not block. nil: the uid's own.
	Owner func(uid uint32) uint32

	lines   chan slog.Record // never closed: somebody may be late
	ended   chan struct{}    // closed when nothing more is to be written
	to      slog.Handler
	dropped atomic.Uint64
	done    sync.WaitGroup
}

// New begins a log. Close ends its goroutine.
func New(h slog.Handler) *Log {
	l := &Log{lines: make(chan slog.Record, linesRoom), ended: make(chan struct{}), to: h}
	l.done.Go(l.write)
	return l
}

// write writes lines until the end, and then those that are waiting.
func (l *Log) write() {
	for {
		select {
		case r := <-l.lines:
			l.to.Handle(context.Background(), r)
			continue
		case <-l.ended:
		}
		for {
			select {
			case r := <-l.lines:
				l.to.Handle(context.Background(), r)
			default:
				return
			}
		}
	}
}

// Close writes the lines that are waiting, and ends; it blocks for 2 s at most, however long that takes. What is
// logged afterwards is not written.
func (l *Log) Close() {
	close(l.ended)
	written := make(chan struct{})
	go func() { defer close(written); l.done.Wait() }()
	select {
	case <-written:
	case <-time.After(closePatience):
	}
}

// Event logs a line. It does not block.
func (l *Log) Event(level slog.Level, event, text string, attrs ...slog.Attr) {
	if !l.to.Enabled(context.Background(), level) {
		return
	}
	r := slog.NewRecord(time.Now(), level, text, 0)
	r.AddAttrs(slog.String("event", event))
	r.AddAttrs(attrs...)
	select {
	case l.lines <- r:
	default:
		l.dropped.Add(1)
	}
}

// Dropped is how many lines found no room.
func (l *Log) Dropped() uint64 { return l.dropped.Load() }
