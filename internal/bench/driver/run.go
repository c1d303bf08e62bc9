// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
)

const runHead = `| adapter | mode | sinks | qlen | size | CPU us/delivery | source + broker + sinks | switches broker, sink | sent/s | deliveries/s | lost | p50 | p99 | p99.9 us | broker Pss MiB | other load |
|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|
`

func (r *Result) row() string {
	latency := " | | "
	if r.Rate > 0 {
		latency = fmt.Sprintf("%.0f | %.0f | %.0f", r.P50, r.P99, r.P999)
	}
	lost := fmt.Sprint(r.Lost)
	if r.Backlog > 0 {
		lost += fmt.Sprintf(" + %d backlog", r.Backlog)
	}
	if r.Closed > 0 {
		lost += fmt.Sprintf(", %d cut off", r.Closed)
	}
	if r.Bad+r.Reordered > 0 {
		lost += fmt.Sprintf(", %d bad, %d out of order", r.Bad, r.Reordered)
	}
	return fmt.Sprintf("| %s | %s | %d | %d | %d | %s | %s + %s + %s | %.2f, %.2f | %s | %s | %s | %s | %.1f | %.0f%% |", r.Adapter, r.Mode, r.Sinks, r.Qlen, r.Size,
		us(r.CPU), us(r.CPUSource), us(r.CPUBroker), us(r.CPUSinks), r.BrokerSwitches, r.SinkSwitches,
		count(r.SentRate), count(r.DeliveredRate), lost, latency, r.Memory.Pss, r.OtherLoad)
}

func (b *bench) cmdRun(chosen []*adapter) error {
	n := b.n
	if n == 0 {
		n = 3
	}
	failed := 0
	fmt.Printf("%s\n\n%s", machine(), runHead)
	for _, qlen := range b.qlens {
		for _, sinks := range b.sinkList(4) {
			for range n {
				for _, a := range chosen {
					r, err := b.locked(b.newCell(a, sinks, qlen))
					if err != nil {
						fmt.Fprintln(os.Stderr, "bench:", err)
						failed++
						continue
					}
					fmt.Println(r.row())
				}
			}
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d runs failed", failed)
	}
	return nil
}

// locked is a whole run under the machine's benchmark lock.
func (b *bench) locked(c *cell) (*Result, error) {
	release, err := b.lock()
	if err != nil {
		return nil, err
	}
	defer release()
	return c.once()
}
