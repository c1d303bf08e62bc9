// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/msgmux/msgmux/activation"
	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/broker/sys"
	"github.com/msgmux/msgmux/broker/wire"
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

	queue int // a handed-over message queue, open for sending; -1: none
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

	// The data thread's.
	labels  map[string]uint64
	perUser map[uint32]int

	life   sync.RWMutex // held while the status is read, and by Close: never by the data thread
	closed bool

	outcomes outcomes
	workers  sync.WaitGroup
}

// settlement is a descriptor to be taken out of the store and closed.
type settlement struct {
	fd   int
	name string // in the descriptor store; "" if it is not there
}

// Open makes a channel, or goes on with the one that the inherited descriptors hold. When it returns, whatever a
// predecessor was in the middle of is settled, and nothing has been received yet.
func Open(cfg Config) (*Channel, error) {
	if cfg.Ops == nil {
		cfg.Ops = sys.Kernel{}
	}
	c := &Channel{cfg: cfg, uid: uint32(os.Geteuid()), began: time.Now(), journal: newJournal(cfg.Log),
		closing: make(chan struct{}, maxClosing), settling: make(chan settlement, cfg.Geometry.MaxSinks),
		changed: make(chan struct{}, 1), rescan: make(chan struct{}, 1), hurry: make(chan struct{}, 1),
		outcomes: outcomes{n: make(map[string]uint64)}, labels: make(map[string]uint64), perUser: make(map[uint32]int)}
	if err := c.open(); err != nil {
		c.journal.close()
		return nil, err
	}
	return c, nil
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

// addQueue makes a message queue a source.
func (c *Channel) addQueue(d activation.Descriptor, key uint64) error {
	a, err := sys.QueueAttributesOf(d.FD)
	if err != nil {
		return fmt.Errorf("cannot receive from message queue %s: %w", d.Name, err)
	}
	if room := max(c.cfg.Geometry.MaxMessage, wire.MaxPacket); uint64(a.MessageSize) > room {
		return fmt.Errorf("cannot receive from message queue %s: its messages have up to %d bytes; --max-message must be at least that", d.Name, a.MessageSize)
	}
	return c.loop.addSource(d.FD, key, ring.Queues, nil)
}

// takeSink makes a static sink of a descriptor that an administrator handed over. The socket itself is of no use to a
// sender, and while this process had it open, a dead consumer's would look alive and swallow messages: so it is closed,
// and connected to by its address like any other. Of a queue, a descriptor for sending is kept.
func (c *Channel) takeSink(d activation.Descriptor) {
	defer sys.Close(d.FD)
	s := StaticSink{queue: -1}
	name, err := "", error(nil)
	if d.Kind == activation.MessageQueue {
		if name, err = sys.QueueName(d.FD); err == nil {
			name = "/dev/mqueue" + name
			s.queue, err = sys.ReopenQueue(d.FD)
		}
	} else {
		name, err = sys.BoundTo(d.FD)
	}
	if err == nil {
		s.Address, err = wire.ParseAddress(name)
	}
	if err == nil && s.Address.IsZero() {
		err = errors.New("it is not bound")
	}
	if err != nil {
		c.journal.event(slog.LevelError, EventStatic, "a descriptor that was handed over is no sink", slog.String("name", d.Name), slog.Any("error", err))
		return
	}
	s.Options.Set("label", strings.TrimPrefix(d.Name, "sink-"))
	c.cfg.Sinks = append(c.cfg.Sinks, s)
}

// openRing goes on with the inherited pair of files of the highest generation that is sound, or makes a new one.
func (c *Channel) openRing() (salvaged []ring.Spec, err error) {
	in := &c.cfg.Inherited
	c.refuses = true
	for _, d := range []activation.Descriptor{in.Source, in.Publish, in.Register, in.Subscribe, in.Control} {
		if d.Given() {
			c.refuses = c.refuseRights(d.FD) && c.refuses
		}
	}
	opt := ring.Options{Ops: c.cfg.Ops, Descriptors: !c.refuses, Closer: c.discard, Lock: true, IgnoreRecords: c.cfg.IgnoreRecords,
		LockError: func(err error) {
			c.journal.event(slog.LevelDebug, EventInternal, "the ring's state is not locked in memory; raise LimitMEMLOCK", slog.Any("error", err))
		}}
	pairs, highest := c.pairs()
	for i, p := range pairs {
		r, err := ring.Open(p.data.FD, p.state.FD, opt)
		if err != nil && !errors.Is(err, ring.ErrBroken) {
			// In use, or no room for it: the messages in it are not to be given up for that. The next start may do better.
			return nil, fmt.Errorf("cannot go on with the ring: %w", err)
		}
		if err != nil {
			salvaged = append(salvaged, ring.Salvage(p.state.FD)...)
			c.journal.event(slog.LevelError, EventRingBroken,
				"the ring of the last broker cannot be used; its sinks are kept, the messages in it are given up", slog.Any("error", err))
			c.retire(p)
			continue
		}
		for _, old := range pairs[i+1:] {
			c.retire(old)
		}
		c.ring = r
		if n := r.Freed(); n > 0 {
			c.journal.event(slog.LevelError, EventRingBroken, "entries of the sink table were damaged and are gone", slog.Int("entries", n))
		}
		// The predecessor may have died before they were stored; a second copy of a file is not kept.
		if err := c.storeRing(); err != nil {
			return nil, err
		}
		if r.Outdated() || r.Geometry() != c.cfg.Geometry {
			return nil, c.moveRing(p, opt)
		}
		return nil, nil
	}
	if c.ring, err = ring.Create(c.cfg.Geometry, highest+1, opt); err != nil {
		return nil, err
	}
	return salvaged, c.storeRing()
}

// moveRing goes over to a new pair of files, because the options or the layout have changed. Killed anywhere, a
// successor finds the old pair valid, or both with the new one of the higher generation.
func (c *Channel) moveRing(old pair, opt ring.Options) error {
	from := c.ring
	opt.Unpublished = true
	to, err := ring.Create(c.cfg.Geometry, from.Generation()+1, opt)
	if err == nil {
		c.cfg.Ops.Seam("move.created")
		if err = from.MoveTo(to); err != nil {
			to.Retire()
		}
	}
	if err != nil {
		c.journal.event(slog.LevelWarn, EventNotMoved, "the ring keeps its old shape until the next start", slog.Any("error", err))
		c.cfg.Geometry = from.Geometry()
		return nil
	}
	c.ring = to
	c.cfg.Ops.Seam("move.copied")
	if err := c.storeRing(); err != nil {
		return err
	}
	c.cfg.Ops.Seam("move.stored")
	to.Publish()
	c.cfg.Ops.Seam("move.published")
	c.cfg.Notifier.Remove(old.data.Name)
	c.cfg.Notifier.Remove(old.state.Name)
	from.Retire()
	return nil
}

// pair is the two files of one generation.
type pair struct {
	data, state activation.Descriptor
	generation  uint64
}

// pairs finds the files that belong together, the highest generation first.
func (c *Channel) pairs() (pairs []pair, highest uint64) {
	in := &c.cfg.Inherited
	used := make(map[int]bool)
	for _, d := range in.Data {
		gd, okd := ring.GenerationOf(d.FD)
		for _, s := range in.State {
			gs, oks := ring.GenerationOf(s.FD)
			highest = max(highest, gd, gs)
			if okd && oks && gd == gs && !used[s.FD] && !used[d.FD] {
				pairs = append(pairs, pair{d, s, gd})
				used[s.FD], used[d.FD] = true, true
			}
		}
	}
	// Files whose generation does not say so may still belong together, and hold the sinks.
	if len(pairs) == 0 && len(in.Data) == 1 && len(in.State) == 1 {
		pairs = append(pairs, pair{in.Data[0], in.State[0], 0})
		used[in.Data[0].FD], used[in.State[0].FD] = true, true
	}
	for _, d := range slices.Concat(in.Data, in.State) {
		if !used[d.FD] {
			c.cfg.Notifier.Remove(d.Name)
			sys.Close(d.FD)
		}
	}
	slices.SortFunc(pairs, func(a, b pair) int { return cmp.Compare(b.generation, a.generation) })
	return pairs, highest
}

func (c *Channel) retire(p pair) {
	c.cfg.Notifier.Remove(p.data.Name)
	c.cfg.Notifier.Remove(p.state.Name)
	sys.Close(p.data.FD)
	sys.Close(p.state.FD)
}

// storeRing gives both files to the descriptor store. Nothing is received before that is certain.
func (c *Channel) storeRing() error {
	data, state := c.ring.Descriptors()
	gen := c.ring.Generation()
	err := c.cfg.Notifier.Store(activation.MemoryName(activation.DataName, gen), data)
	if err == nil {
		err = c.cfg.Notifier.Store(activation.MemoryName(activation.StateName, gen), state)
	}
	if err == nil {
		err = c.barrier()
	}
	if err != nil {
		return fmt.Errorf("cannot store the ring: %w", err)
	}
	return nil
}

// barrierTimeout is how long the service manager may take to read its mail.
const barrierTimeout = 10 * time.Second

func (c *Channel) barrier() error { return c.cfg.Notifier.Barrier(barrierTimeout) }

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

// settle takes descriptors that are done with out of the store and closes them: both can wait.
func (c *Channel) settle(ctx context.Context) {
	for {
		select {
		case s := <-c.settling:
			c.settleOne(s)
		case <-ctx.Done():
			return // Run does the rest, when the data thread has ended
		}
	}
}

func (c *Channel) settleOne(s settlement) {
	if s.name != "" {
		if err := c.cfg.Notifier.Remove(s.name); err != nil {
			c.journal.event(slog.LevelError, EventInternal, "cannot take a descriptor out of the store", slog.Any("error", err))
		}
	}
	c.closeStranger(s.fd)
}

// finish hands a descriptor to settle without waiting.
func (c *Channel) finish(fd int, name string) {
	s := settlement{fd, name}
	select {
	case c.settling <- s:
	default:
		go c.settleOne(s)
	}
}

// refuseRights says whether fd refuses descriptors from now on.
func (c *Channel) refuseRights(fd int) bool {
	if c.cfg.KeepRights {
		return false
	}
	refuses, err := activation.RefuseRights(fd)
	return refuses && err == nil
}

// maxClosing is how many descriptors are closed at a time. Each takes a thread while it lasts, and a process has only so
// many (10,000, debug.SetMaxThreads).
const maxClosing = 64

// discard closes what strangers attached to messages, elsewhere: it may take seconds for each. There are never more of
// these goroutines than descriptors that the process may have.
func (c *Channel) discard(fds []int) {
	go func() {
		c.closing <- struct{}{}
		defer func() { <-c.closing }()
		sys.CloseDescriptors(fds)
	}()
}

// take reads one datagram or packet and forgets it, without waiting.
func (c *Channel) take(fd int) {
	if fds, _ := sys.Take(fd); len(fds) > 0 {
		c.discard(fds)
	}
}

// closeStranger closes a socket that strangers send to: descriptors may be in its queue.
func (c *Channel) closeStranger(fd int) {
	if c.refuses {
		sys.Close(fd)
		return
	}
	c.discard([]int{fd})
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

// retired is the data thread finding that a sink's socket is gone.
func (c *Channel) retired(o *outlet, why syscall.Errno) {
	spec := o.sink.Spec()
	c.loop.shut(o)
	c.journal.event(slog.LevelDebug, EventSinkGone, "sink is gone", slog.String("sink", spec.Label), slog.String("why", why.Error()))
	switch spec.Kind {
	case ring.Static:
		c.finish(o.fd, "")
		poke(c.rescan)
	default:
		c.forget(o.sink)
		c.finish(o.fd, storeName(spec))
	}
	poke(c.changed)
}

// forget takes a sink out of the table. The data thread calls it.
func (c *Channel) forget(s *ring.Sink) {
	spec := s.Spec()
	if c.labels[spec.Label] == spec.ID {
		delete(c.labels, spec.Label)
	}
	if c.perUser[spec.UID]--; c.perUser[spec.UID] <= 0 {
		delete(c.perUser, spec.UID)
	}
	lost := s.Lost()
	c.journal.watchers.tell(wire.EventRemoved, spec, c.ring.Remove(s), lost)
	c.journal.lagging.Delete(spec.ID)
	if c.ring.Find(spec.ShareID) == nil {
		c.journal.lagging.Delete(spec.ShareID)
	}
	poke(c.changed)
}

// storeName is what the descriptor of a sink is called in the descriptor store; "" if it is not kept there.
func storeName(spec *ring.Spec) string {
	switch spec.Kind {
	case ring.Dynamic:
		return activation.SinkName(activation.DatagramSink, spec.ID)
	case ring.Framed:
		return activation.SinkName(activation.ConnectedSink, spec.ID)
	case ring.Source:
		return activation.SinkName(activation.ConnectedSource, spec.ID)
	}
	return ""
}
