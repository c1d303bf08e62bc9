// SPDX-License-Identifier: Apache-2.0

package loop

import "github.com/msgmux/msgmux/internal/wire"

// Places in the channel are shared out by user, and subordinate uids (subuid(5)) count as their user: by themselves they are
// 65,536 users that one user may be. Since there may be many users, too, ordinary ones together leave some places.

// reservedPart is how much of all places ordinary users leave to root, the broker's user and declared sinks: one part in ten.
const reservedPart = 10

// shared is how many of so many places ordinary users may have together.
func shared(places uint64) uint64 { return places - places/reservedPart }

// census is how many have places: all together, ordinary users, and one of those. memory is how many of the ordinary ones have the place
// of another one for their pages and stages.
type census struct{ all, ordinary, own, memory uint64 }

// add counts one of that uid. user is the one whose own are counted.
func (n *census) add(limits *Limits, uid, user uint32, memory bool) {
	n.all++
	if limits.Ordinary(uid) {
		if n.ordinary++; limits.User(uid) == user {
			n.own++
		}
		n.memory += beside(memory)
	}
}

// beside is how many places somebody takes in the store beside that of his connection.
func beside(memory bool) uint64 {
	if memory {
		return 1
	}
	return 0
}

// Reserve checks the limits for one more sink of a user, and returns an id for it that nobody else has or will have. Nothing is
// kept for it: the table may be full when it is entered. Sinks that are absent count: nobody asks when they are back.
func (r *Roster) Reserve(uid uint32, view bool) (id uint64, refusal *wire.Error) {
	if refusal := r.checkView(view); refusal != nil {
		return 0, refusal
	}
	var n census
	user := r.limits.User(uid)
	for s := range r.ring.Sinks {
		n.add(&r.limits, s.Spec().UID, user, s.Spec().View && r.byID[s.ID()] != nil)
	}
	bySinks, byQueue := r.ring.Geometry().MaxSinks, r.limits.Queues()
	switch ordinary := r.limits.Ordinary(uid); {
	case n.all+uint64(r.views) >= bySinks:
		return 0, wire.Refuse(wire.CodeQuota, "there are %d sinks already, as many as --max-sinks allows", n.all)
	case n.all >= byQueue:
		return 0, wire.Refuse(wire.CodeQuota, "%d sinks with %d bytes of queue each are all that %s allows", n.all, r.limits.QueueBytes, r.limits.QueueBound)
	case ordinary && n.own >= uint64(r.limits.PerUser):
		return 0, wire.Refuse(wire.CodeQuota, "user %d has %d sinks already, as many as --max-sinks-per-user allows", user, n.own)
	case ordinary && n.ordinary+n.memory+beside(view) >= shared(bySinks):
		return 0, wire.Refuse(wire.CodeQuota, "ordinary users have %d sinks already; the last tenth of --max-sinks is for root and static sinks", n.ordinary)
	case ordinary && n.ordinary >= shared(byQueue):
		return 0, wire.Refuse(wire.CodeQuota, "ordinary users have %d sinks already; the last tenth of what %s allows is for root and static sinks", n.ordinary, r.limits.QueueBound)
	}
	return r.ring.NewID(), nil
}

// ReserveSource is Reserve for a connected source. The store keeps a stage beside its connection, so one that has it takes the place of
// two.
func (r *Roster) ReserveSource(uid uint32, stage bool) (id uint64, refusal *wire.Error) {
	n := census{all: uint64(r.stages) + beside(stage)}
	user := r.limits.User(uid)
	for c := range r.ring.Clients {
		n.add(&r.limits, c.Spec().UID, user, c.Spec().Stage && r.sources[c.ID()] != nil)
	}
	switch most, ordinary := r.ring.Geometry().MaxClients, r.limits.Ordinary(uid); {
	case n.all >= most:
		return 0, wire.Refuse(wire.CodeQuota, "there are %d connected sources already, those with a stage counted twice, as many as --max-clients allows", n.all)
	case ordinary && n.own >= uint64(r.limits.PerUser):
		return 0, wire.Refuse(wire.CodeQuota, "user %d has %d connected sources already, as many as --max-sinks-per-user allows", user, n.own)
	case ordinary && n.ordinary+n.memory+beside(stage) >= shared(most):
		return 0, wire.Refuse(wire.CodeQuota, "ordinary users have %d connected sources already; the last tenth of --max-clients is for root", n.ordinary)
	}
	return r.ring.NewID(), nil
}

// checkStage says why a source whose mark is kept cannot have a stage, if it wants one, or nil.
func (r *Roster) checkStage(stage bool) *wire.Error {
	n := uint64(r.stages)
	for range r.ring.Clients {
		n++
	}
	if stage && n >= r.ring.Geometry().MaxClients {
		return wire.Refuse(wire.CodeQuota, "there are %d connected sources already, those with a stage counted twice, as many as --max-clients allows", n)
	}
	return nil
}
