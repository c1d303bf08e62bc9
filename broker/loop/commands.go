// SPDX-License-Identifier: Apache-2.0

package loop

import (
	"time"

	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/internal/wire"
)

// Drop removes a dynamic sink, named by its label or as "#id". uid is who asks: its owner, root or the broker's user. A static sink
// stays, and its id is returned: whether it is still declared is for others to know.
func (t *Thread) Drop(uid uint32, name string) (static uint64, refusal *wire.Error) {
	refusal = t.command(name, func(r *Roster, s *ring.Sink) *wire.Error {
		switch spec := s.Spec(); {
		case !r.limits.mayChange(uid, spec):
			return wire.Refuse(wire.CodeDenied, "sink %q belongs to user %d", spec.Label, spec.UID)
		case spec.Kind == ring.Static:
			static = spec.ID
		default:
			r.Drop(s)
		}
		return nil
	})
	return static, refusal
}

// SetPatience changes how long others wait for a sink, named as for Drop. uid is who asks.
func (t *Thread) SetPatience(uid uint32, name string, d time.Duration) *wire.Error {
	return t.command(name, func(r *Roster, s *ring.Sink) *wire.Error {
		switch spec := s.Spec(); {
		case !r.limits.mayChange(uid, spec):
			return wire.Refuse(wire.CodeDenied, "sink %q belongs to user %d", spec.Label, spec.UID)
		case s.Cursor().Spec().Tap:
			return wire.Refuse(wire.CodeBadOption, "sink %q is a tap: it is never waited for", spec.Label)
		case r.limits.Ordinary(uid) && d > r.limits.Patience:
			return wire.Refuse(wire.CodeDenied, "more than %s is for root and the broker's user", wire.FormatPatience(r.limits.Patience))
		}
		r.ring.SetPatience(s.Cursor(), d)
		return nil
	})
}

// command carries out what a caller that may still ask during shutdown wants of a sink.
func (t *Thread) command(name string, f func(*Roster, *ring.Sink) *wire.Error) (refusal *wire.Error) {
	done := t.Call(func(r *Roster) {
		var s *ring.Sink
		if s, refusal = r.named(name); refusal == nil {
			refusal = f(r, s)
		}
	})
	if !done {
		return wire.Refuse(wire.CodeBusy, "the broker is stopping")
	}
	return refusal
}

// Unregister removes the registered sink of that address on behalf of a user whose it is; anybody's, if he is privileged: root or
// the broker's user, beyond doubt.
func (r *Roster) Unregister(address wire.Address, uid uint32, privileged bool) (id uint64, refusal *wire.Error) {
	s := r.sinkWhere(func(spec *ring.Spec) bool {
		return spec.Kind == ring.Dynamic && spec.Address == address.String() && (privileged || spec.UID == uid)
	})
	if s == nil {
		return 0, wire.Refuse(wire.CodeNotFound, "user %d has no sink %q", uid, address)
	}
	id = s.ID()
	r.Drop(s)
	return id, nil
}
