// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// A framed client's way in, so that a broker that is killed anywhere leaves it attached, or attaching, or hung up on
// before its ok:
//
//	accept -> hello, peeked -> store, barrier -> ADD attaching -> hello taken -> GREET: ok, attached
//
// Before the entry is there, the client finds the connection closed and connects again. Afterwards a successor finds
// it attaching: it takes the hello if it is still there, for nothing else can be, and sends the ok.

const (
	// helloPatience is how long a client may take to say hello.
	helloPatience = 5 * time.Second
	// maxSilent is how many clients may be silent at a time. When one more comes, somebody has to go: of the user who
	// has most of them, the one who came first. So the silence of one user keeps no other out.
	maxSilent = 1024
	// acceptAtOnce is how many are taken in before the silent are asked again.
	acceptAtOnce = 64
)

// visitor is a connection that has not said hello.
type visitor struct {
	fd       int
	who      sys.Credentials
	deadline time.Time
}

// door takes in the clients of one listening socket, in a goroutine that can wait.
type door struct {
	*Channel
	listener int
	attach   func(*visitor, wire.Hello) *wire.Error
	limiter  limiter
	silent   []*visitor // in the order in which they came
	buf      [wire.MaxHello + 1]byte
	control  [sys.ControlSpace]byte
}

func newDoor(c *Channel, listener int, attach func(*visitor, wire.Hello) *wire.Error) *door {
	return &door{Channel: c, listener: listener, attach: attach, limiter: make(limiter)}
}

func (d *door) run(ctx context.Context) {
	stop, err := sys.NewEventfd()
	if err != nil {
		d.journal.event(slog.LevelError, EventInternal, "framed clients are not taken in", slog.Any("error", err))
		return
	}
	defer stop.Close()
	defer context.AfterFunc(ctx, stop.Signal)()
	defer func() {
		for _, v := range d.silent {
			d.closeStranger(v.fd)
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
			return
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
		time.Sleep(noWakeup) // out of descriptors or memory
		return
	}
	d.refuseRights(fd) // it has waited since before the listener refused them
	who, err := sys.PeerCredentials(fd)
	if err != nil {
		sys.Close(fd)
		return
	}
	d.silent = append(d.silent, &visitor{fd, who, time.Now().Add(helloPatience)})
	if len(d.silent) > maxSilent {
		i := d.loudestSilence()
		d.refuse(d.silent[i], wire.Refuse(wire.CodeBusy, "too many clients say nothing; try again"))
		d.silent = slices.Delete(d.silent, i, i+1)
	}
}

// loudestSilence is who goes when there are too many.
func (d *door) loudestSilence() int {
	n := make(map[uint32]int)
	most := d.silent[0].who.UID
	for _, v := range d.silent {
		if n[v.who.UID]++; n[v.who.UID] > n[most] {
			most = v.who.UID
		}
	}
	return slices.IndexFunc(d.silent, func(v *visitor) bool { return v.who.UID == most })
}

// hear lets in who has spoken, and sends away who was silent for too long.
func (d *door) hear(ready []bool) {
	now := time.Now()
	still := d.silent[:0]
	for i, v := range d.silent {
		switch {
		case ready[i]:
			d.enter(v)
		case now.After(v.deadline):
			d.refuse(v, wire.Refuse(wire.CodeTimeout, "no hello within %s", helloPatience))
		default:
			still = append(still, v)
		}
	}
	clear(d.silent[len(still):])
	d.silent = still
}

// enter reads a hello and attaches the client, or sends it away.
func (d *door) enter(v *visitor) {
	p, errno := sys.Peek(v.fd, d.buf[:], d.control[:])
	if _, fds, _ := sys.ParseControl(p.Control); len(fds) > 0 {
		d.discard(fds)
	}
	if errno != 0 || p.Size == 0 && sys.IsHungUp(v.fd) {
		d.closeStranger(v.fd)
		return
	}
	var refusal *wire.Error
	if p.Size > wire.MaxHello {
		refusal = wire.Refuse(wire.CodeTooLarge, "a hello of %d bytes; %d is the most", p.Size, wire.MaxHello)
	} else if hello, err := wire.ParseHello(d.buf[:p.Size]); err != nil {
		refusal = asRefusal(err)
	} else {
		refusal = d.attach(v, hello)
	}
	if refusal != nil {
		d.refuse(v, refusal)
		return
	}
	d.outcomes.add("ok")
}

// refuse tells a client why it is not let in, and closes the connection.
func (d *door) refuse(v *visitor, refusal *wire.Error) {
	d.outcomes.add(refusal.Code)
	d.journal.limitedEvent(d.limiter, v.who.UID, refusal.Code, slog.LevelWarn, EventNotAdded, "client refused",
		slog.Uint64("uid", uint64(v.who.UID)), slog.Int("pid", int(v.who.PID)), slog.String("code", refusal.Code), slog.String("reason", refusal.Text))
	d.take(v.fd) // a close with something unread would be told before the answer
	sys.Reply(v.fd, wire.Reply{Err: refusal}.Append(nil))
	d.closeStranger(v.fd)
}

// attachSink makes a client of the subscribe socket a sink.
func (c *Channel) attachSink(v *visitor, h wire.Hello) *wire.Error {
	uid := v.who.UID
	patience, refusal := c.patienceFor(h.Options, uid)
	if refusal != nil {
		return refusal
	}
	spec := ring.Spec{Kind: ring.Framed, Label: cmp.Or(h.Label, "sink"), UID: uid, Group: h.Share, Tap: h.Tap, Frames: true,
		Ordinary: c.ordinary(uid), Patience: patience}
	sys.SetSendBuffer(v.fd, c.sendBuffer())
	return c.attach(v, spec, h.Start)
}

// attachSource makes a client of the publish socket a source.
func (c *Channel) attachSource(v *visitor, h wire.Hello) *wire.Error {
	return c.attach(v, ring.Spec{Kind: ring.Source, Label: cmp.Or(h.Label, "source"), UID: v.who.UID}, wire.StartNow)
}

func (c *Channel) attach(v *visitor, spec ring.Spec, start wire.Start) (refusal *wire.Error) {
	c.loop.call(func() {
		if refusal = c.admitClient(&spec); refusal == nil {
			spec.ID = c.ring.NewID()
		}
	})
	if refusal != nil {
		return refusal
	}
	name := storeName(&spec)
	err := c.cfg.Notifier.Store(name, v.fd)
	c.cfg.Ops.Seam("attach.stored")
	if err == nil {
		err = c.barrier()
	}
	c.cfg.Ops.Seam("attach.barrier")
	if err == nil {
		c.loop.call(func() {
			var s *ring.Sink
			if s, refusal = c.enterClient(spec, start); refusal == nil {
				c.greet(s, v.fd)
			}
		})
	} else {
		refusal = wire.Refuse(wire.CodeInternal, "cannot give the connection to the service manager (%v); try again", err)
	}
	if refusal != nil {
		c.cfg.Notifier.Remove(name)
	}
	return refusal
}

// admitClient checks the limits for one more client. The data thread calls it.
func (c *Channel) admitClient(spec *ring.Spec) *wire.Error {
	if spec.Kind == ring.Framed {
		return c.admit(spec.UID)
	}
	all, own := 0, 0
	for s := range c.ring.Clients {
		if all++; s.Spec().UID == spec.UID {
			own++
		}
	}
	switch {
	case uint64(all) >= c.cfg.Geometry.MaxClients:
		return wire.Refuse(wire.CodeQuota, "there are %d connected sources already, as many as --max-clients allows", all)
	case c.ordinary(spec.UID) && own >= c.cfg.SinksPerUser:
		return wire.Refuse(wire.CodeQuota, "user %d has %d connected sources already, as many as --max-sinks-per-user allows", spec.UID, own)
	}
	return nil
}

// enterClient puts a client into the table, attaching. The data thread calls it.
func (c *Channel) enterClient(spec ring.Spec, start wire.Start) (*ring.Sink, *wire.Error) {
	if spec.Kind == ring.Framed {
		return c.enter(spec, start, true)
	}
	spec.Since = time.Now().Unix()
	s, err := c.ring.Add(spec, wire.StartNow, true)
	if err != nil {
		return nil, wire.Refuse(wire.CodeQuota, "the table is full; raise --max-clients")
	}
	return s, nil
}

// greet takes the hello and sends the ok; what cannot be told is hung up on. The data thread calls it.
func (c *Channel) greet(s *ring.Sink, fd int) {
	c.take(fd)
	c.cfg.Ops.Seam("attach.taken")
	errno := c.ring.Greet(s, fd, c.ok(s))
	if errno != 0 || !c.openClient(s, fd) {
		c.forgetClient(s)
		c.finish(fd, storeName(s.Spec()))
	}
}

// ok is the answer to the hello of a client that is let in. The data thread calls it, or nobody else runs yet.
func (c *Channel) ok(s *ring.Sink) []byte {
	r := wire.Reply{ID: s.ID(), MaxMessage: c.ring.Geometry().MaxMessage}
	if spec := s.Spec(); spec.Kind == ring.Framed {
		r.Label, r.Epoch, r.Next = spec.Label, c.ring.Epoch(), s.Start()
	}
	return r.Append(nil)
}

// openClient puts an attached client to work; false if it cannot be watched. The data thread calls it, or nobody else runs yet.
func (c *Channel) openClient(s *ring.Sink, fd int) bool {
	if s.Spec().Kind == ring.Source {
		return c.loop.addSource(fd, s.ID(), ring.Packets, s) == nil
	}
	cookie, _ := sys.SocketCookie(fd)
	o := c.loop.open(s, fd, cookie)
	if !o.watched {
		c.loop.shut(o) // its end would never be told
	}
	return o.watched
}

// reattach goes on with a client that a predecessor stored.
func (c *Channel) reattach(s *ring.Sink, fd int) bool {
	if s.Attaching() {
		c.take(fd) // the hello, if it is still there: nothing else can be, without an ok
		if c.ring.Greet(s, fd, c.ok(s)) != 0 {
			c.forgetClient(s)
			return false
		}
	}
	if !c.openClient(s, fd) {
		c.forgetClient(s)
		return false
	}
	return true
}

// forgetClient takes a client out of the table.
func (c *Channel) forgetClient(s *ring.Sink) {
	if s.Spec().Kind == ring.Source {
		c.ring.Remove(s)
		return
	}
	c.forget(s)
}

// ended is the data thread finding that a connected source hung up, or that it sent what is no packet: then it is told
// why.
func (c *Channel) ended(s *source, why *wire.Error) {
	spec := s.client.Spec()
	if why != nil {
		sys.Reply(s.fd, wire.Reply{Err: why}.Append(nil))
		c.outcomes.add(why.Code)
		c.journal.limitedEvent(c.loop.limiter, spec.UID, "packet:"+why.Code, slog.LevelWarn, EventRefused, "connected source is hung up on: its packet was refused",
			slog.Uint64("uid", uint64(spec.UID)), slog.String("source", spec.Label), slog.String("code", why.Code), slog.String("reason", why.Text))
	}
	c.loop.dropSource(s)
	c.ring.Remove(s.client)
	c.finish(s.fd, storeName(spec))
}
