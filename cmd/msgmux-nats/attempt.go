// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/msgmux/msgmux/cmd/msgmux-nats/settings"
	"github.com/msgmux/msgmux/cmd/msgmux-nats/stream"
)

// bridge is one direction between a channel and a stream.
type bridge struct {
	settings.Settings
	direction string // out or in
	report    *report
	log       *slog.Logger
}

const (
	// firstPause and longestPause are between two attempts of which the first came to nothing; it doubles.
	firstPause   = 50 * time.Millisecond
	longestPause = 3 * time.Second
	// confirmFor is how long what a person has to mend must have been so before it is believed: a cluster that elects a leader may
	// deny a stream that it has, and a connection that was just killed is still in the channel for a moment.
	confirmFor = 4 * time.Second
)

// run makes attempts until ctx ends, which is no error, or something is wrong that does not pass.
func (b *bridge) run(ctx context.Context, attempt func(context.Context) error) error {
	pause := firstPause
	var wrong int // the status that the last attempts have ended with, and since when
	var since time.Time
	for {
		moved := b.report.moved()
		err := attempt(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if b.report.moved() != moved || b.report.joinedFor() > confirmFor {
			pause, wrong = firstPause, 0 // it went well: what is wrong now is not what was wrong before
		}
		status, passes := statusOf(err)
		switch {
		case passes:
			wrong = 0
		case status != wrong:
			wrong, since = status, time.Now()
		case time.Since(since) > confirmFor:
			return err
		}
		b.report.beginAgain(err)
		// The first time it may be a restart that nobody needs to know of.
		level := slog.LevelDebug
		if pause > firstPause {
			level = slog.LevelInfo
		}
		b.log.Log(ctx, level, "begins again", slog.Any("error", err), slog.Duration("after", pause))
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
		pause = min(2*pause, longestPause)
	}
}

// link connects to the servers and looks at the stream.
func (b *bridge) link(ctx context.Context) (*stream.Link, stream.State, error) {
	defer b.report.work()()
	link, err := stream.Dial(ctx, stream.Config{
		Servers: b.Servers, Stream: b.Stream, Domain: b.Domain, Name: "msgmux-nats " + b.direction + " " + b.Writer,
		Credentials: b.Credentials, CA: b.CA, Cert: b.Cert, Key: b.Key,
	})
	if err != nil {
		return nil, stream.State{}, err
	}
	state, err := link.State(ctx)
	if err != nil {
		link.Close()
		return nil, stream.State{}, err
	}
	return link, state, nil
}

// label is the bridge's name in the channel.
func (b *bridge) label() string { return "nats-" + b.Name }
