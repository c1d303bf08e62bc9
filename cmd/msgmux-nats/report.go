// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/msgmux/msgmux/activation"
	"github.com/msgmux/msgmux/cmd/msgmux-nats/stream"
)

// report is what the bridge says of itself.
type report struct {
	records, messages, bytes atomic.Uint64 // carried: in the channel's words, in the stream's, and payload
	lost                     atomic.Uint64 // records that are missing in the stream
	echoes                   atomic.Uint64 // left aside, because they began on the other side
	refused                  atomic.Uint64 // what the stream has not taken, since something else was there
	attempts                 atomic.Uint64
	lag                      atomic.Uint64 // what waits: out, in records of the channel; in, in messages of the stream
	epoch                    atomic.Uint64 // of the last record that the stream has acknowledged
	working                  atomic.Int64  // since when something is under way that has its time, unix ns; 0: nothing is

	missed stream.Position // up to where what is missing is counted in lost; it belongs to whoever writes to the stream
	mu     sync.Mutex
	state  string
	joined bool
	since  time.Time // of the state
}

// enter notes a state: "connecting", or to what it is joined.
func (r *report) enter(state string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if state == "connecting" {
		r.attempts.Add(1)
		if r.state != "" {
			return // what was wrong says more, until it is joined again
		}
	}
	r.state, r.since, r.joined = state, time.Now(), strings.HasPrefix(state, "joined")
}

// beginAgain notes what was wrong.
func (r *report) beginAgain(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.joined || r.state == "" || r.state == "connecting" {
		r.since = time.Now()
	}
	r.state, r.joined = fmt.Sprint(err), false
}

// joinedFor is how long it has been joined; 0: it is not.
func (r *report) joinedFor() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.joined {
		return 0
	}
	return time.Since(r.since)
}

// moved is a number that grows with whatever is carried.
func (r *report) moved() uint64 { return r.records.Load() + r.echoes.Load() }

// misses counts what is missing from one position up to another, once: an attempt that fails leaves it to the next one to be found
// again. It says whether any of it was not known before.
func (r *report) misses(from, to stream.Position) bool {
	if r.missed.Epoch == from.Epoch {
		from.Seq = max(from.Seq, r.missed.Seq)
	}
	if to.Seq <= from.Seq {
		return false
	}
	r.lost.Add(to.Seq - from.Seq)
	r.missed = to
	return true
}

// acknowledged notes what the stream has acknowledged.
func (r *report) acknowledged(epoch, records, messages, bytes uint64) {
	r.epoch.Store(epoch)
	r.records.Add(records)
	r.messages.Add(messages)
	r.bytes.Add(bytes)
}

// stored says whether this process has had anything of that epoch acknowledged by the stream.
func (r *report) stored(epoch uint64) bool { return r.epoch.Load() == epoch }

// poured notes what the channel has taken.
func (r *report) poured(records, messages, bytes, pending uint64) {
	r.records.Add(records)
	r.messages.Add(messages)
	r.bytes.Add(bytes)
	r.lag.Store(pending)
}

// work notes that something begins that has its time; done that it has ended.
func (r *report) work() (done func()) {
	r.working.Store(time.Now().UnixNano())
	return func() { r.working.Store(0) }
}

// line is the report in one line.
func (r *report) line(rate float64) string {
	r.mu.Lock()
	state, since := r.state, r.since
	r.mu.Unlock()
	line := fmt.Sprintf("%s; %d messages carried, %.0f/s, lag %d", state, r.records.Load(), rate, r.lag.Load())
	if !since.IsZero() {
		line = fmt.Sprintf("%s for %v", line[:len(state)], time.Since(since).Round(time.Second)) + line[len(state):]
	}
	if n := r.lost.Load(); n > 0 {
		line += fmt.Sprintf(", lost %d", n)
	}
	if n := r.attempts.Load(); n > 1 {
		line += fmt.Sprintf(", begun again %d times", n-1)
	}
	return line
}

// isJoined says whether it is joined to the stream and the channel.
func (r *report) isJoined() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.joined
}

const (
	statusEvery = time.Second
	// longestWork is far more than anything that has its time may take: connecting to some servers of which each may take seconds,
	// publishing while the connection takes nothing until it counts as dead.
	longestWork = time.Minute
)

// tell tells the service manager how the bridge is, until ctx ends, and keeps the lag of an outward bridge up to date. The watchdog
// is pinged as long as nothing that has its time takes too long.
func (b *bridge) tell(ctx context.Context, notifier *activation.Notifier) {
	every := statusEvery
	if d, ok := activation.WatchdogInterval(); ok {
		every = min(every, d/3)
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	var said string
	before, at := b.report.records.Load(), time.Now()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		if since := b.report.working.Load(); since == 0 || time.Since(time.Unix(0, since)) < longestWork {
			if err := notifier.Watchdog(); err != nil {
				b.log.Warn("cannot reach the service manager", slog.Any("error", err))
			}
		}
		if b.direction == "out" {
			b.measureLag(ctx)
		}
		now := b.report.records.Load()
		rate := float64(now-before) / time.Since(at).Seconds()
		before, at = now, time.Now()
		if line := b.report.line(rate); line != said {
			said = line
			_ = notifier.Status(line) // the watchdog has told
		}
	}
}

// measureLag asks the channel how much of it waits for the bridge.
func (b *bridge) measureLag(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, statusEvery)
	defer cancel()
	_, all, err := b.Channel.Sinks(ctx)
	if err != nil {
		return
	}
	for _, one := range all {
		if one.Label == b.label() {
			b.report.lag.Store(one.Waiting)
		}
	}
}
