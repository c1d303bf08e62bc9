// SPDX-License-Identifier: Apache-2.0

package loop

import (
	"fmt"

	"github.com/msgmux/msgmux/internal/wire"
)

// Places in the channel are shared out by user, and subordinate uids (subuid(5)) count as their user: by themselves they are
// 65,536 users that one user may be. Since there may be many users, too, ordinary ones together leave some places.

// reservedPart is how much of all places ordinary users leave to root, the broker's user and declared sinks: one part in ten.
const reservedPart = 10

// shared is how many of so many places ordinary users may have together.
func shared(places uint64) uint64 { return places - places/reservedPart }

// census counts those who have places: all together, ordinary users, and one of those.
type census struct{ all, ordinary, own count }

// count is how many there are, and how many of them have the place of another one for their pages and stages: the store keeps a
// descriptor for these, and the broker maps them.
type count struct{ number, memory uint64 }

// places is how many they take.
func (n count) places() uint64 { return n.number + n.memory }

// twice says how the number of places comes about, where it is not that of those who have them.
func (n count) twice(what string) string {
	if n.memory == 0 {
		return ""
	}
	return fmt.Sprintf(", %d of them with %s, which counts as one more", n.memory, what)
}

func (n *count) add(memory bool) {
	if n.number++; memory {
		n.memory++
	}
}

// add counts one of that uid. user is the one whose own are counted.
func (n *census) add(limits *Limits, uid, user uint32, memory bool) {
	n.all.add(memory)
	if limits.Ordinary(uid) {
		if n.ordinary.add(memory); limits.User(uid) == user {
			n.own.add(memory)
		}
	}
}

// request is what somebody wants: to be one more, or memory for one that there is, or both. The zero request is nothing.
type request struct{ entry, memory bool }

func (q request) places() (n uint64) {
	for _, wants := range []bool{q.entry, q.memory} {
		if wants {
			n++
		}
	}
	return n
}

// Reserve checks the limits for one more sink of a user, and returns an id for it that nobody else has or will have. Nothing is
// kept for it: the table may be full when it is entered. Sinks that are absent count: nobody asks when they are back. One in view takes
// the place of two.
func (r *Roster) Reserve(uid uint32, view bool) (id uint64, refusal *wire.Error) {
	if refusal := r.checkSinks(uid, request{entry: true, memory: view}); refusal != nil {
		return 0, refusal
	}
	return r.ring.NewID(), nil
}

// checkSinks says why a user cannot have what he wants as a sink, or nil.
func (r *Roster) checkSinks(uid uint32, wants request) *wire.Error {
	if wants.memory && r.viewErr != nil {
		return wire.Refuse(wire.CodeUnsupported, "%v", r.viewErr)
	}
	var n census
	user, more := r.limits.User(uid), wants.places()
	for s := range r.ring.Sinks {
		n.add(&r.limits, s.Spec().UID, user, s.Spec().View && r.byID[s.ID()] != nil)
	}
	const page = "a page"
	bySinks, byQueue := r.ring.Geometry().MaxSinks, r.limits.Queues()
	switch ordinary := r.limits.Ordinary(uid); {
	case more == 0:
	case n.all.places()+more > bySinks:
		return wire.Refuse(wire.CodeQuota, "there are %d sinks already%s, as many as --max-sinks allows", n.all.number, n.all.twice(page))
	case wants.entry && n.all.number >= byQueue:
		return wire.Refuse(wire.CodeQuota, "%d sinks with %d bytes of queue each are all that %s allows", n.all.number, r.limits.QueueBytes, r.limits.QueueBound)
	case ordinary && n.own.places()+more > uint64(r.limits.PerUser):
		return wire.Refuse(wire.CodeQuota, "user %d has %d sinks already%s, as many as --max-sinks-per-user allows", user, n.own.number, n.own.twice(page))
	case ordinary && n.ordinary.places()+more > shared(bySinks):
		return wire.Refuse(wire.CodeQuota, "ordinary users have %d sinks already%s; the last tenth of --max-sinks is for root and static sinks",
			n.ordinary.number, n.ordinary.twice(page))
	case ordinary && wants.entry && n.ordinary.number >= shared(byQueue):
		return wire.Refuse(wire.CodeQuota, "ordinary users have %d sinks already; the last tenth of what %s allows is for root and static sinks", n.ordinary.number, r.limits.QueueBound)
	}
	return nil
}

// ReserveSource is Reserve for a connected source. One with a stage takes the place of two.
func (r *Roster) ReserveSource(uid uint32, stage bool) (id uint64, refusal *wire.Error) {
	if refusal := r.checkSources(uid, request{entry: true, memory: stage}); refusal != nil {
		return 0, refusal
	}
	return r.ring.NewID(), nil
}

// checkSources says why a user cannot have what he wants as a connected source, or nil.
func (r *Roster) checkSources(uid uint32, wants request) *wire.Error {
	var n census
	user, more := r.limits.User(uid), wants.places()
	for c := range r.ring.Clients {
		n.add(&r.limits, c.Spec().UID, user, c.Spec().Stage && r.sources[c.ID()] != nil)
	}
	const stage = "a stage"
	switch most, ordinary := r.ring.Geometry().MaxClients, r.limits.Ordinary(uid); {
	case more == 0:
	case wants.memory && r.limits.Stages > 0 && n.all.memory >= r.limits.Stages:
		return wire.Refuse(wire.CodeQuota, "there are %d stages already, as many as %s allows", n.all.memory, r.limits.QueueBound)
	case wants.memory && r.limits.Stages > 0 && ordinary && n.ordinary.memory >= shared(r.limits.Stages):
		return wire.Refuse(wire.CodeQuota, "ordinary users have %d stages already; the last tenth of what %s allows is for root", n.ordinary.memory, r.limits.QueueBound)
	case n.all.places()+more > most:
		return wire.Refuse(wire.CodeQuota, "there are %d connected sources already%s, as many as --max-clients allows", n.all.number, n.all.twice(stage))
	case ordinary && n.own.places()+more > uint64(r.limits.PerUser):
		return wire.Refuse(wire.CodeQuota, "user %d has %d connected sources already%s, as many as --max-sinks-per-user allows", user, n.own.number, n.own.twice(stage))
	case ordinary && n.ordinary.places()+more > shared(most):
		return wire.Refuse(wire.CodeQuota, "ordinary users have %d connected sources already%s; the last tenth of --max-clients is for root",
			n.ordinary.number, n.ordinary.twice(stage))
	}
	return nil
}
