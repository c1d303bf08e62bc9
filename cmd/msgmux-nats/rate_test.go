// SPDX-License-Identifier: Apache-2.0

package main_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/cmd/msgmux-nats/natstest"
)

// rateSize is the payload of a message, in bytes.
const rateSize = 256

// cpuOf is the CPU time that a process has had.
func cpuOf(b *testing.B, pid int) time.Duration {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:])) // proc_pid_stat(5); the first is its state
	ticks := atoi(b, fields[11]) + atoi(b, fields[12])
	return time.Duration(ticks) * (time.Second / 100)
}

// measured is what one run has shown.
type measured struct {
	rate float64            // messages/s
	cpu  map[string]float64 // us a message, of each process
	lag  float64            // messages
}

// over measures for some seconds: count is how many messages there were up to now.
func over(b *testing.B, of map[string]int, count func() uint64) (m measured) {
	b.Helper()
	time.Sleep(time.Second)
	before, n, at := cpuOfAll(b, of), count(), time.Now()
	time.Sleep(time.Duration(number(b, "MSGMUX_RATE_SECONDS", 4)) * time.Second)
	after, more, took := cpuOfAll(b, of), count(), time.Since(at)
	return measured{rate: float64(more-n) / took.Seconds(), cpu: cpuPerMessage(before, after, more-n)}
}

// cpuOfAll is cpuOf for processes with names.
func cpuOfAll(b *testing.B, of map[string]int) map[string]time.Duration {
	b.Helper()
	all := map[string]time.Duration{}
	for name, pid := range of {
		all[name] = cpuOf(b, pid)
	}
	return all
}

// cpuPerMessage is what there was in between, us for each of n messages.
func cpuPerMessage(before, after map[string]time.Duration, n uint64) map[string]float64 {
	all := map[string]float64{}
	for name := range before {
		all[name] = float64((after[name] - before[name]).Microseconds()) / float64(n)
	}
	return all
}

// newStream makes the stream S anew, empty.
func newStream(b *testing.B, js jetstream.JetStream) {
	b.Helper()
	_ = js.DeleteStream(b.Context(), "S") // the first time there is none
	if _, err := js.CreateStream(b.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"m"}, AllowBatchPublish: true}); err != nil {
		b.Fatal(err)
	}
}

// floor measures the client library of NATS alone, which has many messages under way, each of which expects the one before it: of
// size bytes, and counted as records.
func floor(b *testing.B, server *natstest.Server, js jetstream.JetStream, size int, records uint64) measured {
	b.Helper()
	newStream(b, js)
	conn, err := nats.Connect(server.URL)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	async, err := jetstream.New(conn, jetstream.WithPublishAsyncMaxPending(max(16384/int(records), 64)))
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error)
	go func() {
		payload := make([]byte, size)
		for n := uint64(0); ctx.Err() == nil; n++ {
			header := nats.Header{jetstream.ExpectedLastSeqHeader: {strconv.FormatUint(n, 10)}}
			if _, err := async.PublishMsgAsync(&nats.Msg{Subject: "m", Header: header, Data: payload}, jetstream.WithStallWait(time.Minute)); err != nil {
				ended <- err
				return
			}
		}
		ended <- nil
	}()
	m := over(b, map[string]int{"client": os.Getpid(), "server": server.Process().Pid}, func() uint64 { return rateLength(b, js) * records })
	cancel()
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
	<-async.PublishAsyncComplete()
	return m
}

func rateLength(b *testing.B, js jetstream.JetStream) uint64 {
	b.Helper()
	s, err := js.Stream(b.Context(), "S")
	if err != nil {
		b.Fatal(err)
	}
	return s.CachedInfo().State.LastSeq
}

// bridged measures a channel and the bridge: sent to at that many messages/s, or with 0 as fast as it takes them. The lag is the
// middle one of many looks.
func bridged(b *testing.B, server *natstest.Server, js jetstream.JetStream, packets string, pace int) measured {
	b.Helper()
	newStream(b, js)
	near := newChannel(b, nil, "--buffer", "64M")
	out := newBridge(b, nil, "out", near, "server="+server.URL, "stream=S", "out=m", "writer=near", "keep=forever", "patience=forever", "packets="+packets)
	sink := func() msgmux.SinkStatus {
		_, all, err := near.Sinks(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		if len(all) != 1 {
			return msgmux.SinkStatus{}
		}
		return all[0]
	}
	eventually(b, "the kept sink", func() bool { return sink().Label != "" })
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error)
	go func() {
		source, err := near.Dial(ctx, msgmux.SourceOptions{})
		if err != nil {
			ended <- err
			return
		}
		defer source.Close()
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for batch, payload := source.Batch(), make([]byte, rateSize); err == nil; {
			if pace > 0 && batch.Len() >= pace/1000 {
				err = batch.Flush(ctx)
				<-tick.C
			}
			if err == nil {
				err = batch.Add(ctx, payload)
			}
		}
		if ctx.Err() != nil {
			err = nil
		}
		ended <- err
	}()
	pid := func(p *process) int { return p.cmd.Process.Pid }
	lag, looked := []float64{}, make(chan struct{})
	looking, looks := context.WithCancel(b.Context())
	go func() {
		defer close(looked)
		for looking.Err() == nil {
			time.Sleep(100 * time.Millisecond)
			lag = append(lag, float64(sink().Waiting))
		}
	}()
	m := over(b, map[string]int{"source": os.Getpid(), "broker": pid(near.broker), "bridge": pid(out), "server": server.Process().Pid}, func() uint64 { return sink().Accepted })
	looks()
	<-looked
	slices.Sort(lag)
	m.lag = lag[len(lag)/2]
	cancel()
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
	out.Kill()
	end(near.broker)
	return m
}

// drained measures the other way: the stream as the run before has left it, from its first message on, into a channel with a sink.
func drained(b *testing.B, server *natstest.Server, _ jetstream.JetStream) measured {
	b.Helper()
	far := newChannel(b, nil, "--buffer", "64M")
	forever := msgmux.Forever
	sink, err := far.Subscribe(b.Context(), msgmux.SinkOptions{Label: "ear", Patience: &forever, View: true})
	if err != nil {
		b.Fatal(err)
	}
	var heard atomic.Uint64
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			p, err := sink.ReceivePacket(b.Context())
			if err != nil {
				return
			}
			heard.Add(uint64(p.Count))
		}
	}()
	in := newBridge(b, nil, "in", far, "server="+server.URL, "stream=S", "in=m", "writer=far", "keep=forever")
	of := map[string]int{"sink": os.Getpid(), "broker": far.broker.cmd.Process.Pid, "bridge": in.cmd.Process.Pid, "server": server.Process().Pid}
	eventually(b, "the first messages", func() bool { return heard.Load() > 0 })
	// Until the stream is read to its end.
	before, n, at := cpuOfAll(b, of), heard.Load(), time.Now()
	last, more := at, n
	for time.Since(last) < time.Second {
		time.Sleep(10 * time.Millisecond)
		if now := heard.Load(); now > more {
			more, last = now, time.Now()
		}
	}
	m := measured{rate: float64(more-n) / last.Sub(at).Seconds(), cpu: cpuPerMessage(before, cpuOfAll(b, of), more-n)}
	in.Kill()
	sink.Close()
	<-ended
	end(far.broker)
	return m
}

// end ends a process before the test does.
func end(p *process) {
	p.mu.Lock()
	p.ended = true
	p.mu.Unlock()
	p.Kill()
}

// BenchmarkRates compares the bridge with what the client library of NATS does into the same server, which is the floor that nobody
// who keeps an order gets below; by turns, since what else the machine does takes its part of both. It wants -benchtime 5x or so:
// an iteration is one turn of each.
func BenchmarkRates(b *testing.B) {
	server := natstest.Start(b, natstest.Options{})
	conn, err := nats.Connect(server.URL)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		b.Fatal(err)
	}
	runs := []struct {
		name string
		run  func() measured
	}{
		{"floor, a message each", func() measured { return floor(b, server, js, rateSize, 1) }},
		{"a message each", func() measured { return bridged(b, server, js, "no", 0) }},
		{"a message each, in", func() measured { return drained(b, server, js) }},
		{"a message each, 50k/s", func() measured { return bridged(b, server, js, "no", 50_000) }},
		{"floor, packets", func() measured { return floor(b, server, js, 252*(rateSize+4), 252) }},
		{"packets", func() measured { return bridged(b, server, js, "yes", 0) }},
		{"packets, in", func() measured { return drained(b, server, js) }},
	}
	all := map[string][]measured{}
	for b.Loop() {
		for _, r := range runs {
			m := r.run()
			all[r.name] = append(all[r.name], m)
			b.Logf("%-22s %9.0f messages/s, lag %6.0f, CPU us a message %v", r.name, m.rate, m.lag, cpuText(m.cpu))
		}
	}
	for _, r := range runs {
		rates, ratios := []float64{}, []float64{}
		for turn, m := range all[r.name] {
			rates = append(rates, m.rate)
			if below := all["floor, "+r.name]; below != nil {
				ratios = append(ratios, m.rate/below[turn].rate)
			}
		}
		if slices.Sort(ratios); len(ratios) > 0 {
			b.Logf("%s: %.2f of its floor (%.2f to %.2f)", r.name, ratios[len(ratios)/2], ratios[0], ratios[len(ratios)-1])
		}
		slices.Sort(rates)
		b.ReportMetric(rates[len(rates)/2], strings.ReplaceAll(strings.ReplaceAll(r.name, ",", ""), " ", "-")+"/s")
	}
}

func cpuText(cpu map[string]float64) string {
	text, total := "", 0.0
	for _, name := range []string{"source", "client", "sink", "broker", "bridge", "server"} {
		if us, ok := cpu[name]; ok {
			text += fmt.Sprintf("%s %.2f, ", name, us)
			total += us
		}
	}
	return fmt.Sprintf("%sall %.2f", text, total)
}
