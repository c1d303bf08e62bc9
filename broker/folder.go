// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/msgmux/msgmux/activation"
	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// Static sinks. The folder is the configuration: every entry is a sink, named by its file name. Events only say that
// it is time to look; the truth is a scan: at every event, at SIGHUP, and once a minute.

const (
	scanEvery  = time.Minute
	goneAfter  = time.Minute            // an entry that is gone for so long is forgotten; Config may have another
	retryFirst = 100 * time.Millisecond // how soon an absent sink is tried again at first
	retryLast  = 2 * time.Second        // and at last
)

// folder keeps the static sinks connected, in a goroutine that can wait.
type folder struct {
	*Channel
	limiter  limiter
	declared map[string]*declared // by address
	results  chan joined
	unwatch  func()        // ends watching the folder; nil while it is not watched
	watched  fileID        // which folder that is
	lost     chan struct{} // it is gone
}

// declared is a static sink as it was declared.
type declared struct {
	addr    wire.Address
	name    string // label
	queue   int    // a message queue that was handed over, open for sending; -1: none
	options wire.Options
	flag    bool // on the command line, or handed over: never gone
	handed  bool // handed over: the options may change
	id      uint64
	file    fileID    // what the path led to when it was connected
	since   time.Time // when it was connected
	gone    time.Time
	trying  bool
	retry   time.Duration
	next    time.Time
}

// fileID tells one file from another that has its name later.
type fileID struct{ dev, ino uint64 }

// joined is what became of one attempt to connect.
type joined struct {
	d *declared
	proven
	file    fileID
	queue   bool
	refusal *wire.Error
}

func newFolder(c *Channel) *folder {
	return &folder{Channel: c, limiter: make(limiter), declared: make(map[string]*declared), results: make(chan joined),
		lost: make(chan struct{}, 1)}
}

func (f *folder) run(ctx context.Context) {
	for _, s := range f.cfg.Sinks {
		name := s.Options.Label
		if name == "" {
			name = defaultLabel(s.Address)
		}
		options := s.Options
		if s.handed {
			options = f.optionsOf(name)
		}
		f.declare(&declared{addr: s.Address, name: name, options: options, flag: true, handed: s.handed, queue: s.queue})
	}
	events := make(chan struct{}, 1)
	f.scan()
	f.forgetUndeclared()
	for {
		f.watch(ctx, events)
		f.connect(ctx)
		timer := time.NewTimer(f.wait())
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-events:
			f.scan()
		case <-f.rescan:
			f.scan()
		case <-f.hurry:
			for _, d := range f.declared {
				d.retry = retryFirst
				if !d.next.IsZero() {
					d.next = time.Now()
				}
			}
			f.scan()
		case <-f.lost:
			f.scan()
		case r := <-f.results:
			f.settle(r)
		case <-timer.C:
			f.scan()
		}
		timer.Stop()
	}
}

// watch begins to watch the folder when there is one and it is not watched yet. It is another folder when it was removed
// and made again, which the kernel tells only when the last socket in it is closed.
func (f *folder) watch(ctx context.Context, events chan struct{}) {
	if f.cfg.SinksDir == "" {
		return
	}
	id, ok := fileOf(wire.Address{Name: f.cfg.SinksDir})
	if f.unwatch != nil && (!ok || id != f.watched) {
		f.unwatch()
		f.unwatch = nil
	}
	if f.unwatch != nil {
		return
	}
	n, err := sys.WatchFolder(f.cfg.SinksDir)
	if err != nil {
		return // no folder, no entries
	}
	stop, err := sys.NewEventfd()
	if err != nil {
		n.Close()
		return
	}
	ctx, f.unwatch = context.WithCancel(ctx)
	f.watched = id
	context.AfterFunc(ctx, stop.Signal)
	f.workers.Go(func() {
		defer n.Close()
		defer stop.Close()
		for ctx.Err() == nil {
			if i, err := sys.WaitReadable(-1, n.FD(), stop.FD()); err != nil || i != 0 {
				return
			}
			if n.Drain() {
				poke(f.lost)
				return
			}
			poke(events)
		}
	})
	f.scan()
}

// wait is how long nothing is to be done.
func (f *folder) wait() time.Duration {
	d := scanEvery
	if f.cfg.SinksDir != "" && f.unwatch == nil {
		d = retryLast
	}
	for _, s := range f.declared {
		switch {
		case !s.gone.IsZero():
			d = min(d, time.Until(s.gone.Add(f.goneAfter())))
		case !s.next.IsZero() && !s.trying:
			d = min(d, time.Until(s.next))
		}
	}
	return max(d, time.Millisecond)
}

// goneAfter is how long an entry may be gone before its sink is.
func (f *folder) goneAfter() time.Duration { return cmp.Or(f.cfg.goneAfter, goneAfter) }

// scan compares the folder with what is declared. A folder that is not there has no entries; one that cannot be read, for
// want of descriptors or memory, says nothing.
func (f *folder) scan() {
	present, unread := make(map[string]bool), false
	if f.cfg.SinksDir != "" {
		entries, err := os.ReadDir(f.cfg.SinksDir)
		if unread = err != nil && !errors.Is(err, fs.ErrNotExist); unread {
			f.journal.limitedEvent(f.limiter, 0, "readdir", slog.LevelError, EventStatic, "cannot read the folder of static sinks", slog.Any("error", err))
		}
		for _, e := range entries {
			f.entry(e.Name(), present)
		}
	}
	now := time.Now()
	for name, d := range f.declared {
		switch {
		case d.flag || present[name]:
			d.gone = time.Time{}
			if d.handed {
				f.change(d, f.optionsOf(d.name))
			}
			if f.replaced(d) {
				f.disconnect(d)
			}
		case d.gone.IsZero() && unread:
		case d.gone.IsZero():
			d.gone = now
			f.disconnect(d)
		case now.Sub(d.gone) >= f.goneAfter():
			delete(f.declared, name)
			f.loop.call(func() {
				if s := f.ring.Find(d.id); s != nil {
					f.drop(s)
				}
			})
		}
	}
}

// entry declares the sink that an entry of the folder is.
func (f *folder) entry(name string, present map[string]bool) {
	if strings.HasPrefix(name, ".") {
		return
	}
	var label wire.Options
	if err := label.Set("label", name); err != nil {
		f.journal.limitedEvent(f.limiter, 0, "name:"+name, slog.LevelWarn, EventStatic, "entry is no sink: its name is no label", slog.Any("error", err))
		return
	}
	addr, err := wire.ParseAddress(filepath.Join(f.cfg.SinksDir, name))
	if err != nil {
		f.journal.limitedEvent(f.limiter, 0, "path:"+name, slog.LevelWarn, EventStatic, "entry is no sink", slog.Any("error", err))
		return
	}
	present[addr.Name] = true
	options := f.optionsOf(name)
	if d := f.declared[addr.Name]; d != nil {
		f.change(d, options)
		return
	}
	f.declare(&declared{addr: addr, name: name, options: options, queue: -1})
}

// change gives a sink other options, if they are.
func (f *folder) change(d *declared, options wire.Options) {
	if d.options != options {
		d.options = options
		f.update(d)
	}
}

// optionsOf reads the options of a static sink. A bad file means defaults, and one log line.
func (f *folder) optionsOf(name string) wire.Options {
	if f.cfg.OptionsDir == "" {
		return wire.Options{}
	}
	path := filepath.Join(f.cfg.OptionsDir, name+".conf")
	text, err := os.ReadFile(path)
	if err == nil {
		var o wire.Options
		if o, err = wire.ParseOptionLines(text); err == nil {
			return o
		}
	}
	if !errors.Is(err, fs.ErrNotExist) {
		f.journal.limitedEvent(f.limiter, 0, "conf:"+name, slog.LevelWarn, EventStatic, "options of a static sink are not used",
			slog.String("file", path), slog.Any("error", err))
	}
	return wire.Options{}
}

// spec is what a declared sink is in the table.
func (f *folder) spec(d *declared) ring.Spec {
	s := ring.Spec{Kind: ring.Static, Label: d.name, Address: d.addr.String(), Group: d.options.Share,
		Tap: d.options.Tap, Frames: d.options.Frames, Patience: f.cfg.Patience}
	if d.options.Label != "" {
		s.Label = d.options.Label
	}
	if d.options.PatienceSet {
		s.Patience = d.options.Patience
	}
	return s
}

// declare finds the sink in the table, or enters it: it counts from now on, connected or not.
func (f *folder) declare(d *declared) {
	var refusal *wire.Error
	f.loop.call(func() {
		for s := range f.ring.Sinks {
			if spec := s.Spec(); spec.Kind == ring.Static && spec.Address == d.addr.String() {
				d.id = spec.ID
				return
			}
		}
		if refusal = f.admit(0); refusal != nil {
			return
		}
		spec := f.spec(d)
		spec.ID = f.ring.NewID()
		var s *ring.Sink
		if s, refusal = f.enter(spec, d.options.Start, false); refusal == nil {
			d.id = s.ID()
		}
	})
	if refusal != nil {
		f.journal.limitedEvent(f.limiter, 0, refusal.Code, slog.LevelError, EventStatic, "static sink not added",
			slog.String("sink", d.name), slog.Any("error", refusal))
		return
	}
	d.retry, d.next = retryFirst, time.Now()
	f.declared[d.addr.String()] = d
	f.update(d)
}

// update gives a sink that is there already the options that it has now.
func (f *folder) update(d *declared) {
	f.loop.call(func() {
		if s := f.ring.Find(d.id); s != nil {
			spec := f.spec(d)
			old := s.Spec()
			spec.Tap, spec.Frames, spec.Group, spec.ID = old.Tap, old.Frames, old.Group, old.ID
			if spec.Label != old.Label {
				delete(f.labels, old.Label)
				spec.Label = f.unique(spec.Label, spec.ID)
				f.labels[spec.Label] = spec.ID
			}
			f.ring.Update(s, spec)
		}
	})
}

// forgetUndeclared removes static sinks that a predecessor had on its command line and this broker has not. Those of
// the folder get their minute.
func (f *folder) forgetUndeclared() {
	f.loop.call(func() {
		for s := range f.ring.Sinks {
			spec := s.Spec()
			if spec.Kind != ring.Static || f.declared[spec.Address] != nil {
				continue
			}
			if f.cfg.SinksDir != "" && filepath.Dir(spec.Address) == f.cfg.SinksDir {
				f.declared[spec.Address] = &declared{addr: wire.Address{Name: spec.Address}, name: filepath.Base(spec.Address), queue: -1, id: spec.ID, gone: time.Now()}
				continue
			}
			f.drop(s)
		}
	})
}

// replaced says whether the path leads to another file now than when it was connected.
func (f *folder) replaced(d *declared) bool {
	id, ok := fileOf(d.addr)
	return d.file != fileID{} && ok && id != d.file
}

func fileOf(addr wire.Address) (fileID, bool) {
	var st syscall.Stat_t
	if addr.Abstract || syscall.Stat(addr.Name, &st) != nil {
		return fileID{}, false
	}
	return fileID{uint64(st.Dev), st.Ino}, true
}

// disconnect makes a sink absent. Its cursor stays.
func (f *folder) disconnect(d *declared) {
	d.file = fileID{}
	d.retry, d.next = retryFirst, time.Now()
	f.loop.call(func() {
		if o := f.loop.byID[d.id]; o != nil {
			f.loop.shut(o)
			f.finish(o.fd, "")
		}
	})
}

// connect tries the absent sinks whose time has come, each in a goroutine: a path may lead to a file system that hangs.
func (f *folder) connect(ctx context.Context) {
	now := time.Now()
	connected := make(map[uint64]bool)
	for s := range f.ring.Sinks {
		if s.Cookie() != 0 {
			connected[s.ID()] = true
		}
	}
	for _, d := range f.declared {
		if d.trying || !d.gone.IsZero() {
			continue
		}
		if connected[d.id] {
			d.next = time.Time{}
			continue
		}
		if d.next.IsZero() {
			// It was connected, and is not any more. One that refuses what it is sent, but not to be connected to, must
			// not be tried as fast as it refuses.
			if d.next = now; now.Sub(d.since) > retryLast {
				d.retry = retryFirst
			} else {
				d.next = now.Add(d.retry)
				d.retry = min(2*d.retry, retryLast)
			}
		}
		if d.next.After(now) {
			continue
		}
		d.trying = true
		go func() {
			file, _ := fileOf(d.addr)
			at, queue, refusal := f.reach(d)
			select {
			case f.results <- joined{d, at, file, queue, refusal}:
			case <-ctx.Done():
				if refusal == nil {
					sys.Close(at.fd)
				}
			}
		}()
	}
}

// reach connects to a static sink: a message queue is opened, a socket connected to.
func (f *folder) reach(d *declared) (at proven, queue bool, refusal *wire.Error) {
	if d.queue < 0 && !sys.IsQueue(d.addr.Name) {
		at, refusal = f.prover.joinStatic(d.addr, f.sendBuffer())
		return at, false, refusal
	}
	var fd int
	var err error
	if d.queue >= 0 {
		fd, err = sys.ReopenQueue(d.queue)
	} else {
		fd, err = sys.OpenQueue(d.addr.Name)
	}
	if err == nil && f.receivesFrom(fd) {
		sys.Close(fd)
		return at, true, wire.Refuse(wire.CodeLoop, "%q is a message queue that this broker receives from; what it sent there would come back for ever", d.addr)
	}
	if err != nil {
		return at, true, wire.Refuse(wire.CodeAccess, "cannot open the message queue %q for sending (%v): its mode must let the broker's user or group write", d.addr, err)
	}
	return proven{fd: fd, cookie: unknownCookie}, true, nil
}

// receivesFrom says whether the queue behind fd is one of the channel's own sources.
func (f *folder) receivesFrom(fd int) bool {
	var queue, source syscall.Stat_t
	if syscall.Fstat(fd, &queue) != nil {
		return false
	}
	return slices.ContainsFunc(f.cfg.Inherited.SourceQueues, func(d activation.Descriptor) bool {
		return syscall.Fstat(d.FD, &source) == nil && source.Dev == queue.Dev && source.Ino == queue.Ino
	})
}

// settle takes the result of an attempt.
func (f *folder) settle(r joined) {
	d := r.d
	d.trying = false
	if r.refusal != nil {
		d.next = time.Now().Add(d.retry)
		d.retry = min(2*d.retry, retryLast)
		// A socket gets its group and mode after it was bound, and the first attempts may come in between.
		if r.refusal.Code != wire.CodeNoPeer && d.retry > 4*retryFirst {
			f.journal.limitedEvent(f.limiter, 0, d.name+":"+r.refusal.Code, slog.LevelWarn, EventStatic, "static sink cannot be reached",
				slog.String("sink", d.name), slog.Any("error", r.refusal))
		}
		return
	}
	d.since, d.next, d.file = time.Now(), time.Time{}, r.file
	taken := false
	f.loop.call(func() {
		if s := f.ring.Find(d.id); s != nil && f.loop.byID[d.id] == nil && d.gone.IsZero() {
			s.Queue(r.queue)
			f.loop.open(s, r.fd, r.cookie).queue = r.queue
			taken = true
		}
	})
	if !taken {
		sys.Close(r.fd)
	}
	poke(f.changed)
}
