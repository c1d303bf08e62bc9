// SPDX-License-Identifier: Apache-2.0

package loop

import (
	"log/slog"
	"time"

	"github.com/msgmux/msgmux/broker/journal"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// What sinks with acknowledgements say must not wake the loop for each message. So it is taken when somebody needs it: when there is
// no room, when the connection ends, and by time; a connection is listened to only while its sink is idle or holds up others. A
// member of a share asks for more by what it says, and is always listened to; so is one in view, which says nothing unless asked.

const (
	// ackEvery is how often a sink is asked how far it is.
	ackEvery = 50 * time.Millisecond
	// askAgain is how soon one that has much undone is asked again.
	askAgain = 20 * time.Millisecond
	// ackRounds is how many times in a row one may have more to say than is taken at once.
	ackRounds = 4
)

// events is what epoll is to tell of a connection.
func (o *outlet) events() uint32 {
	events := uint32(sys.HungUp | sys.Edge)
	if o.armed {
		events |= sys.Writable
	}
	if o.listening {
		events |= sys.Readable
	}
	return events
}

// listenTo has epoll tell when o says something, or no longer.
func (r *Roster) listenTo(o *outlet, yes bool) {
	if yes = yes || o.sink.Cursor().Sole() == nil || o.view != nil; yes != o.listening {
		o.listening = yes
		r.ep.Modify(o.fd, o.events(), o.sink.ID())
	}
}

// takeAcks takes what a sink with acknowledgements has said. It says whether its cursor moved, and whether it is still there: one that
// has said what cannot be is disconnected, and one that leaves is gone.
func (r *Roster) takeAcks(o *outlet) (moved, there bool) {
	var m meter
	if o.hears.watched() {
		m = r.meterFor(&o.hears)
	}
	said := 0
	for range ackRounds {
		n, more := r.ring.Hear(o.sink, o.fd)
		if said += n; !more {
			break
		}
	}
	o.said = o.said || said > 0
	if m != (meter{}) {
		r.chargeCall(&o.hears, r.clock(), m, said, 0)
	}
	return r.settle(o)
}

// hearAll takes everything that a sink has said, and has it say nothing more.
func (r *Roster) hearAll(o *outlet) {
	sys.Hush(o.fd)
	for n, more := 0, true; n > 0 || more; {
		n, more = r.ring.Hear(o.sink, o.fd)
	}
	if o.view != nil {
		_, _ = r.ring.View(o.sink, o.view.words.Done())
	}
}

// settle has count what has been taken. It returns what takeAcks returns.
func (r *Roster) settle(o *outlet) (moved, there bool) {
	moved, bad := r.ring.Settle(o.sink)
	if o.view != nil && !bad {
		var more bool
		more, bad = r.ring.View(o.sink, o.view.words.Done())
		moved = moved || more
	}
	switch {
	case bad:
		r.tell(o, wire.Refuse(wire.CodeBadAck, "an acknowledgement of what was not sent on this connection, or none at all"))
		r.disconnect(o)
		return moved, false
	case o.sink.Leaving():
		r.Drop(o.sink)
		return moved, false
	}
	return moved, true
}

// tell is the last that a connected sink hears: why its connection ends.
func (r *Roster) tell(o *outlet, why *wire.Error) {
	sys.Reply(o.fd, wire.Reply{Err: why}.Append(nil))
	spec := o.sink.Spec()
	r.log.Outcomes.Add(why.Code)
	r.log.Limited(r.limiter, spec.UID, "sink:"+why.Code, slog.LevelWarn, journal.EventRefused, "sink is disconnected",
		slog.Uint64("uid", uint64(spec.UID)), slog.String("sink", spec.Label), slog.String("code", why.Code), slog.String("reason", why.Text))
}

// look is for when o is to be asked next how far it is.
func (l *loop) look(o *outlet, at time.Duration) {
	o.lookAt = at
	if l.lookAt == 0 || at < l.lookAt {
		l.lookAt = at
	}
}

// offered is for when o was sent something that it is to be done with.
func (l *loop) offered(o *outlet) {
	if o.lookAt == 0 && !o.listening {
		l.look(o, l.now+ackEvery)
	}
	c := o.sink.Cursor()
	if l.ring.Head().Pos-c.Place().Pos > l.ring.Geometry().Size/4 && l.now >= o.askedAt+askAgain && c.Sole() != nil {
		// Before there is no room: then everybody is asked, and sources wait meanwhile.
		o.askedAt = l.now
		if _, there := l.takeAcks(o); !there {
			return
		}
	}
	l.prune(c)
}

// askAcks asks those sinks how far they are that are to be asked by now. One that has said nothing since it was asked last is listened
// to from now on, and not asked again before it has.
func (l *loop) askAcks() {
	l.lookAt = 0
	for i := 0; i < len(l.outlets); i++ {
		o := l.outlets[i]
		switch {
		case o.lookAt == 0:
		case o.lookAt > l.now:
			l.look(o, o.lookAt)
		default:
			o.lookAt = 0
			if !l.ask(o) {
				i--
			}
		}
	}
}

// ask asks one sink how far it is; false: it is gone.
func (l *loop) ask(o *outlet) (there bool) {
	if o.rests(l.now) {
		l.look(o, o.effort.bill.rest)
		return true
	}
	if o.view != nil {
		return l.askView(o)
	}
	if _, there = l.takeAcks(o); !there {
		return false
	}
	idle := l.ring.HasUnderWay(o.sink)
	if idle && o.said {
		idle = false
		l.look(o, l.now+ackEvery)
	}
	o.said = false
	l.listenTo(o, idle)
	return true
}

// hearAcks is epoll telling that o has said something.
func (l *loop) hearAcks(o *outlet) {
	rests := o.rests(l.now)
	if o.view != nil {
		o.view.asked, o.view.unheard = false, rests // that it comes is the answer, or it would never be asked again
	}
	if rests {
		l.look(o, o.effort.bill.rest)
		return
	}
	if moved, there := l.takeAcks(o); there {
		l.moved = l.moved || moved
		if o.lookAt == 0 && l.ring.HasUnderWay(o.sink) {
			l.look(o, l.now+ackEvery)
		}
	}
}

// acksForRoom asks those sinks how far they are that hold up others while there is no room, and says whether one has moved. Those
// that have said nothing are listened to.
func (l *loop) acksForRoom() (moved bool) {
	half := l.ring.Geometry().Size / 2
	for i := 0; i < len(l.outlets); i++ {
		o := l.outlets[i]
		if !o.ack || o.listening && o.view == nil || o.rests(l.now) || l.ring.Head().Pos-o.sink.Cursor().Place().Pos < half {
			continue
		}
		hear, listen := l.takeAcks, func(o *outlet) (went, there bool) { l.listenTo(o, true); return false, true }
		if o.view != nil {
			hear, listen = l.Roster.settle, l.want
		}
		went, there := hear(o)
		if there && !went {
			went, there = listen(o)
		}
		if moved = moved || went; !there {
			i--
		}
	}
	return moved
}
