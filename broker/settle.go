// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"context"
	"log/slog"
	"time"

	"github.com/msgmux/msgmux/activation"
	"github.com/msgmux/msgmux/broker/journal"
	"github.com/msgmux/msgmux/internal/sys"
)

// How descriptors end that are done with, or that strangers attached: elsewhere, because closing can wait.

// settlement is a descriptor to be taken out of the store and closed.
type settlement struct {
	fd   int
	name string // in the descriptor store; "" if it is not there
}

// removeAgain is how long a name stays in the store at least when the service manager had no room for the message.
const removeAgain = time.Second

// settle takes descriptors that are done with out of the store and closes them: both can wait. A name that could not be
// taken out is tried again, and not left to the next start: the store has only so much room.
func (c *Channel) settle(ctx context.Context) {
	var left []string
	var again <-chan time.Time
	for {
		if len(left) > 0 && again == nil {
			again = time.After(removeAgain)
		}
		select {
		case s := <-c.settling:
			if !c.settleOne(s) {
				left = append(left, s.name)
			}
		case <-again:
			again = nil
			for len(left) > 0 && c.cfg.Notifier.Remove(left[0]) == nil {
				left = left[1:]
			}
		case <-ctx.Done():
			return // Run does the rest, when the data thread has ended
		}
	}
}

// settleOne says whether the descriptor is out of the store; it is closed in any case.
func (c *Channel) settleOne(s settlement) bool {
	err := error(nil)
	if s.name != "" {
		if err = c.cfg.Notifier.Remove(s.name); err != nil {
			c.log.Event(slog.LevelError, journal.EventInternal, "cannot take a descriptor out of the store yet", slog.Any("error", err))
		}
	}
	c.closeStranger(s.fd)
	return err == nil
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
