// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
	"time"
)

// Limits that the project holds its broker to, on plain datagrams of 256 bytes.
const (
	limitCPU     = 1.15 // CPU per delivery to the floor's, flood and paced
	limitP50     = 1.3  // p50 to the floor's at 1000 messages a second
	limitIdle    = 0.1  // percent of a core, 4 sinks
	limitIdleAll = 0.5  // percent of a core, 4000 sinks
	limitScaling = 1.2  // broker CPU per delivery, 64 to 1000 sinks to 16
	// MiB: the ring and the landing zone with the broker's defaults, and 12.
	limitMemory = 16 + 16 + 12
)

// verdicts is the table of figures and what they are held against.
type verdicts struct{ strings.Builder }

func (v *verdicts) add(what, figure string, value, limit float64) {
	word := "within"
	if value > limit {
		word = "OVER"
	}
	fmt.Fprintf(v, "| %s | %s | %g | %s |\n", what, figure, limit, word)
}

// cmdSuite measures everything that is held against the floor: the pairs, and
// for a broker that can have thousands of sinks its states too.
func (b *bench) cmdSuite(chosen []*adapter) error {
	if len(chosen) != 2 {
		return fmt.Errorf("suite takes two adapters")
	}
	var v verdicts
	first, second := chosen[0], chosen[1]
	fmt.Printf("%s / %s; %s; %s\n\n%s", first.name, second.name, time.Now().UTC().Format(time.DateOnly), machine(), pairHead)
	pair := func(mode string, sinks, qlen int) error {
		b.mode = mode
		p, err := b.pair(first, second, sinks, qlen)
		if err != nil {
			return err
		}
		fmt.Println(p.row())
		what := fmt.Sprintf("%s, %d sinks, qlen %d", mode, sinks, qlen)
		if mode == "latency" {
			v.add(what+": p50 ratio", p.P50.String(), p.P50.Median, limitP50)
		} else {
			v.add(what+": CPU ratio", p.CPU.String(), p.CPU.Median, limitCPU)
		}
		return nil
	}
	for _, qlen := range []int{512, 10} {
		for _, sinks := range b.sinkList(1, 4, 16, 64) {
			if err := pair("flood", sinks, qlen); err != nil {
				return err
			}
		}
	}
	for _, mode := range []string{"paced", "latency"} {
		if err := pair(mode, 4, 512); err != nil {
			return err
		}
	}
	if first.many {
		b.mode = "flood"
		if err := b.suiteStates(first, &v); err != nil {
			return err
		}
	}
	fmt.Printf("\n| figure | value | limit | |\n|---|--:|--:|---|\n%s", v.String())
	return nil
}

func (b *bench) suiteStates(a *adapter, v *verdicts) error {
	for _, sinks := range []int{4, 4000} {
		limit := limitIdle
		if sinks > 4 {
			limit = limitIdleAll
		}
		s, err := b.idle(a, sinks)
		if err != nil {
			return err
		}
		v.add(fmt.Sprintf("idle, %d sinks: %% of a core", sinks), fmt.Sprintf("%.3f", s.BrokerPercent), s.BrokerPercent, limit)
	}
	base := 0.0
	for _, sinks := range []int{16, 64, 256, 1000} {
		rs, err := b.scaling(a, sinks)
		if err != nil {
			return err
		}
		cpu := median(rs, brokerCPU)
		if base == 0 {
			base = cpu
		}
		v.add(fmt.Sprintf("scaling, %d sinks: broker CPU %s us/delivery, to 16 sinks", sinks, us(cpu)), fmt.Sprintf("%.2f", cpu/base), cpu/base, limitScaling)
	}
	s, err := b.memory(a, 4)
	if err != nil {
		return err
	}
	v.add("memory under load: Pss, MiB", fmt.Sprintf("%.1f", s.Peak.Pss), s.Peak.Pss, limitMemory)
	return nil
}
