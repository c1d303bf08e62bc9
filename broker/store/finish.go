// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"sync"

	"github.com/msgmux/msgmux/activation"
	"github.com/msgmux/msgmux/internal/sys"
)

// Descriptors that are finished with, and those that strangers attached to messages, are closed here, off the goroutine that
// has them: close(2) can block.

// maxClosing is how many descriptors are closed at a time. Each takes a thread while it lasts, and a process has only so
// many (10,000, debug.SetMaxThreads).
const maxClosing = 64

// Run closes descriptors that are finished with, and keeps the store equal to what is wanted, until ctx ends.
func (s *Store) Run(ctx context.Context) {
	var both sync.WaitGroup
	both.Go(func() { s.keep(ctx) })
	both.Go(func() {
		for {
			select {
			case fd := <-s.finished:
				s.Close(fd)
			case <-ctx.Done():
				return // Drain does the rest
			}
		}
	})
	both.Wait()
}

// Drain closes what Run has left unclosed, after it and whoever calls Finish have ended, and tells the service manager what it
// does not know yet. It may block.
func (s *Store) Drain() {
	for len(s.finished) > 0 {
		s.Close(<-s.finished)
	}
	if s.trusted.Load() && !s.deaf {
		s.reconcile() // what it does not learn the next start mends
	}
}

// Finish has fd taken out of the store, where it has that name, and closed. name is "" for one that is not in the store. A
// connection is hung up at once, however long the service manager keeps its copy. It does not block.
func (s *Store) Finish(fd int, name string) {
	if name != "" {
		s.unwant(name)
		if letter, _, ok := activation.ParseSinkName(name); ok && letter != activation.DatagramSink && letter != activation.ViewPage {
			sys.HangUp(fd)
		}
	}
	select {
	case s.finished <- fd:
	default:
		go s.Close(fd)
	}
}

// Forget has what has that name taken out of the store; the caller's own descriptor stays open. It does not block.
func (s *Store) Forget(name string) {
	if name != "" {
		s.unwant(name)
	}
}

// RefuseRights makes the kernel refuse descriptors that are sent to fd from now on, and says whether it does.
func (s *Store) RefuseRights(fd int) bool {
	if s.keepRights {
		return false
	}
	refuses, err := activation.RefuseRights(fd)
	return refuses && err == nil
}

// Discard closes what strangers attached to messages, in a goroutine: close(2) may take seconds for each. There are never more
// of these goroutines than descriptors that the process may have.
func (s *Store) Discard(fds []int) {
	go func() {
		s.closing <- struct{}{}
		defer func() { <-s.closing }()
		sys.CloseDescriptors(fds)
	}()
}

// Skip reads one datagram or packet from fd and forgets it, with what is attached. It does not block.
func (s *Store) Skip(fd int) {
	if fds, _ := sys.Take(fd); len(fds) > 0 {
		s.Discard(fds)
	}
}

// Close closes a socket that strangers send to: descriptors may lie in its queue. It does not block for those.
func (s *Store) Close(fd int) {
	if s.refuses {
		sys.Close(fd)
		return
	}
	s.Discard([]int{fd})
}
