// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"sync"
	"time"

	"github.com/msgmux/msgmux/activation"
	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// Config says what a channel is made of.
type Config struct {
	Version    string
	Name       string // "" is the default channel
	RuntimeDir string // for the status; nothing is opened by it

	Geometry     ring.Geometry
	Patience     time.Duration // of sinks that do not ask for one
	SinksPerUser int           // for others than root
	Queue        uint64        // bytes that may wait in the kernel for one sink; at most MaxQueue
	QueueTotal   uint64        // and for all

	Sinks      []StaticSink  // declared by flag
	SinksDir   string        // every entry is a static sink; "" for none
	OptionsDir string        // NAME.conf for each of them; "" for none
	goneAfter  time.Duration // how long an entry of SinksDir may be gone before its sink is; 0: as usual. For tests

	// Inherited are the channel's sockets, and what a predecessor left. The channel owns all of them.
	Inherited activation.Set
	Notifier  *activation.Notifier // nil without a service manager
	Watchdog  time.Duration        // how often it wants a sign of life; 0: never
	StoreMax  int                  // how many descriptors the store takes; 0: not known

	Log slog.Handler
	Ops sys.Ops // nil: the kernel

	// KeepRights is for tests of kernels before 6.16, where no socket can refuse the descriptors that are sent to it.
	KeepRights bool

	// IgnoreRecords is for the test that shows what the commit records are good for.
	IgnoreRecords bool
}

// MaxQueue is the largest Config.Queue, in bytes: the kernel keeps a send buffer's size in an int.
const MaxQueue = 1 << 30

// StaticSink is a sink that was declared on the command line.
type StaticSink struct {
	Address wire.Address
	Options wire.Options

	handed bool // by the administrator, as a descriptor: the options are in OptionsDir
	queue  int  // a handed-over message queue, open for sending; -1: none
}

// drainFor is how long a broker that was started by hand goes on delivering when it is told to stop.
const drainFor = 2 * time.Second

// lastWord is the time that the journal gets to read what this process says at its end: it asks who a process is, and what
// unit it belongs to, only then, and files what it finds nobody for under no unit. The data thread goes on meanwhile.
const lastWord = 30 * time.Millisecond

// Channel is one broker with its sockets.
type Channel struct {
	cfg     Config
	ring    *ring.Ring
	loop    *loop
	journal *journal
	prover  *prover
	uid     uint32 // the broker's own
	began   time.Time

	refuses  bool            // no socket that is received from takes descriptors
	closing  chan struct{}   // one token for each discard that is at it
	settling chan settlement // descriptors that are done with
	changed  chan struct{}   // the set of sinks is another one: tell the service manager
	rescan   chan struct{}   // look at the static sinks now
	hurry    chan struct{}   // and try those that are absent
	removals chan removal    // of static sinks, asked for by their ids

	// The data thread's.
	labels  map[string]uint64
	perUser map[uint32]int

	life   sync.RWMutex // held while the status is read, and by Close: never by the data thread
	closed bool

	looking sync.Mutex // held while the status is made: of what follows
	numbers []ring.Numbers
	rates   rates

	outcomes outcomes
	workers  sync.WaitGroup
}

// Open makes a channel, or goes on with the one that the inherited descriptors hold. When it returns, whatever a
// predecessor was in the middle of is settled, and nothing has been received yet.
func Open(cfg Config) (*Channel, error) {
	if cfg.Ops == nil {
		cfg.Ops = sys.Kernel{}
	}
	c := &Channel{cfg: cfg, uid: uint32(os.Geteuid()), began: time.Now(), journal: newJournal(cfg.Log),
		closing: make(chan struct{}, maxClosing), settling: make(chan settlement, cfg.Geometry.MaxSinks),
		changed: make(chan struct{}, 1), rescan: make(chan struct{}, 1), hurry: make(chan struct{}, 1), removals: make(chan removal),
		outcomes: outcomes{n: make(map[string]uint64)}, labels: make(map[string]uint64), perUser: make(map[uint32]int)}
	if err := c.open(); err != nil {
		c.journal.close()
		c.abandon()
		return nil, err
	}
	return c, nil
}

// abandon closes what an Open that failed has made. Where the ring is kept, in the descriptor store, it stays.
func (c *Channel) abandon() {
	if c.prover != nil {
		c.prover.close()
	}
	if c.loop != nil {
		c.loop.ep.Close()
		c.loop.wake.Close()
	}
	if c.ring != nil {
		c.ring.Retire()
	}
}

func (c *Channel) open() error {
	salvaged, err := c.openRing()
	if err != nil {
		return err
	}
	in := &c.cfg.Inherited
	var receiving []int
	for _, d := range []activation.Descriptor{in.Source, in.Publish, in.Register, in.Subscribe, in.Control} {
		if d.Given() {
			receiving = append(receiving, d.FD)
		}
	}
	if c.prover, err = newProver(receiving); err != nil {
		return err
	}
	if c.loop, err = newLoop(c.ring, c.cfg.Ops, c.journal); err != nil {
		return fmt.Errorf("cannot make the loop: %w", err)
	}
	c.loop.retired, c.loop.ended = c.retired, c.ended
	c.loop.beat = c.beat()
	if in.Source.Given() {
		if err := c.loop.addSource(in.Source.FD, keySource, ring.Datagrams, nil); err != nil {
			return err
		}
	}
	for i, d := range in.SourceQueues {
		if err := c.addQueue(d, keySource+1+uint64(i)); err != nil {
			return err
		}
	}
	for i := range c.cfg.Sinks {
		c.cfg.Sinks[i].queue = -1
	}
	for _, d := range in.Sinks {
		c.takeSink(d)
	}
	c.adopt(salvaged)
	c.loop.tellBlocked()
	return nil
}

// beat is the sign of life for the watchdog, given by the data thread at half the interval that is asked for.
func (c *Channel) beat() func() {
	if c.cfg.Watchdog == 0 {
		return nil
	}
	every, next := c.cfg.Watchdog/4, time.Duration(0)
	return func() {
		if c.loop.now >= next {
			next = c.loop.now + every
			c.cfg.Notifier.Watchdog()
		}
	}
}

// Run is the channel until ctx ends. It returns when everything is as it should be left: for a service manager with
// the ring and the sinks in its store, for nobody after delivering what sinks take within 2 s.
func (c *Channel) Run(ctx context.Context) error {
	stop, cancel := context.WithCancel(context.Background())
	defer cancel()
	go c.loop.run()
	c.workers.Go(func() { c.settle(stop) })
	c.workers.Go(func() { c.reap(stop) })
	c.workers.Go(func() { c.report(stop) })
	c.workers.Go(func() { c.watchBlocked(stop) })
	c.workers.Go(func() { newFolder(c).run(stop) })
	if c.cfg.Inherited.Register.Given() {
		c.workers.Go(func() { newRegistrar(c).run(stop) })
	}
	if d := c.cfg.Inherited.Publish; d.Given() {
		c.workers.Go(func() { newDoor(c, d.FD, c.attachSource).run(stop) })
	}
	if d := c.cfg.Inherited.Subscribe; d.Given() {
		c.workers.Go(func() { newDoor(c, d.FD, c.attachSink).run(stop) })
	}
	c.cfg.Notifier.Ready(c.statusLine())
	c.journal.event(slog.LevelDebug, EventStarted, "started")

	<-ctx.Done()
	c.cfg.Notifier.Stopping()
	// The data thread last: the others have it do things, and wait for that. Meanwhile it goes on, for until a successor
	// is there nobody else receives.
	cancel()
	c.workers.Wait()
	if c.cfg.Notifier != nil {
		if c.sayHeld() {
			time.Sleep(lastWord)
		}
		c.loop.call(c.loop.stopReceiving)
	} else {
		c.drain()
		c.sayHeld()
	}
	c.loop.do(func() { c.loop.stopping = true })
	<-c.loop.over
	for len(c.settling) > 0 {
		c.settleOne(<-c.settling)
	}
	c.journal.close()
	return nil
}

// Close releases everything that the process would otherwise keep to its end: the ring, and all descriptors. It is for
// a process that goes on without the channel, after Run.
//
// Whoever still asks for the status gets an empty one.
func (c *Channel) Close() {
	c.life.Lock()
	defer c.life.Unlock()
	c.closed = true
	for _, o := range c.loop.outlets {
		sys.Close(o.fd)
	}
	for _, s := range c.loop.sources {
		if s.client != nil {
			sys.Close(s.fd)
		}
	}
	in := &c.cfg.Inherited
	for _, d := range []activation.Descriptor{in.Source, in.Publish, in.Register, in.Subscribe} {
		if d.Given() {
			sys.Close(d.FD)
		}
	}
	for _, d := range in.SourceQueues {
		sys.Close(d.FD)
	}
	for _, s := range c.cfg.Sinks {
		if s.queue >= 0 {
			sys.Close(s.queue)
		}
	}
	c.prover.close()
	c.loop.ep.Close()
	c.loop.wake.Close()
	c.ring.Retire()
}

// drain receives nothing any more, and for 2 s lets the sinks have what they take: nobody comes afterwards.
func (c *Channel) drain() {
	c.loop.call(c.loop.stopReceiving)
	for deadline := time.Now().Add(drainFor); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		done := false
		c.loop.call(func() { done = c.loop.idleNow() })
		if done {
			return
		}
	}
}

// sayHeld tells what is left in the ring, and how long it lives: messages that no sink has, and, counted for each sink,
// those that it has not been sent. It says whether there was anything to tell.
func (c *Channel) sayHeld() bool {
	t, numbers := c.ring.Snapshot(nil)
	nobody, waiting := t.Head.Seq-t.Delivered.Seq, uint64(0)
	for i := range numbers {
		if n := &numbers[i]; n.Spec.ShareID == 0 && !n.Spec.Tap {
			waiting += n.Waiting
		}
	}
	if nobody == 0 && waiting == 0 {
		return false
	}
	text := "messages that no sink has"
	if nobody == 0 {
		text = "messages that some sinks have not been sent"
	}
	if c.cfg.Notifier != nil {
		text += "; a restart keeps them, a stop does not before systemd 254"
	} else {
		text += ": lost with this process"
	}
	c.journal.event(slog.LevelWarn, EventHeld, text, slog.Uint64("messages", nobody), slog.Uint64("waiting", waiting))
	return true
}

// Rescan has the static sinks looked at now, whatever the folder told, and those that are absent tried.
func (c *Channel) Rescan() { poke(c.hurry) }

// poke sends a signal that is as good as one that is pending already.
func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// outcomes counts registrations by what became of them.
type outcomes struct {
	mu sync.Mutex
	n  map[string]uint64
}

func (o *outcomes) add(outcome string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.n[outcome]++
}

func (o *outcomes) all() map[string]uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return maps.Clone(o.n)
}
