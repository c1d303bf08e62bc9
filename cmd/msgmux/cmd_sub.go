// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	msgmux "github.com/msgmux/msgmux/client"
)

// subOptions are the flags of sub.
type subOptions struct {
	count         uint64
	counted       bool // --count was given
	timeout, idle span
	output        string
	template      string
	time          bool
	forms         []string // flags that say how a message is printed, of those that were given
	trim          bool
	match         string
	users, units  []string
	strict        bool
	reconnect     bool
	quiet         bool
	label         string
	share         string
	start         string
	last          uint64
	tap           bool
	patience      patience
	keep          keep
	replace       bool
	command       string
	batch         uint32
}

// The words that --start knows.
const (
	startNow    = "now"
	startOldest = "oldest"
)

func subCommand(where *location) *cobra.Command {
	o := subOptions{}
	cmd := &cobra.Command{
		Use:   "sub",
		Short: "print every message that passes",
		Long: `Become a sink of the channel and print every message.

On a terminal, bytes that would do something to it are shown as \xNN, except
with -o raw. Into a pipe or a file every byte goes as it came. What -o json, hex
and frames write, pub -i reads again byte by byte; msgmux-formats(5) describes
them. -o json has a line of its own where messages are missing.

A template, -f, may have \n, \t, \r, \0, \\, \xNN, and

` + explainVerbs() + `
A - stands for what is not known. -o json has all of it. What sub finds out by
itself is a guess, made from /proc while the sender is still there: whose number
a process has, or its name, may have changed since.

--match, --from-uid and --from-unit leave messages out of the output, not out of
the channel: this sink takes them like any other, but --count, --timeout and
--idle do not see them. A message must pass each of these flags that is given.

With --keep the place of the sink stays when sub ends, whether it was stopped or
killed: the next run with the same --label goes on behind the last message that
was written. With --exec each message is the command's standard input, byte for byte
(of several at once: lines, or as -o and -f say). A message is done when the command has ended well; when
it has not, sub ends, and the message stays.

SIGINT and SIGTERM end the sink in order: what it has already got is printed.
With --exec the command that runs is waited for, and no other begins: the rest
is not done, and the next run gets it if the place is kept, or another sink of
the share. The exit status is 0 then, or 130 and 143 if --count asked for more
messages than came. SIGUSR1 prints the counts. When the broker hangs up, because the sink
was dropped or the channel stopped, the exit status is 3, unless --reconnect has
it look for a channel again.`,
		Example: `  msgmux sub
  msgmux sub -C 1 -W 5s
  msgmux sub -n 10
  msgmux sub --trim --match 'error|panic' -f '%t %p %C: %m\n'
  msgmux sub --from-unit nginx.service --from-uid root --time
  msgmux sub -o json --tap | jq .text
  msgmux sub -o frames >recorded
  msgmux sub --keep 1h --label db >>db.log
  msgmux sub --keep 1h --label mail --exec 'mail -s alarm root'
  msgmux sub --share work --keep 1h --batch 10 --exec ./work
  msgmux sub -o nul --label archive --patience forever | xargs -0 -n 100 store`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.counted = cmd.Flags().Changed("count")
			for _, flag := range []string{"output", "format", "time"} {
				if cmd.Flags().Changed(flag) {
					o.forms = append(o.forms, flag)
				}
			}
			return o.run(where)
		},
	}
	flags := cmd.Flags()
	flags.Uint64VarP(&o.count, "count", "C", 0, "end after `N` messages; 0: become a sink and leave at once")
	flags.VarP(&o.timeout, "timeout", "W", "end after this time; exit status 4 if nothing came, or less than --count")
	flags.Var(&o.idle, "idle", "end when nothing came for this time; exit status as with --timeout")
	flags.StringVarP(&o.output, "output", "o", "line", "`FORMAT` of a message: "+orList(formatNames()))
	flags.StringVarP(&o.template, "format", "f", "", "`TEMPLATE` of a message, instead of --output")
	flags.BoolVar(&o.time, "time", false, "begin each line with the time; as -f '%t %m\\n'")
	flags.BoolVar(&o.trim, "trim", false, "print nothing of the newlines and NULs that a message ends with")
	flags.StringVar(&o.match, "match", "", "print only messages that the regular expression `REGEX` matches")
	flags.StringArrayVar(&o.users, "from-uid", nil, "print only messages that `USER` has sent, a name or number; may be repeated")
	flags.StringArrayVar(&o.units, "from-unit", nil, "print only messages that came from `UNIT`, as far as sub can find out; may be repeated")
	flags.BoolVar(&o.tap, "tap", false, "only look on: never hold up the channel")
	flags.StringVar(&o.label, "label", "", "`NAME` of the sink in the status")
	flags.Var(&o.patience, "patience", "how long the channel waits for this sink, or forever; default: the broker's")
	flags.StringVar(&o.share, "share", "", "divide the messages with the sinks of the same `NAME` and user")
	flags.Var(&o.keep, "keep", "keep the place of this sink for so long, or forever, when it has gone; needs --label or --share")
	flags.BoolVar(&o.replace, "replace", false, "with --keep: take the place of a sub that still has it")
	flags.StringVar(&o.command, "exec", "", "run `COMMAND` by sh for each message, on its standard input, instead of printing it")
	flags.Uint32Var(&o.batch, "batch", 0, "with --exec: up to `N` messages for each run; with --share and --keep: N at once; 0: one, or as many as go")
	flags.StringVar(&o.start, "start", startNow, "`WHERE` to begin: now, with what no sink has had yet; oldest, with the oldest message kept; or the number of a message")
	flags.Uint64VarP(&o.last, "last", "n", 0, "begin with the last `N` messages, if they are kept")
	flags.BoolVar(&o.strict, "strict", false, "say when this sink has lost messages; exit status 7 in the end")
	flags.BoolVar(&o.reconnect, "reconnect", false, "become a sink again, as a new one, when the broker has hung up; wait for one while there is none")
	flags.BoolVarP(&o.quiet, "quiet", "q", false, "say nothing but errors")
	complete(cmd, "output", formatNames()...)
	completeWith(cmd, "from-uid", completeUsers)
	completeWith(cmd, "from-unit", completeServices(where))
	complete(cmd, "start", startNow, startOldest)
	complete(cmd, "patience", patienceExamples...)
	completeLive(where, cmd, "share", sharesOf)
	return cmd
}

// The reasons for which sub ends by itself.
var (
	errCounted = errors.New("all messages that were asked for have come")
	errTimeout = errors.New("timed out")
	errIdle    = errors.New("nothing came any more")
)

// stuckAfter is how long an end may take in all: leaving, and printing what has come.
const stuckAfter = 5 * time.Second

// run checks the flags, becomes a sink, prints, and leaves.
func (o *subOptions) run(where *location) error {
	format, err := o.form()
	if err != nil {
		return err
	}
	filter, err := newFilter(o.match, o.users, o.units)
	if err != nil {
		return err
	}
	if err := o.checkKept(); err != nil {
		return err
	}
	if format.binary && o.command == "" && isTerminal(os.Stdout) {
		return usagef("-o %s is not for a terminal: redirect it into a file or a pipe", o.output)
	}
	start, err := o.startAt()
	if err != nil {
		return err
	}
	channel, err := where.locate()
	if err != nil {
		return err
	}
	ctx, cancel := untilStopped(context.Background())
	defer cancel(nil)
	if o.timeout > 0 {
		defer time.AfterFunc(time.Duration(o.timeout), func() { cancel(errTimeout) }).Stop()
	}
	// Without this a reader who goes away (head) would kill us before we have left the channel. What is ignored stays so in the
	// commands of --exec (execve(2)), which then write to nobody for ever; what is caught does not.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)

	s := &subscriber{
		ctx: ctx, cancel: cancel, channel: channel, reconnect: o.reconnect, silent: o.quiet, strict: o.strict, gapLines: o.output == "json",
		idle: time.Duration(o.idle), filter: filter, trim: o.trim, print: printer{out: os.Stdout, format: format, visible: o.command == "" && isTerminal(os.Stdout)},
		acks: o.acknowledges(),
	}
	if o.command != "" {
		s.exec = &execution{o.command, max(1, int(o.batch))}
	}
	if o.counted {
		s.most = &o.count
	}
	options := msgmux.SinkOptions{
		Label: o.label, Patience: o.patience.value, Share: o.share, Tap: o.tap, Reconnect: o.reconnect, OnGap: s.gap,
		Start: start, Keep: time.Duration(o.keep), Replace: o.replace, Ack: o.acknowledges(),
		Origin: format.origin || filter.origin(),
	}
	if o.share != "" && o.acknowledges() {
		options.Batch = int(o.batch)
	}
	err = s.subscribe(options)
	if err != nil {
		if context.Cause(ctx) == nil {
			return err
		}
		return o.end(s, context.Cause(ctx))
	}
	defer s.countsOnSignal()()
	// Ended from outside we may stand in a write that nobody reads.
	context.AfterFunc(ctx, func() {
		if s.exec != nil {
			return // the command has the time that it takes
		}
		time.AfterFunc(stuckAfter, func() {
			say("cannot end in order: nobody reads the output")
			os.Exit(report(nil, o.end(s, context.Cause(ctx))))
		})
	})
	cause := s.receive()
	cause = s.leave(cause)
	return o.end(s, cause)
}

// acknowledges says whether the sink says what is done.
func (o *subOptions) acknowledges() bool { return o.keep > 0 || o.command != "" }

// checkKept checks the flags about what is kept, and about commands.
func (o *subOptions) checkKept() error {
	switch {
	case o.keep > 0 && o.label == "" && o.share == "":
		return usagef("--keep needs --label or --share: the place is kept under that name")
	case o.replace && o.keep == 0:
		return usagef("--replace goes with --keep")
	case o.batch > 0 && !o.acknowledges():
		return usagef("--batch goes with --exec, or with --share and --keep")
	case o.tap && o.acknowledges():
		return usagef("--tap does not go with --keep and --exec: nothing waits for a tap")
	}
	return nil
}

// form is how a message is printed.
func (o *subOptions) form() (format, error) {
	switch {
	case len(o.forms) > 1:
		return format{}, usagef("--%s exclude each other", strings.Join(o.forms, " and --"))
	case o.time:
		o.template = `%t %m\n`
	case o.command != "" && o.batch <= 1 && len(o.forms) == 0:
		return formats["raw"], nil
	case !slices.Contains(o.forms, "format"):
		if form, ok := formats[o.output]; ok {
			return form, nil
		}
		return format{}, usagef("--output %q: %s", o.output, orList(formatNames()))
	}
	form, err := parseTemplate(o.template)
	if err != nil {
		return form, usagef("--format %q: %w", o.template, err)
	}
	return form, nil
}

// startAt is where the sink begins.
func (o *subOptions) startAt() (msgmux.Start, error) {
	switch {
	case o.last > 0 && o.start != startNow:
		return msgmux.Start{}, usagef("--last and --start exclude each other")
	case o.last > 0:
		return msgmux.Last(o.last), nil
	case o.start == startNow:
		return msgmux.Start{}, nil
	case o.start == startOldest:
		return msgmux.Oldest(), nil
	}
	seq, err := strconv.ParseUint(o.start, 10, 64)
	if err != nil {
		return msgmux.Start{}, usagef("--start %q: now, oldest, or the number of a message", o.start)
	}
	return msgmux.At(seq), nil
}

// end turns the reason for which the printing ended into the error of the command, and gives the summary.
func (o *subOptions) end(s *subscriber, cause error) error {
	count, lost := s.counts()
	enough := count > 0 && !o.counted || o.counted && count >= o.count
	if errors.Is(cause, syscall.EPIPE) {
		return nil // the reader has what it wanted
	}
	if !errors.Is(cause, errCounted) || lost > 0 {
		s.speak("%s", s.summary())
	}
	end, isStopped := errors.AsType[stopped](cause)
	switch {
	case o.strict && lost > 0:
		return exitError{exitGap, fmt.Errorf("%s lost", plural(lost, "message"))}
	case o.strict && s.broken.Load():
		return exitError{exitGap, errors.New("messages may be missing")}
	case errors.Is(cause, errCounted), isStopped && !o.counted, isStopped && enough:
		return nil
	case isStopped:
		return exitError{end.status(), fmt.Errorf("%w before all had come", end)}
	case errors.Is(cause, errTimeout), errors.Is(cause, errIdle):
		if enough {
			return nil
		}
		return exitError{exitTimeout, cause}
	case errors.Is(cause, msgmux.ErrHungUp):
		return exitError{exitNoBroker, fmt.Errorf("%w: this sink was dropped, or the channel was stopped", msgmux.ErrHungUp)}
	}
	return cause
}

// noArgs refuses arguments.
func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("no argument is expected, but there is %q", strings.Join(args, " "))
	}
	return nil
}
