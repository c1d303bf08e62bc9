// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"time"
)

// Pair is the comparison of two adapters in one cell, and one line of the
// results file. Ratios are first by second.
type Pair struct {
	Kind   string       `json:"kind"` // "pair"
	Time   string       `json:"time"`
	First  string       `json:"first"`
	Second string       `json:"second"`
	Mode   string       `json:"mode"`
	Sinks  int          `json:"sinks"`
	Size   int          `json:"size"`
	Rate   int          `json:"rate"`
	Qlen   int          `json:"qlen"`
	Pairs  int          `json:"pairs"`
	Aside  int          `json:"pairs_set_aside"`    // for the load of others, see -calm
	CPU    quartiles    `json:"cpu_ratio"`          // CPU per delivery, all processes
	Broker quartiles    `json:"broker_cpu_ratio"`   // the broker's part of it
	Speed  quartiles    `json:"delivered_ratio"`    // deliveries a second
	P50    quartiles    `json:"p50_ratio"`          // zero in a flood
	Other  float64      `json:"other_load_percent"` // median over all runs
	Runs   [2][]*Result `json:"-"`
}

// ratio is a / b, 0 where b is 0.
func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

// pair runs a and b by turns. Which of the two goes first changes with every
// pair, so that a machine that gets slower or faster favours neither. A pair
// with a failed run is done once more, and with -calm one that others disturbed;
// three failures in all, or four times as many disturbed pairs as wanted, are an
// error.
func (b *bench) pair(first, second *adapter, sinks, qlen int) (*Pair, error) {
	p := &Pair{Kind: "pair", Time: time.Now().UTC().Format(time.RFC3339), First: first.name, Second: second.name, Mode: b.mode, Sinks: sinks, Size: b.size, Qlen: qlen}
	p.Rate, _, _ = b.pace()
	n := b.n
	if n == 0 {
		n = 9
	}
	var cpu, broker, speed, p50, other []float64
	for failed := 0; p.Pairs < n; {
		r, err := b.turn([2]*adapter{first, second}, sinks, qlen, p.Pairs%2 == 1)
		if err != nil {
			if failed++; failed == 3 {
				return p, err
			}
			fmt.Fprintln(os.Stderr, "bench: once more:", err)
			continue
		}
		if b.calm > 0 && max(r[0].OtherLoad, r[1].OtherLoad) > b.calm {
			if p.Aside++; p.Aside > 4*n {
				return p, errors.New("the machine is too busy for -calm")
			}
			continue
		}
		p.Pairs++
		cpu = append(cpu, ratio(r[0].CPU, r[1].CPU))
		broker = append(broker, ratio(r[0].CPUBroker, r[1].CPUBroker))
		speed = append(speed, ratio(r[0].DeliveredRate, r[1].DeliveredRate))
		p50 = append(p50, ratio(r[0].P50, r[1].P50))
		for i := range r {
			p.Runs[i] = append(p.Runs[i], r[i])
			other = append(other, r[i].OtherLoad)
		}
	}
	p.CPU, p.Broker, p.Speed, p.P50 = quartilesOf(cpu), quartilesOf(broker), quartilesOf(speed), quartilesOf(p50)
	p.Other = quartilesOf(other).Median
	b.save(p)
	return p, nil
}

// turn is one run of each, under one lock.
func (b *bench) turn(who [2]*adapter, sinks, qlen int, swap bool) (r [2]*Result, err error) {
	release, err := b.lock()
	if err != nil {
		return r, err
	}
	defer release()
	order := [2]int{0, 1}
	if swap {
		order = [2]int{1, 0}
	}
	for _, i := range order {
		if r[i], err = b.newCell(who[i], sinks, qlen).once(); err != nil {
			return r, err
		}
	}
	return r, nil
}

const pairHead = `| mode | sinks | qlen | size | pairs | CPU us/delivery | broker | ratio (quartiles) | broker ratio | deliveries/s | lost | p50 us | p50 ratio | other load |
|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|
`

// row is the pair's line of the table; a cell with "/" has first / second.
func (p *Pair) row() string {
	both := func(f func(*Result) float64, show func(float64) string) string {
		return show(median(p.Runs[0], f)) + " / " + show(median(p.Runs[1], f))
	}
	p50, p50ratio := "", ""
	if p.Rate > 0 {
		p50 = both(func(r *Result) float64 { return r.P50 }, func(x float64) string { return fmt.Sprintf("%.0f", x) })
		p50ratio = p.P50.String()
	}
	pairs := fmt.Sprint(p.Pairs)
	if p.Aside > 0 {
		pairs += fmt.Sprintf(" (%d set aside)", p.Aside)
	}
	return fmt.Sprintf("| %s | %d | %d | %d | %s | %s | %s | %s | %s | %s | %s | %s | %s | %.0f%% |", p.Mode, p.Sinks, p.Qlen, p.Size, pairs,
		both(func(r *Result) float64 { return r.CPU }, us), both(func(r *Result) float64 { return r.CPUBroker }, us),
		p.CPU, p.Broker,
		both(func(r *Result) float64 { return r.DeliveredRate }, count), both(func(r *Result) float64 { return float64(r.Lost) }, count),
		p50, p50ratio, p.Other)
}

func (b *bench) cmdPair(chosen []*adapter) error {
	if len(chosen) != 2 {
		return fmt.Errorf("pair takes two adapters")
	}
	fmt.Printf("%s / %s; %s\n\n%s", chosen[0].name, chosen[1].name, machine(), pairHead)
	for _, qlen := range b.qlens {
		for _, sinks := range b.sinkList(4) {
			p, err := b.pair(chosen[0], chosen[1], sinks, qlen)
			if err != nil {
				return err
			}
			fmt.Println(p.row())
		}
	}
	return nil
}
