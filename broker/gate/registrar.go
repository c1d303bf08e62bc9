// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"cmp"
	"context"
	"log/slog"
	"strings"

	"github.com/msgmux/msgmux/broker/journal"
	"github.com/msgmux/msgmux/broker/loop"
	"github.com/msgmux/msgmux/broker/owner"
	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// A registration's way, so that a broker that is killed anywhere leaves exactly one copy of the sink, or none and the
// registration still in its queue:
//
//	peek -> attempts+1 -> parse -> connect -> prove -> join: store, barrier, ADD -> answer -> CONSUME, attempts=0
//
// Whoever comes after a kill reads the same registration again. The peer's inode tells that the sink is there already,
// and the answer is the same id. A registration that kills brokers is consumed unread at its third attempt.

// maxAttempts is how many brokers may begin with one registration.
const maxAttempts = 3

// registrar takes registrations from the register socket, one after the other.
type registrar struct {
	gate    *Gate
	fd      int
	limiter journal.Limiter
	claims  claims
	buf     [wire.MaxRegistration + 1]byte
	control [sys.ControlSpace]byte
}

func newRegistrar(g *Gate, fd int) *registrar {
	return &registrar{gate: g, fd: fd, limiter: make(journal.Limiter), claims: make(claims)}
}

func (x *registrar) run(ctx context.Context) {
	stop := x.gate.endOf(ctx, x.limiter)
	if stop == nil {
		return
	}
	defer stop.Close()
	for ctx.Err() == nil {
		switch i, err := sys.WaitReadable(-1, x.fd, stop.FD()); {
		case err != nil:
			x.gate.again(ctx, x.limiter, "cannot wait for registrations", err)
		case i == 0:
			x.next()
		}
	}
}

// next deals with the registration at the head of the queue.
func (x *registrar) next() {
	p, errno := sys.Peek(x.fd, x.buf[:], x.control[:])
	if errno != 0 {
		return
	}
	sender, fds, _ := sys.ParseControl(p.Control)
	if len(fds) > 0 {
		x.gate.store.Discard(fds)
	}
	var id uint64
	var refusal *wire.Error
	var reg wire.Registration
	x.gate.ops.Seam("register.peeked")
	var costly *wire.Error
	if !x.gate.thread.Call(func(r *loop.Roster) { costly = r.Rests(sender.UID) }) {
		return
	}
	if costly != nil {
		if reg, refusal = x.parse(p); refusal == nil {
			refusal = costly
		}
	} else if x.gate.thread.Attempt() >= maxAttempts {
		refusal = wire.Refuse(wire.CodePoison, "this registration has ended %d brokers", maxAttempts)
	} else {
		reg, id, refusal = x.register(p, sender)
	}
	if refusal == errStopping {
		return // it stays where it is, for the next broker
	}
	outcome := "ok"
	if refusal != nil {
		outcome = refusal.Code
	}
	if refusal != nil && refusal.Code != wire.CodeProve { // which is half of the way, and told to who asked
		x.gate.log.Limited(x.limiter, sender.UID, refusal.Code, slog.LevelWarn, journal.EventNotAdded, "registration refused",
			slog.Uint64("uid", uint64(sender.UID)), slog.Int("pid", int(sender.PID)), slog.String("code", refusal.Code), slog.String("reason", refusal.Text))
	}
	x.gate.log.Outcomes.Add(outcome)
	x.gate.ops.Seam("register.settled")
	if reg.Reply {
		x.answer(p.From, reg.Address, sender, wire.Reply{ID: id, Err: refusal})
	}
	x.gate.ops.Seam("register.answered")
	// Which is not to cost the data thread, unless predecessors have begun with it: only CONSUME clears their count together with taking it,
	// and the next one is not to be held to account for that.
	if costly != nil && !x.gate.thread.Attempted() {
		x.gate.store.Skip(x.fd)
		return
	}
	x.gate.thread.Call(func(r *loop.Roster) { r.Consume(x.fd, sender.UID) })
}

// parse reads a registration.
func (x *registrar) parse(p sys.Peeked) (reg wire.Registration, refusal *wire.Error) {
	if p.Size > wire.MaxRegistration {
		return reg, wire.Refuse(wire.CodeTooLarge, "a registration of %d bytes; %d is the most", p.Size, wire.MaxRegistration)
	}
	reg, err := wire.ParseRegistration(x.buf[:p.Size])
	if err != nil {
		return reg, wire.AsRefusal(err, wire.CodeInternal)
	}
	if reg.Address.IsZero() {
		if reg.Address, err = wire.ParseAddress(p.From); err != nil && !strings.HasPrefix(p.From, "@") && !strings.HasPrefix(p.From, "/") {
			return reg, wire.Refuse(wire.CodeBadAddress, "an empty first line means the sender's own address, and it was bound to %q, seen from a folder of its own; "+
				"write an absolute path in that line, or bind to one", p.From)
		} else if err != nil {
			return reg, wire.AsRefusal(err, wire.CodeInternal)
		}
		if reg.Address.IsZero() {
			return reg, wire.Refuse(wire.CodeBadAddress, "an empty first line means the sender's own address, and it has none; bind the socket first")
		}
	}
	return reg, nil
}

// register does what a registration asks for.
func (x *registrar) register(p sys.Peeked, sender sys.Credentials) (reg wire.Registration, id uint64, refusal *wire.Error) {
	if reg, refusal = x.parse(p); refusal != nil {
		return reg, 0, refusal
	}
	if !x.gate.prover.Known(sender) {
		return reg, 0, owner.RefuseUnknown()
	}
	privileged := x.privileged(p, sender)
	there := reg
	if p.From == reg.Address.String() {
		if addr, ok := x.moved(reg.Address, sender); ok {
			there.Address = addr
		}
	}
	if reg.Remove {
		id, refusal = x.remove(there.Address, sender, privileged)
	} else {
		id, refusal = x.add(there, sender, privileged)
	}
	return reg, id, refusal
}

// moved is where the sender's own socket is, if not at the address that it was bound to.
func (x *registrar) moved(bound wire.Address, sender sys.Credentials) (wire.Address, bool) {
	if bound.IsZero() || bound.Abstract || !x.gate.prover.Known(sender) {
		return wire.Address{}, false
	}
	at, refusal := x.gate.prover.Join(bound, sender, 0, false)
	if refusal == nil {
		sys.Close(at.FD)
		if at.Sending {
			return wire.Address{}, false
		}
	} else if refusal.Code != wire.CodeNoPeer && refusal.Code != wire.CodeNotOwner {
		return wire.Address{}, false
	}
	return x.gate.prover.Renamed(bound, sender)
}

// privileged says whether root or the broker's user asks for something. Their credentials alone do not say so: whoever writes to a
// socket need not be who made it, and what a program of root's writes to its standard output can be sent by anybody's socket.
func (x *registrar) privileged(p sys.Peeked, sender sys.Credentials) bool {
	if x.gate.limits.Ordinary(sender.UID) {
		return false
	}
	at, refusal := x.origin(p.From, sender)
	if refusal == nil {
		sys.Close(at.FD)
	}
	return refusal == nil && at.FD >= 0
}

// origin connects to the socket that a registration came from, while that lies in the queue. It is the sender's, and has sent
// something: an address alone can lead elsewhere here. A socket without an address has none: FD is -1 then.
func (x *registrar) origin(from string, sender sys.Credentials) (owner.Proven, *wire.Error) {
	addr, err := wire.ParseAddress(from)
	if err != nil {
		return owner.Proven{}, wire.AsRefusal(err, wire.CodeInternal)
	}
	if addr.IsZero() {
		return owner.Proven{FD: -1}, nil
	}
	at, refusal := x.gate.prover.Join(addr, sender, x.gate.limits.SendBuffer(), false)
	if refusal == nil && !at.Sending {
		sys.Close(at.FD)
		return owner.Proven{}, wire.Refuse(wire.CodeNotOwner, "%q leads to a socket that has sent nothing", addr)
	}
	return at, refusal
}

// remove forgets the sink of that name, on behalf of its owner or root.
func (x *registrar) remove(addr wire.Address, sender sys.Credentials, privileged bool) (id uint64, refusal *wire.Error) {
	if sender.UID == 0 && !privileged {
		return 0, wire.Refuse(wire.CodeDenied, "root removes a sink from a bound socket of root's, or by control (msgmux sinks drop)")
	}
	x.gate.thread.Call(func(r *loop.Roster) { id, refusal = r.Unregister(addr, sender.UID, privileged) })
	if refusal == nil {
		return id, nil
	}
	// Somebody else may have proved to hold the sender's socket.
	at, unproved := x.gate.prover.Join(addr, sender, 0, false)
	if unproved != nil {
		return 0, refusal
	}
	sys.Close(at.FD)
	x.gate.thread.Call(func(r *loop.Roster) {
		if s := r.Shared(at.Inode, addr.String()); s != nil && s.Spec().Held {
			id, refusal = s.ID(), nil
			r.Drop(s)
		}
	})
	return id, refusal
}

// add makes the socket at reg.Address a sink, or renews its options if it is one.
func (x *registrar) add(reg wire.Registration, sender sys.Credentials, privileged bool) (id uint64, refusal *wire.Error) {
	if refusal := x.gate.permits(reg.Options); refusal != nil {
		return 0, refusal
	}
	limits := &x.gate.limits
	patience, refusal := limits.PatienceFor(reg.Options, privileged)
	if refusal != nil && !limits.Ordinary(sender.UID) {
		return 0, wire.Refuse(wire.CodeDenied, "more than the channel's patience is for root and the broker's user from a bound socket of "+
			"theirs, or by control (msgmux sinks set)")
	}
	if refusal != nil {
		return 0, refusal
	}
	at, refusal := x.gate.prover.Join(reg.Address, sender, limits.SendBuffer(), privileged && sender.UID == 0)
	held := refusal != nil && refusal.Code == wire.CodeNotOwner && reg.Prove
	maker := at.UID
	if held {
		if at, refusal = x.holds(reg.Address, sender); refusal == nil {
			maker, at.UID = at.UID, sender.UID
		}
	}
	if refusal != nil {
		return 0, refusal
	}
	spec := ring.Spec{Kind: ring.Dynamic, Label: cmp.Or(reg.Label, defaultLabel(reg.Address)), Address: reg.Address.String(), UID: at.UID,
		Inode: at.Inode, Held: held, Frames: reg.Frames, Meta: reg.Meta, Form: form(reg.Options), Credentials: reg.Credentials}
	how := x.gate.wish(reg.Options, at.UID, patience)
	n := aSink(spec, how, func(r *loop.Roster, s *ring.Sink) { r.Open(s, at.FD, at.Cookie, false) })
	n.fd, n.seams = at.FD, seams{"register.proven", "register.stored", "register.barrier"}
	n.find = func(r *loop.Roster) (id uint64, there bool, refusal *wire.Error) {
		if s := r.ByInode(at.Inode, at.UID); s != nil {
			return s.ID(), true, r.Renew(s, spec, how, reg.Label != "")
		}
		if s := r.Shared(at.Inode, spec.Address); s != nil && at.UID == maker && s.Spec().Held {
			r.Drop(s) // whose socket it is has the last word
		} else if s != nil {
			return 0, false, wire.Refuse(wire.CodeInUse, "the socket is a sink of user %d already", s.Spec().UID)
		}
		// The same name with another socket behind it: the old one is dead, only nobody has noticed yet.
		if s := r.Dynamic(reg.Address.String(), at.UID); s != nil {
			r.Replace(s)
		}
		return 0, false, nil
	}
	id, entered, refusal := x.gate.join(n)
	if !entered {
		sys.Close(at.FD)
	}
	return id, refusal
}

// answer tells the sender what became of its registration, at its own address if it has one that is not the sink's:
// there, the answer would be taken for a message. Nobody can have us send into somebody else's socket, so its owner is
// proven like a sink's.
func (x *registrar) answer(from string, sink wire.Address, sender sys.Credentials, r wire.Reply) {
	if from == sink.String() {
		return
	}
	at, refusal := x.origin(from, sender)
	if refusal == nil && at.FD < 0 {
		return
	}
	if refusal != nil {
		x.gate.log.Limited(x.limiter, sender.UID, "reply:"+refusal.Code, slog.LevelWarn, journal.EventNotAdded, "no answer sent to a registration",
			slog.Uint64("uid", uint64(sender.UID)), slog.String("reason", refusal.Text))
		return
	}
	defer sys.Close(at.FD)
	known := false
	x.gate.thread.Call(func(r *loop.Roster) { known = r.ByInode(at.Inode, at.UID) != nil })
	if known {
		return // the sink under another name
	}
	sys.Reply(at.FD, r.Append(nil))
}
