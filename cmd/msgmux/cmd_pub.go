// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	msgmux "github.com/msgmux/msgmux/client"
)

// pubOptions are the flags of pub.
type pubOptions struct {
	lines, null, frames, whole, empty bool
	input, file, listenAt             string
	chunk                             byteSize
	keepEmpty, nonblock               bool
	retry, quiet                      bool
	rate                              float64 // messages a second; 0: as many as go
	timeout                           span
	follow                            following
}

func pubCommand(where *location) *cobra.Command {
	var o pubOptions
	cmd := &cobra.Command{
		Use:   "pub [TEXT... | -l | -0 | -s | -i FORMAT | --chunk SIZE | --empty | --follow FILE] [-f FILE | --listen PATH]",
		Short: "send messages",
		Long: `Send messages: each TEXT is one, or what comes on standard input is taken apart.
Standard input that is not a terminal, with no TEXT and no flag, means -l.

What sub has written with -o FORMAT is read with -i FORMAT: json, hex and frames
give every message back byte by byte. msgmux-formats(5) describes them.

With --follow each line of a file is a message, also of what is written later,
and each is in the channel once, whenever pub is killed and started again: the
channel keeps its place in the file. Rotation by rename and by copying and
truncating is followed, also what was rotated meanwhile, however often: FILE.*
and FILE-*, in the order in which they were last written to, and those of the
same time as they were made. A renamed file is left when it has not grown for a
second or the next was renamed, too. What was compressed before it was read is
missing, and pub says so. A file is known by its first 1,024 bytes: logs that
all begin with the same cannot be told apart. A place that is not kept any more
is the beginning of the file, or with --end its end.

With --listen programs that can write to a stream socket only connect to PATH:
each connection is taken apart like standard input, by -l, -0, -i or --chunk,
and is a source of its own. Frames are what StatsD clients write to a stream: a
length in four bytes and the message. PATH may be a socket that systemd hands
over. To the channel, what comes this way is from pub.

While the channel takes no message, because no sink is connected or one has to
be waited for, pub waits, and says so after a second.

A message that is too large is left out and said so; the others are sent, and
the exit status is 6 in the end.`,
		Example: `  msgmux pub hello
  journalctl -f -o json | msgmux pub
  find . -print0 | msgmux pub -0
  msgmux pub -W 5s -s <report.json
  msgmux sub -o frames >recorded; msgmux pub --frames --rate 1000 <recorded
  msgmux pub --follow /var/log/nginx/access.log --label nginx
  msgmux pub --listen /run/statsd.stream --frames --retry
  msgmux sub -o frames | msgmux -c other pub --frames --retry`,
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(where, args) },
	}
	flags := cmd.Flags()
	flags.BoolVarP(&o.lines, "lines", "l", false, "each line of standard input is a message, without its newline; -i line")
	flags.BoolVarP(&o.null, "null", "0", false, "what NUL bytes separate on standard input are the messages; -i nul")
	flags.BoolVar(&o.frames, "frames", false, "each frame on standard input is a message; -i frames")
	flags.StringVarP(&o.input, "input", "i", "", "`FORMAT` of standard input: "+strings.Join(inputNames(), ", ")+", as sub -o writes it")
	flags.BoolVarP(&o.whole, "stdin", "s", false, "the whole of standard input is one message")
	flags.Var(&o.chunk, "chunk", "standard input in messages of `SIZE` bytes; K and M may follow the number")
	flags.StringVarP(&o.file, "file", "f", "", "read `FILE` instead of standard input; alone: its content is one message")
	flags.BoolVar(&o.empty, "empty", false, "send one empty message")
	flags.BoolVar(&o.keepEmpty, "keep-empty", false, "with -l and -0: what is empty is a message too")
	flags.Float64Var(&o.rate, "rate", 0, "at most `N` messages a second; 0: as many as go")
	flags.VarP(&o.timeout, "timeout", "W", "give up, with exit status 4, when a message has waited this long")
	flags.BoolVar(&o.nonblock, "nonblock", false, "do not wait: exit status 75 when the channel takes no message")
	flags.BoolVar(&o.retry, "retry", false, "wait for a broker while there is none; what it has taken and lost with its end is not sent again")
	flags.BoolVarP(&o.quiet, "quiet", "q", false, "say nothing but errors")
	flags.StringVar(&o.listenAt, "listen", "", "read what connections to the stream socket `PATH` write, instead of standard input")
	flags.StringVar(&o.follow.path, "follow", "", "each line of `FILE` is a message, also those to come, and each is sent once")
	flags.StringVar(&o.follow.label, "label", "", "with --follow: the `NAME` that its place is kept under")
	flags.Var(&o.follow.keep, "keep", "with --follow: how long its place is kept when pub has ended, or forever; default: 10m")
	flags.BoolVar(&o.follow.replace, "replace", false, "with --follow: take the place of a pub that has the same label")
	flags.BoolVar(&o.follow.end, "end", false, "with --follow: begin at the end of the file, if no place is kept")
	completeFiles(cmd, "follow")
	completeFiles(cmd, "listen")
	complete(cmd, "input", inputNames()...)
	completeFiles(cmd, "file")
	return cmd
}

// check checks the flags against each other, and settles how the input is taken apart.
func (o *pubOptions) check(args []string) error {
	chosen := 0
	for _, mode := range []struct {
		given bool
		input string
	}{{o.lines, "line"}, {o.null, "nul"}, {o.frames, "frames"}, {o.input != "", o.input}, {o.chunk > 0, ""}, {o.whole, ""}, {o.empty, ""}, {len(args) > 0, ""}, {o.follow.path != "", ""}} {
		if mode.given {
			o.input = mode.input
			chosen++
		}
	}
	switch {
	case chosen > 1, o.file != "" && (o.empty || len(args) > 0):
		return usagef("TEXT, -l, -0, -s, -i, --frames, --chunk, --follow and --empty exclude each other, and -f does not go with TEXT and --empty")
	case o.input != "" && inputs[o.input] == nil:
		return usagef("--input %q: %s", o.input, orList(inputNames()))
	case o.listenAt != "" && (o.file != "" || o.whole || o.empty || len(args) > 0 || o.follow.path != ""):
		return usagef("--listen goes with -l, -0, -i, --frames and --chunk, and with no other input")
	case o.listenAt != "" && (o.nonblock || o.timeout > 0):
		return usagef("--listen does not go with --nonblock and --timeout")
	case chosen == 0 && o.file == "" && o.listenAt == "" && isTerminal(os.Stdin):
		return usagef("nothing to send: give TEXT, or pipe something into standard input")
	case chosen == 0 && o.file == "":
		o.input = "line"
	case chosen == 0:
		o.whole = true
	}
	switch {
	case o.keepEmpty && o.input != "line" && o.input != "nul":
		return usagef("--keep-empty goes with -l and -0")
	case o.nonblock && o.timeout > 0:
		return usagef("--nonblock and --timeout exclude each other")
	case o.nonblock && o.retry:
		return usagef("--nonblock and --retry exclude each other")
	case !(o.rate >= 0 && o.rate <= 1e9):
		return usagef("--rate %v: 0 to 1000000000", o.rate)
	}
	return o.follow.check(o)
}

// run checks the flags and sends.
func (o *pubOptions) run(where *location, args []string) error {
	if err := o.check(args); err != nil {
		return err
	}
	channel, err := where.locate()
	if err != nil {
		return err
	}
	ctx, cancel := untilStopped(context.Background())
	defer cancel(nil)
	if o.listenAt != "" {
		return o.listen(ctx, channel)
	}
	// Before anything is read: who names a file that is not there, or a channel, should hear of it at once.
	var from io.Reader = os.Stdin
	name := "standard input"
	if o.file != "" && o.file != "-" {
		f, err := os.Open(o.file)
		if err != nil {
			return err // "open FILE: no such file or directory"
		}
		defer f.Close()
		from, name = f, visible(o.file)
	}
	p := &publisher{
		ctx: ctx, channel: channel, timeout: time.Duration(o.timeout), nonblock: o.nonblock, retry: o.retry, quiet: o.quiet, rate: o.rate,
	}
	if o.follow.path != "" {
		if err := p.dialFollowing(o.follow.options()); err != nil {
			return p.finish(err)
		}
		defer p.source.Close()
		return p.finish(o.follow.run(p))
	}
	defer p.endOnSignal()()
	stream := o.input != "" || o.chunk > 0
	if err := p.dial(stream); err != nil {
		return p.finish(err)
	}
	defer p.source.Close()
	if stream && !o.quiet {
		defer p.showProgress()()
	}
	err = o.take(p, args, input{flushing{from, p, name}, p.limit, o.keepEmpty})
	if !p.failed { // an input that cannot be read further does not take along what came before
		if failed := p.flush(); err == nil {
			err = failed
		}
	}
	return p.finish(err)
}

// take gives p one message after the other.
func (o *pubOptions) take(p *publisher, args []string, in input) error {
	switch {
	case o.empty:
		return p.send(nil, false)
	case o.input != "":
		return inputs[o.input](in, p.send)
	case o.chunk > 0:
		return splitChunks(in, int(o.chunk), p.send)
	case o.whole:
		message, err := io.ReadAll(io.LimitReader(in, int64(p.limit)+1))
		if err != nil {
			return err
		}
		return p.send(message, len(message) > p.limit)
	}
	for _, text := range args {
		if err := p.send([]byte(text), len(text) > p.limit); err != nil {
			return err
		}
	}
	return nil
}

// finish turns what feeding ended with into the error of the command, and says what was sent where that is not plain.
func (p *publisher) finish(err error) error {
	end, isEnd := errors.AsType[stopped](context.Cause(p.ctx))
	switch {
	case err == nil && p.tooLarge == 0:
		return nil
	case err == nil:
		p.summary()
		err = fmt.Errorf("cannot send %s: %w (the channel takes up to %s bytes)",
			plural(p.tooLarge, "message"), msgmux.ErrTooLarge, commas(uint64(p.limit)))
	case isEnd && errors.Is(err, context.Canceled):
		p.stop(end)
		return exitError{end.status(), nil}
	case errors.Is(err, context.DeadlineExceeded):
		p.summary()
		err = exitError{exitTimeout, fmt.Errorf("timed out: %s", p.reason())}
	case errors.Is(err, msgmux.ErrWouldBlock):
		p.summary()
		err = exitError{exitBlocked, fmt.Errorf("not sent: %s", p.reason())}
	case p.source != nil:
		p.summary()
	}
	return err
}
