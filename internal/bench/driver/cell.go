// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/msgmux/msgmux/internal/bench/meter"
)

// cell is one run: what is measured, and while it goes on, its processes.
type cell struct {
	*bench
	adapter *adapter
	sinks   int // receiving sockets
	procs   int // processes that serve them
	qlen    int
	steady  bool // measured by window

	dir    string // the run's sockets
	board  *meter.Board
	broker *process // nil without one
	source *process
	sinkp  []*process
}

// newCell describes a run with the bench's flags.
func (b *bench) newCell(a *adapter, sinks, qlen int) *cell {
	procs := b.procs
	if procs == 0 {
		procs = sinks
		if sinks > 64 {
			procs = 1
		}
	}
	if !a.many {
		procs = sinks
	}
	return &cell{bench: b, adapter: a, sinks: sinks, procs: min(procs, sinks), qlen: qlen, steady: b.steady}
}

// bytes is the payload size, as far as the adapter can carry it.
func (c *cell) bytes() int {
	if c.adapter.maxSize > 0 {
		return min(c.size, c.adapter.maxSize)
	}
	return c.size
}

// up starts broker, sinks and source, and warms them up: every sink has had a
// message, and with flood, 100 ms of it, when up returns; a window warms up by
// itself. The caller calls down in any case.
func (c *cell) up(rate int) error {
	if err := setQlen(c.qlen); err != nil {
		return err
	}
	base := ""
	if _, err := os.Stat("/dev/shm"); err == nil {
		base = "/dev/shm" // no disk has a part in this
	}
	home, err := os.MkdirTemp(base, "mmbench")
	if err != nil {
		return fmt.Errorf("cannot create run folder: %w", err)
	}
	remember(home)
	c.dir = filepath.Join(home, "run")
	if err := os.Mkdir(c.dir, 0o755); err != nil {
		return fmt.Errorf("cannot create run folder: %w", err)
	}
	board, fd, err := meter.Create(c.procs)
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(fd), "board")
	defer file.Close()
	c.board = board
	board.Sinks, board.Size, board.Rate, board.Stamped = uint32(c.sinks), uint64(c.bytes()), uint64(rate), 0
	if rate > 0 {
		board.Stamped = 1
	}
	begin := func(name string, argv []string) (*process, error) {
		return start(argv, c.dir, filepath.Join(home, name+".log"), file)
	}
	if c.adapter.broker != nil {
		if c.broker, err = begin("broker", c.adapter.broker(c)); err != nil {
			return err
		}
		if !await(10*time.Second, func() bool { return c.brokerUp() || c.broker.gone() }) || c.broker.gone() {
			return c.failed("broker did not come up")
		}
	}
	for i, first := 1, 1; i <= c.procs; i++ {
		count := c.sinks / c.procs
		if i <= c.sinks%c.procs {
			count++
		}
		argv := append([]string{c.program(c.adapter.sink.name), "sink", c.dir, strconv.Itoa(i), strconv.Itoa(first), strconv.Itoa(count)}, c.adapter.sink.words...)
		p, err := begin("sink"+strconv.Itoa(i), argv)
		if err != nil {
			return err
		}
		c.sinkp = append(c.sinkp, p)
		first += count
	}
	if !c.awaitAll(60*time.Second, func() bool { return c.sum(func(t *meter.Tally) *uint64 { return &t.Ready }) == uint64(c.sinks) }) {
		return c.failed("sinks did not get ready")
	}
	argv := append([]string{c.program(c.adapter.source.name), "source", c.dir, "0"}, c.adapter.source.words...)
	if c.source, err = begin("source", argv); err != nil {
		return err
	}
	if !c.awaitAll(10*time.Second, func() bool { return meter.Read(&board.Tally(0).Ready) != 0 }) {
		return c.failed("source did not get ready")
	}
	board.SetPhase(meter.Trickle)
	if !c.awaitAll(30*time.Second, func() bool { return c.sum(func(t *meter.Tally) *uint64 { return &t.Warm }) == uint64(c.sinks) }) {
		return c.failed("first message did not arrive everywhere")
	}
	if rate == 0 && !c.steady {
		board.SetPhase(meter.Warm)
		time.Sleep(100 * time.Millisecond)
	}
	board.SetPhase(meter.Hold)
	settle(math.MaxUint64, 60*time.Millisecond, 10*time.Second, func() uint64 { return c.sum(func(t *meter.Tally) *uint64 { return &t.WarmGot }) })
	return nil
}

// brokerUp says whether the broker takes connections.
func (c *cell) brokerUp() bool {
	if c.adapter.port != "" {
		conn, err := net.Dial("tcp", c.adapter.port)
		if err == nil {
			conn.Close()
		}
		return err == nil
	}
	for _, f := range c.adapter.ready {
		if _, err := os.Stat(filepath.Join(c.dir, f)); err != nil {
			return false
		}
	}
	return true
}

// down ends every process and removes the run's folder.
func (c *cell) down() {
	for _, p := range c.all() {
		p.kill()
	}
	if c.board != nil {
		c.board.Close()
	}
	if c.dir != "" {
		forget(filepath.Dir(c.dir))
	}
}

// all are the processes that were started.
func (c *cell) all() []*process {
	var list []*process
	for _, p := range append([]*process{c.source, c.broker}, c.sinkp...) {
		if p != nil {
			list = append(list, p)
		}
	}
	return list
}

// failed makes an error of what went wrong and of the last words of a process
// that has ended.
func (c *cell) failed(what string) error {
	for _, p := range c.all() {
		if p.gone() {
			return fmt.Errorf("%s: %s: %s ended: %s", c.adapter.name, what, filepath.Base(p.cmd.Path), p.said())
		}
	}
	if c.broker != nil {
		if s := c.broker.said(); s != "" {
			return fmt.Errorf("%s: %s; the broker says: %s", c.adapter.name, what, s)
		}
	}
	return fmt.Errorf("%s: %s", c.adapter.name, what)
}

// sum adds up a counter of all sink processes.
func (c *cell) sum(field func(*meter.Tally) *uint64) (n uint64) {
	for i := 1; i <= c.procs; i++ {
		n += meter.Read(field(c.board.Tally(i)))
	}
	return n
}

// received is what all sinks have got in the measured part.
func (c *cell) received() uint64 {
	return c.sum(func(t *meter.Tally) *uint64 { return &t.Count })
}

// await looks every 2 ms whether f holds, for at most d.
func await(d time.Duration, f func() bool) bool {
	for end := time.Now().Add(d); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

// awaitAll is await that gives up when a process has ended.
func (c *cell) awaitAll(d time.Duration, f func() bool) bool {
	return await(d, func() bool { return f() || c.dead() != nil }) && c.dead() == nil
}

// dead is a process that has ended, nil if all are alive.
func (c *cell) dead() *process {
	for _, p := range c.all() {
		if p.gone() {
			return p
		}
	}
	return nil
}

// settle waits until n is enough, or has not changed for a while. It returns
// when n last changed. False: it still did after most.
func settle(enough uint64, quiet, most time.Duration, n func() uint64) (last time.Time, ok bool) {
	was := n()
	last = time.Now()
	for end := last.Add(most); was < enough && time.Since(last) < quiet; time.Sleep(time.Millisecond) {
		if now := n(); now != was {
			was, last = now, time.Now()
		}
		if time.Now().After(end) {
			return last, false
		}
	}
	return last, true
}

// roles are CPU times by role.
type roles struct{ source, broker, sinks time.Duration }

func (c *cell) cpu() roles {
	r := roles{source: c.source.cpu(), broker: c.broker.cpu()}
	for _, p := range c.sinkp {
		r.sinks += p.cpu()
	}
	return r
}

func (r roles) minus(o roles) roles {
	return roles{r.source - o.source, r.broker - o.broker, r.sinks - o.sinks}
}

func (r roles) all() time.Duration { return r.source + r.broker + r.sinks }

// look is what clocks and counters say at one moment.
type look struct {
	at             time.Time
	cpu            roles
	busy           time.Duration // of the whole machine
	broker, sinks  uint64        // context switches
	sent, received uint64        // messages; deliveries
}

func (c *cell) look() look {
	return look{
		sent: meter.Read(&c.board.Tally(0).Count), received: c.received(),
		broker: c.broker.switches(), sinks: c.sinkSwitches(),
		busy: busy(), cpu: c.cpu(), at: time.Now(),
	}
}

// measure is the measured part of a run that is up: for length the source
// sends; then what is under way is waited for.
func (c *cell) measure(rate int, length time.Duration) (*Result, error) {
	src := c.board.Tally(0)
	r := c.newResult("run")
	r.Rate = rate
	before := c.look()
	c.board.SetPhase(meter.Run)
	time.Sleep(length)
	c.board.SetPhase(meter.Stop)
	if !c.awaitAll(10*time.Second, func() bool { return meter.Read(&src.Done) != 0 }) {
		return r, c.failed("source is stuck")
	}
	// Everything arrives; or nothing moves for 400 ms and what is missing is
	// lost; or it takes longer than 20 s and is a backlog.
	want := meter.Read(&src.Count) * uint64(c.sinks)
	last, drained := settle(want, 400*time.Millisecond, 20*time.Second, c.received)
	after := c.look()
	if p := c.dead(); p != nil {
		return r, c.failed("a process ended")
	}
	r.between(before, after)
	r.losses(c, drained)
	r.latencies(c)
	r.Seconds = last.Sub(before.at).Seconds()
	r.DeliveredRate = float64(r.Delivered) / r.Seconds
	if ns := meter.Read(&src.Ended) - meter.Read(&src.Began); ns > 0 {
		r.SentRate = float64(r.Sent) / (float64(ns) / 1e9)
	}
	return r, c.check(r)
}

// fill floods until every buffer is full: until no more goes in than comes out,
// as far as 200 ms tell, and for at most 10 s.
func (c *cell) fill() {
	count := func() (in, out uint64) {
		return meter.Read(&c.board.Tally(0).Count) * uint64(c.sinks), c.received()
	}
	in, out := count()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		time.Sleep(200 * time.Millisecond)
		nextIn, nextOut := count()
		if nextOut > out && float64(nextIn-in) < 1.1*float64(nextOut-out) {
			return
		}
		in, out = nextIn, nextOut
	}
}

// window is measure in the middle of a flood: what is in flight is as much at
// its end as at its beginning, nothing is waited for, and of what is lost only
// the gaps are known. It is the way to look at hundreds of sinks, whose broker
// would need minutes to empty a ring that was filled in a second.
func (c *cell) window(rate int, length time.Duration) (*Result, error) {
	r := c.newResult("run")
	r.Rate, r.Steady = rate, true
	c.board.SetPhase(meter.Run)
	c.fill()
	before := c.look()
	time.Sleep(length)
	after := c.look()
	if p := c.dead(); p != nil {
		return r, c.failed("a process ended")
	}
	r.between(before, after)
	r.Lost = c.sum(func(t *meter.Tally) *uint64 { return &t.GapLost })
	return r, c.check(r)
}

// check completes a result that must not be empty.
func (c *cell) check(r *Result) error {
	if c.broker != nil {
		r.Memory = c.broker.memory()
	}
	if r.Delivered == 0 {
		return c.failed("nothing was delivered")
	}
	return nil
}

func (c *cell) sinkSwitches() (n uint64) {
	for _, p := range c.sinkp {
		n += p.switches()
	}
	return n
}

// once is a whole run: up, measured, down.
func (c *cell) once() (*Result, error) {
	rate, length, _ := c.pace() // checked when the flags were read
	defer c.down()
	if err := c.up(rate); err != nil {
		return c.newResult("run"), err
	}
	measure := c.measure
	if c.steady {
		measure = c.window
	}
	r, err := measure(rate, length)
	if err != nil {
		r.Error = err.Error()
	}
	c.save(r)
	return r, err
}
