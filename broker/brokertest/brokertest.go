// SPDX-License-Identifier: Apache-2.0

// Package brokertest starts a real broker in a temporary folder, for the tests of this repository, with all that they want
// to know and change of it. It is the program itself, in this process: real sockets, real ring, nothing mocked. It is not a
// fake, and it has no service manager. Programs that use the client have client/brokertest, which is promised to last.
//
//	broker := brokertest.Start(t) // ends with the test
//	channel := msgmux.Channel{RuntimeDir: broker.Dir}
//
// Source, Sink and Client are clients without a library, for what the Go client does not do.
//
// The package makes no compatibility promise.
package brokertest

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/msgmux/msgmux/activation"
	"github.com/msgmux/msgmux/broker"
	"github.com/msgmux/msgmux/broker/control"
	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/internal/test"
)

// Broker is a broker that runs until the test ends or Stop is called.
type Broker struct {
	Dir     string // of its sockets
	Channel *broker.Channel

	cancel context.CancelFunc
	done   chan struct{}
}

// Config is what a test's broker is like unless the test says otherwise: a small ring, the usual patience.
func Config() broker.Config {
	return broker.Config{
		Version:  "test",
		Geometry: ring.Geometry{Size: 1 << 20, MaxMessage: 256 << 10, MaxSinks: 64, MaxClients: 64},
		Patience: time.Second, Keep: 10 * time.Minute, SinksPerUser: 32, Queue: 512 << 10, QueueTotal: 1 << 30,
	}
}

// Start starts a broker in a temporary folder, which ends with the test. change may alter its configuration before that.
func Start(t testing.TB, change ...func(*broker.Config)) *Broker {
	t.Helper()
	return StartWith(t, nothing, change...)
}

// nothing is what a broker usually inherits beside its own sockets.
func nothing(*broker.Config, *activation.Set) {}

// StartWith is Start for a broker that inherits more than its own sockets, or has something done to these.
func StartWith(t testing.TB, inherit func(*broker.Config, *activation.Set), change ...func(*broker.Config)) *Broker {
	t.Helper()
	// Not t.TempDir: its paths are too long for a socket.
	dir := test.Folder(t)
	b, err := run(dir, slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}), inherit, change)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Stop)
	return b
}

// Run is Start in a folder of the caller's, until Stop is called.
func Run(dir string, log slog.Handler, change ...func(*broker.Config)) (*Broker, error) {
	return run(dir, log, nothing, change)
}

func run(dir string, log slog.Handler, inherit func(*broker.Config, *activation.Set), change []func(*broker.Config)) (*Broker, error) {
	sockets, err := activation.Bind(dir, 0o660)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir+"/sinks", 0o755); err != nil {
		return nil, errors.Join(err, sockets.Unlink())
	}
	cfg := Config()
	cfg.RuntimeDir, cfg.SinksDir, cfg.Unlink = dir, dir+"/sinks", sockets.Unlink
	cfg.Log = log
	for _, f := range change {
		f(&cfg)
	}
	in := activation.Set{Own: sockets.Own}
	inherit(&cfg, &in)
	channel, err := broker.Open(cfg, in)
	if err != nil {
		return nil, errors.Join(err, sockets.Unlink())
	}
	server, err := control.NewServer(sockets.Control.FD, channel)
	if err != nil {
		channel.Close()
		return nil, errors.Join(err, sockets.Unlink())
	}
	processors(+1)
	ctx, cancel := context.WithCancel(context.Background())
	b := &Broker{Dir: dir, Channel: channel, cancel: cancel, done: make(chan struct{})}
	served := make(chan struct{})
	go func() { defer close(served); server.Serve(ctx) }()
	go func() {
		defer close(b.done)
		channel.Run(ctx)
		<-served
		channel.Close()
		sockets.Unlink()
		processors(-1)
	}()
	return b, nil
}

var processorsMu sync.Mutex

// processors gives the scheduler more processors, or takes them back: the data thread of each broker keeps one while it
// waits for a moment, as in the program (see sys.Kernel.EpollWait).
func processors(n int) {
	processorsMu.Lock()
	defer processorsMu.Unlock()
	runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + n)
}

// Stop ends the broker and waits until it is gone, its descriptors included. A second call does nothing.
func (b *Broker) Stop() {
	b.cancel()
	<-b.done
}
