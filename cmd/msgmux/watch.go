// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
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
	lag           history // bytes, of the sink that is furthest behind
	trouble       error   // why the channel does not answer; nil if it does
	troubled      time.Time

	// What keys have changed.
	order    int // into orders
	scrolled int // sinks that stand above
	still    bool
	help     bool
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
	v.lag.add(0)
	if far := furthest(l.Sinks); far != nil {
		v.lag[len(v.lag)-1] = float64(far.LagBytes)
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

// orders are those that the sinks may stand in; s on the keyboard goes from one to the next.
var orders = []struct {
	name    string
	compare func(v *view, a, b *watched) int
}{
	{"trouble", func(v *view, a, b *watched) int { return byTrouble(v.status.Buffer)(a.Sink, b.Sink) }},
	{"name", func(*view, *watched, *watched) int { return 0 }},
	{"rate", func(_ *view, a, b *watched) int { return cmp.Compare(b.rate.last(), a.rate.last()) }},
	{"lag", func(_ *view, a, b *watched) int { return cmp.Compare(b.LagBytes, a.LagBytes) }},
	{"lost", func(_ *view, a, b *watched) int { return cmp.Compare(b.Lost, a.Lost) }},
}

// press does what a key asks for; true: to leave.
func (v *view) press(key string) (leave bool) {
	switch key {
	case "q", "Q":
		return true
	case "s":
		v.order = (v.order + 1) % len(orders)
	case "j", "down":
		v.scrolled = min(v.scrolled+1, max(len(v.sinks)-1, 0))
	case "k", "up":
		v.scrolled = max(v.scrolled-1, 0)
	case "page down":
		v.scrolled = min(v.scrolled+10, max(len(v.sinks)-1, 0))
	case "page up":
		v.scrolled = max(v.scrolled-10, 0)
	case "g", "home":
		v.scrolled = 0
	case " ":
		v.still = !v.still
	case "?", "h":
		v.help = !v.help
	}
	return false
}

// watchChannel shows the channel until it is interrupted: a screen on a terminal, and lines, or objects of JSON, on anything
// else. A channel that does not answer any more is waited for: brokers are restarted.
func watchChannel(where *location, o watchOptions) error {
	// SIGQUIT and SIGHUP too: neither may leave a terminal without its cursor.
	ctx, cancel := untilStopped(context.Background(), syscall.SIGQUIT, syscall.SIGHUP)
	defer cancel(nil)
	v := new(view)
	l, err := list(where)
	if err != nil {
		return err
	}
	v.take(l, time.Now())
	switch {
	case o.json:
		err = v.follow(ctx, where, o, nil)
	case isTerminal(os.Stdout) && os.Getenv("TERM") != "" && os.Getenv("TERM") != "dumb":
		var s *screen
		if s, err = openScreen(os.Stdout); err != nil {
			return err
		}
		defer s.close()
		err = v.follow(ctx, where, o, s)
	default:
		err = v.follow(ctx, where, o, nil)
	}
	if errors.Is(err, syscall.EPIPE) {
		return nil
	}
	return err
}

// follow shows the channel every interval, on a screen if there is one, and does what keys and signals ask for.
func (v *view) follow(ctx context.Context, where *location, o watchOptions, s *screen) error {
	show := func() error { return printText(appendLines(nil, v)) }
	caught, resumed := make(chan os.Signal, 4), make(chan os.Signal, 1)
	var keys <-chan string
	switch {
	case o.json:
		show = func() error { return printJSONLine(v) }
	case s != nil:
		signal.Notify(caught, syscall.SIGWINCH, syscall.SIGTSTP)
		signal.Notify(resumed, syscall.SIGCONT)
		defer signal.Stop(caught)
		defer signal.Stop(resumed)
		keys = s.keys()
		show = func() error { return s.show(v) }
		if err := show(); err != nil {
			return err
		}
	}
	tick := time.NewTicker(time.Duration(o.interval))
	defer tick.Stop()
	// Asked for elsewhere: a broker that does not answer must not keep keys and signals waiting.
	answers, asked := make(chan func(), 1), false
	look := func() {
		l, err := list(where)
		answers <- func() {
			if err != nil {
				v.fail(err, time.Now())
			} else {
				v.take(l, time.Now())
			}
		}
	}
	for n := uint(0); o.count == 0 || n < o.count; {
		var err error
		select {
		case <-ctx.Done():
			return interrupted(ctx)
		case key := <-keys:
			if v.press(key) {
				return nil
			}
		case c := <-caught:
			if c == syscall.SIGTSTP {
				err = s.suspend(resumed)
			}
		case <-resumed: // after a stop that nobody asked us for: the shell may have had the terminal
			err = s.take()
		case <-tick.C:
			switch {
			case v.still:
				n++
			case !asked:
				asked = true
				go look()
			}
			continue
		case enter := <-answers:
			n, asked = n+1, false
			enter()
		}
		if err = errors.Join(err, show()); err != nil {
			return err
		}
	}
	return nil
}

// interrupted is how a watch ends: to interrupt it is how one leaves, and any other signal is an end from outside.
func interrupted(ctx context.Context) error {
	if s, ok := errors.AsType[stopped](context.Cause(ctx)); ok && s.signal != syscall.SIGINT {
		return exitError{status: s.status()}
	}
	return nil
}

// printJSONLine writes what the channel answered as one line.
func printJSONLine(v *view) error {
	if v.trouble != nil {
		say("%v", v.trouble)
		return nil
	}
	return printJSON(listing{Status: v.status, Sinks: v.ordered()}.asJSON(v.at), false)
}

// ordered is the sinks in the chosen order, which begins with those in trouble, and by name where that is the same.
func (v *view) ordered() []wire.Sink {
	all := slices.SortedFunc(maps.Values(v.sinks), func(a, b *watched) int {
		return cmp.Or(orders[v.order].compare(v, a, b), cmp.Compare(a.Label, b.Label), cmp.Compare(a.ID, b.ID))
	})
	sinks := make([]wire.Sink, 0, len(all))
	for _, w := range all {
		sinks = append(sinks, w.Sink)
	}
	return sinks
}

// appendLines appends a line for the channel and one for each sink, of words as in key=value.
func appendLines(dst []byte, v *view) []byte {
	at := formatTime(v.at)
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
	dst = fmt.Appendf(dst, "%s channel in=%.0f/s out=%.0f/s lost=%.0f/s lag=%.0f%% blocked_by=%s blocked_for=%.1fs sinks=%d stalled=%d lagging=%d absent=%d\n",
		at, v.in.last(), v.out.last(), v.lost.last(), percent(uint64(v.lag.last()), s.Buffer), blocked, s.Sources.ForSeconds,
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
