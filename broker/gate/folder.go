// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/msgmux/msgmux/activation"
	"github.com/msgmux/msgmux/broker/journal"
	"github.com/msgmux/msgmux/broker/loop"
	"github.com/msgmux/msgmux/broker/owner"
	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// Static sinks. The folder is the configuration: every entry is a sink, named by its file name. Events only say that
// it is time to look; the truth is a scan: at every event, at SIGHUP, and once a minute.

const (
	scanEvery  = time.Minute
	lookEvery  = time.Second            // how soon it is noticed that a sink's path leads elsewhere
	goneAfter  = time.Minute            // an entry that is gone for so long is forgotten, unless Config says otherwise
	retryFirst = 100 * time.Millisecond // how soon an absent sink is tried again at first
	retryLast  = 2 * time.Second        // and at last

	maxOptions = 64 << 10 // bytes in the file of a sink's options
)

// folder keeps the static sinks declared and connected.
type folder struct {
	gate       *Gate
	dir        string // "" for none
	optionsDir string // "" for none
	goneAfter  time.Duration
	queues     []activation.Descriptor // that the channel receives from: sending to one is a loop

	limiter  journal.Limiter
	fixed    []*declared          // on the command line, or handed over
	declared map[string]*declared // by address
	results  chan reached
	unwatch  func()      // ends watching the folder; nil while it is not watched
	watched  sys.FileID  // which folder that is
	lost     loop.Signal // the folder that is watched is gone
	hurry    loop.Signal // look now, and try those that are absent
	removals chan removal
	watchers sync.WaitGroup

	declaredAll chan struct{} // closed when what is declared at the start has its place in the order
}

// declared is a static sink as it was declared.
type declared struct {
	addr    wire.Address
	name    string                // label
	queue   activation.Descriptor // a message queue that was handed over, open for sending; if given
	options wire.Options
	fixed   bool       // on the command line, or handed over: never gone
	handed  bool       // handed over: the options are in optionsDir, and may change
	id      uint64     // 0: it is in the table not yet
	file    sys.FileID // what the path led to when it was connected
	since   time.Time  // when it was connected
	gone    time.Time
	trying  bool
	retry   time.Duration
	next    time.Time
}

func newFolder(g *Gate, c *Config) *folder {
	f := &folder{gate: g, dir: c.SinksDir, optionsDir: c.OptionsDir, goneAfter: cmp.Or(c.GoneAfter, goneAfter), queues: c.Inherited.SourceQueues,
		limiter: make(journal.Limiter), declared: make(map[string]*declared), results: make(chan reached), lost: loop.NewSignal(), hurry: loop.NewSignal(),
		removals: make(chan removal), declaredAll: make(chan struct{})}
	for _, s := range c.Sinks {
		f.fixed = append(f.fixed, &declared{addr: s.Address, name: cmp.Or(s.Options.Label, defaultLabel(s.Address)), options: s.Options, fixed: true})
	}
	for _, d := range c.Inherited.Sinks {
		s, err := takeSink(d)
		if err != nil {
			g.log.Event(slog.LevelError, journal.EventStatic, "a descriptor that was handed over is no sink", slog.String("name", d.Name), slog.Any("error", err))
			continue
		}
		f.fixed = append(f.fixed, s)
	}
	return f
}

// close closes the queues that were handed over.
func (f *folder) close() {
	for _, d := range f.fixed {
		if d.queue.Given() {
			sys.Close(d.queue.FD)
		}
	}
}

func (f *folder) run(ctx context.Context) {
	defer f.watchers.Wait()
	events := loop.NewSignal()
	f.scan(ctx)
	close(f.declaredAll)
	f.forgetUndeclared()
	// A link that leads to an agent's socket says nothing when the agent's successor binds another one there, and while somebody
	// has the old one open, neither does a send.
	looks := time.NewTicker(lookEvery)
	defer looks.Stop()
	for {
		f.watch(ctx, events)
		f.connect(ctx)
		timer := time.NewTimer(f.wait())
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-events:
			f.scan(ctx)
		case <-f.gate.thread.Vacated():
			f.scan(ctx)
		case <-f.hurry:
			for _, d := range f.declared {
				d.retry = retryFirst
				if !d.next.IsZero() {
					d.next = time.Now()
				}
			}
			f.scan(ctx)
		case <-f.lost:
			// It may be back by now, as the same folder. The kernel watches it no more.
			if f.unwatch != nil {
				f.unwatch()
				f.unwatch = nil
			}
			f.scan(ctx)
		case <-looks.C:
			for _, d := range f.declared {
				f.look(ctx, d)
			}
		case r := <-f.results:
			f.settle(r)
		case r := <-f.removals:
			r.answer <- f.remove(ctx, r.id)
		case <-timer.C:
			f.scan(ctx)
		}
		timer.Stop()
	}
}

// watch begins to watch the folder when there is one and it is not watched yet. It is another folder when it was removed
// and made again, which the kernel tells only when the last socket in it is closed.
func (f *folder) watch(ctx context.Context, events loop.Signal) {
	if f.dir == "" {
		return
	}
	id, ok := sys.FileAt(f.dir)
	if f.unwatch != nil && (!ok || id != f.watched) {
		f.unwatch()
		f.unwatch = nil
	}
	if f.unwatch != nil {
		return
	}
	n, err := sys.WatchFolder(f.dir)
	if err != nil {
		return // no folder, no entries
	}
	stop, err := sys.NewEventfd()
	if err != nil {
		n.Close()
		return
	}
	watching, unwatch := context.WithCancel(ctx) // and not what is begun by the scan below: it may be asked for longer
	f.unwatch, f.watched = unwatch, id
	context.AfterFunc(watching, stop.Signal)
	f.watchers.Go(func() {
		defer n.Close()
		defer stop.Close()
		limiter := make(journal.Limiter)
		for watching.Err() == nil {
			switch i, err := sys.WaitReadable(-1, n.FD(), stop.FD()); {
			case err != nil:
				f.gate.again(watching, limiter, "cannot wait for changes in the folder of static sinks", err)
				events.Raise() // whatever has happened meanwhile
			case i == 0 && n.Drain():
				f.lost.Raise()
				return
			case i == 0:
				events.Raise()
			}
		}
	})
	f.scan(ctx)
}

// wait is how long nothing is to be done.
func (f *folder) wait() time.Duration {
	d := scanEvery
	if f.dir != "" && f.unwatch == nil {
		d = retryLast
	}
	for _, s := range f.declared {
		switch {
		case !s.gone.IsZero():
			d = min(d, time.Until(s.gone.Add(f.goneAfter)))
		case !s.next.IsZero() && !s.trying:
			d = min(d, time.Until(s.next))
		}
	}
	return max(d, time.Millisecond)
}

// scan compares the folder with what is declared. A folder that is not there has no entries; one that cannot be read, for
// want of descriptors or memory, says nothing.
func (f *folder) scan(ctx context.Context) {
	f.declareFixed()
	present, unread := make(map[string]bool), false
	if f.dir != "" {
		entries, err := os.ReadDir(f.dir)
		if unread = err != nil && !errors.Is(err, fs.ErrNotExist); unread {
			f.gate.log.Limited(f.limiter, 0, "readdir", slog.LevelError, journal.EventStatic, "cannot read the folder of static sinks", slog.Any("error", err))
		}
		for _, e := range entries {
			f.entry(e.Name(), present)
		}
	}
	now := time.Now()
	for name, d := range f.declared {
		switch {
		case d.fixed || present[name]:
			d.gone = time.Time{}
			if d.handed {
				f.change(d, f.optionsOf(d.name, d.options))
			}
			f.look(ctx, d)
		case d.gone.IsZero() && unread:
		case d.gone.IsZero():
			d.gone = now
			f.disconnect(d, "its entry is gone")
		case now.Sub(d.gone) >= f.goneAfter:
			f.undeclare(name, d)
		}
	}
}

// declareFixed declares the sinks of the command line, and those handed over, that are not yet. One for which there was no place must not
// wait for it until the next start: an entry of the folder does not either.
func (f *folder) declareFixed() {
	for _, d := range f.fixed {
		if d.id != 0 {
			continue
		}
		if d.handed {
			d.options = f.optionsOf(d.name, d.options)
		}
		f.declare(d)
	}
}

// undeclare forgets a sink that is declared no more.
func (f *folder) undeclare(name string, d *declared) {
	delete(f.declared, name)
	f.gate.thread.Call(func(r *loop.Roster) {
		if s := r.Find(d.id); s != nil {
			r.Drop(s)
		}
	})
}

// removal is the wish that the static sink id be forgotten now. answer, with room for one, says whether that was done.
type removal struct {
	id     uint64
	answer chan<- bool
}

// remove forgets the sink id at once if its entry is gone, instead of when goneAfter is over.
func (f *folder) remove(ctx context.Context, id uint64) bool {
	f.scan(ctx) // the entry may have gone a moment ago
	for name, d := range f.declared {
		if d.id == id && !d.gone.IsZero() {
			f.undeclare(name, d)
			return true
		}
	}
	return false
}

// entry declares the sink that an entry of the folder is.
func (f *folder) entry(name string, present map[string]bool) {
	if strings.HasPrefix(name, ".") {
		return
	}
	var label wire.Options
	if err := label.Set("label", name); err != nil {
		f.gate.log.Limited(f.limiter, 0, "name:"+name, slog.LevelWarn, journal.EventStatic, "entry is no sink: its name is no label", slog.Any("error", err))
		return
	}
	addr, err := wire.ParseAddress(filepath.Join(f.dir, name))
	if err != nil {
		f.gate.log.Limited(f.limiter, 0, "path:"+name, slog.LevelWarn, journal.EventStatic, "entry is no sink", slog.Any("error", err))
		return
	}
	present[addr.Name] = true
	d := f.declared[addr.Name]
	if d == nil {
		f.declare(&declared{addr: addr, name: name, options: f.optionsOf(name, wire.Options{})})
		return
	}
	f.change(d, f.optionsOf(name, d.options))
}

// change gives a sink other options, if they are.
func (f *folder) change(d *declared, options wire.Options) {
	if d.options != options {
		d.options = options
		f.update(d)
	}
}

// optionsOf reads the options of a static sink. A bad file means defaults, and one log line; one that cannot be read now, because its
// file system does not answer or who was asked has ended, means those from before.
func (f *folder) optionsOf(name string, before wire.Options) wire.Options {
	if f.optionsDir == "" {
		return wire.Options{}
	}
	path, options := filepath.Join(f.optionsDir, name+".conf"), wire.Options{}
	text, err := f.gate.prover.Options(path, maxOptions)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return wire.Options{}
	case err == nil:
		if options, err = f.parse(text); err == nil {
			return options
		}
	case !errors.Is(err, sys.ErrNotSmallFile):
		options = before
	}
	f.gate.log.Limited(f.limiter, 0, "conf:"+name, slog.LevelWarn, journal.EventStatic, "options of a static sink are not used",
		slog.String("file", path), slog.Any("error", err))
	return options
}

// parse is what a file of options says, the zero value with an error if it is not as it must be.
func (f *folder) parse(text []byte) (wire.Options, error) {
	o, err := wire.ParseOptionLines(text)
	if err != nil {
		return wire.Options{}, err
	}
	if refusal := f.gate.permits(o); refusal != nil {
		return wire.Options{}, refusal
	}
	return o, nil
}

// spec is what a declared sink is in the table, and how it reads. Root has declared it.
func (f *folder) spec(d *declared) (ring.Spec, loop.Wish) {
	patience := f.gate.limits.Patience
	if d.options.PatienceSet {
		patience = d.options.Patience
	}
	return ring.Spec{Kind: ring.Static, Label: cmp.Or(d.options.Label, d.name), Address: d.addr.String(), Frames: d.options.Frames, Meta: d.options.Meta,
			Form: form(d.options), Credentials: d.options.Credentials},
		f.gate.wish(d.options, 0, patience)
}

// declare finds the sink in the table, or enters it: it counts from now on, connected or not.
func (f *folder) declare(d *declared) {
	spec, how := f.spec(d)
	n := aSink(spec, how, nil)
	n.find = func(r *loop.Roster) (id uint64, there bool, refusal *wire.Error) {
		if s := r.Static(d.addr.String()); s != nil {
			return s.ID(), true, nil
		}
		return 0, false, nil
	}
	id, _, refusal := f.gate.join(n)
	if refusal != nil {
		f.gate.log.Limited(f.limiter, 0, refusal.Code, slog.LevelError, journal.EventStatic, "static sink not added",
			slog.String("sink", d.name), slog.Any("error", refusal))
		return
	}
	d.id = id
	d.retry, d.next = retryFirst, time.Now()
	f.declared[d.addr.String()] = d
	f.update(d)
}

// update gives a sink that is there already the options that it has now.
func (f *folder) update(d *declared) {
	f.gate.thread.Call(func(r *loop.Roster) {
		if s := r.Find(d.id); s != nil {
			spec, how := f.spec(d)
			old, reads := s.Spec(), s.Cursor().Spec()
			spec.Frames, spec.Meta, how.Tap, how.Share = old.Frames, old.Meta, reads.Tap, reads.Share // what a sink is stays
			r.Renew(s, spec, how, true)
		}
	})
}

// forgetUndeclared removes static sinks that a predecessor had on its command line and this broker has not. Those of
// the folder get their minute.
func (f *folder) forgetUndeclared() {
	f.gate.thread.Call(func(r *loop.Roster) {
		for s := range r.Statics {
			spec := s.Spec()
			switch {
			case f.declared[spec.Address] != nil:
			case f.dir != "" && filepath.Dir(spec.Address) == f.dir:
				f.declared[spec.Address] = &declared{addr: wire.Address{Name: spec.Address}, name: filepath.Base(spec.Address), id: spec.ID, gone: time.Now()}
			default:
				r.Drop(s)
				f.hurry.Raise() // there may have been no place but this one
			}
		}
	})
}

// look finds out whether the path of a connected sink leads to another file by now, in a goroutine: it may lead to a file
// system that hangs.
func (f *folder) look(ctx context.Context, d *declared) {
	if d.trying || d.file == (sys.FileID{}) {
		return
	}
	d.trying = true
	go func() {
		file, there := f.gate.prover.Look(d.addr)
		f.result(ctx, reached{d: d, looked: true, there: there, Declared: owner.Declared{File: file}})
	}()
}

// defaultLabel makes a label out of an address.
func defaultLabel(addr wire.Address) string {
	name := []byte(addr.Name)
	if !addr.Abstract {
		name = []byte(path.Base(addr.Name))
	}
	for i, b := range name {
		switch {
		case b >= 'a' && b <= 'z', b >= 'A' && b <= 'Z', b >= '0' && b <= '9', b == '_', b == '.', b == '-':
		default:
			name[i] = '_'
		}
	}
	if len(name) == 0 {
		return "sink"
	}
	return string(name[:min(len(name), 64)])
}
