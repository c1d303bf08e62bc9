// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"context"
	"log/slog"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/msgmux/msgmux/broker/journal"
	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/internal/sys"
)

// blockage is why the sources wait.
type blockage struct {
	since time.Time
	sink  *ring.Sink // the sink that is waited for; nil: there is none
}

// blockages tells the other goroutines of the blockage that goes on. With a full ring one begins and ends all the time,
// so the data thread, which is the only writer, allocates nothing for it.
type blockages struct {
	now     blockage // the data thread's own copy, if waiting
	waiting bool

	word  atomic.Uint32 // odd while the rest changes: readers try again
	on    atomic.Bool
	since atomic.Int64 // ns since epoch
	sink  atomic.Pointer[ring.Sink]
}

// epoch is what blockages count from: a time.Time cannot be stored in one step, and a number of ns needs a beginning on
// the same clock.
var epoch = time.Now()

func (b *blockages) begin(now blockage) {
	b.now, b.waiting = now, true
	b.word.Add(1)
	b.on.Store(true)
	b.since.Store(int64(now.since.Sub(epoch)))
	b.sink.Store(now.sink)
	b.word.Add(1)
}

func (b *blockages) end() {
	b.now, b.waiting = blockage{}, false
	b.word.Add(1)
	b.on.Store(false)
	b.word.Add(1)
}

// load is the blockage that goes on, nil if there is none. It may be called from any goroutine.
func (b *blockages) load() *blockage {
	for {
		before := b.word.Load()
		on, at := b.on.Load(), blockage{epoch.Add(time.Duration(b.since.Load())), b.sink.Load()}
		switch {
		case before&1 == 1 || b.word.Load() != before:
			runtime.Gosched()
		case on:
			return &at
		default:
			return nil
		}
	}
}

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
		b := c.loop.blocked.load()
		switch {
		case !said.IsZero() && (b == nil || !b.since.Equal(said)):
			c.log.Event(slog.LevelInfo, journal.EventUnblocked, "sources go on", slog.Duration("after", time.Since(said).Round(time.Second)))
			said = time.Time{}
		case said.IsZero() && b != nil && time.Since(b.since) >= blockedLong && c.somebodyWaits(b):
			said = b.since
			if b.sink == nil {
				c.log.Event(slog.LevelWarn, journal.EventBlocked, "sources wait: there is no sink to take their messages")
			} else {
				c.log.Event(slog.LevelWarn, journal.EventBlocked, "sources wait for a sink", slog.String("sink", b.sink.Spec().Label))
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
