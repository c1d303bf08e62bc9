// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/internal/bench/meter"
)

// A packet holds records of 4 bytes and a payload.
const (
	maxPacket    = 64 << 10
	recordHeader = 4
)

func main() {
	if err := serve(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "goclient:", err)
		os.Exit(1)
	}
	select {} // the driver reads the CPU clock, and kills
}

func serve(ctx context.Context) error {
	c, err := meter.Open()
	if err != nil {
		return err
	}
	channel := msgmux.Channel{RuntimeDir: c.Dir}
	if c.Role == "source" {
		options := msgmux.SourceOptions{Stage: slices.Contains(c.Words, "stage")}
		source, err := channel.Dial(ctx, options)
		if err != nil {
			return err
		}
		if options.Stage && !source.Stats().Stage {
			return errors.New("the source has no stage")
		}
		batch := source.Batch()
		lone := make([]byte, c.Size)
		emit := func(n int) error {
			if n == 1 {
				c.Stamp(lone)
				return source.Send(ctx, lone)
			}
			for range n {
				payload, err := batch.Make(ctx, int(c.Size))
				if err != nil {
					return err
				}
				c.Stamp(payload)
			}
			return batch.Flush(ctx)
		}
		// As many as fit a packet; what is paced goes out as it falls due.
		return c.Source(max(1, maxPacket/(int(c.Size)+recordHeader)), emit, nil)
	}
	options := msgmux.SinkOptions{Origin: slices.Contains(c.Words, "meta"), View: slices.Contains(c.Words, "view"),
		OwnProcessor: slices.Contains(c.Words, "alone")}
	if slices.Contains(c.Words, "kept") {
		options.Label, options.Keep = fmt.Sprint("kept-", os.Getpid()), time.Minute
	}
	sink, err := channel.Subscribe(ctx, options)
	if err != nil {
		return err
	}
	if options.View && !sink.Stats().View {
		return errors.New("the sink is not in view")
	}
	c.Ready()
	if slices.Contains(c.Words, "place") {
		for {
			err := sink.InPlace(ctx, func(p msgmux.Packet) error {
				for message := range p.Messages() {
					c.Take(message.Payload)
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
	}
	for message, err := range sink.Messages(ctx) {
		if err != nil {
			return err
		}
		c.Take(message.Payload)
	}
	return nil
}
