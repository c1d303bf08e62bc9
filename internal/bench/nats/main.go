// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"

	"github.com/msgmux/msgmux/internal/bench/meter"
	"github.com/nats-io/nats.go"
)

func main() {
	if err := serve(); err != nil {
		fmt.Fprintln(os.Stderr, "nats:", err)
		os.Exit(1)
	}
	select {} // the driver reads the CPU clock, and kills
}

func serve() error {
	c, err := meter.Open()
	if err != nil {
		return err
	}
	conn, err := nats.Connect(nats.DefaultURL, nats.NoReconnect(), nats.ClosedHandler(func(*nats.Conn) { c.HungUp() }))
	if err != nil {
		return fmt.Errorf("cannot connect: %w", err)
	}
	if c.Role == "source" {
		payload := make([]byte, c.Size)
		emit := func(n int) error {
			for range n {
				c.Stamp(payload)
				if err := conn.Publish("bench", payload); err != nil {
					return fmt.Errorf("cannot publish: %w", err)
				}
			}
			if c.Rate > 0 { // in a flood the library's own flusher does it
				return conn.Flush()
			}
			return nil
		}
		return c.Source(16, emit, conn.Flush)
	}
	if _, err := conn.Subscribe("bench", func(m *nats.Msg) { c.Take(m.Data) }); err != nil {
		return fmt.Errorf("cannot subscribe: %w", err)
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("cannot subscribe: %w", err)
	}
	c.Ready()
	return nil
}
