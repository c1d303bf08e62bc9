// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"cmp"
	"context"
	"errors"
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
	"github.com/msgmux/msgmux/internal/subuid"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

const (
	// workersPatience is how long the end of a channel waits for goroutines that block. It is less than TimeoutStopSec= of the
	// units, so that there is time to deliver, or to say what is held.
	workersPatience = 5 * time.Second
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
	unlink   func() error   // nil: the sockets are the service manager's, or
	held     bool           // a holder's
	workers  sync.WaitGroup // goroutines that use the thread
}

// Open makes a channel, or goes on with the one that the inherited descriptors hold. The channel owns all of these, but the
// control and metrics sockets. When it returns, whatever a predecessor was in the middle of is settled, and nothing has been
// received yet.
func Open(cfg Config, in activation.Set) (*Channel, error) {
	if cfg.Ops == nil {
		cfg.Ops = sys.Kernel{}
	}
	if cfg.users == nil {
		cfg.users = subuid.Host
	}
	cfg.users.Look()
	if cfg.lacked == nil {
		cfg.lacked = sys.LackedForCredentials()
	}
	c := &Channel{notifier: cfg.Notifier, in: in, log: journal.New(cfg.Log), unlink: cfg.Unlink, held: cfg.Held}
	c.log.Owner = cfg.users.Known
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
	r, salvaged, err := c.store.Open(&c.in, store.Options{Geometry: cfg.Geometry, IgnoreRecords: cfg.IgnoreRecords,
		Expected: cfg.Unlink == nil, Owner: cfg.users.Known, Credentials: len(cfg.lacked) == 0})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			r.Retire()
		}
	}()
	cfg.Geometry = r.Geometry() // another one, if the ring could not be moved
	limits := loop.Limits{UID: uint32(os.Geteuid()), Patience: cfg.Patience, Keep: cfg.Keep, PerUser: cfg.SinksPerUser,
		QueueBytes: cfg.QueueBytes(), QueueTotal: cfg.QueueTotal, Stages: cfg.Stages,
		QueueBound: cmp.Or(cfg.QueueBound, "--queue-total"), Owner: cfg.users.Known}
	static := make([]gate.StaticSink, len(cfg.Sinks))
	for i, s := range cfg.Sinks {
		static[i] = gate.StaticSink(s)
	}
	c.gate, err = gate.Open(gate.Config{Store: c.store, Log: c.log, Ops: cfg.Ops, Limits: limits, Users: cfg.users, Inherited: &c.in,
		Sinks: static, SinksDir: cfg.SinksDir, OptionsDir: cfg.OptionsDir, Scout: cfg.Scout, GoneAfter: cfg.goneAfter, Silent: cfg.Silent, Lacked: cfg.lacked})
	if err != nil {
		return err
	}
	c.thread, err = loop.New(loop.Config{Ring: r, Store: c.store, Log: c.log, Ops: cfg.Ops, Limits: limits, Beat: beat(cfg), BeatEvery: cfg.Watchdog / 4},
		func(r *loop.Roster) error { return c.gate.Begin(r, &c.in, salvaged) })
	if err != nil {
		c.gate.Close()
		return err
	}
	c.store.Commit()
	c.board = status.New(status.Config{Version: cfg.Version, Name: cfg.Name, RuntimeDir: cfg.RuntimeDir,
		Publish: publish(&c.in), QueuesRoom: limits.Queues(),
		Thread: c.thread, Log: c.log, Notifier: cfg.Notifier, BlockedCheck: cfg.blockedCheck, BlockedLong: cfg.blockedLong})
	return nil
}

// publish is where connected sources connect, "" for nowhere.
func publish(in *activation.Set) string {
	if !in.Publish.Given() {
		return ""
	}
	name, _ := sys.BoundTo(in.Publish.FD)
	return name
}

// beat is the sign of life for the watchdog, nil if it wants none.
func beat(cfg *Config) func() {
	if cfg.Watchdog == 0 {
		return nil
	}
	return func() { cfg.Notifier.Watchdog() }
}

// ErrLast is the cause of the end (context.Cause) by which whoever runs a channel tells that no other broker comes after this one.
var ErrLast = errors.New("no broker comes after this one")

// Run is the channel until ctx ends. It returns when everything is as it should be left: for a service manager that keeps them
// with the ring and the sinks in its store, for nobody (ErrLast) after delivering what sinks take within 2 s.
func (c *Channel) Run(ctx context.Context) error {
	stop, cancel := context.WithCancel(context.Background())
	defer cancel()
	go c.thread.Run()
	var storing sync.WaitGroup
	storing.Go(func() { c.store.Run(stop) })
	c.workers.Go(func() { c.gate.Run(stop, c.thread) })
	c.workers.Go(func() { c.board.Run(stop) })
	c.notifier.Ready(c.board.Line())
	c.sayStarted()

	<-ctx.Done()
	c.notifier.Stopping()
	c.log.Event(slog.LevelDebug, journal.EventStopping, "stopping")
	// Stop the data thread last: the others hand it work and wait for the result. It keeps receiving meanwhile, since nobody
	// else does until a successor starts.
	cancel()
	c.awaitWorkers()
	c.gate.End()
	storing.Wait()
	if !errors.Is(context.Cause(ctx), ErrLast) && c.store.Settle() {
		if c.board.SayHeld(true, 0) {
			time.Sleep(lastWord)
		}
		c.thread.StopReceiving()
	} else {
		c.board.SayHeld(false, drain(c.thread, c.unlink, c.held))
	}
	c.thread.Stop()
	c.store.Drain()
	c.log.Close()
	return nil
}

// awaitWorkers waits for whoever uses the thread, but not for ever: a file system that hangs must not keep a broker from its
// end. Whoever is late finds that the thread has ended.
func (c *Channel) awaitWorkers() {
	ended := make(chan struct{})
	go func() { defer close(ended); c.workers.Wait() }()
	select {
	case <-ended:
	case <-time.After(workersPatience):
	}
}

// sayStarted logs the one line of a start: a new ring, or what a predecessor has left, of which nobody else tells after a crash.
// Whoever starts a broker by hand knows that its ring is a new one.
func (c *Channel) sayStarted() {
	t, numbers := c.thread.Snapshot(nil)
	if t.Starts <= 1 {
		level := slog.LevelInfo
		if c.unlink != nil {
			level = slog.LevelDebug
		}
		c.log.Event(level, journal.EventStarted, "started with an empty ring")
		return
	}
	c.log.Event(slog.LevelInfo, journal.EventStarted, "went on with the ring of the last broker", slog.Int("sinks", len(numbers)),
		slog.Uint64("messages", t.Head.Seq-t.Delivered.Seq+c.thread.Landed()))
}

// Close releases everything that the process would otherwise keep to its end: the ring, and all descriptors. It is for
// a process that goes on without the channel, after Run. Callers that still ask for the status get an empty one.
func (c *Channel) Close() {
	c.workers.Wait()
	c.board.Close()
	c.thread.Close()
	c.gate.Close()
	for _, d := range append(c.in.All(), c.in.SourceQueues...) {
		if d.FD != c.in.Control.FD {
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
