// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"cmp"
	"context"
	"log/slog"
	"time"

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

const (
	// maxAttempts is how many brokers may begin with one registration.
	maxAttempts = 3
	// reachPatience is how long connecting to a path may take before the next registration gets its turn: it blocks on
	// the file systems on the way, for ever if one of them hangs.
	reachPatience = 3 * time.Second
	// maxHanging is how many of those that took too long may be waited for at a time.
	maxHanging = 16
)

// registrar takes registrations from the register socket, one after the other.
type registrar struct {
	gate    *Gate
	fd      int
	limiter journal.Limiter
	buf     [wire.MaxRegistration + 1]byte
	control [sys.ControlSpace]byte
	hanging chan struct{} // one token for each connect that hangs
}

func newRegistrar(g *Gate, fd int) *registrar {
	return &registrar{gate: g, fd: fd, limiter: make(journal.Limiter), hanging: make(chan struct{}, maxHanging)}
}

func (x *registrar) run(ctx context.Context) {
	stop, err := sys.NewEventfd()
	if err != nil {
		x.gate.failed("registrations are not read", err)
		return
	}
	defer stop.Close()
	defer context.AfterFunc(ctx, stop.Signal)()
	for ctx.Err() == nil {
		if i, err := sys.WaitReadable(-1, x.fd, stop.FD()); err != nil || i != 0 {
			continue
		}
		x.next()
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
	if x.gate.thread.Attempt() >= maxAttempts {
		refusal = wire.Refuse(wire.CodePoison, "this registration has ended %d brokers", maxAttempts)
	} else {
		reg, id, refusal = x.register(p, sender)
	}
	outcome := "ok"
	if refusal != nil {
		outcome = refusal.Code
		x.gate.log.Limited(x.limiter, sender.UID, refusal.Code, slog.LevelWarn, journal.EventNotAdded, "registration refused",
			slog.Uint64("uid", uint64(sender.UID)), slog.Int("pid", int(sender.PID)), slog.String("code", refusal.Code), slog.String("reason", refusal.Text))
	}
	x.gate.log.Outcomes.Add(outcome)
	x.gate.ops.Seam("register.settled")
	if reg.Reply {
		x.answer(p.From, reg.Address, sender, wire.Reply{ID: id, Err: refusal})
	}
	x.gate.ops.Seam("register.answered")
	x.gate.thread.Call(func(r *loop.Roster) { r.Consume(x.fd) })
}

// register does what a registration asks for.
func (x *registrar) register(p sys.Peeked, sender sys.Credentials) (reg wire.Registration, id uint64, refusal *wire.Error) {
	if p.Size > wire.MaxRegistration {
		return reg, 0, wire.Refuse(wire.CodeTooLarge, "a registration of %d bytes; %d is the most", p.Size, wire.MaxRegistration)
	}
	reg, err := wire.ParseRegistration(x.buf[:p.Size])
	if err != nil {
		return reg, 0, wire.AsRefusal(err, wire.CodeInternal)
	}
	if reg.Address.IsZero() {
		if reg.Address, err = wire.ParseAddress(p.From); err != nil {
			return reg, 0, wire.AsRefusal(err, wire.CodeInternal)
		}
		if reg.Address.IsZero() {
			return reg, 0, wire.Refuse(wire.CodeBadAddress, "an empty first line means the sender's own address, and it has none; bind the socket first")
		}
	}
	if reg.Remove {
		id, refusal = x.remove(reg.Address, sender)
	} else {
		id, refusal = x.add(reg, sender)
	}
	return reg, id, refusal
}

// remove forgets the sink of that name, on behalf of its owner or root.
func (x *registrar) remove(addr wire.Address, sender sys.Credentials) (id uint64, refusal *wire.Error) {
	if sender.PID == 0 {
		return 0, wire.Refuse(wire.CodeNoCredentials, "the kernel gave no credentials; send it again")
	}
	x.gate.thread.Call(func(r *loop.Roster) { id, refusal = r.Unregister(addr, sender.UID) })
	return id, refusal
}

// add makes the socket at reg.Address a sink, or renews its options if it is one.
func (x *registrar) add(reg wire.Registration, sender sys.Credentials) (id uint64, refusal *wire.Error) {
	limits := &x.gate.limits
	patience, refusal := limits.PatienceFor(reg.Options, sender.UID)
	if refusal != nil {
		return 0, refusal
	}
	at, refusal := x.reach(reg.Address, sender)
	if refusal != nil {
		return 0, refusal
	}
	spec := ring.Spec{Kind: ring.Dynamic, Label: cmp.Or(reg.Label, defaultLabel(reg.Address)), Address: reg.Address.String(), UID: at.UID,
		Inode: at.Inode, Frames: reg.Frames}
	how := x.gate.wish(reg.Options, at.UID, patience)
	n := aSink(spec, how, func(r *loop.Roster, s *ring.Sink) { r.Open(s, at.FD, at.Cookie, false) })
	n.fd, n.seams = at.FD, seams{"register.proven", "register.stored", "register.barrier"}
	n.find = func(r *loop.Roster) (id uint64, there bool, refusal *wire.Error) {
		if s := r.ByInode(at.Inode, at.UID); s != nil {
			return s.ID(), true, r.Renew(s, spec, how, reg.Label != "")
		}
		// The same name with another socket behind it: the old one is dead, only nobody has noticed yet.
		if s := r.Dynamic(reg.Address.String(), at.UID); s != nil {
			r.Drop(s)
		}
		return 0, false, nil
	}
	id, entered, refusal := x.gate.join(n)
	if !entered {
		sys.Close(at.FD)
	}
	return id, refusal
}

// reach is Prover.Join with an end: a path may lead to a file system that hangs.
func (x *registrar) reach(addr wire.Address, sender sys.Credentials) (owner.Proven, *wire.Error) {
	if addr.Abstract {
		return x.gate.prover.Join(addr, sender, x.gate.limits.SendBuffer())
	}
	select {
	case x.hanging <- struct{}{}:
	default:
		return owner.Proven{}, wire.Refuse(wire.CodeBusy, "the file systems of %d sinks do not answer; try again later, or use an abstract name", maxHanging)
	}
	type result struct {
		owner.Proven
		refusal *wire.Error
	}
	done := make(chan result, 1)
	go func() {
		defer func() { <-x.hanging }()
		at, refusal := x.gate.prover.Join(addr, sender, x.gate.limits.SendBuffer())
		done <- result{at, refusal}
	}()
	timer := time.NewTimer(reachPatience)
	defer timer.Stop()
	select {
	case r := <-done:
		return r.Proven, r.refusal
	case <-timer.C:
		go func() {
			if r := <-done; r.refusal == nil {
				sys.Close(r.FD)
			}
		}()
		return owner.Proven{}, wire.Refuse(wire.CodeTimeout, "the file system of %q does not answer; try again later, or use an abstract name", addr)
	}
}

// answer tells the sender what became of its registration, at its own address if it has one that is not the sink's:
// there, the answer would be taken for a message. Nobody can have us send into somebody else's socket, so its owner is
// proven like a sink's.
func (x *registrar) answer(from string, sink wire.Address, sender sys.Credentials, r wire.Reply) {
	addr, err := wire.ParseAddress(from)
	if err != nil || addr.IsZero() || addr == sink {
		return
	}
	at, refusal := x.reach(addr, sender)
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
