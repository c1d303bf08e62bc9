// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/internal/wire"
)

// answerWithin is how long a command waits for the control socket's answer.
const answerWithin = 5 * time.Second

// listing is what a channel says of itself.
type listing struct {
	Status  wire.Status
	Sinks   []wire.Sink
	Senders []sender  // those that --senders asks for
	Readers []sinkEnd // and --readers

	holders string // who holds the socket of the sink that is waited for
	circle  string // one of these, if it sends to the channel as well
}

// worthALook is after how many seconds of waiting for a sink a status looks at its program. That takes longer than all else.
const worthALook = 1

// ratesAfter is how long a status waits for its rates where nobody has looked at the channel lately.
const ratesAfter = 30 * time.Millisecond

func statusCommand(where *location) *cobra.Command {
	var watching bool
	var with struct{ senders, readers bool }
	o := watchOptions{interval: span(time.Second)}
	cmd := &cobra.Command{
		Use:   "status",
		Short: "show the channel and its sinks",
		Long: `Show how the channel is, why its sources wait if they do, and every sink:
how far it is behind, how long it would still be waited for, what it has lost.
Sinks in trouble stand first. The rates are averages: of the last one or two
seconds under systemd, and elsewhere since somebody last looked at the channel;
if that was not in the last ten seconds, of 30 ms, which it waits. --json waits
for nothing, and says over how many seconds its rates are measured: 0, there are
none. --senders adds who is connected to the sockets for sources; a program that
names the socket with each message, as logger does, is not connected. --readers
adds which processes hold the sockets of sinks, and their units: also a child
that has inherited the socket of a program that has ended. Of sinks that are
connected, those of one user stand together. Only root sees others' processes.

With --watch it goes on doing so until it is interrupted: on a terminal as a
table with the rate and the lag of each sink over the last minutes, those in
trouble first and marked (! lagging, ? absent, * stalled), where q leaves and ?
explains the other keys; into a pipe as a line for the channel and one for each
sink, every interval.`,
		Example: `  msgmux status --watch
  msgmux status --watch --interval 10s | grep state=lagging
  msgmux status --watch --json | jq '.status.received'`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if watching && (with.senders || with.readers) {
				return usagef("--senders and --readers do not go with --watch")
			}
			if watching {
				return watchChannel(where, o)
			}
			for _, flag := range []string{"interval", "count"} {
				if cmd.Flags().Changed(flag) {
					return usagef("--%s goes with --watch", flag)
				}
			}
			return showStatus(where, o.json, with.senders, with.readers)
		},
	}
	cmd.Flags().BoolVar(&o.json, "json", false, "one JSON object: status and sinks; with --watch one a line")
	cmd.Flags().BoolVar(&with.senders, "senders", false, "with the users and processes that are connected as sources")
	cmd.Flags().BoolVar(&with.readers, "readers", false, "with the processes that hold the sockets of sinks, and their units")
	cmd.Flags().BoolVarP(&watching, "watch", "w", false, "go on until interrupted")
	cmd.Flags().Var(&o.interval, "interval", "with --watch: how often")
	cmd.Flags().UintVar(&o.count, "count", 0, "with --watch: end after `N` times; 0: never")
	return cmd
}

// showStatus prints how the channel is, once.
func showStatus(where *location, asJSON, withSenders, withReaders bool) error {
	if !asJSON {
		if err := awaitRates(where); err != nil {
			return err
		}
	}
	l, err := list(where)
	if err != nil {
		return err
	}
	if withSenders || withReaders {
		e, err := endsOf(l.Status.RuntimeDir, l.Sinks)
		if err != nil {
			return err
		}
		if withSenders {
			l.Senders = e.senders
		}
		if withReaders {
			l.Readers = e.readers
		}
	}
	now := time.Now()
	if asJSON {
		return printJSON(l.asJSON(now), true)
	}
	if b := l.Status.Sources; b.Blocked && b.Sink != "" && b.ForSeconds >= worthALook {
		if e, err := endsOf(l.Status.RuntimeDir, l.Sinks); err == nil {
			l.holders, l.circle = e.holders(b.Sink), e.circle(b.Sink)
		}
	}
	text := appendStatus(nil, l, now)
	if withSenders {
		text = appendSenders(append(text, '\n'), l.Senders)
	}
	if withReaders {
		text = appendReaders(append(text, '\n'), l.Readers)
	}
	if len(l.Sinks) > 0 {
		slices.SortFunc(l.Sinks, byTrouble(l.Status.Buffer))
		rate := func(s *wire.Sink) string { return perSecond(s.Rate, l.Status.RateSeconds) }
		text = sinkTable(sinkRateColumns, l.Sinks, now, rate).append(append(text, '\n'))
	}
	return printText(text)
}

// awaitRates has the channel know how fast its messages pass: from a look that is some time ago, and if there was none, from
// this one, which is a light one, and one a moment later.
func awaitRates(where *location) error {
	return where.ask(answerWithin, func(ctx context.Context, c msgmux.Channel) error {
		status, _, err := look(ctx, c, wire.OpStatus)
		if err == nil && status.RateSeconds == 0 {
			time.Sleep(ratesAfter)
		}
		return err
	})
}

// perSecond is a rate as a table has it. Over no time none is known.
func perSecond(rate, seconds float64) string {
	if seconds == 0 {
		return "-"
	}
	return commas(uint64(math.Round(rate)))
}

// list asks the channel for everything, and waits for the answer as long as answerWithin.
func list(where *location) (listing, error) { return listWithin(where, answerWithin) }

func listWithin(where *location, within time.Duration) (l listing, err error) {
	err = where.ask(within, func(ctx context.Context, c msgmux.Channel) error {
		l.Status, l.Sinks, err = look(ctx, c, wire.OpList)
		return err
	})
	return l, err
}

// ask has do ask the channel's control socket, within some time.
func (l *location) ask(within time.Duration, do func(context.Context, msgmux.Channel) error) error {
	channel, err := l.locate()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	err = do(ctx, channel)
	if errors.Is(err, context.DeadlineExceeded) {
		err = exitError{exitTimeout, fmt.Errorf("the broker in %s does not answer", channel.RuntimeDir)}
	}
	return err
}

// printText writes on standard output.
func printText(text []byte) error {
	_, err := os.Stdout.Write(text)
	return err
}

// appendStatus appends the channel's side of the status, a line for each question that people have.
func appendStatus(dst []byte, l listing, now time.Time) []byte {
	s := l.Status
	row := func(name, format string, args ...any) {
		dst = fmt.Appendf(dst, "%-9s "+format+"\n", append([]any{name}, args...)...)
	}
	where := visible(s.RuntimeDir)
	if s.Channel != "" {
		where = visible(s.Channel) + " in " + where
	}
	row("channel", "%s", where)
	row("broker", "pid %d, version %s, since %s (%s)", s.PID, visible(s.Version),
		time.Unix(s.SinceUnix, 0).Format(time.DateTime), roughly(now.Sub(time.Unix(s.SinceUnix, 0))))
	row("messages", "%s received, %s accepted, %s lost%s", commas(s.Received), commas(s.Accepted), commas(s.Lost), extras(s))
	row("ring", "%s; %s; %s", byteCount(s.Buffer), behind(l), starts(s))
	row("sources", "%s; %s a second", sources(s.Sources), perSecond(s.ReceivedRate, s.RateSeconds))
	if s.Sources.Blocked && s.Sources.Sink == "" {
		row("", "msgmux sub prints what comes, and msgmux-discard.service throws it away; doctor says how")
	}
	switch {
	case l.circle != "":
		row("", "its program %s sends to this channel too, so that it may wait for itself: have it log elsewhere", visible(l.circle))
	case l.holders != "":
		row("", "its socket is held by %s", l.holders)
	}
	if len(s.Sources.Sockets) > ownSockets || s.Sources.Blocked {
		for _, k := range s.Sources.Sockets {
			row("", "%s", sourceSocket(k))
		}
	}
	row("sinks", "%s", sinkCounts(s.Sinks))
	return dst
}

// extras are the counts that are usually zero.
func extras(s wire.Status) string {
	var text strings.Builder
	for _, reason := range slices.Sorted(maps.Keys(s.Refused)) {
		if n := s.Refused[reason]; n > 0 {
			fmt.Fprintf(&text, ", %s refused: %s", commas(n), visible(reason))
		}
	}
	for _, rare := range []struct {
		n    uint64
		what string
	}{{s.LeftOut, "left out"}, {s.Abandoned, "abandoned"}, {s.Unread, "unread in sockets that went"}, {s.Uncertain, "uncertain"}, {s.AsOwn, "with the broker's credentials"}, {s.Landed, "waiting for room"}} {
		if rare.n > 0 {
			fmt.Fprintf(&text, ", %s %s", commas(rare.n), rare.what)
		}
	}
	return text.String()
}

// behind says how much of the ring is needed. How much of it is in use says nothing: what all have had stays until there is
// need of its place.
func behind(l listing) string {
	far := furthest(l.Sinks)
	if far == nil {
		return "no sink is behind"
	}
	return fmt.Sprintf("furthest behind: %s, %s (%.0f%%)", visible(far.Label), byteCount(far.LagBytes), percent(far.LagBytes, l.Status.Buffer))
}

// starts says how often the broker was started on this ring.
func starts(s wire.Status) string {
	if s.Starts <= 1 {
		return "not restarted"
	}
	return fmt.Sprintf("%s since %s", plural(s.Starts-1, "restart"), time.Unix(s.RingSince, 0).Format(time.DateTime))
}

// sources says whether the sources wait, for what, and for how long.
func sources(s wire.Sources) string {
	if !s.Blocked {
		if s.BlockedSecs > 0 {
			return fmt.Sprintf("not blocked (in all %s so far)", roughly(seconds(s.BlockedSecs)))
		}
		return "not blocked"
	}
	return fmt.Sprintf("blocked for %s: %s", roughly(seconds(s.ForSeconds)), visible(s.Why))
}

// ownSockets is how many sockets for sources every channel has. One that has more, or where something waits, shows them.
const ownSockets = 2

// sourceSocket is such as "/run/msgmux/source: 512 messages wait, 1.2 MiB".
func sourceSocket(s wire.SourceSocket) string {
	text := visible(s.Path) + ": "
	if s.Number > 0 {
		text = fmt.Sprintf("%d %s", s.Number, text)
	}
	switch {
	case s.Blocked > 0:
		return text + fmt.Sprintf("%s blocked, %s wait", plural(s.Blocked, "connection"), byteCount(s.WaitingBytes))
	case s.Waiting == 0:
		return text + "nothing waits"
	case s.Kind == wire.KindQueue:
		return text + plural(s.Waiting, "message") + " wait"
	}
	return text + fmt.Sprintf("%s wait, %s", plural(s.Waiting, "message"), byteCount(s.WaitingBytes))
}

// sinkCounts is such as "3 (1 static, 2 dynamic; 1 lagging)".
func sinkCounts(c wire.SinkCounts) string {
	list := func(parts ...any) string {
		var texts []string
		for i := 0; i < len(parts); i += 2 {
			if n := parts[i].(int); n > 0 {
				texts = append(texts, fmt.Sprintf("%d %s", n, parts[i+1]))
			}
		}
		return strings.Join(texts, ", ")
	}
	kinds := list(c.Static, "static", c.Dynamic, "dynamic", c.Framed, "framed", c.Taps, "tap")
	states := list(c.Stalled, "stalled", c.Lagging, "lagging", c.Absent, "absent")
	switch {
	case c.Total == 0:
		return "none"
	case states != "":
		kinds += "; " + states
	}
	return fmt.Sprintf("%d (%s)", c.Total, kinds)
}

// seconds turns the control socket's seconds into a duration.
func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
