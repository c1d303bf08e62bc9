// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"sort"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/bench/meter"
	"github.com/msgmux/msgmux/internal/histogram"
)

// Result is one run, and one line of the results file. All CPU times are user
// and system time in microseconds for each delivery; a delivery is one message
// at one sink.
type Result struct {
	Kind    string `json:"kind"` // "run"
	Time    string `json:"time"`
	Adapter string `json:"adapter"`
	Mode    string `json:"mode"`
	Sinks   int    `json:"sinks"`
	Procs   int    `json:"sink_processes"`
	Size    int    `json:"size"`
	Rate    int    `json:"rate"` // messages a second asked for, 0: flood
	Qlen    int    `json:"qlen"`
	Steady  bool   `json:"steady"` // measured in the middle of a flood

	Seconds   float64 `json:"seconds"` // from the first message to the last arrival
	Sent      uint64  `json:"sent"`
	Delivered uint64  `json:"delivered"`
	Lost      uint64  `json:"lost"`    // deliveries that never came
	Backlog   uint64  `json:"backlog"` // deliveries still to come when the wait ended
	Reordered uint64  `json:"reordered"`
	Bad       uint64  `json:"bad"`    // of a wrong size
	Closed    uint64  `json:"closed"` // sinks that the broker hung up on

	SentRate      float64 `json:"sent_per_s"`
	DeliveredRate float64 `json:"delivered_per_s"`

	CPU       float64 `json:"cpu_us"`
	CPUSource float64 `json:"cpu_source_us"`
	CPUBroker float64 `json:"cpu_broker_us"`
	CPUSinks  float64 `json:"cpu_sinks_us"`

	BrokerSwitches float64 `json:"broker_switches"` // context switches for each delivery
	SinkSwitches   float64 `json:"sink_switches"`

	P50  float64 `json:"p50_us,omitempty"` // one way, source to sink
	P99  float64 `json:"p99_us,omitempty"`
	P999 float64 `json:"p999_us,omitempty"`

	Memory    Memory  `json:"broker_memory"`      // at the end
	OtherLoad float64 `json:"other_load_percent"` // of all cores, by others than this run
	Error     string  `json:"error,omitempty"`
}

func (c *cell) newResult(kind string) *Result {
	return &Result{
		Kind: kind, Time: time.Now().UTC().Format(time.RFC3339), Adapter: c.adapter.name, Mode: c.mode,
		Sinks: c.sinks, Procs: c.procs, Size: c.bytes(), Qlen: c.qlen,
	}
}

// between computes what happened between two looks.
func (r *Result) between(a, b look) {
	r.Seconds = b.at.Sub(a.at).Seconds()
	r.Sent, r.Delivered = b.sent-a.sent, b.received-a.received
	cpu := b.cpu.minus(a.cpu)
	r.OtherLoad = otherLoad(b.busy-a.busy, cpu.all(), b.at.Sub(a.at))
	n := float64(r.Delivered)
	if n == 0 {
		return
	}
	us := func(d time.Duration) float64 { return float64(d) / 1e3 / n }
	r.CPU, r.CPUSource, r.CPUBroker, r.CPUSinks = us(cpu.all()), us(cpu.source), us(cpu.broker), us(cpu.sinks)
	r.BrokerSwitches, r.SinkSwitches = float64(b.broker-a.broker)/n, float64(b.sinks-a.sinks)/n
	r.SentRate, r.DeliveredRate = float64(r.Sent)/r.Seconds, n/r.Seconds
}

// losses tells apart what never came and what was still to come, and counts
// what came wrong.
func (r *Result) losses(c *cell, drained bool) {
	want := r.Sent * uint64(c.sinks)
	missing := want - min(r.Delivered, want)
	r.Lost = missing
	if !drained {
		r.Lost = min(missing, c.sum(func(t *meter.Tally) *uint64 { return &t.GapLost }))
		r.Backlog = missing - r.Lost
	}
	r.Reordered = c.sum(func(t *meter.Tally) *uint64 { return &t.Reordered })
	r.Bad = c.sum(func(t *meter.Tally) *uint64 { return &t.Bad })
	r.Closed = c.sum(func(t *meter.Tally) *uint64 { return &t.Closed })
}

// latencies are the quantiles over all sinks.
func (r *Result) latencies(c *cell) {
	var hist histogram.Histogram
	for i := 1; i <= c.procs; i++ {
		hist.Merge(&c.board.Tally(i).Hist)
	}
	r.P50, r.P99, r.P999 = hist.Quantile(.5)/1e3, hist.Quantile(.99)/1e3, hist.Quantile(.999)/1e3
}

// save adds v as a line to the results file.
func (b *bench) save(v any) {
	line, err := json.Marshal(v)
	if err == nil {
		_, err = b.out.Write(append(line, '\n'))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench: cannot save result:", err)
	}
}

// quartiles are the first quartile, the median and the third of a list, by
// linear interpolation.
type quartiles struct {
	Q1     float64 `json:"q1"`
	Median float64 `json:"median"`
	Q3     float64 `json:"q3"`
}

func quartilesOf(list []float64) quartiles {
	if len(list) == 0 {
		return quartiles{}
	}
	v := append([]float64(nil), list...)
	sort.Float64s(v)
	at := func(q float64) float64 {
		pos := q * float64(len(v)-1)
		i := int(pos)
		if i+1 == len(v) {
			return v[i]
		}
		return v[i] + (pos-float64(i))*(v[i+1]-v[i])
	}
	return quartiles{at(.25), at(.5), at(.75)}
}

func (q quartiles) String() string { return fmt.Sprintf("%.2f (%.2f-%.2f)", q.Median, q.Q1, q.Q3) }

// median is that of one figure of many runs.
func median(rs []*Result, f func(*Result) float64) float64 {
	list := make([]float64, len(rs))
	for i, r := range rs {
		list[i] = f(r)
	}
	return quartilesOf(list).Median
}

// count prints a number of messages.
func count(x float64) string {
	switch {
	case x >= 1e7:
		return fmt.Sprintf("%.1fM", x/1e6)
	case x >= 1e6:
		return fmt.Sprintf("%.2fM", x/1e6)
	case x >= 1e4:
		return fmt.Sprintf("%.0fk", x/1e3)
	}
	return fmt.Sprintf("%.0f", x)
}

// us prints microseconds.
func us(x float64) string {
	switch {
	case x < 0.1:
		return fmt.Sprintf("%.3f", x)
	case x < 10:
		return fmt.Sprintf("%.2f", x)
	}
	return fmt.Sprintf("%.1f", x)
}

// machine is the line that says where figures come from.
func machine() string {
	var u unix.Utsname
	unix.Uname(&u) // cannot fail with a valid pointer
	return fmt.Sprintf("%d cores, Linux %s, %s, %s", runtime.NumCPU(), unix.ByteSliceToString(u.Release[:]), runtime.GOARCH, runtime.Version())
}
