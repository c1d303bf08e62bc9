// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/msgmux/msgmux/internal/bench/meter"
	"golang.org/x/sys/unix"
)

// State is a broker looked at in one state, and one line of the results file.
type State struct {
	Result
	BrokerPercent float64 `json:"broker_percent_of_core,omitempty"` // idle
	SinksPercent  float64 `json:"sinks_percent_of_core,omitempty"`  // idle

	AtRest Memory `json:"memory_at_rest"`    // memory: before the load
	Peak   Memory `json:"memory_under_load"` // memory: the highest of many looks

	RateBefore  float64 `json:"rate_before,omitempty"`  // stopped: messages/s at each of the others before
	RateAfter   float64 `json:"rate_after,omitempty"`   // and at the end
	OthersLost  uint64  `json:"others_lost"`            // stopped: gaps at the others
	StoppedLost uint64  `json:"stopped_lost,omitempty"` // gaps at the one
}

// state brings a cell up under the lock, lets do look at it, and saves what it
// filled in.
func (b *bench) state(kind string, a *adapter, sinks int, rate int, do func(*cell, *State) error) (*State, error) {
	if a.broker == nil {
		return nil, fmt.Errorf("%s has no broker", a.name)
	}
	release, err := b.lock()
	if err != nil {
		return nil, err
	}
	defer release()
	c := b.newCell(a, sinks, b.qlens[0])
	s := &State{Result: *c.newResult(kind)}
	defer c.down()
	if err := c.up(rate); err != nil {
		return s, err
	}
	if err := do(c, s); err != nil {
		return s, err
	}
	if p := c.dead(); p != nil {
		return s, c.failed("a process ended")
	}
	b.save(s)
	return s, nil
}

// each prints a table with a row for each adapter and number of sinks.
func (b *bench) each(chosen []*adapter, head string, sinks []int, row func(*adapter, int) (string, error)) error {
	fmt.Printf("%s\n\n%s", machine(), head)
	for _, a := range chosen {
		for _, n := range sinks {
			line, err := row(a, n)
			if err != nil {
				return err
			}
			fmt.Println(line)
		}
	}
	return nil
}

// idle is the CPU that a broker uses while nothing is sent.
func (b *bench) idle(a *adapter, sinks int) (*State, error) {
	return b.state("idle", a, sinks, 1, func(c *cell, s *State) error {
		time.Sleep(time.Second) // what the start left to do is not idling
		cpu0, all0, t0 := c.cpu(), busy(), time.Now()
		time.Sleep(b.length(10 * time.Second))
		cpu, d := c.cpu().minus(cpu0), time.Since(t0)
		s.BrokerPercent = 100 * float64(cpu.broker) / float64(d)
		s.SinksPercent = 100 * float64(cpu.sinks) / float64(d)
		s.OtherLoad = otherLoad(busy()-all0, cpu.all(), d)
		s.Memory = c.broker.memory()
		return nil
	})
}

func (b *bench) cmdIdle(chosen []*adapter) error {
	head := "| adapter | sinks | broker, % of a core | sinks, % | broker Pss MiB | other load |\n|---|--:|--:|--:|--:|--:|\n"
	return b.each(chosen, head, b.sinkList(4, 4000), func(a *adapter, sinks int) (string, error) {
		s, err := b.idle(a, sinks)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("| %s | %d | %.3f | %.3f | %.1f | %.0f%% |", a.name, sinks, s.BrokerPercent, s.SinksPercent, s.Memory.Pss, s.OtherLoad), nil
	})
}

// scaling is a number of runs, in each of which one process serves all sinks,
// looked at in the middle of the flood.
func (b *bench) scaling(a *adapter, sinks int) ([]*Result, error) {
	n := b.n
	if n == 0 {
		n = 3
	}
	var rs []*Result
	for range n {
		c := b.newCell(a, sinks, b.qlens[0])
		if b.procs == 0 && a.many {
			c.procs = 1
		}
		c.steady = true
		r, err := b.locked(c)
		if err != nil {
			return rs, err
		}
		rs = append(rs, r)
	}
	return rs, nil
}

// brokerCPU is the broker's part of the CPU time for a delivery.
func brokerCPU(r *Result) float64 { return r.CPUBroker }

func (b *bench) cmdScaling(chosen []*adapter) error {
	base := map[*adapter]float64{}
	head := "| adapter | sinks | broker CPU us/delivery | to the first row | CPU us/delivery | deliveries/s | lost |\n|---|--:|--:|--:|--:|--:|--:|\n"
	return b.each(chosen, head, b.sinkList(16, 64, 256, 1000), func(a *adapter, sinks int) (string, error) {
		rs, err := b.scaling(a, sinks)
		if err != nil {
			return "", err
		}
		cpu := median(rs, brokerCPU)
		if base[a] == 0 {
			base[a] = cpu
		}
		return fmt.Sprintf("| %s | %d | %s | %.2f | %s | %s | %s |", a.name, sinks, us(cpu), ratio(cpu, base[a]),
			us(median(rs, func(r *Result) float64 { return r.CPU })),
			count(median(rs, func(r *Result) float64 { return r.DeliveredRate })),
			count(median(rs, func(r *Result) float64 { return float64(r.Lost) }))), nil
	})
}

// memory looks at the broker's memory at rest, every 20 ms under a flood, and
// when all is delivered.
func (b *bench) memory(a *adapter, sinks int) (*State, error) {
	return b.state("memory", a, sinks, 0, func(c *cell, s *State) error {
		s.AtRest = c.broker.memory()
		c.board.SetPhase(meter.Run)
		for end := time.Now().Add(b.length(time.Second)); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			if m := c.broker.memory(); m.Pss > s.Peak.Pss {
				s.Peak = m
			}
		}
		c.board.SetPhase(meter.Stop)
		settle(math.MaxUint64, 200*time.Millisecond, 10*time.Second, c.received)
		s.Memory = c.broker.memory()
		return nil
	})
}

func (b *bench) cmdMemory(chosen []*adapter) error {
	head := "| adapter | sinks | at rest: Pss = memfds + rest, MiB | highest under load | afterwards | Rss afterwards |\n|---|--:|--:|--:|--:|--:|\n"
	return b.each(chosen, head, b.sinkList(4), func(a *adapter, sinks int) (string, error) {
		s, err := b.memory(a, sinks)
		if err != nil {
			return "", err
		}
		show := func(m Memory) string { return fmt.Sprintf("%.1f = %.1f + %.1f", m.Pss, m.Shmem, m.Rest) }
		return fmt.Sprintf("| %s | %d | %s | %s | %s | %.1f |", a.name, sinks, show(s.AtRest), show(s.Peak), show(s.Memory), s.Memory.Rss), nil
	})
}

// stopped is a flood in which the last sink is stopped: a second with all sinks,
// then -time (4 s) without it, of which the last second counts.
func (b *bench) stopped(a *adapter, sinks int) (*State, error) {
	return b.state("stopped", a, sinks, 0, func(c *cell, s *State) error {
		others := func() (n uint64) {
			for i := 1; i < c.procs; i++ {
				n += meter.Read(&c.board.Tally(i).Count)
			}
			return n
		}
		rate := func() float64 { // of each of the others, over a second
			n, t := others(), time.Now()
			time.Sleep(time.Second)
			return float64(others()-n) / time.Since(t).Seconds() / float64(c.procs-1)
		}
		one := c.sinkp[c.procs-1]
		s.AtRest = c.broker.memory()
		c.board.SetPhase(meter.Run)
		s.RateBefore = rate()
		if err := one.cmd.Process.Signal(unix.SIGSTOP); err != nil {
			return fmt.Errorf("cannot stop sink: %w", err)
		}
		time.Sleep(b.length(4*time.Second) - time.Second)
		s.RateAfter = rate()
		s.Peak = c.broker.memory()
		c.board.SetPhase(meter.Stop)
		if err := one.cmd.Process.Signal(unix.SIGCONT); err != nil {
			return fmt.Errorf("cannot let sink go on: %w", err)
		}
		settle(math.MaxUint64, 500*time.Millisecond, 10*time.Second, c.received)
		sent := meter.Read(&c.board.Tally(0).Count)
		for i := 1; i <= c.procs; i++ {
			lost := sent - meter.Read(&c.board.Tally(i).Count)
			if i < c.procs {
				s.OthersLost += lost
			} else {
				s.StoppedLost = lost
			}
		}
		s.Sent, s.Delivered = sent, c.received()
		return nil
	})
}

func (b *bench) cmdStopped(chosen []*adapter) error {
	head := "| adapter | sinks | others, messages/s before | after | share | others lost | the stopped one lost | broker Pss MiB before | after |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|\n"
	return b.each(chosen, head, b.sinkList(4), func(a *adapter, sinks int) (string, error) {
		if b.newCell(a, sinks, 0).procs < 2 {
			return "", errors.New("stopped needs at least two sink processes")
		}
		s, err := b.stopped(a, sinks)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("| %s | %d | %s | %s | %.2f | %d | %d | %.1f | %.1f |", a.name, sinks, count(s.RateBefore), count(s.RateAfter),
			ratio(s.RateAfter, s.RateBefore), s.OthersLost, s.StoppedLost, s.AtRest.Pss, s.Peak.Pss), nil
	})
}
