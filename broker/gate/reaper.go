// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"context"
	"time"

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
	diag, err := sys.NewSockDiag()
	if err != nil {
		g.failed("idle dead sinks will not be noticed", err)
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
		g.reapOnce(ctx, diag)
	}
}

func (g *Gate) reapOnce(ctx context.Context, diag *sys.SockDiag) {
	own := make(map[uint64]uint64)
	for spec, cookie := range g.thread.Connected {
		if spec.Kind == ring.Dynamic || spec.Kind == ring.Static { // the others are connections, of which epoll tells
			own[cookie] = spec.ID
		}
	}
	if len(own) == 0 {
		return
	}
	dead, err := owner.DeadPeers(diag, own)
	if err != nil || len(dead) == 0 || ctx.Err() != nil {
		return
	}
	g.thread.Call(func(r *loop.Roster) {
		for _, id := range dead {
			r.RetireID(id)
		}
	})
}
