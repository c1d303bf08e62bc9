// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"context"
	"log/slog"
	"time"

	"github.com/msgmux/msgmux/broker/journal"
	"github.com/msgmux/msgmux/internal/sys"
)

// failurePause is how long a goroutine that cannot wait for its descriptors does nothing. The reasons pass: no memory, or more
// descriptors than the process may have (poll(2)).
const failurePause = 100 * time.Millisecond

// again is for a goroutine whose wait for something failed: it logs that, and returns after a pause, or once ctx ends. Nobody's
// way in ends by an error.
func (g *Gate) again(ctx context.Context, m journal.Limiter, what string, err error) {
	g.log.Limited(m, 0, "wait:"+what, slog.LevelError, journal.EventInternal, what, slog.Any("error", err))
	select {
	case <-ctx.Done():
	case <-time.After(failurePause):
	}
}

// endOf is an eventfd that is signalled when ctx ends; nil if it ends before there is one. The caller closes it.
func (g *Gate) endOf(ctx context.Context, m journal.Limiter) *sys.Eventfd {
	for ctx.Err() == nil {
		stop, err := sys.NewEventfd()
		if err == nil {
			context.AfterFunc(ctx, stop.Signal)
			return stop
		}
		g.again(ctx, m, "cannot begin to let anybody in", err)
	}
	return nil
}
