// SPDX-License-Identifier: Apache-2.0

package loop

import (
	"syscall"

	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// Sinks in view read the ring by themselves. What is sent to them are packets without records: the descriptors of the ring and of the
// sink's page, and later on that something is there, to who sleeps. How far they are done they store in their pages, which are looked
// at when there is no room, when patience looks, when the connection ends, and by time: see package view.

// viewer is what the outlet of a sink in view has beside its connection.
type viewer struct {
	*Page
	given   bool   // the sink has been sent the ring
	asked   bool   // it has been asked to tell when it is done with more, and has not
	unheard bool   // it has said something while its bill rested, which epoll tells once: it is not taken yet
	woken   uint64 // the number with which it slept when it was woken last
	seen    uint64 // head's number when it was last seen not to sleep, or woken
}

// serve does what is to be done for a sink in view, and says whether that has taken a call.
func (l *loop) serve(o *outlet) (called bool) {
	v, head, done := o.view, l.ring.Head(), o.sink.Cursor().Place()
	if head.Pos-done.Pos > l.ring.Geometry().Size/4 {
		// Before there is no room: then it costs no more than this.
		if _, there := l.Roster.settle(o); !there {
			o.effort.price = wire.Forever // it was sent nothing
			return true
		}
	}
	if o.lookAt == 0 && !v.asked && done.Seq != head.Seq {
		l.look(o, l.now+ackEvery)
	}
	if !o.writable || v.given && v.seen == head.Seq {
		return false
	}
	sleeps := v.words.Sleeps()
	switch {
	case v.given && (sleeps == 0 || sleeps == v.woken):
		v.seen = head.Seq
		return false
	case o.rests(l.now):
		o.effort.price = wire.Forever
		o.writable, o.tryAt = false, o.effort.bill.rest
		l.retryBy(o.tryAt)
		return false
	}
	l.rouse(o, sleeps, head.Seq)
	return true
}

// rouse sends a sink in view a packet without records, the first time with the ring. The packet has what every packet has: the number
// of what is not done, and what has been lost.
func (l *loop) rouse(o *outlet, sleeps, head uint64) {
	var h [wire.SinkHeader]byte
	wire.PutSinkHeader(h[:], o.sink.Cursor().Place().Seq, o.sink.Cursor().Lost())
	v := o.view
	errno := l.costing(&o.effort, len(h), func() syscall.Errno {
		if v.given {
			return sys.Send(o.fd, h[:])
		}
		return sys.SendDescriptors(o.fd, h[:], l.viewFD, v.fd)
	})
	switch {
	case errno == 0 && !v.given:
		v.words.Give(l.ring.Generation())
		v.given = true
	case errno == syscall.EAGAIN && !v.given:
		l.stall(o)
		return
	case errno == syscall.EAGAIN: // there are packets that it has not read: it finds them before it sleeps
	case errno == syscall.ENOBUFS, errno == syscall.ENOMEM, errno == syscall.ETOOMANYREFS:
		l.retry(o, noWakeup)
		return
	case errno != 0:
		l.retire(o, errno)
		return
	}
	o.backoff, o.tryAt = 0, 0
	o.sink.Stall(false)
	v.woken, v.seen = sleeps, head
	if o.excessive(l.now) {
		l.dismiss(o)
	}
}

// costing makes a call that sends one packet, on the bill of who gets it.
func (l *loop) costing(e *effort, bytes int, call func() syscall.Errno) (errno syscall.Errno) {
	if e.watched() {
		m := l.meterFor(e)
		errno = call()
		l.chargeCall(e, l.now, m, 1, uint64(bytes))
		e.price = wire.Forever // it is paid
		return errno
	}
	e.began = l.now
	errno = call()
	e.price = price(1, uint64(bytes))
	return errno
}

// want asks a sink in view to tell when it is done with more. It says whether it is now, and whether it is still there.
func (l *loop) want(o *outlet) (moved, there bool) {
	if !o.view.asked {
		o.view.asked = true
		o.view.words.Ask()
	}
	return l.Roster.settle(o) // what it stored before it could see that
}

// askView is ask for a sink in view.
func (l *loop) askView(o *outlet) (there bool) {
	hear := l.Roster.settle
	if o.view.unheard {
		o.view.unheard, hear = false, l.takeAcks
	}
	moved, there := hear(o)
	if there && !moved && l.ring.HasUnderWay(o.sink) {
		moved, there = l.want(o)
	}
	if there && moved {
		l.look(o, l.now+ackEvery)
	}
	return there
}

// readPages looks at all pages, and says whether one that says more made its cursor move.
func (l *loop) readPages() (moved bool) {
	for i := 0; i < len(l.outlets); i++ {
		if o := l.outlets[i]; o.view != nil {
			went, there := l.Roster.settle(o)
			if moved = moved || went; !there {
				i--
			}
		}
	}
	return moved
}
