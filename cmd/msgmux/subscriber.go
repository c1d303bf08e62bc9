// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/internal/wire"
)

const (
	leaveWithin = time.Second            // how long the broker may take to let a sink go
	lostWithin  = 500 * time.Millisecond // and to say what it lost
)

// subscriber is the sink of one run of sub.
type subscriber struct {
	ctx     context.Context // ends with the first signal or timeout, which is its cause
	cancel  context.CancelCauseFunc
	channel msgmux.Channel
	sink    *msgmux.Sink
	filter  filter
	trim    bool
	print   printer
	acks    bool       // it says of each message that it was printed
	exec    *execution // nil: messages are printed
	most    *uint64    // end after so many; nil is never

	reconnect, silent, strict bool
	gapLines                  bool          // what is missing is a line of the output, too
	idle                      time.Duration // 0 is never

	current     message
	senders     processes
	began       time.Time
	quiet       *time.Timer   // ends it when nothing was printed for the time of idle
	count, size atomic.Uint64 // messages printed, their bytes
	passedOver  atomic.Uint64 // messages that the filter has left out
	failed      error         // of a line about a gap
	broken      atomic.Bool   // there may be messages missing that nobody has counted
	lost        atomic.Uint64 // as the broker has said last, asked or not
}

// speak writes a line for people, unless they want none.
func (s *subscriber) speak(format string, args ...any) {
	if !s.silent {
		say(format, args...)
	}
}

// subscribe becomes a sink, and says so where that takes long. With --reconnect it waits for a broker.
func (s *subscriber) subscribe(options msgmux.SinkOptions) (err error) {
	s.began = time.Now()
	notice := time.AfterFunc(noticeAfter, func() { s.speak("waiting: the broker has not answered yet") })
	defer notice.Stop()
	for {
		s.sink, err = s.channel.Subscribe(s.ctx, options)
		if !s.reconnect || !errors.Is(err, msgmux.ErrNoBroker) {
			return err
		}
		if notice.Stop() {
			s.speak("waiting: no broker is running")
		}
		if err := sleep(s.ctx, retryAfter); err != nil {
			return err
		}
	}
}

// receive prints messages until there is a reason to end, and returns it.
func (s *subscriber) receive() error {
	if s.most != nil && *s.most == 0 {
		return errCounted
	}
	if s.idle > 0 {
		s.quiet = time.AfterFunc(s.idle, func() { s.cancel(errIdle) })
		defer s.quiet.Stop()
	}
	if s.exec != nil {
		return s.receiveFor(s.exec)
	}
	err := s.each(s.ctx, s.take)
	if cause := context.Cause(s.ctx); cause != nil && errors.Is(err, context.Canceled) {
		return cause
	}
	return err
}

// each calls f with every message until ctx is done or f returns an error, which it returns.
func (s *subscriber) each(ctx context.Context, f func(*msgmux.Message) error) error {
	for message, err := range s.sink.Messages(ctx) {
		if err == nil {
			err = f(message)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// take prints one message, if it is wanted; errCounted means that it was the last one.
func (s *subscriber) take(received *msgmux.Message) error {
	if s.failed != nil {
		return s.failed
	}
	m := &s.current
	*m = message{Message: *received, at: time.Now(), senders: &s.senders}
	if s.trim {
		m.Payload = bytes.TrimRight(m.Payload, "\n\x00")
	}
	if !s.filter.wants(m) {
		s.passedOver.Add(1)
		if s.exec == nil {
			s.acknowledge(received)
		}
		return nil
	}
	if s.quiet != nil {
		s.quiet.Reset(s.idle)
	}
	if err := s.print.message(m); err != nil {
		return err
	}
	if s.exec == nil {
		s.acknowledge(received)
	}
	s.size.Add(uint64(len(m.Payload)))
	if count := s.count.Add(1); s.most != nil && count >= *s.most {
		return errCounted
	}
	return nil
}

// gap says what is missing: to people if they have asked for it, and in the output where that has a form for it.
func (s *subscriber) gap(g msgmux.Gap) {
	if s.gapLines {
		s.failed = errors.Join(s.failed, s.print.gap(g))
	}
	if g.Anew {
		s.broken.Store(true)
	}
	switch {
	case g.Anew && s.reconnect:
		s.speak("a new sink: messages may be missing before number %d", g.Before)
	case !s.strict:
	case g.Anew:
		s.speak("the channel's memory was made anew: there may be messages missing before number %d", g.Before)
	default:
		s.speak("%s lost before number %d", plural(g.Lost, "message"), g.Before)
	}
}

// leave ends the sink. What the broker has handed to it already is nobody else's any more, so all of it is printed,
// unless enough was or nothing can be. Of a sink for commands the rest is not done, and stays the channel's: no other command begins.
// It returns the reason to end, which may have become a better one.
func (s *subscriber) leave(cause error) error {
	defer s.sink.Close()
	s.askLost()
	ctx, cancel := context.WithTimeout(context.Background(), leaveWithin)
	defer cancel()
	left := s.sink.Leave(ctx)
	if left != nil || s.exec != nil || errors.Is(cause, errCounted) || errors.Is(cause, syscall.EPIPE) {
		return cause
	}
	if _, isStopped := errors.AsType[stopped](cause); !isStopped && !errors.Is(cause, errTimeout) && !errors.Is(cause, errIdle) {
		return cause
	}
	// A broker that is late, or gone, sends nothing more; what is there comes at once.
	err := s.each(ctx, s.take)
	if errors.Is(err, io.EOF) || errors.Is(err, context.DeadlineExceeded) {
		return cause
	}
	return err
}

// askLost learns what this sink has lost: what the last packet told, and what was lost since then, if the broker answers.
func (s *subscriber) askLost() {
	s.lost.Store(max(s.lost.Load(), s.sink.Stats().Lost))
	ctx, cancel := context.WithTimeout(context.Background(), lostWithin)
	defer cancel()
	_, sinks, err := look(ctx, s.channel, wire.OpList)
	if err != nil {
		return
	}
	for _, sink := range sinks {
		if sink.ID == s.sink.ID() {
			s.lost.Store(max(s.lost.Load(), sink.Lost))
		}
	}
}

// countsOnSignal prints the counts at every SIGUSR1, until the returned function is called.
func (s *subscriber) countsOnSignal() (off func()) {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR1)
	end := make(chan struct{})
	go func() {
		for {
			select {
			case <-asked:
				s.askLost()
				say("%s", s.summary())
			case <-end:
				return
			}
		}
	}()
	return func() { signal.Stop(asked); close(end) }
}

func (s *subscriber) counts() (count, lost uint64) { return s.count.Load(), s.lost.Load() }

// summary says what has come.
func (s *subscriber) summary() string {
	count, lost := s.counts()
	text := fmt.Sprintf("%s received, %s, in %s", plural(count, "message"), byteCount(s.size.Load()), roughly(time.Since(s.began)))
	if over := s.passedOver.Load(); over > 0 {
		text += fmt.Sprintf("; %s passed over", commas(over))
	}
	if lost > 0 {
		text += fmt.Sprintf("; %s lost", commas(lost))
	}
	return text
}
