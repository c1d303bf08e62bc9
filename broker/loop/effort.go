// SPDX-License-Identifier: Apache-2.0

package loop

import (
	"log/slog"
	"slices"
	"syscall"
	"time"

	"github.com/msgmux/msgmux/broker/journal"
	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// Who is at the other end of a socket can make calls to it take long: whatever waits for it there with poll(2) or epoll(7) is
// looked at by whoever sends to it or receives from it, also what waits for events that never come. A million entries take a
// quarter of a second, each time, in the data thread.
//
// So the processor time of calls has a price that is usual (see price), and what a user's calls take beyond that is on his bill,
// or of root, the broker's user and static sinks on the bill of that one socket. Then all of his sockets rest that are costly,
// for so long that they have a twentieth of the time. One that stays at a millisecond and more for each message is dropped.
//
// That is to cost others nothing. The clock that is read between the calls anyway tells when one was costly, or somebody took the
// processor away; only then the next calls to that socket are measured: by the clock, which is no system call, and if one of them
// was long again by the processor time of the thread. What is found out so for certain also has all sockets of its user measured
// closely for a while, or else being costly now and then would be free.
const (
	// unitPrice and bytePrice are what a datagram, packet or message of a queue may take, some ten times what it takes usually:
	// that is a gigabyte in 8 s.
	unitPrice = 50 * time.Microsecond
	bytePrice = 8 * time.Nanosecond

	// callLimit bounds one call to a socket that is costly.
	callLimit = time.Millisecond
	// probeFrom is the burst from which on a single message goes first: who has bought wake-ups since the last call, and has
	// much waiting for him, is not sent 256 messages at once.
	probeFrom = 16

	// restPart: of a costly socket's time, one part in so many is for calls, and the rest for the others. The channel's own
	// sockets are everybody's.
	restPart = 20
	ownPart  = 2
	// tolerance is what the calls to one socket may take too much, and what calls that took less make good.
	tolerance = time.Millisecond
	// muchExcess is charged also where it comes alone, and mostExcess is the most that one call is charged: a machine that
	// stood still looks like a call that took long.
	muchExcess = 10 * time.Millisecond
	mostExcess = time.Second

	// suspectCalls is how many calls to a socket are measured after one that may have been costly; on a machine that is busy
	// that happens all the time. costlyCalls is how many are after one that was, and watchedFor how long all those of its user.
	suspectCalls = 4
	costlyCalls  = 64
	watchedFor   = time.Minute
	// takenUnits is how many datagrams and packets are received before it is looked whether one of them may have been costly: what
	// they may take all together, one of them can take.
	takenUnits = 64
	// fewMessages is how many take part in letting somebody in.
	fewMessages = 4
	// certain is the excess that a call must have had for sure, not being measured, for watchedFor to begin.
	certain = time.Millisecond
	// checkEvery is how often the processor time is read, so that it can be told for sure.
	checkEvery = 10 * time.Millisecond

	// A sink or connected source is dropped when each of its calls, overCalls at least, has taken overPrice and more for each
	// message for overFor. Nobody of its user is let in then for barredFor, nor while his rest is longer than farRest.
	overPrice = time.Millisecond
	overCalls = 3
	overFor   = time.Second
	barredFor = 20 * time.Second
	farRest   = time.Second
)

// price is the processor time that so many datagrams, packets or messages of a queue may take, of that many bytes.
func price(units int, bytes uint64) time.Duration {
	return time.Duration(max(1, units))*unitPrice + time.Duration(bytes)*bytePrice
}

// bill is what calls have taken beyond their price: those to all sockets of an ordinary user, or to one of somebody else. The
// times are on the clock of the data thread.
type bill struct {
	sockets int           // that it is for
	part    time.Duration // restPart or ownPart
	rest    time.Duration // until then no costly socket gets a turn
	watch   bool          // until watched all calls are measured, and closely
	watched time.Duration
	barred  time.Duration // until then nobody is let in
}

// quiet says whether there is nothing on it.
func (b *bill) quiet(now time.Duration) bool {
	return b.rest <= now && b.watched <= now && b.barred <= now
}

// effort is what the calls to one socket take, in one direction.
type effort struct {
	bill     *bill
	measured int           // how many calls are measured yet
	closely  bool          // by processor time, because one of them was long by the clock
	long     bool          // it was the last one
	costly   bool          // calls have been put on the bill since the last one that was not costly
	owed     time.Duration // what is not on the bill yet; cheap calls make good for costly ones
	unit     time.Duration // what a message took in the last call that was measured; 0: no more than usual
	over     int           // calls in a row that took overPrice for each message
	since    time.Duration // the first of them
	began    time.Duration // of the last call, if that was not measured: when it began
	price    time.Duration // and its price; wire.Forever: it is paid, or there was no call
}

// watched says whether the next call is to be measured.
func (e *effort) watched() bool { return e.measured > 0 || e.bill.watch }

// rests says whether the socket gets no turn yet.
func (e *effort) rests(now time.Duration) bool { return e.costly && e.bill.rest > now }

// excessive says whether whose it is has to go.
func (e *effort) excessive(now time.Duration) bool {
	return e.over >= overCalls && now-e.since >= overFor
}

func (o *outlet) rests(now time.Duration) bool { return o.effort.rests(now) || o.hears.rests(now) }

func (o *outlet) excessive(now time.Duration) bool {
	return o.effort.excessive(now) || o.hears.excessive(now)
}

func (s *source) rests(now time.Duration) bool { return s.effort.rests(now) || s.tells.rests(now) }

func (s *source) excessive(now time.Duration) bool {
	return s.effort.excessive(now) || s.tells.excessive(now)
}

// most is how many messages a call may have, so that it takes callLimit.
func (e *effort) most(usual int) int {
	if e.unit == 0 {
		return usual
	}
	return max(1, min(usual, int(callLimit/e.unit)))
}

// bookkeeping is the bills of the channel, and the clocks that they are made out by.
type bookkeeping struct {
	began time.Time
	users map[uint32]*bill // of ordinary users

	checked time.Duration // when the processor time of the data thread was last read
	used    time.Duration // what it was then
}

func newBookkeeping() bookkeeping {
	return bookkeeping{began: time.Now(), users: make(map[uint32]*bill)}
}

// clock is the time since the data thread was made.
func (b *bookkeeping) clock() time.Duration { return time.Since(b.began) }

// check reads the processor time of the data thread now and then.
func (b *bookkeeping) check(now time.Duration) {
	if now >= b.checked+checkEvery {
		b.checked, b.used = now, sys.ThreadTime()
	}
}

// sure is the least processor time that a call has taken which began then and has just ended: all since the last check but for
// what may have been used before the call.
func (b *bookkeeping) sure(began time.Duration) time.Duration {
	return sys.ThreadTime() - b.used - (began - b.checked)
}

// bill is that of an ordinary user, or a new one.
func (r *Roster) bill(uid uint32, part time.Duration) *bill {
	if !r.limits.Ordinary(uid) {
		return &bill{sockets: 1, part: part}
	}
	b := r.userBill(uid)
	b.sockets++
	return b
}

// userBill is that of an ordinary user. Those of users that have left and paid go when there are many.
func (r *Roster) userBill(uid uint32) *bill {
	user := r.limits.User(uid)
	b := r.users[user]
	if b == nil {
		if now := r.clock(); len(r.users) > 2*(len(r.outlets)+len(r.sources))+64 {
			for u, b := range r.users {
				if b.sockets == 0 && b.quiet(now) {
					delete(r.users, u)
				}
			}
		}
		b = &bill{part: restPart}
		r.users[user] = b
	}
	return b
}

// meter measures calls of the data thread: by the clock, and closely also by the processor time that it has used.
type meter struct {
	began, used time.Duration
	closely     bool
}

func (r *Roster) meter() meter { return meter{r.clock(), sys.ThreadTime(), true} }

// meterFor is for a call to a socket that is watched.
func (r *Roster) meterFor(e *effort) meter {
	if e.closely || e.bill.watch {
		return r.meter()
	}
	return meter{began: r.clock()}
}

// took is the processor time since it began, or no more than usual. It is not longer than real time, whatever thread has run in
// between; and where that is no more than usual it is as good, and no system call. By the clock alone no more can be known.
func (m meter) took(r *Roster, usual time.Duration) (took time.Duration, known bool) {
	took = r.clock() - m.began
	if took > usual && m.closely {
		took = max(0, min(sys.ThreadTime()-m.used, took))
	}
	return took, took <= usual || m.closely
}

// chargeCall is charge for a call that m has measured. One that was long by the clock alone has the next ones measured closely.
func (r *Roster) chargeCall(e *effort, now time.Duration, m meter, units int, bytes uint64) {
	usual := price(units, bytes)
	took, known := m.took(r, usual)
	if known {
		e.charge(now, took, units, bytes)
		return
	}
	r.suspect(e, m.began, m.began+took, usual)
	e.long = true
}

// charge is for a call that was measured. It had that many messages of bytes in all; one that had none, and was not costly, says
// nothing about what messages cost.
func (e *effort) charge(now, took time.Duration, units int, bytes uint64) {
	none := units == 0
	e.long = false
	units = max(1, units)
	usual := price(units, bytes)
	if took <= usual {
		if !none {
			e.owed = max(e.owed+took-usual, -tolerance)
			e.settled(now)
		}
		return
	}
	e.unit = took / time.Duration(units)
	if took-usual < overPrice*time.Duration(units) {
		e.over = 0
	} else if e.over++; e.over == 1 {
		e.since = now
	}
	if e.owed += took - usual; e.owed < tolerance {
		return
	}
	e.bill.charge(now, e.owed, e.costly)
	e.owed, e.costly, e.measured, e.closely = 0, true, costlyCalls, true
}

// settled is for after a call that was not costly.
func (e *effort) settled(now time.Duration) {
	e.unit, e.over, e.costly = 0, 0, false
	if e.measured > 0 {
		e.measured--
	}
	e.closely = e.closely && e.measured > 0
	if b := e.bill; b.watch && b.watched <= now {
		b.watch = false
	}
}

// charge puts the excess of calls on the bill. A machine that is itself not given its processors makes calls look long that are not:
// so the first time is free, and so is little that comes alone, where the call before (again) was not costly.
func (b *bill) charge(now, excess time.Duration, again bool) {
	if b.watch && (again || excess >= muchExcess) {
		b.rest = max(b.rest, now) + (b.part-1)*min(excess, mostExcess)
	}
	b.watch, b.watched = true, now+watchedFor
}

// suspect has the next calls to a socket measured, because one between began and ended may have been costly, which had that price;
// and closely, if that call was one of those already.
func (r *Roster) suspect(e *effort, began, ended, usual time.Duration) {
	e.closely = e.measured > 0
	e.measured = max(e.measured, suspectCalls)
	if ended-began-usual >= certain && r.sure(began)-usual >= certain {
		e.bill.watch, e.bill.watched = true, ended+watchedFor
	}
}

// send is ring.Ring.Send for o, on its bill.
func (l *loop) send(o *outlet) (n int, errno syscall.Errno) {
	burst := o.effort.most(o.sink.Burst())
	if burst <= probeFrom || !l.ring.HasBurst(o.sink, probeFrom) {
		return l.sendBurst(o, burst)
	}
	if n, errno = l.sendBurst(o, 1); n == 0 {
		o.sink.SetBurst(burst)
		return n, errno
	}
	if l.wasCostly(&o.effort) || l.ring.LeavesOut(o.sink) {
		return n, errno
	}
	more, errno := l.sendBurst(o, burst)
	return n + more, errno
}

// sendBurst is send for so many messages at most.
func (l *loop) sendBurst(o *outlet, burst int) (n int, errno syscall.Errno) {
	e := &o.effort
	o.sink.SetBurst(burst)
	if e.watched() {
		m := l.meterFor(e)
		n, errno = l.ring.Send(o.sink, o.fd)
		l.remember(o, n, errno)
		l.chargeCall(e, l.now, m, l.units(o, n), l.bytes(n, errno))
		e.price = wire.Forever // it is paid
		return n, errno
	}
	e.began = l.now
	n, errno = l.ring.Send(o.sink, o.fd)
	l.remember(o, n, errno)
	e.price = price(l.units(o, n), l.bytes(n, errno))
	return n, errno
}

// wasCostly says whether the last call was, or may have been.
func (l *loop) wasCostly(e *effort) bool {
	if e.price == wire.Forever {
		return e.unit > 0 || e.long
	}
	l.readClock()
	return l.now-e.began > e.price
}

// audit looks after a call to a sink, when the clock has been read, whether it may have been costly.
func (l *loop) audit(e *effort) {
	if l.now-e.began > e.price {
		l.suspect(e, e.began, l.now, e.price)
	}
}

// units is how many messages of its socket o took, where the ring has sent n.
func (l *loop) units(o *outlet, n int) int {
	if o.connected {
		return min(1, n)
	}
	return n
}

// bytes is how many bytes a Send has had copied: also of the message that was not taken.
func (l *loop) bytes(n int, errno syscall.Errno) (bytes uint64) {
	if n > 0 {
		bytes = l.ring.SentBytes()
	}
	if errno != 0 {
		bytes += l.ring.Geometry().MaxMessage
	}
	return bytes
}

// take is ring.Ring.Receive for s, on its bill.
func (l *loop) take(s *source, limit int) (n int, errno syscall.Errno) {
	e := &s.effort
	if !e.watched() {
		n, errno = l.ring.Receive(s.fd, s.kind, s.from, limit)
		l.taken.add(s, n)
		return n, errno
	}
	m := l.meterFor(e)
	n, errno = l.ring.Receive(s.fd, s.kind, s.from, e.most(limit))
	l.chargeCall(e, l.now, m, n, l.ring.LandedBytes())
	return n, errno
}

// takings are what was received since the clock was last read, without being measured: nothing is spent on that for each turn.
type takings struct {
	began   time.Duration
	head    uint64 // the position
	units   int
	sources []*source
}

func (t *takings) add(s *source, n int) {
	t.units += max(1, n)
	if k := len(t.sources); k == 0 || t.sources[k-1] != s {
		t.sources = append(t.sources, s)
	}
}

// beginTaking is for before the turns of the sources.
func (l *loop) beginTaking() {
	l.taken.began, l.taken.head, l.taken.units, l.taken.sources = l.now, l.ring.Head().Pos, 0, l.taken.sources[:0]
}

// endTaking looks after their turns whether one of them may have been costly.
func (l *loop) endTaking() {
	t := &l.taken
	if t.units == 0 {
		return
	}
	l.readClock()
	if l.now-t.began <= price(t.units, l.ring.Head().Pos-t.head) {
		return
	}
	usual := price(t.units, l.ring.Head().Pos-t.head+l.ring.LandedBytes())
	for _, s := range t.sources {
		if s.effort.measured == 0 { // once, however many turns it had
			l.suspect(&s.effort, t.began, l.now, usual)
		}
	}
	clear(t.sources) // some may have gone meanwhile
}

// rest has a source wait until its bill allows it another turn.
func (l *loop) rest(s *source) {
	s.queued = true // so that nobody else gives it one
	l.resting = append(l.resting, s)
	l.retryBy(s.effort.bill.rest)
}

// endRests gives those sources their turns whose rest is over. all: it is over now.
func (l *loop) endRests(all bool) {
	still := l.resting[:0]
	for _, s := range l.resting {
		if !all && s.rests(l.now) {
			still = append(still, s)
			l.retryBy(s.effort.bill.rest)
			continue
		}
		s.queued = false
		l.enqueue(s)
	}
	clear(l.resting[len(still):])
	l.resting = still
}

// dismiss drops the sink of o, which takes far too much. A static one stays: what it has left to it, a twentieth of the time,
// is little, and the administrator gets to know.
func (l *loop) dismiss(o *outlet) {
	spec, static := o.sink.Spec(), o.sink.Spec().Kind == ring.Static
	each := max(o.effort.unit, o.hears.unit)
	o.effort.over, o.hears.over = 0, 0
	text := "sink is dropped: each message to it costs the broker too much processor time"
	if static {
		text = "sink is served seldom: each message to it costs the broker too much processor time"
	}
	l.sayCostly(text, spec.UID, "sink", spec.Label, each)
	if !static {
		o.effort.bill.barred = l.now + barredFor
		l.Drop(o.sink)
	}
}

// dismissSource is dismiss for a source. The channel's own ones stay: they are everybody's.
func (l *loop) dismissSource(s *source) {
	each := max(s.effort.unit, s.tells.unit)
	s.effort.over, s.tells.over = 0, 0
	if s.client == nil {
		name := ""
		if i := slices.IndexFunc(l.own, func(o OwnSource) bool { return o.Number == uint32(s.from.Sender.Source) }); i >= 0 {
			name = l.own[i].Name
		}
		l.sayCostly("source is read seldom: each message of somebody who sends to it costs the broker too much processor time", 0, "source", name, each)
		return
	}
	spec := s.client.Spec()
	l.sayCostly("connected source is dropped: each packet of it costs the broker too much processor time", spec.UID, "source", spec.Label, each)
	s.effort.bill.barred = l.now + barredFor
	l.end(s, nil)
}

func (l *loop) sayCostly(text string, uid uint32, kind, label string, each time.Duration) {
	l.log.Limited(l.limiter, uid, "costly:"+kind+":"+label, slog.LevelWarn, journal.EventCostly, text,
		slog.Uint64("uid", uint64(uid)), slog.String(kind, label), slog.Duration("each", each.Round(time.Microsecond)))
}

// chargeUser puts what a user has had done that is no call to a socket in the channel on his bill, if it is a costly one: some
// messages are taken from him, and sent to him.
func (r *Roster) chargeUser(uid uint32, m meter) {
	usual := price(fewMessages, 0)
	took, _ := m.took(r, usual)
	if excess := took - usual; excess > tolerance && r.limits.Ordinary(uid) {
		r.userBill(uid).charge(r.clock(), excess, false)
	}
}

// Rests refuses a user for whom nothing is to be done just now, because calls to his sockets are too costly.
func (r *Roster) Rests(uid uint32) *wire.Error { return r.owes(uid, 0) }

// Admits is Rests for somebody who wants to be let in: a little rest is no reason to refuse him.
func (r *Roster) Admits(uid uint32) *wire.Error { return r.owes(uid, farRest) }

func (r *Roster) owes(uid uint32, allowed time.Duration) *wire.Error {
	if !r.limits.Ordinary(uid) {
		return nil
	}
	b := r.users[r.limits.User(uid)]
	if b == nil {
		return nil
	}
	if now := r.clock(); b.barred > now || b.rest > now+allowed {
		return wire.Refuse(wire.CodeBusy, "calls to sockets of user %d cost the broker too much processor time; try again in %s",
			uid, (max(b.barred, b.rest) - now).Round(time.Second))
	}
	return nil
}
