// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	msgmux "github.com/msgmux/msgmux/client"
)

// benchOptions are the flags of bench.
type benchOptions struct {
	sinks     int
	size      byteSize
	rate      float64 // messages a second, 0 for as many as go
	duration  span
	datagrams bool
	force     bool
	json      bool
}

// maxBenchSinks is far above what says something on one host, and below what exhausts it by mistake.
const maxBenchSinks = 1024

func benchCommand(where *location) *cobra.Command {
	o := benchOptions{size: 256, duration: span(5 * time.Second)}
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "measure the channel",
		Long: `Measure the channel with one source and several sinks: CPU time for a delivery,
in the broker and in this program, deliveries a second, loss, and the time from
sending to receiving. Without --rate the source sends as fast as the channel
takes, and that time is mostly spent waiting in queues.

The messages of the measurement go to every sink of the channel. Where there
are others bench does not begin, unless forced.`,
		Example: `  msgmux bench --sinks 16 --size 4K
  msgmux bench --rate 1000 --duration 10s --json`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error { return o.run(where) },
	}
	flags := cmd.Flags()
	flags.IntVarP(&o.sinks, "sinks", "n", 4, "`N` sinks")
	flags.Var(&o.size, "size", fmt.Sprintf("`SIZE` of a message in bytes, at least %d; K and M may follow the number", stampSize))
	flags.Float64Var(&o.rate, "rate", 0, "`N` messages a second; 0: as many as go")
	flags.Var(&o.duration, "duration", "how long to send")
	flags.BoolVar(&o.datagrams, "datagrams", false, "send each message as a datagram of its own, as programs do that know nothing of packets")
	flags.BoolVar(&o.force, "force", false, "measure although other sinks will get the messages, too")
	flags.BoolVar(&o.json, "json", false, "one JSON object")
	return cmd
}

// run measures and prints.
func (o *benchOptions) run(where *location) error {
	switch {
	case o.sinks < 1 || o.sinks > maxBenchSinks:
		return usagef("--sinks %d: 1 to %d", o.sinks, maxBenchSinks)
	case o.size < stampSize:
		return usagef("--size %d: %d to %d", o.size, stampSize, msgmux.MaxMessage)
	case !(o.rate >= 0 && o.rate <= 1e7):
		return usagef("--rate %v: 0 to 10000000", o.rate)
	}
	l, err := list(where)
	switch {
	case err != nil:
		return err
	case uint64(o.size) > l.Status.MaxMessage:
		return fmt.Errorf("%w: the channel takes up to %s bytes", msgmux.ErrTooLarge, commas(l.Status.MaxMessage))
	case len(l.Sinks) > 0 && !o.force:
		return fmt.Errorf("the channel has %s, which would get the messages, too; --force measures nevertheless",
			plural(uint64(len(l.Sinks)), "sink"))
	}
	channel, err := where.locate()
	if err != nil {
		return err
	}
	ctx, cancel := untilStopped(context.Background())
	defer cancel(nil)
	result, err := o.measure(ctx, channel, l.Status.PID)
	if end, ok := errors.AsType[stopped](context.Cause(ctx)); ok {
		return exitError{end.status(), end}
	}
	if err != nil {
		return err
	}
	result.BrokerBuild, result.ClientBuild = l.Status.Version, build.Version
	if o.json {
		return printJSON(result, true)
	}
	return printText(o.appendResult(nil, result))
}

// benchJSON is what bench --json prints.
type benchJSON struct {
	Sinks       int     `json:"sinks"`
	Size        int     `json:"size_bytes"`
	Transport   string  `json:"transport"` // frames, datagrams
	Rate        float64 `json:"rate_asked,omitempty"`
	Seconds     float64 `json:"seconds"` // from the first message sent to the last one received
	Sent        uint64  `json:"sent"`
	Deliveries  uint64  `json:"deliveries"`
	Lost        uint64  `json:"lost"`
	Disordered  uint64  `json:"disordered"` // came after a later one, or twice
	MessagesPS  float64 `json:"messages_per_second"`
	PerSecond   float64 `json:"deliveries_per_second"`
	BrokerCPU   float64 `json:"broker_cpu_seconds"` // user and system
	ClientCPU   float64 `json:"client_cpu_seconds"`
	CPU         float64 `json:"cpu_us_per_delivery"` // of both
	P50         float64 `json:"latency_p50_us"`
	P99         float64 `json:"latency_p99_us"`
	P999        float64 `json:"latency_p999_us"`
	BrokerBuild string  `json:"broker_version"`
	ClientBuild string  `json:"client_version"`
}

// appendResult appends a measurement for people.
func (o *benchOptions) appendResult(dst []byte, r *benchJSON) []byte {
	rate := "as fast as the channel takes"
	if o.rate > 0 {
		rate = strconv.FormatFloat(o.rate, 'f', -1, 64) + " messages/s asked for"
	}
	dst = fmt.Appendf(dst, "%s, %d bytes, %s, %s, for %s; %s\n\n", plural(uint64(r.Sinks), "sink"), r.Size, r.Transport, rate,
		roughly(time.Duration(o.duration)), queueNote())
	each := func(seconds float64) float64 { return seconds * 1e6 / max(float64(r.Deliveries), 1) }
	us := func(us float64) string { return threeDigits(time.Duration(us * 1e3)) }
	dst = fmt.Appendf(dst, "messages    %s, %s/s\n", commas(r.Sent), commas(uint64(r.MessagesPS)))
	dst = fmt.Appendf(dst, "deliveries  %s, %s/s, %s/s\n", commas(r.Deliveries), commas(uint64(r.PerSecond)), byteCount(uint64(r.PerSecond*float64(r.Size))))
	dst = fmt.Appendf(dst, "lost        %s of %s\n", commas(r.Lost), commas(r.Deliveries+r.Lost))
	if r.Disordered > 0 {
		dst = fmt.Appendf(dst, "disordered  %s\n", commas(r.Disordered))
	}
	dst = fmt.Appendf(dst, "CPU         %.3f us a delivery: broker %.3f, clients %.3f\n", r.CPU, each(r.BrokerCPU), each(r.ClientCPU))
	return fmt.Appendf(dst, "latency     p50 %s, p99 %s, p99.9 %s\n", us(r.P50), us(r.P99), us(r.P999))
}

// queueNote names the setting of the host that matters most: how many datagrams a queue holds.
func queueNote() string {
	const name = "net.unix.max_dgram_qlen"
	n, err := kernelNumber(name)
	if err != nil {
		return name + " unknown"
	}
	return fmt.Sprint(name, " ", n)
}

// account makes the result of what the sinks have seen.
func (o *benchOptions) account(run *benchRun, sinks []*benchSink) *benchJSON {
	r := &benchJSON{Sinks: o.sinks, Size: int(o.size), Transport: "frames", Rate: o.rate, Sent: run.sent}
	if o.datagrams {
		r.Transport = "datagrams"
	}
	ended := run.ended
	total := &sinks[0].times
	for i, s := range sinks {
		r.Deliveries += s.received.Load()
		r.Disordered += s.disordered
		if s.ended.After(ended) {
			ended = s.ended
		}
		if i > 0 {
			total.Merge(&s.times)
		}
	}
	r.Lost = r.Sent*uint64(o.sinks) - min(r.Deliveries, r.Sent*uint64(o.sinks))
	r.Seconds = max(ended.Sub(run.began).Seconds(), 1e-9)
	r.MessagesPS, r.PerSecond = float64(r.Sent)/r.Seconds, float64(r.Deliveries)/r.Seconds
	r.BrokerCPU, r.ClientCPU = run.broker.Seconds(), run.client.Seconds()
	r.CPU = (r.BrokerCPU + r.ClientCPU) * 1e6 / max(float64(r.Deliveries), 1)
	us := func(q float64) float64 { return math.Round(total.Quantile(q)) / 1e3 }
	r.P50, r.P99, r.P999 = us(0.5), us(0.99), us(0.999)
	return r
}
