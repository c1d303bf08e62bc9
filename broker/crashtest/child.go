// SPDX-License-Identifier: Apache-2.0

package crashtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/msgmux/msgmux/activation"
	"github.com/msgmux/msgmux/broker"
	"github.com/msgmux/msgmux/broker/control"
	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/internal/sys"
)

// childMark is the variable that makes this program a broker. Its value is a Setup as JSON.
const childMark = "MSGMUX_CRASHTEST_CHILD"

// Setup says what a broker is like, and where it dies.
type Setup struct {
	Dir           string // of the channel: its sockets, sinks/ and options/
	Geometry      ring.Geometry
	Patience      time.Duration
	IgnoreRecords bool

	Death  Death
	Record string // a file to which each new point is added as a line; "" for none
	Trace  string // a file to which each point is added as a line (see model.ReadLives), epoll left out; "" for none
}

// config is the configuration that a Setup stands for; the rest is what the child is given. The quotas are out of the
// way: visitors come and go by the hundred, and the dead ones among them are found out a little later.
func (s *Setup) config() broker.Config {
	return broker.Config{
		Version: "crashtest", RuntimeDir: s.Dir, Geometry: s.Geometry, Patience: s.Patience,
		SinksPerUser: 4096, Queue: 512 << 10, QueueTotal: 4 << 30,
		SinksDir: filepath.Join(s.Dir, "sinks"), OptionsDir: filepath.Join(s.Dir, "options"),
		IgnoreRecords: s.IgnoreRecords,
	}
}

// RunChild is the whole life of this process if it was started as a broker; otherwise it returns at once. TestMain
// calls it first.
func RunChild() {
	text, isChild := os.LookupEnv(childMark)
	if !isChild {
		return
	}
	var s Setup
	err := json.Unmarshal([]byte(text), &s)
	if err == nil {
		err = serve(&s)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "broker:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// serve is what cmd/msgmuxd does under a service manager, with the system calls of the data thread wrapped.
func serve(s *Setup) error {
	// As in msgmuxd: the data thread may hold a P while it waits for a moment.
	runtime.GOMAXPROCS(max(3, runtime.GOMAXPROCS(0)+1))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	inherited, err := activation.Inherited()
	if err != nil {
		return err
	}
	set, problems := activation.Route(inherited)
	// msgmuxd logs these and goes on. Here nobody but the test hands anything over.
	if len(problems) > 0 {
		return errors.New(problems[0].String())
	}
	cfg := s.config()
	cfg.Log = slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo})
	if cfg.Notifier, err = activation.NewNotifier(); err != nil {
		return err
	}
	if d, ok := activation.WatchdogInterval(); ok {
		cfg.Watchdog = d
	}
	if cfg.Ops, err = s.ops(); err != nil {
		return err
	}
	channel, err := broker.Open(cfg, set)
	if err != nil {
		return err
	}
	server, err := control.NewServer(set.Control.FD, channel)
	if err != nil {
		return err
	}
	var others sync.WaitGroup
	others.Go(func() { server.Serve(ctx) })
	err = channel.Run(ctx)
	stop()
	others.Wait()
	return err
}

// ops are the kernel's, with whatever the Setup wants to happen on the way.
func (s *Setup) ops() (sys.Ops, error) {
	// What wraps the calls costs time in each of them; most brokers are killed from outside, at full speed.
	if s.Death == (Death{}) && s.Record == "" && s.Trace == "" {
		return sys.Kernel{}, nil
	}
	k := &killer{death: s.Death}
	if s.Record != "" {
		f, err := os.OpenFile(s.Record, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		k.record, k.seen = f, make(map[Point]bool)
	}
	if s.Trace != "" {
		f, err := os.OpenFile(s.Trace, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		k.trace = f
		fmt.Fprint(f, "\nlife\n") // see model.ReadLives
	}
	return k, nil
}
