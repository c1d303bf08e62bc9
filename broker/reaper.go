// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"context"
	"log/slog"
	"time"

	"github.com/msgmux/msgmux/broker/journal"
	"github.com/msgmux/msgmux/broker/owner"
	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/internal/sys"
)

// reapEvery is how often the reaper looks: an idle dead sink is gone within 5 s.
const reapEvery = 3 * time.Second

// reap finds sinks that closed their socket while nothing was sent to them, which no event tells of (unix(7): a
// connected datagram socket notices only when it sends). One dump of all sockets finds all of them.
func (c *Channel) reap(ctx context.Context) {
	diag, err := sys.NewSockDiag()
	if err != nil {
		c.log.Event(slog.LevelError, journal.EventInternal, "idle dead sinks will not be noticed", slog.Any("error", err))
		return
	}
	defer diag.Close()
	tick := time.NewTicker(reapEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		c.reapOnce(ctx, diag)
	}
}

func (c *Channel) reapOnce(ctx context.Context, diag *sys.SockDiag) {
	own := make(map[uint64]uint64)
	for s := range c.ring.Sinks {
		if spec := s.Spec(); spec.Kind == ring.Dynamic || spec.Kind == ring.Static {
			if cookie := s.Cookie(); cookie != 0 {
				own[cookie] = spec.ID
			}
		}
	}
	if len(own) == 0 {
		return
	}
	dead, err := owner.DeadPeers(diag, own)
	if err != nil || len(dead) == 0 || ctx.Err() != nil {
		return
	}
	c.loop.call(func() {
		for _, id := range dead {
			if o := c.loop.byID[id]; o != nil {
				c.retired(o, errClosed)
			}
		}
	})
}
