// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/internal/wire"
)

// benchOptions are the flags of bench.
type benchOptions struct {
	sinks    int
	size     int
	rate     float64 // messages a second, 0 for as many as go
	duration span
	frames   bool // what is there goes into one packet
	plain    bool // each message is a datagram
	force    bool
	json     bool
}

// maxBenchSinks is far above what says something on one host, and below what exhausts it by mistake.
const maxBenchSinks = 1024

func benchCommand(where *location) *cobra.Command {
	o := benchOptions{duration: span(5 * time.Second)}
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "measure the channel",
		Long: `Measure the channel with one publisher and several sinks, each a process of its
own: CPU time for a delivery in every process, deliveries a second, loss, and
the time from sending to receiving. Without --rate the publisher sends as fast
as the channel takes, and that time is mostly spent waiting in queues.

Both ends are programs in Go that use frames: many messages in one packet. With
--datagrams each message is sent as a packet of its own, as by programs that know
nothing of frames.

The messages of the measurement go to every sink of the channel. Where there
are others bench does not begin, unless forced.`,
		Example: `  msgmux bench --sinks 16 --size 4096
  msgmux bench --rate 1000 --duration 10s --json`,
		ValidArgsFunction: cobra.NoFileCompletions,
		Args:              noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.plain && o.frames && cmd.Flags().Changed("frames") {
				return usagef("--frames and --datagrams exclude each other")
			}
			o.frames = o.frames && !o.plain
			return o.run(where)
		},
	}
	flags := cmd.Flags()
	flags.IntVarP(&o.sinks, "sinks", "n", 4, "`N` sink processes")
	flags.IntVar(&o.size, "size", 256, fmt.Sprintf("size of a message in `BYTES`, at least %d", stampSize))
	flags.Float64Var(&o.rate, "rate", 0, "`N` messages a second; 0: as many as go")
	flags.Var(&o.duration, "duration", "how long to send")
	flags.BoolVar(&o.frames, "frames", true, "many messages in one packet")
	flags.BoolVar(&o.plain, "datagrams", false, "each message is a datagram")
	flags.BoolVar(&o.force, "force", false, "measure although other sinks will get the messages, too")
	flags.BoolVar(&o.json, "json", false, "one JSON object")
	return cmd
}

// run measures and prints.
func (o *benchOptions) run(where *location) error {
	switch {
	case o.sinks < 1 || o.sinks > maxBenchSinks:
		return usagef("--sinks %d: 1 to %d", o.sinks, maxBenchSinks)
	case o.size < stampSize || o.size > msgmux.MaxMessage:
		return usagef("--size %d: %d to %d", o.size, stampSize, msgmux.MaxMessage)
	case o.rate < 0 || !(o.rate <= 1e7):
		return usagef("--rate %v: 0 to 10000000", o.rate)
	}
	channel, err := where.locate()
	if err != nil {
		return err
	}
	ctx, cancel := untilStopped(context.Background())
	defer cancel(nil)
	asking, answered := context.WithTimeout(ctx, answerWithin)
	status, _, err := look(asking, channel, wire.OpStatus)
	answered()
	switch {
	case err != nil:
		return err
	case uint64(o.size) > status.MaxMessage:
		return fmt.Errorf("%w: the channel takes up to %s bytes", msgmux.ErrTooLarge, commas(status.MaxMessage))
	case status.Sinks.Total > 0 && !o.force:
		return fmt.Errorf("the channel has %s, which would get the messages, too; --force measures nevertheless",
			plural(uint64(status.Sinks.Total), "sink"))
	}
	result, err := o.measure(ctx, channel, status)
	if end, ok := errors.AsType[stopped](context.Cause(ctx)); ok {
		return exitError{end.status(), end}
	}
	if err != nil {
		return err
	}
	if o.json {
		return printJSON(result)
	}
	return printText(result.append(nil))
}

// measure runs the processes: all sinks are there before the first message, and all have ended before the account.
func (o *benchOptions) measure(ctx context.Context, channel msgmux.Channel, status wire.Status) (*benchResult, error) {
	run := strconv.FormatInt(time.Now().UnixNano(), 10)
	common := []string{"--runtime-dir", channel.RuntimeDir, "--run", run}
	var sinks []*benchProcess
	defer func() {
		for _, sink := range sinks {
			sink.end()
		}
	}()
	for i := range o.sinks {
		sink, err := startBench(ctx, fmt.Sprintf("sink %d", i+1), append([]string{"bench-sink"}, common...))
		if err != nil {
			return nil, err
		}
		sinks = append(sinks, sink)
	}
	for _, sink := range sinks {
		if err := sink.read(nil); err != nil {
			return nil, err
		}
	}
	publisher, err := startBench(ctx, "publisher", append([]string{
		"bench-source", "--size", strconv.Itoa(o.size), "--rate", strconv.FormatFloat(o.rate, 'f', -1, 64),
		"--duration", o.duration.String(), "--datagrams=" + strconv.FormatBool(!o.frames),
	}, common...))
	if err != nil {
		return nil, err
	}
	defer publisher.end()

	result := &benchResult{options: o, status: status}
	before, err := cpuOf(status.PID)
	if err != nil {
		return nil, err
	}
	if err := publisher.read(&result.source); err != nil {
		return nil, err
	}
	// A sink ends at the last message; one that has lost it, when nothing comes any more after its input was closed.
	for _, sink := range sinks {
		sink.input.Close()
	}
	for _, sink := range sinks {
		var report benchSinkReport
		if err := sink.read(&report); err != nil {
			return nil, err
		}
		result.sinks = append(result.sinks, report)
	}
	after, err := cpuOf(status.PID)
	if err != nil {
		return nil, fmt.Errorf("the broker was replaced while it was measured: %w", err)
	}
	result.broker = after - before
	result.account()
	return result, nil
}

// benchProcess is one process of a measurement: this program again, with a command that is not for people. It says that
// it is ready and what it has measured in JSON on its output, and ends when its input is closed.
type benchProcess struct {
	name   string
	cmd    *exec.Cmd
	input  io.WriteCloser
	output *json.Decoder
}

func startBench(ctx context.Context, name string, args []string) (*benchProcess, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Stderr = os.Stderr
	input, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start the %s: %w", name, err)
	}
	return &benchProcess{name: name, cmd: cmd, input: input, output: json.NewDecoder(output)}, nil
}

// read waits for the next thing that the process says; nil is for what says only that it is ready.
func (p *benchProcess) read(value any) error {
	if value == nil {
		value = &struct{}{}
	}
	if err := p.output.Decode(value); err != nil {
		return fmt.Errorf("the %s ended too early: %w", p.name, err)
	}
	return nil
}

// end waits for the process, which leaves as soon as its input is closed.
func (p *benchProcess) end() {
	p.input.Close()
	time.AfterFunc(stuckAfter, func() { _ = p.cmd.Process.Kill() })
	_ = p.cmd.Wait() // what it had to say it has said
}
