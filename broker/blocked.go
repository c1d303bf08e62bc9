// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"context"
	"log/slog"
	"time"

	"github.com/msgmux/msgmux/broker/sys"
)

var (
	// blockedCheck is how often somebody looks whether the sources wait. Only tests change it.
	blockedCheck = time.Second
	// blockedLong is after how long that is worth a line: a sink with the usual patience never makes anybody wait so
	// long. Only tests change it.
	blockedLong = 10 * time.Second
)

// watchBlocked has the journal say when the sources have waited for long, and when they go on: once each.
func (c *Channel) watchBlocked(ctx context.Context) {
	tick := time.NewTicker(blockedCheck)
	defer tick.Stop()
	said := time.Time{} // since when the sources wait, if that was said
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		b := c.loop.blocked.Load()
		switch {
		case !said.IsZero() && (b == nil || !b.since.Equal(said)):
			c.journal.event(slog.LevelInfo, EventUnblocked, "sources go on", slog.Duration("after", time.Since(said).Round(time.Second)))
			said = time.Time{}
		case said.IsZero() && b != nil && time.Since(b.since) >= blockedLong && c.somebodyWaits(b):
			said = b.since
			if b.sink == nil {
				c.journal.event(slog.LevelWarn, EventBlocked, "sources wait: there is no sink to take their messages")
			} else {
				c.journal.event(slog.LevelWarn, EventBlocked, "sources wait for a sink", slog.String("sink", b.sink.Spec().Label))
			}
		}
	}
}

// somebodyWaits says whether there is a source that is kept waiting. Without a sink that is so when a message lies in the
// source socket; a full ring is full because somebody sends.
func (c *Channel) somebodyWaits(b *blockage) bool {
	if b.sink != nil || c.ring.Waiting() > 0 || !c.cfg.Inherited.Source.Given() {
		return true
	}
	i, err := sys.WaitReadable(0, c.cfg.Inherited.Source.FD)
	return err == nil && i == 0
}
