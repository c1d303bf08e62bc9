// SPDX-License-Identifier: Apache-2.0

package loop

import (
	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/internal/sys"
)

// The end of a channel that nobody comes after: what its sockets hold is taken in, and what is left is counted.

// Hush has everything fail that is sent to the sources from now on. What they hold is received still.
func (t *Thread) Hush() { t.call((*loop).hush) }

// IsDry says whether nothing is left in the sources, and everything that was is in the ring.
func (t *Thread) IsDry() (dry bool) {
	t.call(func(l *loop) { dry = l.isDry() })
	return dry
}

// Unread takes what is left in the sources out of them, and says how many datagrams and packets that was. Nothing is received
// any more.
func (t *Thread) Unread() (n uint64) {
	t.call(func(l *loop) { n = l.unread() })
	return n
}

// hush leaves message queues alone: they outlive us, with what they hold.
func (l *loop) hush() {
	for _, s := range l.sources {
		if s.kind == ring.Queues {
			l.dropSource(s)
			continue
		}
		l.hushIn(s)
	}
	l.endRests(true)
}

// isDry is true without a sink that could be sent anything, too: then nothing is received.
func (l *loop) isDry() bool {
	return !l.ring.HasReceiver() || !l.ring.Landed() && len(l.queue) == 0 && len(l.resting) == 0
}

func (l *loop) unread() (n uint64) {
	for _, s := range l.sources {
		if s.stage != nil {
			n += s.unstaged()
			continue
		}
		for s.kind != ring.Queues {
			size, err := sys.InQueue(s.fd)
			if attached, failed := sys.Take(s.fd); failed != nil || s.client != nil && err == nil && size == 0 {
				break
			} else if n++; len(attached) > 0 {
				l.store.Discard(attached)
			}
		}
	}
	return n
}
