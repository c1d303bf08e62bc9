// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/msgmux/msgmux/internal/wire"
)

// benchResult is a measurement and its account.
type benchResult struct {
	options *benchOptions
	status  wire.Status // before it began
	source  benchSourceReport
	broker  time.Duration // CPU time
	sinks   []benchSinkReport

	deliveries uint64
	lost       uint64
	disordered uint64
	took       time.Duration // from the first message sent to the last one received
	cpu        time.Duration // of all processes
	latencies  latencies
}

// account adds up what the processes have measured.
func (r *benchResult) account() {
	ended := r.source.Began.Add(r.source.Took)
	r.cpu = r.source.CPU + r.broker
	for _, sink := range r.sinks {
		r.deliveries += sink.Received
		r.disordered += sink.Disordered
		r.cpu += sink.CPU
		r.latencies.merge(sink.Latencies)
		if sink.Ended.After(ended) {
			ended = sink.Ended
		}
	}
	r.lost = r.source.Sent*uint64(len(r.sinks)) - r.deliveries
	r.took = ended.Sub(r.source.Began)
}

// perDelivery divides CPU time by deliveries, in microseconds.
func (r *benchResult) perDelivery(cpu time.Duration) float64 {
	return cpu.Seconds() * 1e6 / float64(max(r.deliveries, 1))
}

// perSecond is how many of n there were in a second.
func (r *benchResult) perSecond(n uint64) float64 {
	return float64(n) / max(r.took.Seconds(), 1e-9)
}

// append appends the measurement as a table for people.
func (r *benchResult) append(dst []byte) []byte {
	rate := "as fast as the channel takes"
	if r.options.rate > 0 {
		rate = strconv.FormatFloat(r.options.rate, 'f', -1, 64) + " messages/s asked for"
	}
	dst = fmt.Appendf(dst, "%s, %d bytes, %s, %s, for %s; %s\n\n", plural(uint64(len(r.sinks)), "sink"), r.options.size,
		r.transport(), rate, roughly(time.Duration(r.options.duration)), queueNote())

	processes := table{{"PROCESS", "messages", "cpu s", "cpu us/delivery"}}
	row := func(name string, messages string, cpu time.Duration) {
		processes = append(processes, []string{name, messages,
			strconv.FormatFloat(cpu.Seconds(), 'f', 2, 64), strconv.FormatFloat(r.perDelivery(cpu), 'f', 3, 64)})
	}
	row("publisher", commas(r.source.Sent), r.source.CPU)
	row("broker", "", r.broker)
	for i, sink := range r.sinks {
		row("sink "+strconv.Itoa(i+1), commas(sink.Received), sink.CPU)
	}
	row("all", commas(r.deliveries), r.cpu)
	dst = processes.append(dst)

	dst = fmt.Appendf(dst, "\nmessages    %s/s\ndeliveries  %s/s, %s/s\nlost        %s of %s",
		commas(uint64(r.perSecond(r.source.Sent))), commas(uint64(r.perSecond(r.deliveries))),
		byteCount(uint64(r.perSecond(r.deliveries*uint64(r.options.size)))), commas(r.lost), commas(r.deliveries+r.lost))
	if r.disordered > 0 {
		dst = fmt.Appendf(dst, "\ndisordered  %s", commas(r.disordered))
	}
	return fmt.Appendf(dst, "\nlatency     p50 %s, p99 %s, p99.9 %s\n",
		r.latency(0.5), r.latency(0.99), r.latency(0.999))
}

// latency is a quantile as people read it.
func (r *benchResult) latency(q float64) string { return threeDigits(r.latencies.quantile(q)) }

// transport says how the messages went.
func (r *benchResult) transport() string {
	if r.options.frames {
		return "frames"
	}
	return "datagrams"
}

// queueNote names the setting of the host that matters most: how many datagrams a queue holds.
func queueNote() string {
	text, err := os.ReadFile("/proc/sys/net/unix/max_dgram_qlen")
	if err != nil {
		return "net.unix.max_dgram_qlen unknown"
	}
	return "net.unix.max_dgram_qlen " + strings.TrimSpace(string(text))
}

// benchJSON is what bench --json prints. CPU is in seconds, CPUPerDelivery and latencies are in microseconds.
type benchJSON struct {
	Sinks       int         `json:"sinks"`
	Size        int         `json:"size_bytes"`
	Transport   string      `json:"transport"` // frames, datagrams
	Rate        float64     `json:"rate_asked,omitempty"`
	Seconds     float64     `json:"seconds"`
	Sent        uint64      `json:"sent"`
	Deliveries  uint64      `json:"deliveries"`
	Lost        uint64      `json:"lost"`
	Disordered  uint64      `json:"disordered"`
	MessagesPS  float64     `json:"messages_per_second"`
	PerSecond   float64     `json:"deliveries_per_second"`
	CPUAll      float64     `json:"cpu_us_per_delivery"`
	P50         float64     `json:"latency_p50_us"`
	P99         float64     `json:"latency_p99_us"`
	P999        float64     `json:"latency_p999_us"`
	Processes   []benchPart `json:"processes"`
	BrokerBuild string      `json:"broker_version"`
	ClientBuild string      `json:"client_version"`
}

// benchPart is one process in benchJSON.
type benchPart struct {
	Name           string  `json:"name"`
	Messages       uint64  `json:"messages,omitempty"`
	CPU            float64 `json:"cpu_seconds"`
	CPUPerDelivery float64 `json:"cpu_us_per_delivery"`
}

// MarshalJSON makes benchJSON of the measurement.
func (r *benchResult) MarshalJSON() ([]byte, error) {
	us := func(q float64) float64 { return float64(r.latencies.quantile(q)) / 1e3 }
	part := func(name string, messages uint64, cpu time.Duration) benchPart {
		return benchPart{name, messages, cpu.Seconds(), r.perDelivery(cpu)}
	}
	j := benchJSON{
		Sinks: len(r.sinks), Size: r.options.size, Transport: r.transport(), Rate: r.options.rate, Seconds: r.took.Seconds(),
		Sent: r.source.Sent, Deliveries: r.deliveries, Lost: r.lost, Disordered: r.disordered,
		MessagesPS: r.perSecond(r.source.Sent), PerSecond: r.perSecond(r.deliveries), CPUAll: r.perDelivery(r.cpu),
		P50: us(0.5), P99: us(0.99), P999: us(0.999),
		Processes:   []benchPart{part("publisher", r.source.Sent, r.source.CPU), part("broker", 0, r.broker)},
		BrokerBuild: r.status.Version, ClientBuild: version,
	}
	for i, sink := range r.sinks {
		j.Processes = append(j.Processes, part("sink "+strconv.Itoa(i+1), sink.Received, sink.CPU))
	}
	return json.Marshal(j)
}
