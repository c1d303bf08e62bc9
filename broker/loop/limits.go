// SPDX-License-Identifier: Apache-2.0

package loop

import (
	"time"

	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/internal/wire"
)

// Limits are what a channel allows. They never change, and may be read from any goroutine.
type Limits struct {
	UID        uint32        // the broker's own user
	Patience   time.Duration // of sinks that do not ask for one, and the most that an ordinary user may ask for
	PerUser    int           // sinks, and connected sources, of an ordinary user
	QueueBytes uint64        // the send buffer of one sink, as the kernel counts it
	QueueTotal uint64        // and of all
}

// Ordinary says whether a user is neither root nor the broker's own.
func (l *Limits) Ordinary(uid uint32) bool { return uid != 0 && uid != l.UID }

// SendBuffer is QueueBytes as setsockopt(2) takes it: the kernel doubles it.
func (l *Limits) SendBuffer() int { return int(l.QueueBytes / 2) }

// PatienceFor is how long others wait for a sink with these options, asked for by that user.
func (l *Limits) PatienceFor(o wire.Options, asker uint32) (time.Duration, *wire.Error) {
	switch {
	case o.Tap:
		return 0, nil
	case !o.PatienceSet:
		return l.Patience, nil
	case o.Patience > l.Patience && l.Ordinary(asker):
		return 0, wire.Refuse(wire.CodeDenied, "patience=%s is more than this channel's %s, which only root, the broker's user and static sinks may have",
			wire.FormatPatience(o.Patience), wire.FormatPatience(l.Patience))
	}
	return o.Patience, nil
}

// mayChange says whether a user may change or remove a sink.
func (l *Limits) mayChange(uid uint32, spec *ring.Spec) bool {
	return !l.Ordinary(uid) || uid == spec.UID && spec.Kind != ring.Static
}
