// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"log/slog"
	"time"

	"github.com/msgmux/msgmux/broker/journal"
)

const (
	blockedCheck = time.Second
	// A sink with the usual patience never makes anybody wait so long.
	blockedLong = 10 * time.Second
)

// watchBlocked logs, once per episode, that sources have been blocked for long and that they resumed.
func (b *Board) watchBlocked(ctx context.Context) {
	tick := time.NewTicker(b.c.BlockedCheck)
	defer tick.Stop()
	said := time.Time{} // since when the sources have been blocked, if that was logged
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := b.c.Thread.Blocked()
		switch {
		case !said.IsZero() && (now == nil || !now.Since.Equal(said)):
			b.c.Log.Event(slog.LevelInfo, journal.EventUnblocked, "sources go on", slog.Duration("after", time.Since(said).Round(time.Second)))
			said = time.Time{}
		case said.IsZero() && now != nil && time.Since(now.Since) >= b.c.BlockedLong:
			said = now.Since
			if label, ok := now.Sink(); ok {
				b.c.Log.Event(slog.LevelWarn, journal.EventBlocked, "sources wait for a sink", slog.String("sink", label))
			} else {
				b.c.Log.Event(slog.LevelWarn, journal.EventBlocked, "sources wait: there is no sink to take their messages")
			}
		}
	}
}
