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
	uid   uint32
	fd    int // its socket; not used if the store keeps none for what it is
	seams seams

	// find looks whether it is in the channel already, and gives it what it has come for if so. nil: it is not.
	find func(*loop.Roster) (id uint64, there bool, refusal *wire.Error)
	// reserve checks the limits, and returns an id.
	reserve func(r *loop.Roster, uid uint32) (id uint64, refusal *wire.Error)
	// name is what the store keeps its socket as; "": it keeps none.
	name func(id uint64) string
	// enter makes the entry, and puts it to work.
	enter func(r *loop.Roster, id uint64) *wire.Error
}

// aSink is a newcomer who wants to be a sink. open puts it to work; nil: later.
func aSink(spec ring.Spec, how loop.Wish, open func(*loop.Roster, *ring.Sink)) newcomer {
	return newcomer{uid: spec.UID, reserve: func(r *loop.Roster, uid uint32) (uint64, *wire.Error) { return r.Reserve(uid) },
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

// aSource is a newcomer who wants to be a source. open puts it to work.
func aSource(spec ring.ClientSpec, open func(*loop.Roster, *ring.Client)) newcomer {
	return newcomer{uid: spec.UID, reserve: func(r *loop.Roster, uid uint32) (uint64, *wire.Error) { return r.ReserveSource(uid) },
		name: store.ClientName,
		enter: func(r *loop.Roster, id uint64) *wire.Error {
			spec.ID = id
			c, refusal := r.EnterSource(spec)
			if refusal == nil {
				open(r, c)
			}
			return refusal
		}}
}

// seams are the names of the moments at which a broker may be killed on the way; "" for none. See sys.Ops.
type seams struct{ reserved, stored, settled string }

// join lets one in, so that a broker that is killed anywhere leaves it in the channel, or not:
//
//	reserve -> store -> barrier -> enter -> open
//
// An entry is made only when the service manager has the socket for certain: a successor finds both, or a socket without an
// entry, which it closes. If entered is true, the descriptor is the roster's. Otherwise it is the caller's as before, and
// not in the store for long: there was a refusal, or find found it.
func (g *Gate) join(n newcomer) (id uint64, entered bool, refusal *wire.Error) {
	there := false
	g.thread.Call(func(r *loop.Roster) {
		if n.find != nil {
			if id, there, refusal = n.find(r); there || refusal != nil {
				return
			}
		}
		id, refusal = n.reserve(r, n.uid)
	})
	if there || refusal != nil {
		return id, false, refusal
	}
	g.seam(n.seams.reserved)
	name := n.name(id)
	if name != "" {
		refusal = g.keep(name, &n)
	}
	if refusal == nil {
		g.thread.Call(func(r *loop.Roster) { refusal = n.enter(r, id) })
	}
	if refusal != nil {
		g.store.Forget(name)
		return 0, false, refusal
	}
	return id, true, nil
}

// keep has the service manager keep the newcomer's socket, and returns when that is certain.
func (g *Gate) keep(name string, n *newcomer) *wire.Error {
	err := g.store.Put(name, n.fd)
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
