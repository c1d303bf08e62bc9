// SPDX-License-Identifier: Apache-2.0

package store

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/msgmux/msgmux/activation"
	"github.com/msgmux/msgmux/broker/journal"
	"github.com/msgmux/msgmux/broker/ring"
)

// The two files of the ring: which of those that a predecessor left are used, and what becomes of the others.

// Options say how Open is to use what it finds.
type Options struct {
	Geometry      ring.Geometry // of a new ring; an old one is moved to it
	IgnoreRecords bool          // see ring.Options
	Expected      bool          // the sockets are the service manager's, so it is ours: without an answer from it there is no start

	Owner       func(uid uint32) uint32 // see ring.Options
	Credentials bool                    // likewise
}

// Salvaged is who was in a ring that was set aside.
type Salvaged struct {
	Sinks   []ring.Salvaged
	Clients []ring.ClientSpec // connected sources
}

// Open goes on with the inherited pair of files of the highest generation that is sound, or makes a new one. Before that, it
// has all sockets that are received from refuse descriptors, and finds out whether there is a store. The caller owns the ring,
// which has its old shape still if it could not be moved. salvaged are the sinks of a ring that was set aside: once they are in
// the new one, Commit is to be called. It may block.
func (s *Store) Open(in *activation.Set, o Options) (r *ring.Ring, salvaged Salvaged, err error) {
	s.refuses = true
	for _, d := range in.All() {
		s.refuses = s.RefuseRights(d.FD) && s.refuses
	}
	opt := ring.Options{Ops: s.ops, Descriptors: !s.refuses, Closer: s.Discard, Lock: true, IgnoreRecords: o.IgnoreRecords, Owner: o.Owner,
		Credentials: o.Credentials,
		LockError: func(err error) {
			s.log.Event(slog.LevelDebug, journal.EventInternal, "the ring's state is not locked in memory; raise LimitMEMLOCK", slog.Any("error", err))
		}}
	s.adoptWitnesses(in)
	if err := s.believe(o.Expected); err != nil {
		return nil, Salvaged{}, err
	}
	if s.proven {
		s.inherit(in)
	}
	pairs, highest := s.pairs(in)
	var broken []pair
	for i, p := range pairs {
		if ring.Outdated(p.data.FD, p.state.FD) {
			if r, err = s.upgrade(p, o.Geometry, opt); err == nil {
				s.retire(broken...)
				s.retire(pairs[i+1:]...)
				return r, Salvaged{}, nil
			}
		} else {
			r, err = ring.Open(p.data.FD, p.state.FD, opt)
		}
		if err != nil && !errors.Is(err, ring.ErrBroken) {
			// In use, or no room for it: the messages in it are not to be given up for that. The next start may do better.
			return nil, Salvaged{}, fmt.Errorf("cannot go on with the ring: %w", err)
		}
		if err != nil {
			salvaged.Sinks = append(salvaged.Sinks, ring.Salvage(p.state.FD)...)
			salvaged.Clients = append(salvaged.Clients, ring.SalvageClients(p.state.FD)...)
			s.saySetAside(p, err)
			broken = append(broken, p)
			continue
		}
		s.retire(broken...)
		s.retire(pairs[i+1:]...)
		r, err = s.goOn(r, p, o.Geometry, opt)
		return r, Salvaged{}, err
	}
	opt.Unpublished = len(broken) > 0
	if r, err = ring.Create(o.Geometry, highest+1, opt); err != nil {
		return nil, Salvaged{}, err
	}
	if err := s.putRing(r); err != nil {
		r.Retire()
		return nil, Salvaged{}, err
	}
	if len(broken) > 0 {
		s.aside = &setAside{r, broken}
	}
	return r, salvaged, nil
}

// setAside is a ring that is to take the place of others which cannot be used.
type setAside struct {
	ring   *ring.Ring
	broken []pair
}

// Commit makes the ring that Open returned valid, if it takes the place of others, now that their sinks are in it. Only then it
// gives those up: killed before, a successor finds the sinks in the old ones again. It may block.
func (s *Store) Commit() {
	if s.aside != nil {
		s.ops.Seam("aside.filled")
		s.aside.ring.Publish()
		s.ops.Seam("aside.published")
		s.retire(s.aside.broken...)
		s.aside = nil
	}
	if s.trusted.Load() {
		s.reconcile() // what fails is tried again by Run
	}
}

// goOn makes sure that an inherited ring is in the store, and has the shape that is wanted if that can be had.
func (s *Store) goOn(r *ring.Ring, p pair, want ring.Geometry, opt ring.Options) (*ring.Ring, error) {
	if n := r.Freed(); n > 0 {
		s.log.Event(slog.LevelError, journal.EventRingBroken, "entries of the sink table were damaged and are gone", slog.Int("entries", n))
	}
	// The predecessor may have died before they were stored; a second copy of a file is not kept.
	err := s.putRing(r)
	if err == nil && (r.Geometry() != want) {
		return s.move(r, p, want, opt)
	}
	if err != nil {
		r.Retire()
		return nil, err
	}
	return r, nil
}

// saySetAside tells that a ring cannot be used, and what is lost with it: messages that no sink has and, counted for each
// sink, those that it has not been sent.
func (s *Store) saySetAside(p pair, why error) {
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
	s.log.Event(slog.LevelError, journal.EventRingBroken, text, attrs...)
}

// move goes over to a new pair of files, because the options or the layout have changed. Killed anywhere, a successor finds
// the old pair valid, or both with the new one of the higher generation. It returns the ring to use, and retires the other.
func (s *Store) move(from *ring.Ring, old pair, want ring.Geometry, opt ring.Options) (*ring.Ring, error) {
	opt.Unpublished = true
	to, err := ring.Create(want, from.Generation()+1, opt)
	if err == nil {
		s.ops.Seam("move.created")
		if err = from.MoveTo(to); err != nil {
			to.Retire()
		}
	}
	if err != nil {
		s.log.Event(slog.LevelWarn, journal.EventNotMoved, "the ring keeps its old shape until the next start", slog.Any("error", err))
		return from, nil
	}
	s.ops.Seam("move.copied")
	if err := s.putRing(to); err != nil {
		s.forgetRing(to)
		to.Retire()
		from.Retire()
		return nil, err
	}
	s.ops.Seam("move.stored")
	to.Publish()
	s.ops.Seam("move.published")
	s.forgetRing(from, old.data.Name, old.state.Name)
	from.Retire()
	return to, nil
}

// upgrade goes over from a pair of files of the layout before to new ones. Killed anywhere, a successor finds the old pair as it
// was, or both with the new one of the higher generation.
func (s *Store) upgrade(old pair, want ring.Geometry, opt ring.Options) (*ring.Ring, error) {
	to, err := ring.Upgrade(old.data.FD, old.state.FD, want, opt)
	if err != nil {
		return nil, err
	}
	s.ops.Seam("move.copied")
	if err := s.putRing(to); err != nil {
		s.forgetRing(to)
		to.Retire()
		return nil, err
	}
	s.ops.Seam("move.stored")
	to.Publish()
	s.ops.Seam("move.published")
	s.retire(old)
	return to, nil
}

// pair is the two files of one generation.
type pair struct {
	data, state activation.Descriptor
	generation  uint64
}

// pairs finds the files that belong together, the highest generation first.
func (s *Store) pairs(in *activation.Set) (pairs []pair, highest uint64) {
	used := make(map[int]bool)
	for _, d := range in.Data {
		gd, okd := ring.GenerationOf(d.FD)
		for _, st := range in.State {
			gs, oks := ring.GenerationOf(st.FD)
			highest = max(highest, gd, gs)
			if okd && oks && gd == gs && !used[st.FD] && !used[d.FD] {
				pairs = append(pairs, pair{d, st, gd})
				used[st.FD], used[d.FD] = true, true
			}
		}
	}
	if len(pairs) == 0 {
		if p, ok := likelyPair(in); ok {
			pairs = append(pairs, p)
			used[p.data.FD], used[p.state.FD] = true, true
		}
	}
	for _, d := range slices.Concat(in.Data, in.State) {
		if !used[d.FD] {
			s.Finish(d.FD, d.Name)
		}
	}
	slices.SortFunc(pairs, func(a, b pair) int { return cmp.Compare(b.generation, a.generation) })
	return pairs, highest
}

// likelyPair is files that may belong together, and hold the sinks, though none says of itself that it is valid: the only
// ones, or else those with the lowest generation in their names. Any other was being made to take their place.
func likelyPair(in *activation.Set) (p pair, ok bool) {
	if len(in.Data) == 1 && len(in.State) == 1 {
		return pair{in.Data[0], in.State[0], 0}, true
	}
	lowest := ""
	for _, d := range in.Data {
		for _, st := range in.State {
			generation := strings.TrimPrefix(d.Name, activation.DataName)
			if generation != strings.TrimPrefix(st.Name, activation.StateName) {
				continue
			}
			// Decimal numbers without leading zeros: the shorter one is the smaller one.
			if !ok || cmp.Or(cmp.Compare(len(generation), len(lowest)), strings.Compare(generation, lowest)) < 0 {
				p, lowest, ok = pair{d, st, 0}, generation, true
			}
		}
	}
	return p, ok
}

// retire gives up pairs of files that are mapped nowhere.
func (s *Store) retire(pairs ...pair) {
	for _, p := range pairs {
		s.Finish(p.data.FD, p.data.Name)
		s.Finish(p.state.FD, p.state.Name)
	}
}

// forgetRing has a ring's files taken out of the store, from under whatever names; the caller retires it afterwards.
func (s *Store) forgetRing(r *ring.Ring, names ...string) {
	for _, base := range []string{activation.DataName, activation.StateName} {
		names = append(names, activation.MemoryName(base, r.Generation()))
	}
	for _, name := range names {
		s.Forget(name)
	}
}

// putRing gives both files to the descriptor store. Nothing is received before that is certain.
func (s *Store) putRing(r *ring.Ring) error {
	data, state := r.Descriptors()
	gen := r.Generation()
	err := s.put(activation.MemoryName(activation.DataName, gen), kept{data, true})
	if err == nil {
		err = s.put(activation.MemoryName(activation.StateName, gen), kept{state, true})
	}
	if err == nil {
		err = s.Barrier()
	}
	if err != nil {
		return fmt.Errorf("cannot store the ring: %w", err)
	}
	return nil
}
