// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"time"

	"github.com/msgmux/msgmux/internal/bench/meter"
)

// busyWorkers is the part of their time that the workers of a share work, and how long they wait for a message.
func (b *bench) busyWorkers(a *adapter, workers int) (part float64, wait time.Duration, s *State, err error) {
	was := b.steady
	b.steady = true // a flood to warm up would be seconds of work
	defer func() { b.steady = was }()
	s, err = b.state("share", a, workers, 0, func(c *cell, s *State) error {
		worked := func() uint64 { return c.sum(func(t *meter.Tally) *uint64 { return &t.Began }) }
		waited := func() uint64 { return c.sum(func(t *meter.Tally) *uint64 { return &t.Ended }) }
		c.board.SetPhase(meter.Run)
		time.Sleep(500 * time.Millisecond)
		n, work, idle, cpu0, all0, t0 := c.received(), worked(), waited(), c.cpu(), busy(), time.Now()
		time.Sleep(b.length(5 * time.Second))
		n, work, idle = c.received()-n, worked()-work, waited()-idle
		s.OtherLoad = otherLoad(busy()-all0, c.cpu().minus(cpu0).all(), time.Since(t0))
		c.board.SetPhase(meter.Stop)
		if n == 0 {
			return c.failed("the workers got nothing")
		}
		part, wait = ratio(float64(work), float64(work+idle)), time.Duration(idle/n)
		return nil
	})
	return part, wait, s, err
}

func (b *bench) cmdShare(chosen []*adapter) error {
	head := "| adapter | workers | busy | waits for a message | other load |\n|---|--:|--:|--:|--:|\n"
	return b.each(chosen, head, b.sinkList(1, 4), func(a *adapter, workers int) (string, error) {
		var all []float64
		line := ""
		for range max(b.n, 1) {
			busy, wait, s, err := b.busyWorkers(a, workers)
			if err != nil {
				return "", err
			}
			all = append(all, busy)
			line = fmt.Sprintf("%s | %.0f%% |", wait.Round(time.Microsecond), s.OtherLoad)
		}
		return fmt.Sprintf("| %s | %d | %.3f | %s", a.name, workers, quartilesOf(all).Median, line), nil
	})
}
