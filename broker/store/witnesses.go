// SPDX-License-Identifier: Apache-2.0

package store

import (
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/msgmux/msgmux/activation"
	"github.com/msgmux/msgmux/broker/journal"
)

// What the service manager was told to keep it need not keep. A unit that takes no descriptors closes what it is sent; one that
// is masked, or gets a lower limit, closes what it has at the next daemon-reload; and NOTIFY_SOCKET may be somebody else's,
// inherited from the shell that a broker was started in. None of them says so. So what is believed is what witnesses say: one
// that was stored before everything else, and one that was stored after. While both are there, so is what lies between.

const (
	// proofTimeout is how long a service manager that has given us no sockets may take to show that it keeps descriptors.
	proofTimeout = 2 * time.Second
	// restoreFirst and restoreLast are the pauses between attempts to have an emptied store filled again.
	restoreFirst = lookEvery
	restoreLast  = time.Minute
)

// witnesses are what shows that the store is not empty.
type witnesses struct {
	first, last *activation.Witness
	grown       atomic.Bool   // something was stored since last was
	full        time.Time     // until when the store is known to take too little for last to be there
	deaf        bool          // the service manager did not listen when it was told something
	next        time.Time     // when it is asked again whether it keeps anything
	pause       time.Duration // and after how long the time after that
}

// adoptWitnesses goes on with the witnesses of a predecessor.
func (s *Store) adoptWitnesses(in *activation.Set) {
	for _, d := range in.Witnesses {
		w, err := activation.AdoptWitness(d.FD)
		switch {
		case err != nil:
		case d.Name == activation.FirstWitness && s.first == nil:
			s.first = w
		case d.Name == activation.LastWitness && s.last == nil:
			s.last = w
		default:
			w.Close()
		}
	}
	s.grown.Store(true) // since it put the last one, the predecessor may have stored more
}

// prove says whether the service manager keeps the first witness, of which it is given another one if it has none. That one is
// behind whatever the store holds already, and so attests nothing of it. It may block.
func (s *Store) prove(timeout time.Duration) (keeps bool, err error) {
	if s.first != nil && s.first.Holds() {
		return true, nil
	}
	s.first.Close()
	s.first = nil
	w, err := s.notifier.Witness(activation.FirstWitness)
	if err == nil {
		s.first = w
		err = s.notifier.Barrier(timeout)
	}
	return err == nil && w.Holds(), err
}

// believe decides at the start whether there is a store. expected says that the service manager has given us our sockets: then
// one that does not answer is no reason to go on without it.
func (s *Store) believe(expected bool) error {
	if s.notifier == nil {
		return nil
	}
	timeout := barrierTimeout
	if !expected {
		timeout = proofTimeout
	}
	var keeps bool
	var err error
	if s.notifier.HandsBack() {
		keeps, err = s.prove(timeout)
	}
	switch {
	case err != nil && expected:
		return fmt.Errorf("cannot store anything: %w", err)
	case keeps:
		s.proven = true
		s.trusted.Store(true)
	case expected:
		s.log.Event(slog.LevelWarn, journal.EventStore, "the service manager keeps no descriptors: what is in the ring does not outlive this process")
	default:
		s.log.Event(slog.LevelInfo, journal.EventStore, "NOTIFY_SOCKET is that of a service manager that keeps no descriptors for this process")
	}
	return nil
}

// hold says whether both witnesses are there.
func (s *Store) hold() bool { return s.first.Holds() && s.last.Holds() }

// emptied is what to do when a witness is gone: nothing is believed any more.
func (s *Store) emptied() {
	s.trusted.Store(false)
	s.pause, s.next = restoreFirst, time.Time{}
	s.log.Event(slog.LevelWarn, journal.EventStore, "the service manager has closed descriptors that it was to keep; they are stored again", slog.Int("wanted", s.count()))
}

// restore has everything stored again, and says whether the store keeps it. It may block.
func (s *Store) restore() bool {
	if keeps, _ := s.prove(barrierTimeout); !keeps {
		if s.pause == restoreFirst {
			s.log.Event(slog.LevelError, journal.EventStore, "the service manager keeps no descriptors any more: what is in the ring does not outlive this process")
		}
		s.pause = min(2*s.pause, restoreLast)
		s.next = time.Now().Add(s.pause)
		return false
	}
	s.last.Close()
	s.last, s.full = nil, time.Time{}
	s.trusted.Store(true) // before all are told again: one that comes meanwhile is told at once
	s.forgetTold()
	err := s.reconcile()
	if err == nil {
		s.deaf = false
		s.grown.Store(true)
		s.attest()
		err = s.Barrier()
	}
	switch {
	case err != nil: // the rest is told later
	case !s.first.Holds():
		s.emptied()
	case !s.last.Holds():
		s.last.Close()
		s.last, s.full = nil, time.Now().Add(restoreLast)
		s.log.Event(slog.LevelError, journal.EventStore, "the service manager takes fewer descriptors than the channel has: a restart loses sinks", slog.Int("wanted", s.count()))
	default:
		s.log.Event(slog.LevelWarn, journal.EventStore, "the service manager keeps all descriptors again", slog.Int("wanted", s.count()))
	}
	return s.trusted.Load()
}

// attest puts the last witness behind what was stored since it was.
func (s *Store) attest() {
	if !s.trusted.Load() || s.deaf || !s.grown.Load() || time.Now().Before(s.full) {
		return
	}
	s.grown.Store(false)
	w, err := s.notifier.Witness(activation.LastWitness)
	if err != nil {
		s.grown.Store(true)
		return
	}
	s.last.Close()
	s.last = w
}

// count is how many descriptors the store should hold, without witnesses.
func (s *Store) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.wanted)
}
