// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"log/slog"
	"time"

	"github.com/msgmux/msgmux/activation"
	"github.com/msgmux/msgmux/broker/journal"
	"github.com/msgmux/msgmux/internal/sys"
)

// Descriptors that are finished with, and those that strangers attached to messages, are closed here, off the goroutine that
// has them: close(2) can block.

// settlement is a descriptor to be taken out of the store and closed.
type settlement struct {
	fd   int    // -1: there is none to close
	name string // in the store; "" if it is not there
}

// removeAgain is how long a name stays in the store at least when the service manager had no room for the message.
const removeAgain = time.Second

// maxClosing is how many descriptors are closed at a time. Each takes a thread while it lasts, and a process has only so
// many (10,000, debug.SetMaxThreads).
const maxClosing = 64

// Run takes descriptors that are finished with out of the store and closes them, until ctx ends. A name that could not be
// taken out is tried again, and not left to the next start: the store has only so much room.
func (s *Store) Run(ctx context.Context) {
	var left []string
	var again <-chan time.Time
	for {
		if len(left) > 0 && again == nil {
			again = time.After(removeAgain)
		}
		select {
		case d := <-s.settling:
			if !s.settle(d) {
				left = append(left, d.name)
			}
		case <-again:
			again = nil
			for len(left) > 0 && s.notifier.Remove(left[0]) == nil {
				left = left[1:]
			}
		case <-ctx.Done():
			return // Drain does the rest
		}
	}
}

// Drain does what Run has left undone, after it and whoever calls Finish have ended. It may block.
func (s *Store) Drain() {
	for len(s.settling) > 0 {
		s.settle(<-s.settling)
	}
}

// settle says whether the descriptor is out of the store; it is closed in any case.
func (s *Store) settle(d settlement) bool {
	err := error(nil)
	if d.name != "" {
		if err = s.notifier.Remove(d.name); err != nil {
			s.log.Event(slog.LevelError, journal.EventInternal, "cannot take a descriptor out of the store yet", slog.Any("error", err))
		}
	}
	if d.fd >= 0 {
		s.Close(d.fd)
	}
	return err == nil
}

// Finish has fd taken out of the store, where it has that name, and closed. name is "" for one that is not in the store. It
// does not block.
func (s *Store) Finish(fd int, name string) {
	d := settlement{fd, name}
	select {
	case s.settling <- d:
	default:
		go s.settle(d)
	}
}

// Forget has what has that name taken out of the store; the caller's own descriptor stays open. It does not block.
func (s *Store) Forget(name string) {
	if name != "" {
		s.Finish(-1, name)
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
