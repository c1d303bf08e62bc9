// SPDX-License-Identifier: Apache-2.0

package loop

import (
	"slices"
	"syscall"
	"time"

	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// outlet is the sending socket of one sink. Each sink has its own: the kernel charges what is queued to the sender's
// socket, so one that is shared would let a hung sink stop all others.
type outlet struct {
	sink      *ring.Sink
	fd        int
	writable  bool    // worth trying
	armed     bool    // epoll tells when it is writable again
	watched   bool    // epoll knows it
	connected bool    // a connection: epoll tells of its end
	queue     bool    // a POSIX message queue
	ack       bool    // a connection of a sink with acknowledgements
	listening bool    // epoll tells when it says something
	said      bool    // it has said something since it was asked last
	view      *viewer // of a sink in view; nil: it is sent its messages
	backoff   time.Duration
	tryAt     time.Duration // when it is tried without an event; 0: not
	lookAt    time.Duration // when it is asked how far it is; 0: not
	askedAt   time.Duration // when it was asked because it had much undone
	effort    effort        // what it takes to send to it
	hears     effort        // and to hear what it says: calls that are cheap make good for none of the others
	unread    unread        // what may lie in its queue
}

// errClosed is why a sink is retired that was not sent to.
const errClosed = syscall.ECONNREFUSED

// unknownCookie stands for that of a socket that the kernel would not tell about: the reaper never finds it.
const unknownCookie = ^uint64(0)

// wakeUp takes an event of o: it can take more, or it has hung up.
func (l *loop) wakeUp(o *outlet, events uint32) {
	if events&^uint32(sys.Writable|sys.Readable) != 0 {
		l.retire(o, errClosed)
		return
	}
	if events&sys.Writable != 0 {
		o.writable = true
		if o.armed {
			o.armed = false
			if o.connected {
				l.ep.Modify(o.fd, o.events(), o.sink.ID())
			}
		}
	}
	if events&sys.Readable != 0 && o.ack {
		l.hearAcks(o)
	}
}

// open makes a connected socket the outlet of s. Of a sink in view it has the page.
func (r *Roster) open(s *ring.Sink, fd int, cookie uint64, page *Page) *outlet {
	o := &outlet{sink: s, fd: fd, writable: true, unread: unread{found: -1, before: -1}, connected: s.Spec().Kind == ring.Framed, ack: s.Acknowledges()}
	if page != nil {
		o.view = &viewer{Page: page, given: page.words.Given() == r.ring.Generation()}
		r.views++
	}
	if o.connected {
		// A predecessor may have sent what is not done yet.
		o.listening = o.ack && (s.Cursor().Sole() == nil || o.view != nil || r.ring.HasUnderWay(s))
		o.watched = r.ep.Add(fd, o.events(), s.ID()) == nil
	}
	if o.ack {
		// A predecessor may have taken what it has said, and not made it count: then it has nothing more to say.
		r.acks++
		o.lookAt, r.lookAt = 1, 1
	}
	o.effort.bill = r.bill(s.Spec().UID, restPart)
	o.hears.bill = o.effort.bill
	r.outlets = append(r.outlets, o)
	r.byID[s.ID()] = o
	if cookie == 0 {
		cookie = unknownCookie
	}
	r.ring.Connect(s, true, cookie)
	r.publishBlocked()
	return o
}

// shut takes the outlet out of the loop; the descriptor is the caller's from then on. The sink stays in the table.
func (r *Roster) shut(o *outlet) {
	if o.watched {
		r.ep.Remove(o.fd)
	}
	r.ring.Connect(o.sink, false, 0)
	delete(r.byID, o.sink.ID())
	o.effort.bill.sockets--
	if o.ack {
		r.acks--
	}
	if o.view != nil {
		r.views--
		finish(r, o.view.Page, o.sink.Spec().Connection())
	}
	r.outlets = slices.DeleteFunc(r.outlets, func(x *outlet) bool { return x == o })
	r.publishBlocked()
}

// hasReadAll says whether nothing is left in the kernel's queue. A sink in view has nothing there but what wakes it.
func (o *outlet) hasReadAll() bool {
	if o.view != nil {
		return true
	}
	n, err := o.inQueue()
	return err == nil && n == 0
}

// inQueue is what is left in the kernel's queue: bytes with the kernel's own overhead, or the messages of a message queue.
func (o *outlet) inQueue() (int, error) {
	if o.queue {
		a, err := sys.QueueAttributesOf(o.fd)
		return int(a.Messages), err
	}
	return sys.OutQueue(o.fd)
}

// offer sends o what is next for it, and settles what came of it. It says whether the sink's cursor moved.
func (l *loop) offer(o *outlet) bool {
	if o.rests(l.now) {
		o.effort.price = wire.Forever
		o.writable, o.tryAt = false, o.effort.bill.rest
		l.retryBy(o.tryAt)
		return false
	}
	if l.ring.LeavesOut(o.sink) {
		o.effort.price = wire.Forever // no call: the last one may have been long ago
		return l.ring.LeaveOut(o.sink)
	}
	l.lookInto(o)
	n, errno := l.send(o)
	moved := l.settle(o, n, errno)
	if o.excessive(l.now) && l.byID[o.sink.ID()] == o {
		l.dismiss(o)
	}
	return moved
}

// settle is for what came of sending to o. It says whether the sink's cursor moved.
func (l *loop) settle(o *outlet, n int, errno syscall.Errno) bool {
	if n > 0 {
		o.backoff, o.tryAt = 0, 0
		o.sink.Stall(false)
		if errno == syscall.EAGAIN {
			l.stall(o) // it took some, and is full
		}
		if o.ack {
			l.offered(o)
		}
		return true
	}
	switch errno {
	case syscall.EAGAIN:
		l.stall(o)
	case syscall.ENOBUFS, syscall.ENOMEM: // as if it were full; only no event tells when that is over
		o.sink.Stall(true)
		l.retry(o, noWakeup)
	case syscall.EMSGSIZE:
		skipped := l.ring.TooLarge(o.sink)
		if skipped {
			l.sayTooLarge(o)
		}
		return skipped
	default:
		// ECONNREFUSED: it closed its socket. ENOTCONN: the same, told before. EPIPE: it reads no more.
		// EPERM: it takes from somebody else only. Whatever it is, it will not get better.
		l.retire(o, errno)
	}
	return false
}

// stall stops trying o until epoll says that its queue has room. The event is asked for once each time: a socket that
// is watched all the time would wake the loop for every message that its sink reads. Should an event be lost, or tell
// of room that is not there, it is tried again by time, less and less often.
func (l *loop) stall(o *outlet) {
	o.sink.Stall(true)
	if !o.armed {
		o.armed = true
		switch {
		case o.connected:
			l.ep.Modify(o.fd, o.events(), o.sink.ID())
		case o.watched:
			l.ep.Modify(o.fd, sys.Writable|sys.OneShot, o.sink.ID())
		default:
			o.watched = l.ep.Add(o.fd, sys.Writable|sys.OneShot, o.sink.ID()) == nil
		}
	}
	l.retry(o, min(maxBackoff, max(noWakeup, 2*o.backoff)))
}

// retry has o tried again after d.
func (l *loop) retry(o *outlet, d time.Duration) {
	o.writable, o.backoff = false, d
	o.tryAt = l.now + d
	l.retryBy(o.tryAt)
}

// retryBy has those looked at by then that wait for their time.
func (l *loop) retryBy(at time.Duration) {
	if l.retryAt == 0 || at < l.retryAt {
		l.retryAt = at
	}
}
