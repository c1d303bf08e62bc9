// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"context"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/msgmux/msgmux/activation"
	"github.com/msgmux/msgmux/broker/gate"
	"github.com/msgmux/msgmux/broker/journal"
	"github.com/msgmux/msgmux/broker/loop"
	"github.com/msgmux/msgmux/broker/status"
	"github.com/msgmux/msgmux/broker/store"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

const (
	// drainFor is how long a broker without a service manager goes on delivering when it is stopped.
	drainFor = 2 * time.Second
	// lastWord is how long we stay alive after the last line. journald looks up the sender's unit when it reads a line; if
	// the process is gone, the line is filed under no unit. The data thread goes on meanwhile.
	lastWord = 30 * time.Millisecond
)

// Channel is one broker with its sockets.
type Channel struct {
	notifier *activation.Notifier
	in       activation.Set
	log      *journal.Log
	store    *store.Store
	gate     *gate.Gate
	thread   *loop.Thread
	board    *status.Board
}

// Open makes a channel, or goes on with the one that the inherited descriptors hold. The channel owns all of these, but the
// control and metrics sockets. When it returns, whatever a predecessor was in the middle of is settled, and nothing has been
// received yet.
func Open(cfg Config, in activation.Set) (*Channel, error) {
	if cfg.Ops == nil {
		cfg.Ops = sys.Kernel{}
	}
	c := &Channel{notifier: cfg.Notifier, in: in, log: journal.New(cfg.Log)}
	if err := c.open(&cfg); err != nil {
		c.log.Close()
		return nil, err
	}
	return c, nil
}

// open opens room after room. What those have opened that come before one that fails is closed again; where the ring is kept,
// in the descriptor store, it stays.
func (c *Channel) open(cfg *Config) (err error) {
	c.store = store.New(store.Config{Notifier: cfg.Notifier, Log: c.log, Ops: cfg.Ops, Room: int(cfg.Geometry.MaxSinks), KeepRights: cfg.KeepRights})
	r, salvaged, err := c.store.Open(&c.in, store.Options{Geometry: cfg.Geometry, IgnoreRecords: cfg.IgnoreRecords})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			r.Retire()
		}
	}()
	cfg.Geometry = r.Geometry() // another one, if the ring could not be moved
	limits := loop.Limits{UID: uint32(os.Geteuid()), Patience: cfg.Patience, PerUser: cfg.SinksPerUser,
		QueueBytes: cfg.QueueBytes(), QueueTotal: cfg.QueueTotal}
	static := make([]gate.StaticSink, len(cfg.Sinks))
	for i, s := range cfg.Sinks {
		static[i] = gate.StaticSink(s)
	}
	c.gate, err = gate.Open(gate.Config{Store: c.store, Log: c.log, Ops: cfg.Ops, Limits: limits, Inherited: &c.in,
		Sinks: static, SinksDir: cfg.SinksDir, OptionsDir: cfg.OptionsDir, GoneAfter: cfg.goneAfter})
	if err != nil {
		return err
	}
	c.thread, err = loop.New(loop.Config{Ring: r, Store: c.store, Log: c.log, Ops: cfg.Ops, Limits: limits, Beat: beat(cfg), BeatEvery: cfg.Watchdog / 4},
		func(r *loop.Roster) error { return c.gate.Begin(r, &c.in, salvaged) })
	if err != nil {
		c.gate.Close()
		return err
	}
	c.board = status.New(status.Config{Version: cfg.Version, Name: cfg.Name, RuntimeDir: cfg.RuntimeDir,
		Thread: c.thread, Log: c.log, Notifier: cfg.Notifier, Source: c.in.Source, BlockedCheck: cfg.blockedCheck, BlockedLong: cfg.blockedLong})
	return nil
}

// beat is the sign of life for the watchdog, nil if it wants none.
func beat(cfg *Config) func() {
	if cfg.Watchdog == 0 {
		return nil
	}
	return func() { cfg.Notifier.Watchdog() }
}

// Run is the channel until ctx ends. It returns when everything is as it should be left: for a service manager with
// the ring and the sinks in its store, for nobody after delivering what sinks take within 2 s.
func (c *Channel) Run(ctx context.Context) error {
	stop, cancel := context.WithCancel(context.Background())
	defer cancel()
	go c.thread.Run()
	var workers sync.WaitGroup
	workers.Go(func() { c.store.Run(stop) })
	workers.Go(func() { c.gate.Run(stop, c.thread) })
	workers.Go(func() { c.board.Run(stop) })
	c.notifier.Ready(c.board.Line())
	c.log.Event(slog.LevelDebug, journal.EventStarted, "started")

	<-ctx.Done()
	c.notifier.Stopping()
	c.log.Event(slog.LevelDebug, journal.EventStopping, "stopping")
	// Stop the data thread last: the others hand it work and wait for the result. It keeps receiving meanwhile, since nobody
	// else does until a successor starts.
	cancel()
	workers.Wait()
	if c.notifier != nil {
		if c.board.SayHeld() {
			time.Sleep(lastWord)
		}
		c.thread.StopReceiving()
	} else {
		c.drain()
		c.board.SayHeld()
	}
	c.thread.Stop()
	c.store.Drain()
	c.log.Close()
	return nil
}

// drain receives nothing any more, and for 2 s lets the sinks have what they take: nobody comes afterwards.
func (c *Channel) drain() {
	c.thread.StopReceiving()
	for deadline := time.Now().Add(drainFor); time.Now().Before(deadline) && !c.thread.IsIdle(); {
		time.Sleep(5 * time.Millisecond)
	}
}

// Close releases everything that the process would otherwise keep to its end: the ring, and all descriptors. It is for
// a process that goes on without the channel, after Run. Callers that still ask for the status get an empty one.
func (c *Channel) Close() {
	c.board.Close()
	c.thread.Close()
	c.gate.Close()
	for _, d := range append(c.in.SourceQueues, c.in.Source, c.in.Publish, c.in.Register, c.in.Subscribe) {
		if d.Given() {
			sys.Close(d.FD)
		}
	}
}

// Status is the state of the channel. Like List and Watch it may be called from any goroutine, and does not make the data
// thread wait.
func (c *Channel) Status() wire.Status { return c.board.Status() }

// List is Status and all sinks.
func (c *Channel) List() (wire.Status, []wire.Sink) { return c.board.List() }

// Watch returns a channel with room for so many events of what happens to the sinks, a count of those that found no room,
// and what ends it. The channel is never closed: after stop nothing comes any more.
func (c *Channel) Watch(room int) (events <-chan wire.Event, dropped func() uint64, stop func()) {
	return c.log.Watchers.Watch(room)
}

// Drop removes a dynamic sink, or a static one that is not declared any more. uid is who asks: its owner, root or the broker's
// user. It blocks until that is done; for a static sink up to some seconds, where its folder does.
func (c *Channel) Drop(uid uint32, name string) *wire.Error {
	static, refusal := c.thread.Drop(uid, name)
	if refusal == nil && static != 0 {
		return c.gate.Forget(static, name)
	}
	return refusal
}

// SetPatience changes how long others wait for a sink. uid is who asks. It blocks until the data thread has done that.
func (c *Channel) SetPatience(uid uint32, name string, d time.Duration) *wire.Error {
	return c.thread.SetPatience(uid, name, d)
}

// Rescan has the static sinks looked at now, whatever the folder told, and those that are absent tried.
func (c *Channel) Rescan() { c.gate.Rescan() }
