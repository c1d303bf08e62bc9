// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"context"
	"log/slog"

	"github.com/msgmux/msgmux/activation"
	"github.com/msgmux/msgmux/broker/sys"
)

// How descriptors end that are done with, or that strangers attached: elsewhere, because closing can wait.

// settlement is a descriptor to be taken out of the store and closed.
type settlement struct {
	fd   int
	name string // in the descriptor store; "" if it is not there
}

// settle takes descriptors that are done with out of the store and closes them: both can wait.
func (c *Channel) settle(ctx context.Context) {
	for {
		select {
		case s := <-c.settling:
			c.settleOne(s)
		case <-ctx.Done():
			return // Run does the rest, when the data thread has ended
		}
	}
}

func (c *Channel) settleOne(s settlement) {
	if s.name != "" {
		if err := c.cfg.Notifier.Remove(s.name); err != nil {
			c.journal.event(slog.LevelError, EventInternal, "cannot take a descriptor out of the store", slog.Any("error", err))
		}
	}
	c.closeStranger(s.fd)
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
