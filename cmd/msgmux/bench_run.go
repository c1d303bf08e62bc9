// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/internal/histogram"
)

// A message of a measurement begins with this stamp, little-endian:
//
//	0        8          16       24
//	+--------+----------+--------+---------------
//	|  run   | sequence |  time  | filling ...
//	+--------+----------+--------+---------------
//
// run tells the measurement's messages from others, the last sequence is lastSequence, time is when it was sent, in
// nanoseconds since began.
const stampSize = 24

const lastSequence = ^uint64(0)

// benchRun is one measurement under way.
type benchRun struct {
	id             uint64
	began, ended   time.Time // of sending
	sent           uint64    // without the last, which only ends the sinks
	broker, client time.Duration
}

// benchSink is a sink of a measurement.
type benchSink struct {
	sink       *msgmux.Sink
	received   atomic.Uint64
	disordered uint64
	ended      time.Time // the last one came
	times      histogram.Histogram
	err        error
}

// quietAfter is how long nothing must come, once all is sent, for sinks to know that they have lost the last message.
const quietAfter = time.Second

// measure has all sinks be there before the first message is sent, and waits for the last one at each.
func (o *benchOptions) measure(ctx context.Context, channel msgmux.Channel, pid int) (*benchJSON, error) {
	run := &benchRun{id: uint64(time.Now().UnixNano())}
	sinks := make([]*benchSink, o.sinks)
	for i := range sinks {
		sink, err := channel.Subscribe(ctx, msgmux.SinkOptions{Label: fmt.Sprintf("bench-%d-%d", os.Getpid(), i+1)})
		if err != nil {
			return nil, err
		}
		defer sink.Close()
		sinks[i] = &benchSink{sink: sink}
	}
	source, err := channel.Dial(ctx, msgmux.SourceOptions{Label: "bench", Datagrams: o.datagrams})
	if err != nil {
		return nil, err
	}
	defer source.Close()
	broker, err := cpuOf(pid)
	if err != nil {
		return nil, err
	}
	client := ownCPU()
	receiving, enough := context.WithCancel(ctx)
	defer enough()
	var all sync.WaitGroup
	run.began = time.Now()
	for _, s := range sinks {
		all.Go(func() { s.err = s.receive(receiving, run) })
	}
	if err := o.send(ctx, source, run); err != nil {
		return nil, err
	}
	awaitQuiet(&all, sinks, enough)
	run.client = ownCPU() - client
	after, err := cpuOf(pid)
	if err != nil {
		return nil, fmt.Errorf("the broker was replaced while it was measured: %w", err)
	}
	run.broker = after - broker
	for _, s := range sinks {
		err = errors.Join(err, s.err)
	}
	return o.account(run, sinks), err
}

// send sends for a while: as fast as the channel takes, packet by packet, or at a rate, what is due at a time. What falls
// behind the rate is caught up with.
func (o *benchOptions) send(ctx context.Context, source *msgmux.Source, run *benchRun) error {
	message := bytes.Repeat([]byte("msgmux bench\n"), int(o.size)/13+1)[:o.size]
	stamp := func(sequence uint64, at time.Duration) {
		binary.LittleEndian.PutUint64(message[0:], run.id)
		binary.LittleEndian.PutUint64(message[8:], sequence)
		binary.LittleEndian.PutUint64(message[16:], uint64(at))
	}
	batch := source.Batch()
	for {
		at := time.Since(run.began)
		if at >= time.Duration(o.duration) {
			break
		}
		if wait := time.Duration(float64(run.sent)/o.rate*float64(time.Second)) - at; o.rate > 0 && wait > 0 {
			// Nothing is due: what was goes now.
			if err := batch.Flush(ctx); err != nil {
				return err
			}
			if err := sleep(ctx, wait); err != nil {
				return err
			}
			at = time.Since(run.began)
		}
		stamp(run.sent, at)
		if err := batch.Add(ctx, message); err != nil {
			return err
		}
		run.sent++
	}
	if err := batch.Flush(ctx); err != nil {
		return err
	}
	run.ended = time.Now()
	stamp(lastSequence, 0)
	return source.Send(ctx, message)
}

// receive receives until the last message, or until ctx is done.
func (s *benchSink) receive(ctx context.Context, run *benchRun) error {
	s.ended = run.began
	var next uint64
	for m, err := range s.sink.Messages(ctx) {
		if err != nil {
			if errors.Is(err, context.Canceled) {
				err = nil // the last one was lost
			}
			return err
		}
		if len(m.Payload) < stampSize || binary.LittleEndian.Uint64(m.Payload) != run.id {
			continue // somebody else's
		}
		sequence := binary.LittleEndian.Uint64(m.Payload[8:])
		if sequence == lastSequence {
			return nil
		}
		s.received.Add(1)
		if sequence < next {
			s.disordered++
		} else {
			next = sequence + 1
		}
		s.ended = time.Now()
		took := s.ended.Sub(run.began) - time.Duration(binary.LittleEndian.Uint64(m.Payload[16:]))
		s.times[histogram.Bucket(uint64(max(took, 0)))]++
	}
	return nil
}

// awaitQuiet waits for the end of all sinks, and ends them when nothing comes to any of them any more.
func awaitQuiet(all *sync.WaitGroup, sinks []*benchSink, enough context.CancelFunc) {
	done := make(chan struct{})
	go func() {
		all.Wait()
		close(done)
	}()
	for before := uint64(0); ; {
		select {
		case <-done:
			return
		case <-time.After(quietAfter):
		}
		now := uint64(0)
		for _, s := range sinks {
			now += s.received.Load()
		}
		if now == before {
			enough()
		}
		before = now
	}
}

// ownCPU is the CPU time of this process, user and system, so far.
func ownCPU() time.Duration {
	var usage syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &usage) // of oneself it cannot fail
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// cpuOf is the CPU time of another process so far.
func cpuOf(pid int) (time.Duration, error) {
	s, err := readStat(pid)
	if err != nil {
		return 0, fmt.Errorf("cannot read the CPU time of the broker: %w", err)
	}
	return s.cpu, nil
}
