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
	Keep       time.Duration // the longest that an ordinary user may have something kept for him
	PerUser    int           // sinks, and connected sources, of an ordinary user
	QueueBytes uint64        // the send buffer of one sink, as the kernel counts it
	QueueTotal uint64        // and of all
	Stages     uint64        // how many sources with a stage there is memory for; 0: as many as there may be
	QueueBound string        // what sets QueueTotal and Stages, as a refusal names it

	// Owner says whom an ordinary user counts as: himself, or the one whose subordinate uid that is. It must not block. nil:
	// himself.
	Owner func(uid uint32) uint32
}

// Ordinary says whether a user is neither root nor the broker's own.
func (l *Limits) Ordinary(uid uint32) bool { return uid != 0 && uid != l.UID }

// User is whom a uid counts as where something is shared out by user.
func (l *Limits) User(uid uint32) uint32 {
	if l.Owner == nil || !l.Ordinary(uid) {
		return uid
	}
	return l.Owner(uid)
}

// Queues is how many sinks there is room for, should the queue of each be full.
func (l *Limits) Queues() uint64 { return l.QueueTotal / max(1, l.QueueBytes) }

// SendBuffer is QueueBytes as setsockopt(2) takes it: the kernel doubles it.
func (l *Limits) SendBuffer() int { return int(l.QueueBytes / 2) }

// PatienceFor is how long others wait for a sink with these options. privileged says that root or the broker's user asks for
// it, beyond doubt.
func (l *Limits) PatienceFor(o wire.Options, privileged bool) (time.Duration, *wire.Error) {
	switch {
	case o.Tap:
		return 0, nil
	case !o.PatienceSet:
		return l.Patience, nil
	case o.Patience > l.Patience && !privileged:
		return 0, wire.Refuse(wire.CodeDenied, "patience=%s is more than this channel's %s, which only root, the broker's user and static sinks may have",
			wire.FormatPatience(o.Patience), wire.FormatPatience(l.Patience))
	}
	return o.Patience, nil
}

// KeepFor is how long the place of a sink or the mark of a source with these options is kept, asked for by that user.
func (l *Limits) KeepFor(o wire.Options, asker uint32) (time.Duration, *wire.Error) {
	if o.Keep > l.Keep && l.Ordinary(asker) {
		return 0, wire.Refuse(wire.CodeDenied, "keep=%s is more than this channel's %s, which only root and the broker's user may have",
			wire.FormatPatience(o.Keep), wire.FormatPatience(l.Keep))
	}
	return o.Keep, nil
}

// mayChange says whether a user may change or remove a sink.
func (l *Limits) mayChange(uid uint32, spec *ring.Spec) bool {
	return !l.Ordinary(uid) || uid == spec.UID && spec.Kind != ring.Static
}
