// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/msgmux/msgmux/internal/wire"
)

// watchOptions are the flags of status --watch.
type watchOptions struct {
	interval span
	count    uint // reports, 0: without end
	json     bool
}

// historyLength is how many intervals are remembered: as many as the widest spark line shows.
const historyLength = 120

// history is what one thing did in the last intervals: so many a second, oldest first.
type history []float64

func (h *history) add(v float64) {
	*h = append(*h, v)
	if len(*h) > historyLength {
		*h = slices.Delete(*h, 0, len(*h)-historyLength)
	}
}

// last is the newest value, 0 if there is none.
func (h history) last() float64 {
	if len(h) == 0 {
		return 0
	}
	return h[len(h)-1]
}

// watched is one sink, now and in the last intervals.
type watched struct {
	wire.Sink
	rate history // messages accepted a second
	lag  history // bytes
}

// view is the channel, now and in the last intervals.
type view struct {
	at            time.Time
	status        wire.Status
	sinks         map[uint64]*watched
	in, out, lost history
	trouble       error // why the channel does not answer; nil if it does
	troubled      time.Time
}

// take enters what the channel answered at that moment. The first answer has no rates.
func (v *view) take(l listing, at time.Time) {
	passed := at.Sub(v.at).Seconds()
	first := v.at.IsZero()
	// A count that is smaller than before is of another ring.
	rate := func(now, before uint64) float64 {
		if now < before || passed <= 0 {
			return 0
		}
		return float64(now-before) / passed
	}
	if !first {
		v.in.add(rate(l.Status.Received, v.status.Received))
		v.out.add(rate(l.Status.Accepted, v.status.Accepted))
		v.lost.add(rate(l.Status.Lost, v.status.Lost))
	}
	sinks := make(map[uint64]*watched, len(l.Sinks))
	for _, s := range l.Sinks {
		w := v.sinks[s.ID]
		if w == nil {
			w = new(watched)
		} else {
			w.rate.add(rate(s.Accepted, w.Accepted))
		}
		w.lag.add(float64(s.LagBytes))
		w.Sink = s
		sinks[s.ID] = w
	}
	v.at, v.status, v.sinks, v.trouble = at, l.Status, sinks, nil
}

// fail enters that the channel did not answer.
func (v *view) fail(err error, at time.Time) {
	if v.trouble == nil {
		v.troubled = at
	}
	v.trouble = err
}

// watchChannel shows the channel until it is interrupted: a screen on a terminal, and lines, or objects of JSON, on anything
// else. A channel that does not answer any more is waited for: brokers are restarted.
func watchChannel(where *location, o watchOptions) error {
	ctx, cancel := untilStopped(context.Background())
	defer cancel(nil)
	var v view
	l, err := list(where)
	if err != nil {
		return err
	}
	v.take(l, time.Now())
	var show func(*view) error
	var resized <-chan os.Signal // never, but on a screen
	switch {
	case o.json:
		show = func(v *view) error { return printJSONLine(v) }
	case isTerminal(os.Stdout) && os.Getenv("TERM") != "" && os.Getenv("TERM") != "dumb":
		s, err := openScreen(os.Stdout)
		if err != nil {
			return err
		}
		defer s.close()
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGWINCH)
		defer signal.Stop(c)
		resized = c
		show = s.show
		if err := show(&v); err != nil {
			return err
		}
	default:
		show = func(v *view) error { return printText(appendLines(nil, v)) }
	}
	tick := time.NewTicker(time.Duration(o.interval))
	defer tick.Stop()
	for n := uint(0); o.count == 0 || n < o.count; {
		select {
		case <-ctx.Done():
			// To interrupt is how one leaves.
			if s, ok := context.Cause(ctx).(stopped); ok && s.signal == syscall.SIGTERM { //nolint:errorlint // a cause is what it was made
				return exitError{status: s.status()}
			}
			return nil
		case <-resized:
		case <-tick.C:
			n++
			if l, err := list(where); err != nil {
				v.fail(err, time.Now())
			} else {
				v.take(l, time.Now())
			}
		}
		if err := show(&v); err != nil {
			if errors.Is(err, syscall.EPIPE) {
				return nil
			}
			return err
		}
	}
	return nil
}

// printJSONLine writes what the channel answered as one line.
func printJSONLine(v *view) error {
	if v.trouble != nil {
		say("%v", v.trouble)
		return nil
	}
	l := struct {
		Time string `json:"time"`
		listing
	}{v.at.Format(jsonTime), listing{Status: v.status, Sinks: v.ordered()}}
	text, err := json.Marshal(l)
	if err != nil {
		return err
	}
	return printText(append(text, '\n'))
}

// ordered is the sinks, those in trouble first, and by name among those.
func (v *view) ordered() []wire.Sink {
	sinks := make([]wire.Sink, 0, len(v.sinks))
	for _, w := range v.sinks {
		sinks = append(sinks, w.Sink)
	}
	slices.SortFunc(sinks, byTrouble(v.status.Buffer))
	return sinks
}

// appendLines appends a line for the channel and one for each sink, of words as in key=value.
func appendLines(dst []byte, v *view) []byte {
	at := v.at.UTC().Format("2006-01-02T15:04:05.000Z")
	if v.trouble != nil {
		say("%v", v.trouble)
		return dst
	}
	s := v.status
	blocked := "no"
	if s.Sources.Blocked {
		blocked = "none"
		if s.Sources.Sink != "" {
			blocked = visible(s.Sources.Sink)
		}
	}
	dst = fmt.Appendf(dst, "%s channel in=%.0f/s out=%.0f/s lost=%.0f/s used=%.0f%% blocked_by=%s blocked_for=%.1fs sinks=%d stalled=%d lagging=%d absent=%d\n",
		at, v.in.last(), v.out.last(), v.lost.last(), percent(s.Used, s.Buffer), blocked, s.Sources.ForSeconds,
		s.Sinks.Total, s.Sinks.Stalled, s.Sinks.Lagging, s.Sinks.Absent)
	for _, k := range v.ordered() {
		dst = fmt.Appendf(dst, "%s sink=%s state=%s rate=%.0f/s waiting=%d lag_bytes=%d left=%s accepted=%d lost=%d\n",
			at, visible(k.Label), visible(k.State), v.sinks[k.ID].rate.last(), k.Waiting, k.LagBytes, leftWord(k), k.Accepted, k.Lost)
	}
	return dst
}

func percent(part, whole uint64) float64 {
	if whole == 0 {
		return 0
	}
	return 100 * float64(part) / float64(whole)
}

// leftWord is how long the sink would still be waited for, in one word.
func leftWord(s wire.Sink) string {
	if s.PatienceLeft < 0 {
		return foreverWord
	}
	return fmt.Sprintf("%.1fs", s.PatienceLeft)
}
