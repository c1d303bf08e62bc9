// SPDX-License-Identifier: Apache-2.0

// Client uses a channel through the Go client as a program would that is to go on whatever happens to the channel: it
// sends numbered messages, a hundred a second, and receives them, until SIGTERM, and then prints a [Report] as JSON.
//
//	client FOLDER
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	msgmux "github.com/msgmux/msgmux/client"
)

// Report is what happened. That the channel is absent, or another one, is told on standard error, too, when it is seen.
type Report struct {
	Sent     uint64   // messages that Send took
	Absent   uint64   // times that Send said that there is no broker
	Received uint64   // messages
	Disorder uint64   // messages that came again, or after a later one
	Missing  uint64   // messages between two others that did not come
	Lost     uint64   // messages that the sink was told it has lost
	Anew     uint64   // times that the sink was told it has been connected again
	Errors   []string // every other error
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: client FOLDER")
		os.Exit(2)
	}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	r, err := run(ctx, msgmux.Channel{RuntimeDir: os.Args[1]})
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(r)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "client:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, channel msgmux.Channel) (Report, error) {
	var r Report
	sink, err := channel.Subscribe(ctx, msgmux.SinkOptions{Label: "client", Reconnect: true, OnGap: func(g msgmux.Gap) {
		r.Lost += g.Lost
		if g.Anew {
			r.Anew++
			fmt.Fprintln(os.Stderr, "anew")
		}
	}})
	if err != nil {
		return r, err
	}
	defer sink.Close()
	source, err := channel.Dial(ctx, msgmux.SourceOptions{})
	if err != nil {
		return r, err
	}
	defer source.Close()
	fmt.Fprintln(os.Stderr, "ready")

	var sent atomic.Uint64
	failures := make(chan error, 1)
	absent := make(chan uint64, 1)
	go func() { // the source; it ends before the sink does, so that all that was sent can come
		n := uint64(0)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			switch err := source.Send(ctx, fmt.Appendf(nil, "%d", sent.Load()+1)); {
			case err == nil:
				sent.Add(1)
			case errors.Is(err, msgmux.ErrNoBroker):
				if n++; n == 1 {
					fmt.Fprintln(os.Stderr, "absent")
				}
			case ctx.Err() == nil:
				select {
				case failures <- err:
				default:
				}
			}
			<-tick.C
		}
		absent <- n
	}()

	last := uint64(0)
	receive := func(ctx context.Context) error {
		for m, err := range sink.Messages(ctx) {
			if err != nil {
				return err
			}
			var number uint64
			if _, err := fmt.Sscan(string(m.Payload), &number); err != nil || number <= last {
				r.Disorder++
				continue
			}
			r.Missing += number - last - 1
			r.Received++
			last = number
		}
		return nil
	}
	if err := receive(ctx); !errors.Is(err, context.Canceled) {
		r.Errors = append(r.Errors, "receive: "+err.Error())
	}
	r.Absent = <-absent
	r.Sent = sent.Load()
	select {
	case err := <-failures:
		r.Errors = append(r.Errors, "send: "+err.Error())
	default:
	}
	// What is under way comes within this.
	end, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := receive(end); !errors.Is(err, context.DeadlineExceeded) {
		r.Errors = append(r.Errors, "receive: "+err.Error())
	}
	return r, nil
}
