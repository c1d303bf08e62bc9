// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"context"
	"errors"
	"time"

	"github.com/msgmux/msgmux/broker/journal"
	"github.com/msgmux/msgmux/broker/loop"
	"github.com/msgmux/msgmux/broker/owner"
	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/internal/sys"
)

// reapEvery is how often the reaper looks: an idle dead sink is gone within 5 s.
const reapEvery = 3 * time.Second

// reap finds sinks that closed their socket while nothing was sent to them, which no event tells of (unix(7): a
// connected datagram socket notices only when it sends). One dump of all sockets finds all of them.
func (g *Gate) reap(ctx context.Context) {
	limiter := make(journal.Limiter)
	diag, err := sys.NewSockDiag()
	for ; err != nil && ctx.Err() == nil && !errors.Is(err, sys.ErrNoDiag); diag, err = sys.NewSockDiag() {
		g.again(ctx, limiter, "cannot notice idle dead sinks", err)
	}
	if err != nil {
		return // where the kernel tells nothing, only a send notices
	}
	defer diag.Close()
	own := make(map[uint64]reader)
	tick := time.NewTicker(reapEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		clear(own) // its memory serves again: with thousands of sinks that is much of what an idle broker costs
		g.reapOnce(ctx, diag, own)
	}
}

// reader is a sink, and what it had taken before the dump.
type reader struct {
	sink *ring.Sink
	took uint64
}

// reapOnce looks once. own, which is empty, is its to use.
func (g *Gate) reapOnce(ctx context.Context, diag *sys.SockDiag, own map[uint64]reader) {
	for s, cookie := range g.thread.Sockets {
		own[cookie] = reader{s, s.Took()}
	}
	if len(own) == 0 {
		return
	}
	dead, err := owner.DeadPeers(diag, own, func(x reader, left int) { x.sink.SeenTo(x.took, left) })
	if err != nil || len(dead) == 0 || ctx.Err() != nil {
		return
	}
	g.thread.Call(func(r *loop.Roster) {
		for _, x := range dead {
			if x.sink.Spec().Kind == ring.Framed {
				continue // epoll tells of it
			}
			r.RetireID(x.sink.ID())
		}
	})
}
