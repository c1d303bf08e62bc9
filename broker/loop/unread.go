// SPDX-License-Identifier: Apache-2.0

package loop

import (
	"log/slog"
	"syscall"
	"time"

	"github.com/msgmux/msgmux/broker/journal"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// What lies unread in a socket goes with it, and the kernel tells of that only while it lives: the bytes in the queue. So it is
// asked now and then, and what was sent is remembered as far back as it may still lie there. When the socket goes, that is the most
// that can have been unread. It is less of a connection whose other end closed with nothing unread, which the kernel does tell:
// nothing.
//
// That a queue is short may also mean that it is just being thrown away. So a look counts only when the socket turns out to have been
// there afterwards.

const (
	// queueEvery and queueUnits are how often the queue is looked at: before something is sent, when so much time has gone
	// since the last look, or so many datagrams or packets have been sent. A look is a system call.
	queueEvery = 10 * time.Millisecond
	queueUnits = 1024
	// unreadSpans bounds what is remembered of one socket. Beyond that, what is oldest is remembered less exactly.
	unreadSpans = 64
)

// span is a number of datagrams or packets in a row that weigh the same, and have equally many messages.
type span struct {
	units  int
	each   int    // messages in one
	weight int    // of one, in bytes as the kernel counts them
	end    uint64 // how many messages the socket had accepted with the last of them
}

// unread is what may lie unread in a socket, the oldest first.
type unread struct {
	spans  []span
	weight int // of all
	since  int // units sent since the last look
	looked time.Duration
	found  int // what that found, -1: nothing that has not counted yet
	before int // what an earlier one found, as found
}

// messages is how many they are.
func (u *unread) messages() (n uint64) {
	for i := range u.spans {
		n += uint64(u.spans[i].units * u.spans[i].each)
	}
	return n
}

// add is for what was sent: messages in so many units, that weigh so much each, when the socket has accepted took in all.
func (u *unread) add(messages, units, weight int, took uint64) {
	each := messages / units
	u.since += units
	u.weight += units * weight
	if k := len(u.spans) - 1; k >= 0 && u.spans[k].each == each && u.spans[k].weight == weight {
		u.spans[k].units += units
		u.spans[k].end = took
		return
	}
	if len(u.spans) == unreadSpans {
		a, b := &u.spans[0], &u.spans[1]
		all, sum := a.units+b.units, a.units*a.weight+b.units*b.weight
		b.each = (a.units*a.each + b.units*b.each + all - 1) / all
		b.weight, b.units = sum/all, all
		u.weight += all*b.weight - sum
		u.spans = u.spans[:copy(u.spans, u.spans[1:])]
	}
	u.spans = append(u.spans, span{units, each, weight, took})
}

// trimTo is trim for a look, if it was one.
func (u *unread) trimTo(look int) {
	if look >= 0 {
		u.trim(look)
	}
}

// trim forgets what must have been read, the queue being no longer than left. What was read comes first.
func (u *unread) trim(left int) {
	gone := 0
	for ; gone < len(u.spans); gone++ {
		s := &u.spans[gone]
		n := min(s.units, (u.weight-left)/s.weight)
		if n <= 0 {
			break
		}
		s.units -= n
		u.weight -= n * s.weight
		if s.units > 0 {
			break
		}
	}
	u.spans = u.spans[:copy(u.spans, u.spans[gone:])]
}

// forget forgets what the socket had accepted with the first took messages.
func (u *unread) forget(took uint64) {
	gone := 0
	for ; gone < len(u.spans) && u.spans[gone].end <= took; gone++ {
		u.weight -= u.spans[gone].units * u.spans[gone].weight
	}
	u.spans = u.spans[:copy(u.spans, u.spans[gone:])]
}

// countsUnread says whether anything is to be known of what lies unread: one that acknowledges tells better, and a message queue stays.
func (o *outlet) countsUnread() bool { return !o.ack && !o.queue }

// lookInto asks how much lies in the queue of o before it is sent something, if it was not asked just now.
func (l *loop) lookInto(o *outlet) {
	u := &o.unread
	if o.countsUnread() && len(u.spans) > 0 && (l.now >= u.looked+queueEvery || u.since >= queueUnits) {
		u.found, _ = o.inQueue()
		u.looked, u.since = l.now, 0
	}
}

// remember takes note of what was sent to o: n messages; or, with errno, that it has no room.
func (l *loop) remember(o *outlet, n int, errno syscall.Errno) {
	u := &o.unread
	switch {
	case !o.countsUnread():
	case n == 0 && errno == syscall.EAGAIN: // it was there, unless that is of just now
		u.trimTo(u.before)
		u.before, u.found = u.found, -1
	case n > 0:
		u.trimTo(u.found)
		u.before, u.found = -1, -1
		units, size := n, int(l.ring.SentBytes())/n-wire.RecordHeader
		if o.sink.Spec().Frames {
			units, size = 1, l.ring.PacketLen()
		}
		weight := l.weights.Of(max(0, size))
		u.add(n, units, weight, o.sink.Took())
		if o.connected {
			// The kernel takes a packet only while what lies there is less than the send buffer, so no more need be remembered,
			// without a look.
			u.trim(int(l.limits.QueueBytes) + weight)
		}
	}
}

// inherit is for a socket that a predecessor has sent to: what lies in it is taken for messages of the usual length.
func (r *Roster) inherit(o *outlet) {
	left, err := o.inQueue()
	if err != nil || left == 0 || !o.countsUnread() {
		return
	}
	t, head := r.ring.Tail(), r.ring.Head()
	size := wire.RecordHeader
	if head.Seq > t.Seq {
		size = int((head.Pos - t.Pos) / (head.Seq - t.Seq))
	}
	weight := r.weights.Of(max(0, size-wire.RecordHeader))
	if o.sink.Spec().Frames {
		weight = size
	}
	if n := left / weight; n > 0 {
		o.unread.add(n, n, weight, o.sink.Took())
	}
}

// leftUnread is how many messages at most lie unread in the socket of o, which has gone, and why is what the last call to it said.
func (o *outlet) leftUnread(why syscall.Errno) uint64 {
	u := &o.unread
	if !o.countsUnread() {
		return 0
	}
	if o.connected && why != syscall.ECONNRESET && sys.PendingError(o.fd) != syscall.ECONNRESET {
		return 0
	}
	switch seen := o.sink.Seen(); {
	case seen == nil:
	case seen.Took == o.sink.Took():
		u.trim(seen.Left)
	case seen.Left == 0:
		u.forget(seen.Took)
	}
	return u.messages()
}

// bury counts what lies unread in the socket of o, which has gone, and says so.
func (r *Roster) bury(o *outlet, why syscall.Errno) {
	spec, n := o.sink.Spec(), o.leftUnread(why)
	if n > 0 {
		r.ring.CountUnread(o.sink, n)
	}
	if n == 0 || o.sink.Cursor().Spec().Tap { // which only looks on
		r.log.Event(slog.LevelDebug, journal.EventSinkGone, "sink is gone", slog.String("sink", spec.Label), slog.String("why", why.Error()))
		return
	}
	level := slog.LevelInfo
	if o.certain() {
		level = slog.LevelWarn
	}
	r.log.Limited(r.limiter, spec.UID, "unread:"+spec.Label, level, journal.EventSinkGone, "sink is gone with what it had not read",
		slog.String("sink", spec.Label), slog.Uint64("uid", uint64(spec.UID)), slog.Uint64("unread", n), slog.String("why", why.Error()))
}

// certain says whether something certainly lay unread in the socket of o, which has gone: the kernel has said so of a connection, and twice
// in a row of a socket that nothing was sent to since. Otherwise what is counted is the most that it can have been, and a sink that had
// read everything just before it closed is no reason to warn, also if somebody had looked while it read.
func (o *outlet) certain() bool {
	seen := o.sink.Seen()
	return o.connected || seen != nil && seen.Same && seen.Took == o.sink.Took() && seen.Left > 0
}

// countLeft counts what lies unread in the socket of o, which nothing more is sent to. That of a message queue is only told of: it can
// be read still. It says whether that is certain, or only the most that it can be.
func (r *Roster) countLeft(o *outlet) (n int, certain bool) {
	if o.queue {
		n, _ = o.inQueue()
		return n, true
	}
	left, certain := o.leftUnread(0), o.certain()
	if n, err := o.inQueue(); err == nil && n > 0 { // it is there still
		o.unread.trim(n)
		left, certain = o.unread.messages(), true
	}
	r.ring.CountUnread(o.sink, left)
	return int(left), certain
}
