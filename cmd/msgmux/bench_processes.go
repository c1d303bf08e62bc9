// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	msgmux "github.com/msgmux/msgmux/client"
)

// A message of a measurement begins with this stamp, little-endian:
//
//	0        8          16       24
//	+--------+----------+--------+---------------
//	|  run   | sequence |  time  | filling ...
//	+--------+----------+--------+---------------
//
// run tells the measurement's messages from others, the last sequence is lastSequence, time is when it was sent, in
// nanoseconds of the wall clock: the only clock that two processes can read and compare without a raw system call.
const stampSize = 24

const lastSequence = ^uint64(0)

func putStamp(message []byte, run, sequence uint64, sent time.Time) {
	binary.LittleEndian.PutUint64(message[0:], run)
	binary.LittleEndian.PutUint64(message[8:], sequence)
	binary.LittleEndian.PutUint64(message[16:], uint64(sent.UnixNano()))
}

// benchSourceReport is what the publisher has measured.
type benchSourceReport struct {
	Sent  uint64        // without the last, which only ends the sinks
	Bytes uint64        //
	Began time.Time     // the first was sent
	Took  time.Duration // until the last was sent
	CPU   time.Duration // user and system
}

// benchSinkReport is what a sink has measured.
type benchSinkReport struct {
	Received   uint64
	Disordered uint64    // came after a later one, or twice
	Ended      time.Time // the last one came
	CPU        time.Duration
	Latencies  latencies
}

func benchSourceCommand(where *location) *cobra.Command {
	var (
		run      uint64
		size     int
		rate     float64
		duration span
		plain    bool
	)
	cmd := &cobra.Command{
		Use: "bench-source", Hidden: true, Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			channel, err := where.locate()
			if err != nil {
				return err
			}
			source, err := channel.Dial(context.Background(), msgmux.SourceOptions{Label: "bench", Datagrams: plain})
			if err != nil {
				return err
			}
			defer source.Close()
			report, err := benchSend(source, run, size, rate, time.Duration(duration))
			if err != nil {
				return err
			}
			return json.NewEncoder(os.Stdout).Encode(report)
		},
	}
	cmd.Flags().Uint64Var(&run, "run", 0, "")
	cmd.Flags().IntVar(&size, "size", stampSize, "")
	cmd.Flags().Float64Var(&rate, "rate", 0, "")
	cmd.Flags().Var(&duration, "duration", "")
	cmd.Flags().BoolVar(&plain, "datagrams", false, "")
	return cmd
}

// benchSend sends for a while: as fast as the channel takes, packet by packet, or at a rate, what is due at a time. What
// falls behind the rate is caught up with.
func benchSend(source *msgmux.Source, run uint64, size int, rate float64, duration time.Duration) (benchSourceReport, error) {
	ctx := context.Background()
	message := bytes.Repeat([]byte("msgmux bench\n"), size/13+1)[:size]
	cpu, err := ownCPU()
	if err != nil {
		return benchSourceReport{}, err
	}
	batch := source.Batch()
	r := benchSourceReport{Began: time.Now()}
	for now := r.Began; now.Sub(r.Began) < duration; now = time.Now() {
		if rate > 0 {
			due := r.Began.Add(time.Duration(float64(r.Sent) / rate * float64(time.Second)))
			if wait := due.Sub(now); wait > 0 {
				// Nothing is due: what was goes now.
				if err := batch.Flush(ctx); err != nil {
					return r, err
				}
				time.Sleep(wait)
				now = time.Now()
			}
		}
		putStamp(message, run, r.Sent, now)
		if err := batch.Add(ctx, message); err != nil {
			return r, err
		}
		r.Sent++
	}
	if err := batch.Flush(ctx); err != nil {
		return r, err
	}
	r.Took = time.Since(r.Began)
	r.Bytes = r.Sent * uint64(size)
	putStamp(message, run, lastSequence, time.Now())
	if err := source.Send(ctx, message); err != nil {
		return r, err
	}
	after, err := ownCPU()
	r.CPU = after - cpu
	return r, err
}

func benchSinkCommand(where *location) *cobra.Command {
	var run uint64
	cmd := &cobra.Command{
		Use: "bench-sink", Hidden: true, Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			channel, err := where.locate()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(context.Background(), answerWithin)
			defer cancel()
			label := fmt.Sprintf("bench-%d", os.Getpid())
			sink, err := channel.Subscribe(ctx, msgmux.SinkOptions{Label: label})
			if err != nil {
				return err
			}
			defer sink.Close()
			output := json.NewEncoder(os.Stdout)
			if err := output.Encode(struct{}{}); err != nil {
				return err
			}
			report, err := benchReceive(sink, run)
			if err != nil {
				return err
			}
			return output.Encode(report)
		},
	}
	cmd.Flags().Uint64Var(&run, "run", 0, "")
	return cmd
}

// errLast ends the receiving at the last message.
var errLast = errors.New("the last message has come")

// quietAfter is how long nothing must come, once the publisher has ended, for a sink to know that it has lost the last
// message.
const quietAfter = time.Second

// benchReceive receives until the last message, or until nothing comes any more after standard input was closed.
func benchReceive(sink *msgmux.Sink, run uint64) (benchSinkReport, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var came atomic.Uint64
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		for before := came.Load(); sleep(ctx, quietAfter); {
			now := came.Load()
			if now == before {
				cancel()
			}
			before = now
		}
	}()

	r := benchSinkReport{Ended: time.Now()}
	var next uint64
	cpu, err := ownCPU()
	if err != nil {
		return r, err
	}
	take := func(message []byte) error {
		came.Add(1)
		if len(message) < stampSize || binary.LittleEndian.Uint64(message) != run {
			return nil // somebody else's
		}
		sequence := binary.LittleEndian.Uint64(message[8:])
		if sequence == lastSequence {
			return errLast
		}
		r.Received++
		if sequence < next {
			r.Disordered++
		} else {
			next = sequence + 1
		}
		r.Ended = time.Now()
		r.Latencies.add(time.Duration(r.Ended.UnixNano() - int64(binary.LittleEndian.Uint64(message[16:]))))
		return nil
	}
	for m, failed := range sink.Messages(ctx) {
		if err = failed; err == nil {
			err = take(m.Payload)
		}
		if err != nil {
			break
		}
	}
	if !errors.Is(err, errLast) && !errors.Is(err, context.Canceled) {
		return r, err
	}
	after, err := ownCPU()
	r.CPU = after - cpu
	return r, err
}

// sleep waits for d; false means that ctx was done before.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// ownCPU is the CPU time of this process, user and system, so far.
func ownCPU() (time.Duration, error) {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0, fmt.Errorf("cannot read the CPU time: %w", err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()), nil
}

// clockTick is the unit of times in /proc/PID/stat: USER_HZ is 100 wherever Go runs.
const clockTick = time.Second / 100

// cpuOf is the CPU time of another process, user and system, so far, to a hundredth of a second.
func cpuOf(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("cannot read the CPU time of the broker: %w", err)
	}
	// The name, field 2, may hold anything; what follows its last parenthesis begins with field 3 (proc_pid_stat(5)).
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(fields) < 13 {
		return 0, fmt.Errorf("cannot read the CPU time of the broker: /proc/%d/stat has %d fields", pid, len(fields))
	}
	user, err1 := strconv.ParseInt(string(fields[14-3]), 10, 64)
	system, err2 := strconv.ParseInt(string(fields[15-3]), 10, 64)
	return time.Duration(user+system) * clockTick, errors.Join(err1, err2)
}
