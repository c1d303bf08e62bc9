// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"net"
	"time"

	"github.com/msgmux/msgmux/internal/bench/meter"
)

// tapSizes are around what a short message takes in the ring.
var tapSizes = []int{20, 100, 260, 1000}

// tapped is the rate at which messages are delivered, a second, in the middle of a flood, beside a tap that reads everything or nothing.
func (b *bench) tapped(a *adapter, sinks, size int, reads bool) (rate float64, err error) {
	was := b.size
	b.size = size
	defer func() { b.size = was }()
	_, err = b.state("tap", a, sinks, 0, func(c *cell, s *State) error {
		conn, err := net.Dial("unixpacket", c.dir+"/subscribe")
		if err != nil {
			return fmt.Errorf("cannot subscribe: %w", err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "msgmux/1\ntap=yes\n"); err != nil {
			return fmt.Errorf("cannot subscribe: %w", err)
		}
		packet := make([]byte, 128<<10)
		if n, err := conn.Read(packet); err != nil || string(packet[:min(n, 2)]) != "ok" {
			return fmt.Errorf("cannot subscribe: %w, %.100q", err, packet[:n])
		}
		if reads {
			go func() {
				for {
					if _, err := conn.Read(packet); err != nil {
						return
					}
				}
			}()
		}
		c.board.SetPhase(meter.Run)
		time.Sleep(time.Second) // the ring is full, and the hung one far behind
		n, t := c.received(), time.Now()
		time.Sleep(b.length(2 * time.Second))
		rate = float64(c.received()-n) / time.Since(t).Seconds()
		s.RateAfter = rate
		c.board.SetPhase(meter.Stop)
		return nil
	})
	return rate, err
}

func (b *bench) cmdTap(chosen []*adapter) error {
	head := "| adapter | sinks | size | deliveries/s, the tap reads | the tap hangs | ratio of each pair |\n|---|--:|--:|--:|--:|---|\n"
	fmt.Printf("%s\n\n%s", machine(), head)
	for _, a := range chosen {
		for _, sinks := range b.sinkList(1, 1000) {
			for _, size := range tapSizes {
				var rates [2][]float64
				ratios := ""
				for i := range 2 * max(b.n, 3) {
					reads := (i+i/2)%2 == 0 // which goes first changes
					rate, err := b.tapped(a, sinks, size, reads)
					if err != nil {
						return err
					}
					k := 1
					if reads {
						k = 0
					}
					rates[k] = append(rates[k], rate)
					if i%2 == 1 {
						ratios += fmt.Sprintf(" %.2f", ratio(rates[1][i/2], rates[0][i/2]))
					}
				}
				fmt.Printf("| %s | %d | %d | %s | %s |%s |\n", a.name, sinks, size, count(quartilesOf(rates[0]).Median), count(quartilesOf(rates[1]).Median), ratios)
			}
		}
	}
	return nil
}
