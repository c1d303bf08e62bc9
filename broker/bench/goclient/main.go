// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"

	"github.com/msgmux/msgmux"
	"github.com/msgmux/msgmux/broker/bench/meter"
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
	channel, err := msgmux.Locate("", false, c.Dir)
	if err != nil {
		return err
	}
	if c.Role == "source" {
		source, err := channel.Dial(ctx)
		if err != nil {
			return err
		}
		payload := make([]byte, c.Size)
		emit := func(n int) error {
			for range n {
				c.Stamp(payload)
				if err := source.Send(ctx, payload); err != nil {
					return err
				}
			}
			return nil
		}
		return c.Source(16, emit, nil)
	}
	sink, err := channel.Subscribe(ctx, msgmux.SinkOptions{})
	if err != nil {
		return err
	}
	c.Ready()
	return sink.Each(ctx, func(message []byte) error {
		c.Take(message)
		return nil
	})
}
