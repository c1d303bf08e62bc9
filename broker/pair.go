// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/msgmux/msgmux/activation"
	"github.com/msgmux/msgmux/broker/journal"
	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/internal/sys"
)

// The two files of the ring: which of those that a predecessor left are used, and what becomes of the others.

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
			c.log.Event(slog.LevelDebug, journal.EventInternal, "the ring's state is not locked in memory; raise LimitMEMLOCK", slog.Any("error", err))
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
			c.saySetAside(p, err)
			c.retire(p)
			continue
		}
		for _, old := range pairs[i+1:] {
			c.retire(old)
		}
		c.ring = r
		if n := r.Freed(); n > 0 {
			c.log.Event(slog.LevelError, journal.EventRingBroken, "entries of the sink table were damaged and are gone", slog.Int("entries", n))
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

// saySetAside tells that a ring cannot be used, and what is lost with it: messages that no sink has and, counted for each
// sink, those that it has not been sent.
func (c *Channel) saySetAside(p pair, why error) {
	text := "the ring of the last broker cannot be used; its sinks are kept, the messages in it are given up"
	attrs := []slog.Attr{slog.Any("error", why)}
	if lost, ok := ring.CountGivenUp(p.state.FD); ok {
		attrs = append(attrs, slog.Uint64("messages", lost.Messages))
		if lost.Sinks {
			attrs = append(attrs, slog.Uint64("waiting", lost.Waiting))
		}
	} else {
		text += ", and how many cannot be known"
	}
	c.log.Event(slog.LevelError, journal.EventRingBroken, text, attrs...)
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
		c.log.Event(slog.LevelWarn, journal.EventNotMoved, "the ring keeps its old shape until the next start", slog.Any("error", err))
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
