// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	msgmux "github.com/msgmux/msgmux/client"
)

// batchWithin is how long a batch for a command waits for more messages.
const batchWithin = 50 * time.Millisecond

// execution is a command that is run for each message, or for each so many.
type execution struct {
	command string // for sh(1)
	batch   int    // how many messages it gets at once at most
}

// receiveFor runs the command for what comes until there is a reason to end, and returns it. What the command has ended well with is
// done; a command that has not is the end, and what it was given stays with the channel.
func (s *subscriber) receiveFor(e *execution) error {
	var input bytes.Buffer
	out := s.print.out
	s.print.out = &input
	defer func() { s.print.out = out }()
	for {
		input.Reset()
		before := s.count.Load()
		done, err := s.collect(e.batch)
		if s.count.Load() > before {
			if failed := e.run(input.Bytes()); failed != nil {
				return failed
			}
		}
		if done > 0 {
			s.sink.Ack(done)
		}
		if err != nil {
			if cause := context.Cause(s.ctx); cause != nil {
				return cause
			}
			return err
		}
	}
}

// collect takes up to most messages, of which it waits for the first, and returns the number behind the last one.
func (s *subscriber) collect(most int) (done uint64, err error) {
	if done, err = s.takeNext(s.ctx); err != nil {
		return done, err
	}
	ctx, cancel := context.WithTimeout(s.ctx, batchWithin)
	defer cancel()
	for n := 1; n < most; n++ {
		next, err := s.takeNext(ctx)
		if done = max(done, next); err != nil && s.ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
			return done, nil
		} else if err != nil {
			return done, err
		}
	}
	return done, nil
}

// takeNext takes one message, and returns the number behind it.
func (s *subscriber) takeNext(ctx context.Context) (done uint64, err error) {
	m, err := s.sink.Receive(ctx)
	if err != nil {
		return 0, err
	}
	return m.Seq + 1, s.take(&m)
}

// run runs the command with input on its standard input, and waits for it.
func (e *execution) run(input []byte) error {
	command := exec.Command("/bin/sh", "-c", e.command)
	command.Stdin, command.Stdout, command.Stderr = bytes.NewReader(input), os.Stdout, os.Stderr
	err := command.Run()
	if ended, ok := errors.AsType[*exec.ExitError](err); ok {
		return fmt.Errorf("what the command was given is not done: %w", ended)
	}
	if err != nil {
		return fmt.Errorf("cannot run the command: %w", err)
	}
	return nil
}

// acknowledge says that a message was printed, if that is to be said.
func (s *subscriber) acknowledge(m *msgmux.Message) {
	if s.acks {
		s.sink.Ack(m.Seq + 1)
	}
}
