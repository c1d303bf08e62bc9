// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/msgmux/msgmux/broker"
	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/internal/wire"
)

// options are the command line.
type options struct {
	channel, runtimeDir                   string
	buffer, maxMessage                    size
	queue, queueTotal                     size
	patience, keep                        patience
	maxSinks, maxSinksPerUser, maxClients uint64
	sources, sinks                        []string
	level                                 string
	metrics, bus                          string
	logLevel                              slog.Level
	static                                []broker.StaticSink
	hold                                  bool // be the one that holds, and
	held                                  bool // be a broker that it has started
}

func (o *options) register(f *pflag.FlagSet) {
	*o = options{held: o.held, buffer: 16 << 20, maxMessage: 256 << 10, queue: 512 << 10, queueTotal: 4 << 30, patience: patience(time.Second), keep: patience(10 * time.Minute)}
	f.SortFlags = false
	f.StringVarP(&o.channel, "channel", "c", "", "`NAME` of the channel, when the service manager hands the sockets over")
	f.StringVar(&o.runtimeDir, "runtime-dir", "", "make the sockets in `DIR`, when nobody hands them over")
	f.StringArrayVar(&o.sources, "source", nil, "make another socket for sources at `PATH`, with --runtime-dir; may be repeated")
	f.BoolVar(&o.hold, "hold", false, "where there is no service manager: keep the channel's memory and sockets, and start a broker again whenever one ends")
	f.Var(&o.buffer, "buffer", "`SIZE` of the ring: a power of two from 1M to 1G")
	f.Var(&o.maxMessage, "max-message", "`SIZE` of the largest message: up to 4M and half the buffer")
	f.Var(&o.patience, "patience", "how long a sink may make others wait: a `DURATION`, or forever")
	f.Var(&o.keep, "keep", "the longest that a user may have a place kept while his client is away: a `DURATION`, or forever")
	f.Uint64Var(&o.maxSinks, "max-sinks", 4096, "`N` sinks may be there at most; those in view count twice")
	f.Uint64Var(&o.maxSinksPerUser, "max-sinks-per-user", 256, "`N` sinks, and as many connected sources, may be of one user; in view, or with a stage, they count twice; root may have all")
	f.Uint64Var(&o.maxClients, "max-clients", 1024, "`N` connected sources may be there at most; those with a stage count twice")
	f.Var(&o.queue, "queue", "`SIZE` of what may wait in the kernel for one sink")
	f.Var(&o.queueTotal, "queue-total", "`SIZE` of what may wait in the kernel for all sinks")
	f.StringArrayVar(&o.sinks, "sink", nil, "a static sink: `PATH[,option=value...]`; may be repeated")
	f.StringVar(&o.metrics, "metrics", "", "serve metrics at `ADDRESS`, a path or HOST:PORT, beside the socket that is handed over")
	f.StringVar(&o.bus, "dbus", "auto", "be on this `BUS`: system, session, off, or an address; auto: that of the service manager")
	f.StringVar(&o.level, "log-level", "info", "`LEVEL` of what is logged: debug, info, warn, error")
}

// finish checks what the flags say together.
func (o *options) finish() error {
	if o.channel != "" && !wire.IsChannelName(o.channel) {
		return fmt.Errorf("--channel %q: a name is 1 to 32 of a-z, 0-9 and _", o.channel)
	}
	if o.runtimeDir != "" {
		abs, err := filepath.Abs(o.runtimeDir)
		if err != nil {
			return fmt.Errorf("--runtime-dir %q: %w", o.runtimeDir, err)
		}
		o.runtimeDir = abs
	}
	if o.hold && o.runtimeDir == "" {
		return errors.New("--hold is for a channel by hand: say --runtime-dir DIR")
	}
	if err := o.geometry().Check(); err != nil {
		return err
	}
	if o.maxSinksPerUser < 1 {
		return errors.New("--max-sinks-per-user must be at least 1")
	}
	if o.queue < 4<<10 || o.queue > broker.MaxQueue {
		return errors.New("--queue must be from 4K to 1G")
	}
	if cfg := o.config(); cfg.QueueTotal < cfg.QueueBytes() {
		return fmt.Errorf("--queue-total must be at least the %d bytes of one sink: --queue, or what --max-message needs", cfg.QueueBytes())
	}
	if err := o.logLevel.UnmarshalText([]byte(o.level)); err != nil {
		return fmt.Errorf("--log-level %q: debug, info, warn or error", o.level)
	}
	switch o.bus {
	case "auto", "system", "session", "off":
	default:
		if !strings.Contains(o.bus, ":") {
			return fmt.Errorf("--dbus %q: system, session, off, auto, or an address as in unix:path=PATH", o.bus)
		}
	}
	for _, path := range o.sources {
		if !filepath.IsAbs(path) || filepath.Clean(path) != path {
			return fmt.Errorf("--source %q: want an absolute path, as short as it can be", path)
		}
	}
	for _, s := range o.sinks {
		addr, opts, err := wire.ParseSinkFlag(s)
		if err != nil {
			return fmt.Errorf("--sink %q: %w", s, err)
		}
		o.static = append(o.static, broker.StaticSink{Address: addr, Options: opts})
	}
	return nil
}

func (o *options) geometry() ring.Geometry {
	return ring.Geometry{Size: uint64(o.buffer), MaxMessage: uint64(o.maxMessage), MaxSinks: o.maxSinks, MaxClients: o.maxClients}
}

// config is what the flags say about the channel. Where its sockets are handed over, the folder follows from its name.
func (o *options) config() broker.Config {
	dir, etc := o.runtimeDir, ""
	if dir == "" {
		dir, etc = "/run/msgmux", "/etc/msgmux"
		if o.channel != "" {
			dir, etc = dir+"."+o.channel, etc+"."+o.channel
		}
		etc = filepath.Join(etc, "sinks")
	}
	return broker.Config{
		Name: o.channel, RuntimeDir: dir, Geometry: o.geometry(), Patience: time.Duration(o.patience), Keep: time.Duration(o.keep),
		SinksPerUser: int(min(o.maxSinksPerUser, math.MaxInt32)), Queue: uint64(o.queue), QueueTotal: uint64(o.queueTotal),
		Sinks: o.static, SinksDir: filepath.Join(dir, "sinks"), OptionsDir: etc,
		Scout: "/proc/self/exe",
	}
}

// size is a number of bytes, with K, M or G.
type size uint64

func (s *size) Set(text string) error {
	digits, unit := strings.TrimRight(text, "KMG"), uint64(1)
	switch strings.TrimPrefix(text, digits) {
	case "":
	case "K":
		unit = 1 << 10
	case "M":
		unit = 1 << 20
	case "G":
		unit = 1 << 30
	default:
		return errors.New("a size is a number of bytes, or one with K, M or G")
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || n > math.MaxInt64/unit {
		return errors.New("a size is a number of bytes, or one with K, M or G")
	}
	*s = size(n * unit)
	return nil
}

func (s *size) String() string {
	n := uint64(*s)
	for _, u := range []struct {
		name string
		size uint64
	}{{"G", 1 << 30}, {"M", 1 << 20}, {"K", 1 << 10}} {
		if n >= u.size && n%u.size == 0 {
			return strconv.FormatUint(n/u.size, 10) + u.name
		}
	}
	return strconv.FormatUint(n, 10)
}

func (s *size) Type() string { return "size" }

// patience is how long something lasts: a duration, or forever.
type patience time.Duration

func (p *patience) Set(text string) error {
	d, err := wire.ParsePatience(text)
	if err != nil {
		return errors.New("want a duration as in 1.5s, or forever")
	}
	*p = patience(d)
	return nil
}

func (p *patience) String() string { return wire.FormatPatience(time.Duration(*p)) }

func (p *patience) Type() string { return "duration" }
