// SPDX-License-Identifier: Apache-2.0

package loop

import (
	"slices"
	"syscall"
	"time"

	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/internal/sys"
)

// outlet is the sending socket of one sink. Each sink has its own: the kernel charges what is queued to the sender's
// socket, so one that is shared would let a hung sink stop all others.
type outlet struct {
	sink      *ring.Sink
	fd        int
	writable  bool // worth trying
	armed     bool // epoll tells when it is writable again
	watched   bool // epoll knows it
	connected bool // a connection: epoll tells of its end
	queue     bool // a POSIX message queue
	backoff   time.Duration
	tryAt     time.Duration // when it is tried without an event; 0: not
}

// errClosed is why a sink is retired that was not sent to.
const errClosed = syscall.ECONNREFUSED

// unknownCookie stands for that of a socket that the kernel would not tell about: the reaper never finds it.
const unknownCookie = ^uint64(0)

// wakeUp takes an event of o: it can take more, or it has hung up.
func (l *loop) wakeUp(o *outlet, events uint32) {
	if events&^uint32(sys.Writable) != 0 {
		l.retire(o, errClosed)
		return
	}
	o.writable = true
	if o.armed {
		o.armed = false
		if o.connected {
			l.ep.Modify(o.fd, sys.HungUp|sys.Edge, o.sink.ID())
		}
	}
}

// open makes a connected socket the outlet of s.
func (r *Roster) open(s *ring.Sink, fd int, cookie uint64) *outlet {
	o := &outlet{sink: s, fd: fd, writable: true, connected: s.Spec().Kind == ring.Framed}
	if o.connected {
		o.watched = r.ep.Add(fd, sys.HungUp|sys.Edge, s.ID()) == nil
	}
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
	r.outlets = slices.DeleteFunc(r.outlets, func(x *outlet) bool { return x == o })
	r.publishBlocked()
}

// hasReadAll says whether nothing is left in the kernel's queue.
func (o *outlet) hasReadAll() bool {
	if o.queue {
		a, err := sys.QueueAttributesOf(o.fd)
		return err == nil && a.Messages == 0
	}
	n, err := sys.OutQueue(o.fd)
	return err == nil && n == 0
}

// offer sends o what is next for it, and settles what came of it. It says whether the sink's cursor moved.
func (l *loop) offer(o *outlet) bool {
	n, errno := l.ring.Send(o.sink, o.fd)
	if n > 0 {
		o.backoff, o.tryAt = 0, 0
		o.sink.Stall(false)
		if errno == syscall.EAGAIN {
			l.stall(o) // it took some, and is full
		}
		return true
	}
	switch errno {
	case syscall.EAGAIN:
		l.stall(o)
	case syscall.ENOBUFS, syscall.ENOMEM:
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
			l.ep.Modify(o.fd, sys.Writable|sys.HungUp|sys.Edge, o.sink.ID())
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
	if l.retryAt == 0 || o.tryAt < l.retryAt {
		l.retryAt = o.tryAt
	}
}
