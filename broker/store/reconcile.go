// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/msgmux/msgmux/activation"
	"github.com/msgmux/msgmux/broker/journal"
	"github.com/msgmux/msgmux/internal/sys"
)

// The store is made equal to what is wanted. What a name should stand for is written down by whoever knows (Put, Finish, Forget),
// what the service manager was told of it beside that, and every difference is told again until it is none. So it does not
// matter when the service manager listens, nor by which way a name has come or gone.

// inherit writes down what a predecessor has stored: all of it is kept until somebody calls Finish.
func (s *Store) inherit(in *activation.Set) {
	keep := func(d activation.Descriptor, ring bool) {
		k := &kept{d.FD, ring}
		s.wanted[d.Name], s.told[d.Name] = k, k
	}
	for _, d := range in.Stored {
		keep(d.Descriptor, false)
	}
	for _, d := range slices.Concat(in.Data, in.State) {
		keep(d, true)
	}
}

// want writes down that a descriptor is to be in the store under that name.
func (s *Store) want(name string, w kept) {
	if !s.proven {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if k := s.wanted[name]; k != nil && k.fd == w.fd {
		return
	}
	s.wanted[name] = &w
	s.stale[name] = struct{}{}
}

// unwant writes down that nothing is to be in the store under that name.
func (s *Store) unwant(name string) {
	if !s.proven {
		return
	}
	s.mu.Lock()
	delete(s.wanted, name)
	if s.told[name] == nil {
		delete(s.stale, name) // it may be under way: then note finds the difference
	} else {
		s.stale[name] = struct{}{}
	}
	s.mu.Unlock()
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// tell makes the store equal to what is wanted under one name. It may block.
func (s *Store) tell(name string) error {
	s.telling.Lock()
	defer s.telling.Unlock()
	s.mu.Lock()
	want, told := s.wanted[name], s.told[name]
	fd, err := -1, error(nil)
	switch {
	case want == nil || want == told:
	case want.ring:
		fd = want.fd
	default:
		// A copy: the descriptor itself may be closed as soon as it is not wanted any more.
		if fd, err = sys.Duplicate(want.fd); err == nil {
			defer sys.Close(fd)
		}
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	if told != nil && told != want {
		if err := s.notifier.Remove(name); err != nil {
			return err
		}
		s.note(name, nil)
	}
	if want != nil && want != told {
		if err := s.notifier.Store(name, fd); err != nil {
			return err
		}
		s.grown.Store(true)
	}
	s.note(name, want)
	return nil
}

// note writes down what the service manager was told.
func (s *Store) note(name string, k *kept) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k == nil {
		delete(s.told, name)
	} else {
		s.told[name] = k
	}
	if s.wanted[name] == k {
		delete(s.stale, name)
	} else {
		s.stale[name] = struct{}{}
	}
}

// reconcile tells the service manager all that it does not know, up to the first failure. It may block.
func (s *Store) reconcile() error {
	for {
		s.mu.Lock()
		name, any := "", false
		for name = range s.stale {
			any = true
			break
		}
		s.mu.Unlock()
		if !any {
			return nil
		}
		if err := s.tell(name); err != nil {
			return err
		}
	}
}

// forgetTold has everything told again that is wanted. Of what is not wanted something may be left, and is to be removed still.
func (s *Store) forgetTold() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, k := range s.wanted {
		if s.told[name] == k {
			delete(s.told, name)
		}
		s.stale[name] = struct{}{}
	}
}

// lookEvery is how often the store is looked at without a reason: whether it still holds what it was given, and whether the
// service manager listens again.
const lookEvery = 2 * time.Second

// keep is the goroutine that keeps the store equal to what is wanted, until ctx ends.
func (s *Store) keep(ctx context.Context) {
	if !s.proven {
		return
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return // Settle does the rest
		case <-tick.C:
			s.look()
			s.attest() // not for each one that comes, or each would cost two more messages
		case <-s.changed:
			s.look()
		}
	}
}

// look makes the store equal to what is wanted, as far as the service manager lets it be. It may block.
func (s *Store) look() {
	if s.trusted.Load() && !s.hold() {
		s.emptied()
	}
	if !s.trusted.Load() && (time.Now().Before(s.next) || !s.restore()) {
		return
	}
	err := s.reconcile()
	if err != nil && !s.deaf {
		s.log.Event(slog.LevelError, journal.EventInternal, "cannot tell the service manager yet what to keep", slog.Any("error", err))
	}
	s.deaf = err != nil
}

// Settle makes the store equal to what is wanted for whoever comes next, after Run has ended, and says whether there is
// anything that shows that the service manager keeps the ring. If not, nobody finds it. It may block.
func (s *Store) Settle() (keeps bool) {
	if !s.proven {
		return false
	}
	s.next = time.Time{}
	s.look()
	s.attest()
	return s.trusted.Load()
}
