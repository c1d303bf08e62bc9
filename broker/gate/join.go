// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"github.com/msgmux/msgmux/broker/loop"
	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/broker/store"
	"github.com/msgmux/msgmux/internal/wire"
)

// newcomer is who wants to be let in.
type newcomer struct {
	uid    uint32
	fd     int    // its socket; not used if the store keeps none for what it is
	memory memory // of a sink in view the page, of a source its stage; nil: neither
	seams  seams

	// find looks whether it is in the channel already, and gives it what it has come for if so. nil: it is not.
	find func(*loop.Roster) (id uint64, there bool, refusal *wire.Error)
	// reserve checks the limits, and returns an id.
	reserve func(r *loop.Roster, uid uint32) (id uint64, refusal *wire.Error)
	// name is what the store keeps its socket as; "": it keeps none.
	name func(id uint64) string
	// enter makes the entry, and puts it to work.
	enter func(r *loop.Roster, id uint64) *wire.Error
}

// memory is what a client shares with the broker, beside its socket.
type memory interface {
	FD() int
	Close()
}

// aSink is a newcomer who wants to be a sink. open puts it to work; nil: later.
func aSink(spec ring.Spec, how loop.Wish, open func(*loop.Roster, *ring.Sink)) newcomer {
	return newcomer{uid: spec.UID, reserve: func(r *loop.Roster, uid uint32) (uint64, *wire.Error) { return r.Reserve(uid, spec.View) },
		name: func(id uint64) string {
			spec.ID = id
			return store.Name(&spec)
		},
		enter: func(r *loop.Roster, id uint64) *wire.Error {
			spec.ID = id
			s, refusal := r.Enter(spec, how)
			if refusal == nil && open != nil {
				open(r, s)
			}
			return refusal
		}}
}

// aKeptSink is a newcomer who wants to be a sink that is kept, or who is back for one.
func aKeptSink(spec ring.Spec, how loop.Wish, replace bool, open func(*loop.Roster, *ring.Sink)) newcomer {
	n := aSink(spec, how, open)
	n.reserve = func(r *loop.Roster, uid uint32) (uint64, *wire.Error) {
		return r.ReserveKept(spec, how, replace)
	}
	enter := n.enter
	n.enter = func(r *loop.Roster, id uint64) *wire.Error {
		s, refusal := r.Kept(spec.Label, spec.UID)
		if refusal != nil {
			return refusal
		}
		if s == nil {
			return enter(r, id)
		}
		r.Rejoin(s, id, spec, how)
		open(r, s)
		return nil
	}
	return n
}

// aSource is a newcomer who wants to be a source. open puts it to work.
func aSource(spec ring.ClientSpec, open func(*loop.Roster, *ring.Client)) newcomer {
	return newcomer{uid: spec.UID, reserve: func(r *loop.Roster, uid uint32) (uint64, *wire.Error) { return r.ReserveSource(uid, spec.Stage) },
		name: func(id uint64) string { return store.ClientName(&ring.ClientSpec{ID: id}) },
		enter: func(r *loop.Roster, id uint64) *wire.Error {
			spec.ID = id
			c, refusal := r.EnterSource(spec)
			if refusal == nil {
				open(r, c)
			}
			return refusal
		}}
}

// aMarkedSource is a newcomer who wants to be a marked source, or who is back as one.
func aMarkedSource(spec ring.ClientSpec, replace bool, open func(*loop.Roster, *ring.Client)) newcomer {
	n := aSource(spec, open)
	n.reserve = func(r *loop.Roster, uid uint32) (uint64, *wire.Error) {
		return r.ReserveMarked(spec.Label, uid, replace, spec.Stage)
	}
	return n
}

// seams are the names of the moments at which a broker may be killed on the way; "" for none. See sys.Ops.
type seams struct{ reserved, stored, settled string }

// errStopping is for who comes, or is late, when the data thread has ended: the next broker is to be asked.
var errStopping = wire.Refuse(wire.CodeBusy, "the broker is stopping")

// join lets one in, so that a broker that is killed anywhere leaves it in the channel, or not:
//
//	reserve -> store -> barrier -> enter -> open
//
// An entry is made only when the service manager has the socket for certain, if it keeps any: a successor finds both, or a socket
// without an entry, which it closes. If entered is true, the descriptor is the roster's. Otherwise it is the caller's as before, and
// not in the store for long: there was a refusal, or find found it.
func (g *Gate) join(n newcomer) (id uint64, entered bool, refusal *wire.Error) {
	g.users.Look() // the data thread may not
	there := false
	asked := g.thread.Call(func(r *loop.Roster) {
		if n.find != nil {
			if id, there, refusal = n.find(r); there || refusal != nil {
				return
			}
		}
		if refusal = r.Admits(n.uid); refusal == nil {
			id, refusal = n.reserve(r, n.uid)
		}
	})
	if !asked {
		refusal = errStopping
	}
	if there || refusal != nil {
		return id, false, refusal
	}
	g.seam(n.seams.reserved)
	name, beside := n.name(id), ""
	if n.memory != nil {
		beside = store.PageName(id)
	}
	if name != "" {
		refusal = g.keep(name, beside, &n)
	}
	if refusal == nil {
		asked = g.thread.Call(func(r *loop.Roster) { refusal = n.enter(r, id) })
		if !asked {
			refusal = errStopping
		}
	}
	if refusal != nil {
		g.store.Forget(name)
		g.store.Forget(beside)
		return 0, false, refusal
	}
	return id, true, nil
}

// keep has the service manager keep the newcomer's socket, and its memory if it has any, and returns when that is certain.
func (g *Gate) keep(name, beside string, n *newcomer) *wire.Error {
	err := g.store.Put(name, n.fd)
	if err == nil && beside != "" {
		err = g.store.Put(beside, n.memory.FD())
	}
	g.seam(n.seams.stored)
	if err == nil {
		err = g.store.Barrier()
	}
	g.seam(n.seams.settled)
	if err != nil {
		return wire.Refuse(wire.CodeInternal, "cannot give the socket to the service manager (%v); try again", err)
	}
	return nil
}

func (g *Gate) seam(name string) {
	if name != "" {
		g.ops.Seam(name)
	}
}
