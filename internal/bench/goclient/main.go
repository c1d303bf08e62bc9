// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"

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
		source, err := channel.Dial(ctx, msgmux.SourceOptions{})
		if err != nil {
			return err
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
	sink, err := channel.Subscribe(ctx, msgmux.SinkOptions{})
	if err != nil {
		return err
	}
	c.Ready()
	for message, err := range sink.Messages(ctx) {
		if err != nil {
			return err
		}
		c.Take(message.Payload)
	}
	return nil
}
