// SPDX-License-Identifier: Apache-2.0

package loop

import (
	"log/slog"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/broker/journal"
	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/broker/store"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// slowCalls is a kernel in which sending to some sockets takes long, for each message of a call. It does not send.
type slowCalls struct {
	sys.Kernel
	each  map[int]time.Duration // by descriptor
	spent map[int]time.Duration
	most  int // messages in one slow call
	calls int
}

func (k *slowCalls) Sendmmsg(_ string, fd int, hdrs []sys.Mmsghdr) (int, unix.Errno) {
	k.calls++
	each := k.each[fd]
	if each > 0 {
		k.most = max(k.most, len(hdrs))
	}
	began := sys.ThreadTime()
	for i := range hdrs {
		for sys.ThreadTime()-began < time.Duration(i+1)*each {
		}
		hdrs[i].Len = 1
	}
	k.spent[fd] += sys.ThreadTime() - began
	return len(hdrs), 0
}

// costlyLoop is a data thread that does not run, with a sink for each user, whose calls take that long. fds are their sockets.
func costlyLoop(t *testing.T, kinds []ring.Kind, uids []uint32, each ...time.Duration) (l *loop, k *slowCalls, fds []int) {
	t.Helper()
	k = &slowCalls{each: make(map[int]time.Duration), spent: make(map[int]time.Duration)}
	r, err := ring.Create(ring.Geometry{Size: ring.MinSize, MaxMessage: 1024, MaxSinks: 16, MaxClients: 1}, 1, ring.Options{Ops: k})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Retire)
	l = new(loop)
	log := journal.New(slog.DiscardHandler)
	t.Cleanup(log.Close)
	kept := store.New(store.Config{Log: log, Ops: k, Room: 16})
	if err := l.init(&Config{Ring: r, Ops: k, Log: log, Store: kept, Limits: Limits{UID: 7}}, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.close)
	for i, uid := range uids {
		ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(ends[0]); unix.Close(ends[1]) })
		s, err := r.Add(ring.Spec{ID: r.NewID(), Kind: kinds[i], UID: uid}, ring.Reading{}, false)
		if err != nil {
			t.Fatal(err)
		}
		l.open(s, ends[0], 1, nil)
		k.each[ends[0]] = each[i]
		fds = append(fds, ends[0])
	}
	return l, k, fds
}

// turns has the data thread work until done says so, or for 10 s. In between something is always there to be sent.
func turns(t *testing.T, l *loop, done func() bool) (took time.Duration) {
	t.Helper()
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { unix.Close(ends[0]); unix.Close(ends[1]) }()
	if err := l.addSource(ends[0], keySource, ring.Datagrams, nil, ring.From{}); err != nil {
		t.Fatal(err)
	}
	defer func() { l.dropSource(l.sources[keySource]) }()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	message := make([]byte, 100)
	began := l.tick()
	for !done() {
		for range 20 { // more than one message at once
			unix.SendmsgN(ends[1], message, nil, nil, unix.MSG_DONTWAIT)
		}
		l.poll(0)
		l.pass()
		if took = l.tick() - began; took > 10*time.Second {
			t.Fatal("not done within 10 s")
		}
	}
	return took
}

// TestCostlySink: a sink whose messages cost a millisecond and more has a twentieth of the time, one message at a time, and
// then it is dropped, and its user is not let in. Of others that cost as much the administrator gets to know: static ones stay.
func TestCostlySink(t *testing.T) {
	kinds, uids := []ring.Kind{ring.Dynamic, ring.Static, ring.Dynamic}, []uint32{1000, 0, 1001}
	l, k, fds := costlyLoop(t, kinds, uids, 3*time.Millisecond, 3*time.Millisecond, 0)
	ids := []uint64{l.outlets[0].sink.ID(), l.outlets[1].sink.ID(), l.outlets[2].sink.ID()}
	took := turns(t, l, func() bool { return l.byID[ids[0]] == nil })
	if l.byID[ids[1]] == nil || l.byID[ids[2]] == nil {
		t.Error("the wrong sink was dropped")
	}
	for _, fd := range fds[:2] {
		if k.spent[fd] > took/10 {
			t.Errorf("%v of %v were spent on a costly sink", k.spent[fd], took)
		}
	}
	if k.most > 2 { // one, and two to be sure
		t.Errorf("%d costly messages in one call", k.most)
	}
	for uid, barred := range map[uint32]bool{1000: true, 1001: false, 0: false, 7: false} {
		if refusal := l.Admits(uid); (refusal != nil) != barred {
			t.Errorf("user %d is let in: %v", uid, refusal)
		}
	}
}

// TestCostlySinkComesBack: what a user owes he owes also with another socket, and a sink of his that is not costly is not held up.
func TestCostlySinkComesBack(t *testing.T) {
	l, k, fds := costlyLoop(t, []ring.Kind{ring.Dynamic, ring.Dynamic}, []uint32{1000, 1000}, 3*time.Millisecond, 0)
	costly, healthy := l.outlets[0], l.outlets[1]
	b := costly.effort.bill
	if b != healthy.effort.bill {
		t.Fatal("one user has two bills")
	}
	turns(t, l, func() bool { return b.rest > l.now })
	rest, calls := b.rest, k.calls
	l.Drop(costly.sink)
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { unix.Close(ends[0]); unix.Close(ends[1]) }()
	s, err := l.ring.Add(ring.Spec{ID: l.ring.NewID(), Kind: ring.Dynamic, UID: 1000}, ring.Reading{}, false)
	if err != nil {
		t.Fatal(err)
	}
	k.each[ends[0]] = 3 * time.Millisecond
	l.open(s, ends[0], 1, nil)
	turns(t, l, func() bool { return k.spent[ends[0]] > 5*time.Millisecond })
	if b.rest <= rest {
		t.Error("it began anew with nothing owed")
	}
	turns(t, l, func() bool { return k.calls > calls+100 })
	if healthy.effort.rests(l.now) || k.spent[fds[1]] > time.Second {
		t.Error("the healthy sink is held up")
	}
	l.users[1000].rest, l.users[1000].watched, l.users[1000].barred = 0, 0, 0
	l.Drop(healthy.sink)
	l.Drop(s)
	for i := range uint32(200) {
		l.userBill(2000 + i)
	}
	if len(l.users) > 80 {
		t.Errorf("%d bills are kept of users that owe nothing", len(l.users))
	}
}

// TestNotCostly: who had the processor taken away in the middle of a call is measured for a while, and charged nothing.
func TestNotCostly(t *testing.T) {
	l, _, _ := costlyLoop(t, []ring.Kind{ring.Dynamic}, []uint32{1000}, 0)
	e := &l.outlets[0].effort
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	l.tick()
	l.check(l.now + checkEvery)
	l.checked = l.now
	e.began, e.price = l.now, price(1, 0)
	time.Sleep(3 * time.Millisecond)
	l.readClock()
	l.audit(e)
	if e.measured != suspectCalls || e.bill.watch || e.bill.rest != 0 {
		t.Errorf("%+v, %+v", e, e.bill)
	}
	for range suspectCalls {
		e.charge(l.now, unitPrice, 1, 0)
	}
	if e.watched() {
		t.Error("it is measured for ever")
	}
	for range 10 { // interrupts, for instance
		e.charge(l.now, 500*time.Microsecond, 1, 0)
		for range 20 {
			e.charge(l.now, 10*time.Microsecond, 1, 0)
		}
	}
	e.charge(l.now, 5*time.Millisecond, 1, 4<<20) // a large message
	if e.costly || e.bill.watch {
		t.Errorf("what is usual is costly: %+v", e)
	}
	for range 5 { // somebody else has the processors of this machine
		e.charge(l.now, 5*time.Millisecond, 1, 1000)
		e.charge(l.now, 10*time.Microsecond, 1, 1000)
	}
	if e.costly || e.bill.rest != 0 || !e.bill.watch {
		t.Errorf("little that comes alone is charged, or not seen: %+v", e.bill)
	}
	e.owed = 0
	e.charge(l.now, 5*time.Millisecond, 1, 1000)
	e.charge(l.now, 5*time.Millisecond, 1, 1000)
	if want := (restPart - 1) * (5*time.Millisecond - price(1, 1000)); e.bill.rest != l.now+want || !e.rests(l.now) {
		t.Errorf("rests until %v, want %v", e.bill.rest, l.now+want)
	}
	e.charge(l.now, 10*time.Microsecond, 1, 1000)
	e.owed, e.bill.rest = 0, 0
	e.charge(l.now, 50*time.Millisecond, 1, 1000)
	if want := (restPart - 1) * (50*time.Millisecond - price(1, 1000)); e.bill.rest != l.now+want {
		t.Errorf("rests until %v, want %v", e.bill.rest, l.now+want)
	}
	e.charge(l.now, 0, 0, 0)
	if !e.rests(l.now) {
		t.Error("a call without messages has shown that they are cheap")
	}
	e.charge(l.now, time.Hour, 1, 0)
	if e.bill.rest > l.now+(restPart)*mostExcess {
		t.Error("a machine that stood still is held against somebody for ever")
	}
}

// TestHearingMakesNothingGood: who is costly to send to is that also if each packet is followed by something that costs nothing, as what
// acknowledges it does.
func TestHearingMakesNothingGood(t *testing.T) {
	l, _, _ := costlyLoop(t, []ring.Kind{ring.Dynamic}, []uint32{1000}, 0)
	o := l.outlets[0]
	for range overCalls {
		o.effort.charge(l.now, muchExcess-overPrice, 1, 100)
		o.hears.charge(l.now, time.Microsecond, 1, 0)
		l.now += overFor / 2
	}
	if b := o.effort.bill; b.rest == 0 || !o.rests(b.rest-1) || !o.excessive(l.now) {
		t.Errorf("it rests until %v, and has to go: %v", b.rest, o.excessive(l.now))
	}
}

// TestSuspectedOnce: a source that had several turns in a round that took long is suspected once: that is no proof against it.
func TestSuspectedOnce(t *testing.T) {
	l, _ := roomyLoop(t)
	for key := range uint64(2) {
		if err := l.addSource(pair(t)[0], keySource-key, ring.Datagrams, nil, ring.From{}); err != nil {
			t.Fatal(err)
		}
	}
	l.beginTaking()
	for range 2 {
		for key := range uint64(2) {
			l.taken.add(l.sources[keySource-key], 1)
		}
	}
	time.Sleep(time.Millisecond)
	l.endTaking()
	for _, s := range l.sources {
		if s.effort.measured != suspectCalls || s.effort.closely {
			t.Errorf("%d calls are measured, closely: %v", s.effort.measured, s.effort.closely)
		}
	}
}

// TestMeasuredByTheClock: the calls after a suspicious one are measured by the clock, which costs nothing; only when one of them is long
// again are the next measured by processor time, which tells that none was costly.
func TestMeasuredByTheClock(t *testing.T) {
	l, _, _ := costlyLoop(t, []ring.Kind{ring.Dynamic}, []uint32{1000}, 0)
	e := &l.outlets[0].effort
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	call := func(d time.Duration) (closely bool) {
		m := l.meterFor(e)
		if d > 0 { // somebody else has the processor
			unix.Nanosleep(&unix.Timespec{Nsec: int64(d)}, nil)
		}
		l.chargeCall(e, l.clock(), m, 1, 100<<10) // 0.9 ms
		e.price = wire.Forever
		return m.closely
	}
	l.checked, l.used = l.clock(), sys.ThreadTime()
	l.suspect(e, l.clock(), l.clock(), 0)
	for range 2 {
		if call(0) || l.wasCostly(e) {
			t.Error("a call after one that was suspicious is measured closely, or was costly")
		}
	}
	if call(2*time.Millisecond) || !l.wasCostly(e) || !e.watched() {
		t.Error("a call that was long by the clock is measured closely, or passes for one that was not")
	}
	for i := range suspectCalls {
		if !call(2*time.Millisecond) || l.wasCostly(e) {
			t.Errorf("call %d after it is not measured closely, or was costly", i)
		}
	}
	if e.watched() || e.closely || e.bill.watch || e.owed > 0 {
		t.Errorf("it is measured for ever, or charged: %+v, %+v", e, e.bill)
	}
}

// TestLeftOutIsNoCall: a message that is left out takes no call, so that user is not suspected who was sent nothing for long.
func TestLeftOutIsNoCall(t *testing.T) {
	l := stagedLoopOf(t, 0)
	sink, source := pair(t), pair(t)
	s, err := l.ring.Add(ring.Spec{ID: l.ring.NewID(), Kind: ring.Dynamic, UID: 1000, Form: ring.Form{MaxSize: 10}}, ring.Reading{}, false)
	if err != nil {
		t.Fatal(err)
	}
	l.open(s, sink[0], 1, nil)
	time.Sleep(2 * checkEvery)
	unix.Send(source[1], make([]byte, 100), 0)
	l.ring.Receive(source[0], ring.Datagrams, ring.From{}, 1)
	l.append()
	l.tick()
	l.deliver()
	if head := l.ring.Head().Seq; head != 1 || l.ring.Behind(s) {
		t.Fatalf("%d messages came, and not all were left out", head)
	}
	if e := &l.byID[s.ID()].effort; e.watched() {
		t.Errorf("the next calls are measured: %+v, %+v", e, e.bill)
	}
}

// pair is two sockets for datagrams that are connected to each other.
func pair(t *testing.T) [2]int {
	t.Helper()
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(ends[0]); unix.Close(ends[1]) })
	return ends
}

// TestCostlySource: a connected source that is costly to receive from rests, and is dropped; the channel's own is everybody's, and stays.
func TestCostlySource(t *testing.T) {
	l, _, _ := costlyLoop(t, []ring.Kind{ring.Dynamic}, []uint32{1000}, 0)
	c, err := l.ring.AddClient(ring.ClientSpec{ID: l.ring.NewID(), UID: 1001})
	if err != nil {
		t.Fatal(err)
	}
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { unix.Close(ends[0]); unix.Close(ends[1]) }()
	if err := l.addClient(c, ends[0], nil); err != nil {
		t.Fatal(err)
	}
	s := l.sources[c.ID()]
	unix.Write(ends[1], wire.AppendRecord(nil, []byte("a message")))
	l.tick()
	s.effort.charge(l.now, time.Second, 1, 0)
	s.effort.charge(l.now, time.Second, 1, 0)
	head := l.ring.Head().Seq
	l.pass()
	if len(l.resting) != 1 || len(l.queue) != 0 || l.ring.Head().Seq != head || l.isDry() {
		t.Errorf("%d rest, %d have their turn, %d messages came", len(l.resting), len(l.queue), l.ring.Head().Seq-head)
	}
	if l.retryAt != s.effort.bill.rest {
		t.Errorf("it is looked at in %v, and rests until %v", l.retryAt, s.effort.bill.rest)
	}
	l.now = s.effort.bill.rest
	l.tryBackedOff()
	if len(l.resting) != 0 || len(l.queue) != 1 {
		t.Errorf("%d rest, %d have their turn", len(l.resting), len(l.queue))
	}
	l.pass()
	if l.ring.Head().Seq != head+1 {
		t.Errorf("%d messages came", l.ring.Head().Seq-head)
	}
	l.rest(s)
	if l.dropSource(s); len(l.resting) != 0 {
		t.Error("one that has gone rests still")
	}
}

// TestCostlyOwnSource: the channel's own source, which is everybody's, is read half of the time where somebody who sends to it is
// costly, and is never dropped.
func TestCostlyOwnSource(t *testing.T) {
	l, _, _ := costlyLoop(t, []ring.Kind{ring.Dynamic}, []uint32{1000}, 0)
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { unix.Close(ends[0]); unix.Close(ends[1]) }()
	if err := l.addSource(ends[0], keySource, ring.Datagrams, nil, ring.From{}); err != nil {
		t.Fatal(err)
	}
	s, each := l.sources[keySource], 20*time.Millisecond
	for range overCalls + 1 {
		s.effort.charge(l.now, each, 1, 0)
		if rest := s.effort.bill.rest - l.now; rest > each {
			t.Errorf("it rests for %v after %v", rest, each)
		}
		l.now = max(l.now+overFor, s.effort.bill.rest)
	}
	if s.effort.most(ring.MaxBatch) != 1 {
		t.Errorf("%d messages are received at once", s.effort.most(ring.MaxBatch))
	}
	if !s.effort.excessive(l.now) {
		t.Error("nobody would get to know")
	}
	l.dismissSource(s)
	if l.sources[keySource] != s || len(l.queue) != 1 {
		t.Error("it was dropped")
	}
}

// TestCostlyVisits: what a user has done at the door, again and again, is on his bill, too.
func TestCostlyVisits(t *testing.T) {
	l, _, _ := costlyLoop(t, []ring.Kind{ring.Dynamic}, []uint32{1001}, 0)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for i := range 3 {
		if refusal := l.Rests(1000); refusal != nil {
			t.Fatalf("visit %d: %v", i, refusal)
		}
		m := l.meter()
		for sys.ThreadTime()-m.used < 60*time.Millisecond {
		}
		for _, uid := range []uint32{1000, 0, 7} {
			l.chargeUser(uid, m)
		}
		if i > 0 && l.users[1000].rest > l.clock() {
			break
		}
	}
	if l.Rests(1000) == nil || l.Admits(1000) == nil {
		t.Errorf("%+v", l.users[1000])
	}
	for _, uid := range []uint32{0, 7, 1001} {
		if refusal := l.Admits(uid); refusal != nil {
			t.Errorf("user %d: %v", uid, refusal)
		}
	}
}
