// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

const usage = `usage: go run ./driver COMMAND [ADAPTER...] [FLAG...]

  list                  the adapters
  run ADAPTER...        each one, -n times by turns
  pair A B              A and B alternately, -n times; median of the ratios A/B
  suite [A B]           every figure that is held against the floor (msgmux floor-dgram)
  idle ADAPTER...       CPU of a broker that has nothing to do, for 10 s
  scaling ADAPTER...    broker CPU per delivery by number of sinks
  memory ADAPTER...     memory of the broker: at rest, under load, after
  stopped ADAPTER...    one sink of -sinks is stopped; what the others get
  tap ADAPTER...        beside a tap that reads and one that hangs: what the others get
  share ADAPTER...      how much of their time the workers of a share work
  table [ADAPTER...]    all adapters beside each other, as a table and an SVG

ADAPTER may be a group: floor, peer, all.

`

// options are the flags that all commands share.
type options struct {
	sinks      []int
	size       int
	rate       int
	qlens      []int
	mode       string
	time       time.Duration
	n          int
	procs      int
	steady     bool
	calm       float64
	peers      bool
	msgmuxd    string
	before     string
	brokerArgs string
	out        string
}

// sinkList is the value of -sinks, or what a command takes without it.
func (o *options) sinkList(fallback ...int) []int {
	if len(o.sinks) > 0 {
		return o.sinks
	}
	return fallback
}

// length is the value of -time, or what a command takes without it.
func (o *options) length(fallback time.Duration) time.Duration {
	if o.time > 0 {
		return o.time
	}
	return fallback
}

// ints reads a comma-separated list of positive numbers.
func ints(text string) ([]int, error) {
	var list []int
	for f := range strings.SplitSeq(text, ",") {
		n, err := strconv.Atoi(f)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("cannot read number %q", f)
		}
		list = append(list, n)
	}
	return list, nil
}

// parse reads the flags of a command, wherever they stand among its words.
func parse(args []string) (*options, []string, error) {
	o := &options{qlens: []int{512}}
	fs := flag.NewFlagSet("driver", flag.ContinueOnError)
	fs.Usage = func() {
		fmt.Fprint(fs.Output(), usage)
		fs.PrintDefaults()
	}
	list := func(to *[]int) func(string) error {
		return func(s string) (err error) { *to, err = ints(s); return }
	}
	fs.Func("sinks", "numbers of `sinks`, as 1,4,16,64 (default 4, or what the command is about)", list(&o.sinks))
	fs.Func("qlen", "values of net.unix.max_dgram_qlen, as 512,10 (default 512)", list(&o.qlens))
	fs.IntVar(&o.size, "size", 256, "payload `bytes`, at least 16")
	fs.StringVar(&o.mode, "mode", "flood", "flood, paced (10000 messages a second) or latency (1000)")
	fs.IntVar(&o.rate, "rate", 0, "messages a second, instead of the mode's")
	fs.DurationVar(&o.time, "time", 0, "`length` of the measured part (default 1s, latency 2s, idle 10s)")
	fs.IntVar(&o.n, "n", 0, "`repetitions` (default: 9 pairs, 3 runs)")
	fs.IntVar(&o.procs, "procs", 0, "sink `processes` (default: one for each sink up to 64, else 1)")
	fs.BoolVar(&o.steady, "steady", false, "measure in the middle of a flood instead of until all is delivered")
	fs.Float64Var(&o.calm, "calm", 0, "wait until others use less than `percent` of all cores, and do a pair again in which they used more")
	fs.BoolVar(&o.peers, "peers", false, "install the Debian packages that the chosen peers need (apt-get)")
	fs.StringVar(&o.msgmuxd, "msgmuxd", "../../bin/msgmuxd", "`path` of the broker")
	fs.StringVar(&o.before, "before", "", "`path` of another broker, which the adapters before-NAME use")
	fs.StringVar(&o.brokerArgs, "broker-args", "", "further `flags` for msgmuxd, separated by blanks")
	fs.StringVar(&o.out, "out", "build/results.jsonl", "`file` to which each result is added as a line of JSON")
	var rest []string
	for {
		if err := fs.Parse(args); err != nil {
			return nil, nil, err
		}
		if fs.NArg() == 0 {
			break
		}
		rest = append(rest, fs.Arg(0))
		args = fs.Args()[1:]
	}
	if o.size < 16 {
		return nil, nil, errors.New("-size must be at least 16")
	}
	if _, _, err := o.pace(); err != nil {
		return nil, nil, err
	}
	if len(rest) == 0 || rest[0] == "help" {
		fs.SetOutput(os.Stdout)
		fs.Usage()
		return nil, nil, flag.ErrHelp
	}
	return o, rest, nil
}

// pace is the rate and length of a run in the chosen mode.
func (o *options) pace() (rate int, length time.Duration, err error) {
	switch o.mode {
	case "flood":
		rate, length = 0, time.Second
	case "paced":
		rate, length = 10_000, time.Second
	case "latency":
		rate, length = 1000, 2*time.Second
	default:
		return 0, 0, fmt.Errorf("-mode is flood, paced or latency, not %q", o.mode)
	}
	if o.rate > 0 {
		rate = o.rate
	}
	return rate, o.length(length), nil
}

func main() {
	// A child's parent-death signal comes when the thread that started it ends.
	runtime.LockOSThread()
	if err := command(os.Args[1:]); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return
		}
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func command(args []string) error {
	o, words, err := parse(args)
	if err != nil {
		return err
	}
	name, words := words[0], words[1:]
	if name == "list" {
		for _, a := range adapters {
			fmt.Printf("%-14s %-7s %s\n", a.name, a.group, a.about)
		}
		return nil
	}
	commands := map[string]struct {
		do       func(*bench, []*adapter) error
		fallback []string
	}{
		"run":     {(*bench).cmdRun, nil},
		"pair":    {(*bench).cmdPair, nil},
		"suite":   {(*bench).cmdSuite, []string{"msgmux", "floor-dgram"}},
		"idle":    {(*bench).cmdIdle, nil},
		"scaling": {(*bench).cmdScaling, nil},
		"memory":  {(*bench).cmdMemory, nil},
		"stopped": {(*bench).cmdStopped, nil},
		"tap":     {(*bench).cmdTap, []string{"msgmux-frames"}},
		"share":   {(*bench).cmdShare, []string{"msgmux-workers"}},
		"table":   {(*bench).cmdTable, []string{"all"}},
	}
	c, ok := commands[name]
	if !ok {
		return fmt.Errorf("no command %q; -help lists them", name)
	}
	if len(words) == 0 {
		words = c.fallback
	}
	chosen, err := choose(words)
	if err != nil {
		return err
	}
	b, err := prepare(o, chosen)
	if err != nil {
		return err
	}
	// What needs the network is done; the rest runs in a namespace of its own.
	if inside, err := enterNamespace(); !inside || err != nil {
		return err
	}
	if b.out, err = os.OpenFile(o.out, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644); err != nil {
		return fmt.Errorf("cannot open results: %w", err)
	}
	defer b.out.Close()
	cleanUpOnSignal()
	return c.do(b, chosen)
}

// bench is one invocation: its flags, its programs, its results.
type bench struct {
	*options
	bin string // folder of what was built
	out *os.File
}

// prepare builds the programs of the chosen adapters; the work is left to the
// outer process, which still has a network.
func prepare(o *options, chosen []*adapter) (*bench, error) {
	if _, err := os.Stat("c/meter.h"); err != nil {
		return nil, errors.New("run it in the folder internal/bench")
	}
	bin, err := filepath.Abs("build/bin")
	if err != nil {
		return nil, fmt.Errorf("cannot find build folder: %w", err)
	}
	if o.msgmuxd, err = filepath.Abs(o.msgmuxd); err != nil {
		return nil, fmt.Errorf("cannot find broker: %w", err)
	}
	if o.before != "" {
		if o.before, err = filepath.Abs(o.before); err != nil {
			return nil, fmt.Errorf("cannot find the broker before: %w", err)
		}
	}
	b := &bench{options: o, bin: bin}
	if insideNamespace() {
		return b, nil
	}
	for _, a := range chosen {
		if a.group != "msgmux" {
			continue
		}
		if _, err := os.Stat(o.msgmuxd); err != nil {
			return nil, fmt.Errorf("cannot find broker (make build, or -msgmuxd): %w", err)
		}
	}
	if err := installPackages(o.peers, chosen); err != nil {
		return nil, err
	}
	return b, b.build(chosen)
}
