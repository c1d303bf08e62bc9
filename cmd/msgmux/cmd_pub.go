// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	msgmux "github.com/msgmux/msgmux/client"
)

// pubOptions are the flags of pub.
type pubOptions struct {
	lines, null, whole, empty bool
	keepEmpty, nonblock       bool
	file                      string
	timeout                   span
}

func pubCommand(where *location) *cobra.Command {
	var o pubOptions
	cmd := &cobra.Command{
		Use:   "pub [TEXT... | -l | -0 | -s | -f FILE | --empty]",
		Short: "send messages",
		Long: `Send messages: each TEXT is one, or what comes on standard input is taken apart.
Standard input that is not a terminal, with no TEXT and no flag, means -l.

While the channel takes no message, because no sink is connected or one has to
be waited for, pub waits, and says so after a second.

A message that is too large is left out and said so; the others are sent, and
the exit status is 6 in the end.`,
		Example: `  msgmux pub hello
  journalctl -f -o json | msgmux pub
  find . -print0 | msgmux pub -0
  msgmux pub -W 5s -s <report.json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.run(where, args, cmd.Flags().Changed("file"))
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&o.lines, "lines", "l", false, "each line of standard input is a message, without its newline")
	flags.BoolVarP(&o.null, "null", "0", false, "what NUL bytes separate on standard input are the messages")
	flags.BoolVarP(&o.whole, "stdin", "s", false, "the whole of standard input is one message")
	flags.StringVarP(&o.file, "file", "f", "", "the content of `FILE` is one message")
	flags.BoolVar(&o.empty, "empty", false, "send one empty message")
	flags.BoolVar(&o.keepEmpty, "keep-empty", false, "with -l and -0: what is empty is a message too")
	flags.VarP(&o.timeout, "timeout", "W", "give up, with exit status 4, when a message has waited this long")
	flags.BoolVar(&o.nonblock, "nonblock", false, "do not wait: exit status 75 when the channel takes no message")
	return cmd
}

// run checks the flags against each other and sends.
func (o *pubOptions) run(where *location, args []string, file bool) error {
	chosen := 0
	for _, given := range []bool{len(args) > 0, o.lines, o.null, o.whole, file, o.empty} {
		if given {
			chosen++
		}
	}
	switch {
	case chosen > 1:
		return usagef("TEXT, -l, -0, -s, -f and --empty exclude each other")
	case chosen == 0 && isTerminal(os.Stdin):
		return usagef("nothing to send: give TEXT, or pipe something into standard input")
	case chosen == 0:
		o.lines = true
	}
	if o.keepEmpty && !o.lines && !o.null {
		return usagef("--keep-empty goes with -l and -0")
	}
	if o.nonblock && o.timeout > 0 {
		return usagef("--nonblock and --timeout exclude each other")
	}
	channel, err := where.locate()
	if err != nil {
		return err
	}

	ctx, cancel := untilStopped(context.Background())
	defer cancel(nil)
	// Before anything is read: who names a file that is not there, or a channel, should hear of it at once.
	var input io.Reader = os.Stdin
	if file && o.file != "-" {
		f, err := os.Open(o.file)
		if err != nil {
			return err // "open FILE: no such file or directory"
		}
		defer f.Close()
		input = f
	}
	p := &publisher{ctx: ctx, channel: channel, timeout: time.Duration(o.timeout), nonblock: o.nonblock}
	defer p.endOnSignal()()
	if err := p.dial(o.lines || o.null); err != nil {
		return p.finish(err)
	}
	defer p.source.Close()
	if o.lines || o.null {
		defer p.showProgress()()
	}
	return p.finish(o.feed(p, args, input))
}

// feed gives p one message after the other, and has them sent.
func (o *pubOptions) feed(p *publisher, args []string, input io.Reader) error {
	if err := o.take(p, args, flushing{input, p}); err != nil {
		return err
	}
	return p.flush()
}

// take gives p one message after the other.
func (o *pubOptions) take(p *publisher, args []string, input io.Reader) error {
	switch {
	case o.empty:
		return p.send(nil, false)
	case o.lines:
		return split(input, '\n', p.limit, o.keepEmpty, p.send)
	case o.null:
		return split(input, 0, p.limit, o.keepEmpty, p.send)
	case o.whole || o.file != "":
		message, err := io.ReadAll(io.LimitReader(input, int64(p.limit)+1))
		if err != nil {
			return fmt.Errorf("cannot read the message: %w", err)
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
