// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// A registration's way, so that a broker that is killed anywhere leaves exactly one copy of the sink, or none and the
// registration still in its queue:
//
//	peek -> attempts+1 -> parse -> connect -> prove -> store, barrier -> ADD -> answer -> CONSUME, attempts=0
//
// Whoever comes after a kill reads the same registration again. The peer's inode tells that the sink is there already,
// and the answer is the same id. A registration that kills brokers is consumed unread at its third attempt.

const (
	// maxAttempts is how many brokers may begin with one registration.
	maxAttempts = 3
	// joinPatience is how long connecting to a path may take before the next registration gets its turn: it waits for
	// the file systems on the way, for ever if one of them hangs.
	joinPatience = 3 * time.Second
	// maxHanging is how many of those that took too long may be waited for at a time.
	maxHanging = 16
)

// registrar takes registrations from the register socket, one after the other, in a goroutine that can wait.
type registrar struct {
	*Channel
	fd      int
	limiter limiter
	buf     [wire.MaxRegistration + 1]byte
	control [sys.ControlSpace]byte
	hanging chan struct{} // one token for each connect that hangs
}

func newRegistrar(c *Channel) *registrar {
	return &registrar{Channel: c, fd: c.cfg.Inherited.Register.FD, limiter: make(limiter), hanging: make(chan struct{}, maxHanging)}
}

func (g *registrar) run(ctx context.Context) {
	stop, err := sys.NewEventfd()
	if err != nil {
		g.journal.event(slog.LevelError, EventInternal, "registrations are not read", slog.Any("error", err))
		return
	}
	defer stop.Close()
	defer context.AfterFunc(ctx, stop.Signal)()
	for ctx.Err() == nil {
		if i, err := sys.WaitReadable(-1, g.fd, stop.FD()); err != nil || i != 0 {
			continue
		}
		g.next()
	}
}

// next settles the registration at the head of the queue.
func (g *registrar) next() {
	p, errno := sys.Peek(g.fd, g.buf[:], g.control[:])
	if errno != 0 {
		return
	}
	sender, fds, _ := sys.ParseControl(p.Control)
	if len(fds) > 0 {
		g.discard(fds)
	}
	var id uint64
	var refusal *wire.Error
	var reg wire.Registration
	g.cfg.Ops.Seam("register.peeked")
	if g.ring.Attempt() >= maxAttempts {
		refusal = wire.Refuse(wire.CodePoison, "this registration has ended %d brokers", maxAttempts)
	} else {
		reg, id, refusal = g.register(p, sender)
	}
	outcome := "ok"
	if refusal != nil {
		outcome = refusal.Code
		g.journal.limitedEvent(g.limiter, sender.UID, refusal.Code, slog.LevelWarn, EventNotAdded, "registration refused",
			slog.Uint64("uid", uint64(sender.UID)), slog.Int("pid", int(sender.PID)), slog.String("code", refusal.Code), slog.String("reason", refusal.Text))
	}
	g.outcomes.add(outcome)
	g.cfg.Ops.Seam("register.settled")
	if reg.Reply {
		g.answer(p.From, reg.Address, sender, wire.Reply{ID: id, Err: refusal})
	}
	g.cfg.Ops.Seam("register.answered")
	g.loop.call(func() { g.ring.Consume(g.fd) })
}

// register does what a registration asks for.
func (g *registrar) register(p sys.Peeked, sender sys.Credentials) (reg wire.Registration, id uint64, refusal *wire.Error) {
	if p.Size > wire.MaxRegistration {
		return reg, 0, wire.Refuse(wire.CodeTooLarge, "a registration of %d bytes; %d is the most", p.Size, wire.MaxRegistration)
	}
	reg, err := wire.ParseRegistration(g.buf[:p.Size])
	if err != nil {
		return reg, 0, asRefusal(err)
	}
	if reg.Address.IsZero() {
		if reg.Address, err = wire.ParseAddress(p.From); err != nil {
			return reg, 0, asRefusal(err)
		}
		if reg.Address.IsZero() {
			return reg, 0, wire.Refuse(wire.CodeBadAddress, "an empty first line means the sender's own address, and it has none; bind the socket first")
		}
	}
	if reg.Remove {
		id, refusal = g.remove(reg.Address, sender)
	} else {
		id, refusal = g.add(reg, sender)
	}
	return reg, id, refusal
}

// asRefusal is err as what it is.
func asRefusal(err error) *wire.Error {
	if e := (*wire.Error)(nil); errors.As(err, &e) {
		return e
	}
	return wire.Refuse(wire.CodeInternal, "%v", err)
}

// remove forgets the sink of that name, on behalf of its owner or root.
func (g *registrar) remove(addr wire.Address, sender sys.Credentials) (id uint64, refusal *wire.Error) {
	if sender.PID == 0 {
		return 0, wire.Refuse(wire.CodeNoCredentials, "nobody knows who asks; send it again")
	}
	g.loop.call(func() {
		for s := range g.ring.Sinks {
			spec := s.Spec()
			if spec.Kind == ring.Dynamic && spec.Address == addr.String() && g.mayChange(sender.UID, spec) {
				id = spec.ID
				g.drop(s)
				return
			}
		}
		refusal = wire.Refuse(wire.CodeNotFound, "user %d has no sink %q", sender.UID, addr)
	})
	return id, refusal
}

// mayChange says whether a user may change or remove a sink.
func (c *Channel) mayChange(uid uint32, spec *ring.Spec) bool {
	return !c.ordinary(uid) || uid == spec.UID && spec.Kind != ring.Static
}

// add makes the socket at reg.Address a sink, or renews its options if it is one.
func (g *registrar) add(reg wire.Registration, sender sys.Credentials) (id uint64, refusal *wire.Error) {
	patience, refusal := g.patienceFor(reg.Options, sender.UID)
	if refusal != nil {
		return 0, refusal
	}
	at, refusal := g.join(reg.Address, sender)
	if refusal != nil {
		return 0, refusal
	}
	spec := ring.Spec{Kind: ring.Dynamic, Label: reg.Label, Address: reg.Address.String(), UID: at.uid, Inode: at.inode,
		Group: reg.Share, Tap: reg.Tap, Frames: reg.Frames, Ordinary: g.ordinary(at.uid), Patience: patience}
	if spec.Label == "" {
		spec.Label = defaultLabel(reg.Address)
	}
	known := false
	g.loop.call(func() {
		if s := g.byInode(at.inode, at.uid); s != nil {
			known = true
			id, refusal = g.renew(s, spec, reg.Label != "")
			return
		}
		// The same name with another socket behind it: the old one is dead, only nobody has told us yet.
		if s := g.byAddress(reg.Address, at.uid); s != nil {
			g.drop(s)
		}
		if refusal = g.admit(at.uid); refusal == nil {
			spec.ID = g.ring.NewID()
		}
	})
	if known || refusal != nil {
		sys.Close(at.fd)
		return id, refusal
	}
	g.cfg.Ops.Seam("register.proven")
	name := storeName(&spec)
	err := g.cfg.Notifier.Store(name, at.fd)
	g.cfg.Ops.Seam("register.stored")
	if err == nil {
		err = g.barrier()
	}
	g.cfg.Ops.Seam("register.barrier")
	if err != nil {
		g.finish(at.fd, name)
		return 0, wire.Refuse(wire.CodeInternal, "cannot give the sink to the service manager (%v); try again", err)
	}
	g.loop.call(func() {
		var s *ring.Sink
		if s, refusal = g.enter(spec, reg.Start, false); refusal == nil {
			g.loop.open(s, at.fd, at.cookie)
		}
	})
	if refusal != nil {
		g.finish(at.fd, name)
		return 0, refusal
	}
	return spec.ID, nil
}

// renew gives a sink that is registered again its new options. What it is, its cursor and its share stay.
func (c *Channel) renew(s *ring.Sink, spec ring.Spec, named bool) (id uint64, refusal *wire.Error) {
	old := s.Spec()
	if spec.Tap != old.Tap || spec.Frames != old.Frames || spec.Group != old.Group {
		return old.ID, wire.Refuse(wire.CodeBadOption, "tap, frames and share of a sink stay as they are: remove it first")
	}
	spec.ID = old.ID
	if !named {
		spec.Label = old.Label
	}
	delete(c.labels, old.Label)
	spec.Label = c.unique(spec.Label, spec.ID)
	c.labels[spec.Label] = spec.ID
	c.ring.Update(s, spec)
	return spec.ID, nil
}

// join is prover.join with an end: a path may lead to a file system that hangs.
func (g *registrar) join(addr wire.Address, sender sys.Credentials) (proven, *wire.Error) {
	if addr.Abstract {
		return g.prover.join(addr, sender, g.sendBuffer())
	}
	select {
	case g.hanging <- struct{}{}:
	default:
		return proven{}, wire.Refuse(wire.CodeBusy, "the file systems of %d sinks do not answer; try again later, or use an abstract name", maxHanging)
	}
	type result struct {
		proven
		refusal *wire.Error
	}
	done := make(chan result, 1)
	go func() {
		defer func() { <-g.hanging }()
		at, refusal := g.prover.join(addr, sender, g.sendBuffer())
		done <- result{at, refusal}
	}()
	timer := time.NewTimer(joinPatience)
	defer timer.Stop()
	select {
	case r := <-done:
		return r.proven, r.refusal
	case <-timer.C:
		go func() {
			if r := <-done; r.refusal == nil {
				sys.Close(r.fd)
			}
		}()
		return proven{}, wire.Refuse(wire.CodeTimeout, "the file system of %q does not answer; try again later, or use an abstract name", addr)
	}
}

// answer tells the sender what became of its registration, at its own address if it has one that is not the sink's:
// there, the answer would be taken for a message. Nobody can have us send into somebody else's socket, so its owner is
// proven like a sink's.
func (g *registrar) answer(from string, sink wire.Address, sender sys.Credentials, r wire.Reply) {
	addr, err := wire.ParseAddress(from)
	if err != nil || addr.IsZero() || addr == sink {
		return
	}
	at, refusal := g.join(addr, sender)
	if refusal != nil {
		g.journal.limitedEvent(g.limiter, sender.UID, "reply:"+refusal.Code, slog.LevelWarn, EventNotAdded, "no answer sent to a registration",
			slog.Uint64("uid", uint64(sender.UID)), slog.String("reason", refusal.Text))
		return
	}
	defer sys.Close(at.fd)
	known := false
	g.loop.call(func() { known = g.byInode(at.inode, at.uid) != nil })
	if known {
		return // the sink under another name
	}
	sys.Reply(at.fd, r.Append(nil))
}
