// SPDX-License-Identifier: Apache-2.0

package status

import (
	"time"

	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// sources says whether the sources are blocked, and why.
func (b *Board) sources() (s wire.Sources) {
	past := b.c.Thread.BlockedFor()
	if now := b.c.Thread.Blocked(); now != nil {
		s.Blocked = true
		s.ForSeconds = time.Since(now.Since).Seconds()
		past += time.Since(now.Since)
		s.Why = "no sink"
		if label, ok := now.Sink(); ok {
			s.Sink = label
			s.Why = "sink " + label
		}
	}
	s.BlockedSecs = past.Seconds()
	return s
}

// sockets are what sources send to. What waits in them is looked for only while the sources are blocked: otherwise it is received at
// once, and to look would hold that up.
func (b *Board) sockets(blocked bool) (all []wire.SourceSocket) {
	for _, o := range b.c.Thread.Own() {
		s := wire.SourceSocket{Number: o.Number, Path: o.Name, Kind: wire.KindDatagrams}
		if o.Kind == ring.Queues {
			s.Kind = wire.KindQueue
		}
		switch {
		case !blocked:
		case o.Kind == ring.Queues:
			if a, err := sys.QueueAttributesOf(o.FD); err == nil {
				s.Waiting = uint64(a.Messages)
			}
		default:
			s.Waiting, s.WaitingBytes, _ = sys.Queued(o.FD)
		}
		all = append(all, s)
	}
	if b.c.Publish == "" {
		return all
	}
	s := wire.SourceSocket{Path: b.c.Publish, Kind: wire.KindConnections}
	if blocked {
		c := b.c.Thread.Connections()
		s.Blocked, s.WaitingBytes = uint64(c.Waiting), c.Bytes
	}
	return append(all, s)
}
