// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/msgmux/msgmux/broker/journal"
	"github.com/msgmux/msgmux/broker/loop"
	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/internal/fair"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// A framed client's way in, so that a broker that is killed anywhere leaves it attached, or attaching, or disconnected
// before its ok:
//
//	accept -> hello, peeked -> join: store, barrier, ADD attaching, hello taken, GREET: ok, attached
//
// Before the entry is there, the client finds the connection closed and connects again. Afterwards a successor finds
// it attaching: it takes the hello if it is still there, for nothing else can be, and sends the ok.

const (
	// helloPatience is how long a client may take to say hello.
	helloPatience = 5 * time.Second
	// acceptAtOnce is how many are taken in before the silent are asked again.
	acceptAtOnce = 64
	// acceptRetry is the pause after a failure to accept: without descriptors or memory, others have to leave first.
	acceptRetry = 10 * time.Millisecond
)

// MaxSilent is how many clients of one socket may be silent at a time, unless Config says otherwise. When one more comes,
// somebody has to go.
const MaxSilent = 1024

// visitor is a connection that has not said hello.
type visitor struct {
	fd       int
	who      sys.Credentials
	user     uint32 // whom its uid counts as
	deadline time.Time
}

// door lets in the clients of one listening socket.
type door struct {
	gate     *Gate
	listener int
	wants    func(*visitor, wire.Hello) (newcomer, *wire.Error) // what a client that says this wants to be
	limiter  journal.Limiter
	silent   []*visitor // in the order in which they came
	buf      [wire.MaxHello + 1]byte
	control  [sys.ControlSpace]byte
}

func newDoor(g *Gate, listener int, wants func(*visitor, wire.Hello) (newcomer, *wire.Error)) *door {
	return &door{gate: g, listener: listener, wants: wants, limiter: make(journal.Limiter)}
}

func (d *door) run(ctx context.Context) {
	stop := d.gate.endOf(ctx, d.limiter)
	if stop == nil {
		return
	}
	defer stop.Close()
	defer func() {
		for _, v := range d.silent {
			d.gate.store.Close(v.fd)
		}
	}()
	for ctx.Err() == nil {
		fds := []int{stop.FD()}
		for _, v := range d.silent {
			fds = append(fds, v.fd)
		}
		// Last: those that wait already come first.
		fds = append(fds, d.listener)
		ready := make([]bool, len(fds))
		if err := sys.WaitAny(d.wait(), fds, ready); err != nil {
			d.gate.again(ctx, d.limiter, "cannot wait for framed clients", err)
			clear(ready) // those that were silent for too long go all the same, which may be what helps
		}
		d.hear(ready[1 : len(ready)-1])
		for n := 0; n < acceptAtOnce && ready[len(ready)-1]; n++ {
			d.accept()
			if i, err := sys.WaitReadable(0, d.listener); err != nil || i < 0 {
				break
			}
		}
	}
}

// wait is until the first of the silent is to be sent away.
func (d *door) wait() time.Duration {
	if len(d.silent) == 0 {
		return -1
	}
	return max(0, time.Until(d.silent[0].deadline))
}

func (d *door) accept() {
	fd, err := sys.Accept(d.listener)
	if err != nil {
		// Without descriptors, whoever has the most silent connections gives one back.
		if len(d.silent) > 0 && sys.IsOutOfDescriptors(err) {
			d.evict()
		}
		time.Sleep(acceptRetry)
		return
	}
	d.gate.store.RefuseRights(fd) // it has waited since before the listener refused them
	who, err := sys.PeerCredentials(fd)
	if err != nil {
		sys.Close(fd)
		return
	}
	d.silent = append(d.silent, &visitor{fd, who, d.gate.users.Owner(who.UID), time.Now().Add(helloPatience)})
	if len(d.silent) > d.gate.silent {
		d.evict()
	}
}

// evict sends one of the silent away.
func (d *door) evict() {
	i := fair.Leaver(d.silent, func(v *visitor) uint32 { return v.user }, func(*visitor) bool { return true })
	d.refuse(d.silent[i], wire.Refuse(wire.CodeBusy, "too many idle clients; try again"))
	d.silent = slices.Delete(d.silent, i, i+1)
}

// hear lets in who has spoken, and sends away who was silent for too long.
func (d *door) hear(ready []bool) {
	now := time.Now()
	still := d.silent[:0]
	for i, v := range d.silent {
		switch {
		case ready[i]:
			d.listen(v)
		case now.After(v.deadline):
			d.refuse(v, wire.Refuse(wire.CodeTimeout, "no hello within %s", helloPatience))
		default:
			still = append(still, v)
		}
	}
	clear(d.silent[len(still):])
	d.silent = still
}

// listen reads a hello and attaches the client, or sends it away.
func (d *door) listen(v *visitor) {
	p, errno := sys.Peek(v.fd, d.buf[:], d.control[:])
	if _, fds, _ := sys.ParseControl(p.Control); len(fds) > 0 {
		d.gate.store.Discard(fds)
	}
	if errno != 0 || p.Size == 0 && sys.IsHungUp(v.fd) {
		d.gate.store.Close(v.fd)
		return
	}
	var refusal *wire.Error
	if p.Size > wire.MaxHello {
		refusal = wire.Refuse(wire.CodeTooLarge, "a hello of %d bytes; %d is the most", p.Size, wire.MaxHello)
	} else if hello, err := wire.ParseHello(d.buf[:p.Size]); err != nil {
		refusal = wire.AsRefusal(err, wire.CodeInternal)
	} else {
		refusal = d.attach(v, hello)
	}
	if refusal != nil {
		d.refuse(v, refusal)
		return
	}
	d.gate.log.Outcomes.Add("ok")
}

// attach makes a client what its socket is for.
func (d *door) attach(v *visitor, h wire.Hello) *wire.Error {
	n, refusal := d.wants(v, h)
	if refusal != nil {
		return refusal
	}
	n.fd, n.seams = v.fd, seams{stored: "attach.stored", settled: "attach.barrier"}
	if _, _, refusal = d.gate.join(n); refusal != nil && n.memory != nil {
		n.memory.Close()
	}
	return refusal
}

// refuse tells a client why it is not let in, and closes the connection.
func (d *door) refuse(v *visitor, refusal *wire.Error) {
	d.gate.log.Outcomes.Add(refusal.Code)
	d.gate.log.Limited(d.limiter, v.who.UID, refusal.Code, slog.LevelWarn, journal.EventNotAdded, "client refused",
		slog.Uint64("uid", uint64(v.who.UID)), slog.Int("pid", int(v.who.PID)), slog.String("code", refusal.Code), slog.String("reason", refusal.Text))
	d.gate.store.Skip(v.fd) // a close with something unread would be told before the answer
	sys.Reply(v.fd, wire.Reply{Err: refusal}.Append(nil))
	sys.HangUp(v.fd) // the service manager may have a copy for a while
	d.gate.store.Close(v.fd)
}

// sink is a client of the subscribe socket: it wants to be a sink.
func (g *Gate) sink(v *visitor, h wire.Hello) (newcomer, *wire.Error) {
	uid := v.who.UID
	if err := h.CheckSink(); err != nil {
		return newcomer{}, wire.AsRefusal(err, wire.CodeInternal)
	}
	patience, refusal := g.limits.PatienceFor(h.Options, !g.limits.Ordinary(uid))
	if refusal != nil {
		return newcomer{}, refusal
	}
	keep, refusal := g.limits.KeepFor(h.Options, uid)
	if refusal != nil {
		return newcomer{}, refusal
	}
	sys.SetSendBuffer(v.fd, g.limits.SendBuffer())
	how := g.wish(h.Options, uid, patience)
	how.Ack, how.Keep, how.From = h.Ack || h.View, keep, h.From
	var page *loop.Page
	if h.View {
		if page, refusal = loop.NewPage(); refusal != nil {
			return newcomer{}, refusal
		}
	}
	greet := func(r *loop.Roster, s *ring.Sink) { r.Greet(s, v.fd, page) }
	spec := ring.Spec{Kind: ring.Framed, Label: cmp.Or(h.Label, "sink"), UID: uid, Frames: true, Meta: h.Meta, View: h.View, Batch: h.Batch}
	n := aSink(spec, how, greet)
	if keep > 0 && h.Share == "" {
		n = aKeptSink(spec, how, h.Replace, greet)
	}
	if page != nil {
		n.memory = page
	}
	return n, nil
}

// source is a client of the publish socket: it wants to be a source.
func (g *Gate) source(v *visitor, h wire.Hello) (newcomer, *wire.Error) {
	if err := h.CheckSource(); err != nil {
		return newcomer{}, wire.AsRefusal(err, wire.CodeInternal)
	}
	keep, refusal := g.limits.KeepFor(h.Options, v.who.UID)
	if refusal != nil {
		return newcomer{}, refusal
	}
	var stage *loop.Stage
	if h.Stage {
		if stage, refusal = loop.NewStage(g.maxMessage); refusal != nil {
			return newcomer{}, refusal
		}
	}
	greet := func(r *loop.Roster, c *ring.Client) { r.GreetSource(c, v.fd, stage) }
	spec := ring.ClientSpec{Label: cmp.Or(h.Label, "source"), UID: v.who.UID, Marks: h.Mark, Keep: keep, Stage: h.Stage}
	n := aSource(spec, greet)
	if h.Mark {
		n = aMarkedSource(spec, h.Replace, greet)
	}
	if stage != nil {
		n.memory = stage
	}
	return n, nil
}
