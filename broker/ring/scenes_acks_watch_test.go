// SPDX-License-Identifier: Apache-2.0

//go:build ring_watch

package ring

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/wire"
)

// ackScenes are those with sinks that acknowledge, and with marked sources.
func ackScenes() []scene {
	full := Geometry{Size: MinSize, MaxMessage: 60_000, MaxSinks: 6, MaxClients: 2}
	return []scene{
		{"acknowledged", tiny(), playAcknowledged, false},
		{"kept", tiny(), playKept, false},
		{"where it stopped", tiny(), playFrom, false},
		{"shared work", tiny(), playSharedWork, false},
		{"what cannot be said", tiny(), playGarbage, false},
		{"acknowledged, left behind", full, playAckBehind, false},
		{"shared work, left behind", full, func(w *world) { playShareBehind(w, 10_000) }, false},
		{"shared work, left far behind", full, func(w *world) { playShareBehind(w, 1000) }, false},
		{"too large for those who acknowledge", full, playAckTooLarge, false},
		{"marks", full, playMarks, false},
		{"stages", Geometry{Size: MinSize, MaxMessage: 300, MaxSinks: 6, MaxClients: 3}, playStage, false},
		{"stages, full", full, playStageFull, false},
		{"move of those who acknowledge", full, playAckMove, false},
		{"any acknowledgement, 1", tiny(), playAnyAcks(1), true},
		{"any acknowledgement, 2", Geometry{Size: MinSize, MaxMessage: 60_000, MaxSinks: 12, MaxClients: 2}, playAnyAcks(2), true},
		{"any acknowledgement, 3", tiny(), playAnyAcks(3), true},
	}
}

// several enters n messages.
func (w *world) several(n, size int) {
	for i := range n {
		w.datagram(text(i, size+i))
	}
	w.take(Datagrams, w.in[1])
}

func playAcknowledged(w *world) {
	a := w.acks(wish{Label: "a", UID: 7, Ordinary: true}, 0, 0, nil)
	b := w.add(wish{Kind: Dynamic, Label: "b"}, false)
	w.several(5, 10)
	w.send(a, 3)
	w.pass(3 * time.Millisecond)
	w.done(a, 2)
	w.send(b, 3)
	w.done(a, 1) // lower than before
	w.say(a, upTo(3), upTo(3), upTo(0), upTo(4))
	w.hear(a)
	w.hear(a) // nothing
	w.several(3, 5)
	w.send(a, 1)
	w.say(a, upTo(5), upTo(8))
	w.hear(a)
	for i := range 40 { // more than are taken at once
		w.silently(func() {
			w.several(1, i)
			w.send(a, 1)
		})
		w.say(a, upTo(uint64(9+i)))
	}
	w.hear(a)
	w.several(2, 3)
	w.send(a, 1)
	w.remove(a) // with something not done
	w.send(b, 9)
}

func playKept(w *world) {
	a := w.acks(wish{Label: "a", UID: 7, Patience: time.Second}, time.Minute, 0, nil)
	other := w.add(wish{Kind: Dynamic, Label: "other"}, false)
	w.several(5, 10)
	w.send(a, 1)
	w.send(other, 1)
	w.say(a, upTo(2)) // said, and not heard before it goes
	w.do("the rest", func() { unix.Shutdown(w.out[a][1], unix.SHUT_WR) })
	w.hear(a)
	w.away(a)
	w.several(2, 4)
	w.back(a, w.newID(), 0, time.Minute)
	w.send(a, 1)
	w.done(a, 4)
	w.away(a)
	w.away2(a)
	w.back(a, w.newID(), 6, time.Hour) // it has stored more than it said
	w.send(a, 1)
	w.away(a)
	w.rejoin(a, w.newID(), 6, time.Hour)
	w.away(a) // before it has got its ok
	w.back(a, w.newID(), 6, time.Hour)
	w.send(a, 1)
	w.say(a, []byte(wire.Leave))
	w.hear(a)
	w.remove(a)
	again := w.acks(wish{Label: "a", UID: 7}, time.Minute, 0, nil)
	w.several(1, 1)
	w.send(again, 1)
	w.away(again)
	w.removeAll(again.cursor)
}

// newID is the number of a connection.
func (w *world) newID() (id uint64) {
	w.naming(1, func() { id = w.r.NewID() })
	return id
}

// away2 is a sink leaving that has left.
func (w *world) away2(s *Sink) { w.do("leave again", func() { w.r.Leave(s) }) }

func playFrom(w *world) {
	b := w.add(wish{Kind: Dynamic, Label: "b"}, false)
	w.several(9, 10)
	b.burst = 4
	w.send(b, 1)
	four, seven, two := uint64(4), uint64(7), uint64(2)
	w.acks(wish{Label: "behind delivered"}, 0, 0, &two)
	ahead := w.acks(wish{Label: "beyond delivered"}, time.Minute, 0, &seven)
	w.acks(wish{Label: "at delivered"}, 0, 0, &four)
	w.send(b, 3)
	w.send(ahead, 2)
	w.done(ahead, 9)
	w.several(1, 1)
	w.away(ahead)
	w.back(ahead, w.newID(), 10, 0)
}

func playSharedWork(w *world) {
	m := func(name string, batch uint32) *Sink {
		return w.acks(wish{Label: name, Group: "g", UID: 7}, time.Minute, batch, nil)
	}
	one, two := m("one", 2), m("two", 1)
	w.several(9, 10)
	w.send(one, 1) // 0, 1
	w.send(two, 1) // 2
	w.done(two, 3)
	w.send(two, 1) // 3
	w.done(one, 1)
	w.done(two, 4) // behind what one has
	w.away(one)    // leaves 1
	w.send(two, 1) // 1, after 3
	w.say(two, upTo(4), upTo(2))
	w.hear(two) // 4 is of what it had before
	w.send(two, 1)
	three := m("three", 3)
	w.send(three, 1)
	w.remove(one) // nothing of it is left
	w.done(three, 6)
	w.away(two)   // leaves 4
	w.away(three) // leaves 6, 7: nobody is there
	four := m("four", 1)
	w.send(four, 1) // the oldest first
	w.done(four, 5)
	w.send(four, 1)
	w.done(four, 7)
	w.send(four, 1)
	w.away(four)
	five := m("five", 0)
	w.send(five, 1)
	w.done(five, 8)
	w.send(five, 1)
	w.several(2, 3)
	w.done(five, 9)
	w.send(five, 1)
	w.done(five, 10)
	w.away(five)
	w.removeAll(five.cursor)
	four4 := uint64(4)
	w.acks(wish{Label: "first", Group: "another", UID: 7}, time.Minute, 1, &four4) // which has done what is before
}

func playGarbage(w *world) {
	a := w.acks(wish{Label: "a"}, time.Minute, 0, nil)
	w.several(3, 1)
	w.send(a, 1)
	for _, p := range [][]byte{upTo(4), make([]byte, 7), make([]byte, 9), make([]byte, 100), []byte("leave!"), upTo(1 << 63)} {
		w.say(a, upTo(1), p, upTo(2))
		if !w.hear(a) {
			w.wrong(fmt.Sprintf("% x was taken for something", p))
		}
		w.away(a)
		w.back(a, w.newID(), 0, 0)
		w.send(a, 1)
	}
	w.done(a, 3)
}

func playAckBehind(w *world) {
	a := w.add(wish{Kind: Dynamic, Label: "a"}, false)
	slow := w.acks(wish{Label: "slow"}, time.Minute, 0, nil)
	w.silently(func() { w.several(3, 10_000) })
	w.send(slow, 1)
	w.done(slow, 1)
	w.fillOver(slow, a) // 1 and 2 it has, and has not done
	w.done(slow, 3)
	w.fillOver(slow, a)
	w.send(slow, 1)
	at := slow.cursor.Place().Seq
	w.done(slow, at+1)
	w.away(slow)
	w.fillOver(slow, a) // away, and left behind
	w.move(Geometry{Size: 2 * MinSize, MaxMessage: 60_000, MaxSinks: 9, MaxClients: 3})
	slow = w.r.Sink(slow.ID())
	w.back(slow, w.newID(), 0, 0)
	w.send(slow, 1)
}

// playShareBehind has a share left behind that has something under way before what others of it have done. The shorter that is, the
// more of it goes at once.
func playShareBehind(w *world, size int) {
	a := w.add(wish{Kind: Dynamic, Label: "a"}, false)
	m := func(name string, batch uint32) *Sink {
		return w.acks(wish{Label: name, Group: "g"}, time.Minute, batch, nil)
	}
	one, two, three := m("one", 2), m("two", 2), m("three", 1)
	w.books.skipped = true
	w.silently(func() { w.several(6, size) })
	w.send(one, 1)   // 0, 1
	w.send(two, 1)   // 2, 3
	w.send(three, 1) // 4
	w.done(two, 4)
	w.done(one, 1)
	w.done(three, 5)
	w.send(three, 1) // 5
	for range 3 {
		w.fillOver(one, a) // piece by piece
	}
	w.done(one, 2) // too late
	w.done(three, 6)
	w.send(one, 1)
	w.send(two, 1)
	w.away(one)
	w.fillOver(two, a)
	w.fillOver(two, a)
	w.send(three, 1)
}

// fillOver has the ring become full, and slow be left behind, so that what comes next enters. a takes everything.
func (w *world) fillOver(slow, a *Sink) {
	w.lag(slow, false)
	w.fill(50_000, a)
	w.lag(slow, true)
	w.append()
	w.silently(func() { w.send(a, 9); w.read(a) })
}

func playAckTooLarge(w *world) {
	w.books.skipped = true
	a := w.acks(wish{Label: "a"}, time.Minute, 0, nil)
	one := w.acks(wish{Label: "one", Group: "g"}, time.Minute, 1, nil)
	two := w.acks(wish{Label: "two", Group: "g"}, time.Minute, 1, nil)
	small := func(s *Sink) {
		w.out[s] = socketpair(w.t, unix.SOCK_SEQPACKET)
		_ = unix.SetsockoptInt(w.out[s][0], unix.SOL_SOCKET, unix.SO_SNDBUF, 0)
	}
	small(a)
	small(one)
	small(two)
	w.several(1, 100)
	w.datagram(text(2, 40_000)) // for nobody
	w.take(Datagrams, w.in[1])
	w.several(2, 100)
	for range 3 { // packets become shorter first
		w.send(a, 1)
	}
	w.tooLarge(a) // not before it has done what is before
	w.done(a, 1)
	w.tooLarge(a)
	w.send(a, 1)
	w.done(a, 4)
	w.send(one, 1)
	w.send(two, 1)
	w.tooLarge(two)
	w.away(one)    // leaves the first
	w.send(two, 1) // which it gets, although it cannot take what is next
	w.done(two, 1)
	w.tooLarge(two)
	w.send(two, 2)
	w.done(two, 3)
	three := w.acks(wish{Label: "three", Group: "h"}, time.Minute, 0, nil)
	small(three)
	w.several(12, 500) // more than a packet of it holds
	w.send(three, 1)
	w.tooLarge(three) // for nobody
	w.send(three, 1)
	if !w.r.HasUnderWay(three) {
		w.wrong("a shorter packet would do")
	}
}

func playMarks(w *world) {
	a := w.add(wish{Kind: Dynamic, Label: "a"}, false)
	p, pc := w.marker("source", 5)
	w.marked(p, 10, text(1, 5), text(2, 0))
	w.append()
	w.marked(p, 7) // no message, and back
	w.append()
	w.marked(p, 1<<60, text(3, 7))
	w.append()
	w.send(a, 3)
	w.read(a)
	w.raw([]byte{1, 2, 3})
	w.receiveFrom(p)
	w.append()
	w.raw(append(upTo(9), 1, 0, 0, 0))
	w.receiveFrom(p)
	w.append()
	w.raw(append(upTo(9), make([]byte, 140_003)...))
	w.receiveFrom(p)
	w.append()
	w.sourceAway(p, pc)
	w.sourceBack(p, pc, w.newID())
	slow := w.add(wish{Kind: Dynamic, Label: "slow"}, false)
	w.fill(50_000, a)
	w.append()
	w.silently(func() { // until it is empty of datagrams
		w.lag(slow, true)
		for w.append(); w.r.Landed(); w.append() {
			w.send(a, 9)
			w.read(a)
		}
		w.lag(slow, false)
	})
	w.marked(p, 77, text(1, 20_000), text(2, 20_000), text(3, 0), text(4, 20_001)) // in parts
	for range 9 {
		if w.append(); !w.r.Full() {
			break
		}
		w.lag(slow, true)
		w.append()
		w.lag(slow, false)
		w.send(a, 9)
		w.read(a)
	}
	w.sourceAway(p, pc)
	w.sourceRejoins(p, pc, w.newID())
	w.sourceAway(p, pc) // before it has got its ok
	w.sourceBack(p, pc, w.newID())
	w.raw([]byte(wire.Leave))
	w.receiveFrom(p)
	w.appendLeave(pc)
	q, _ := w.marker("another", 0)
	w.marked(q, 3, text(4, 4))
	w.append()
}

// appendLeave has a source leave that has said so.
func (w *world) appendLeave(c *clientBook) {
	w.do("source leaves for good", func() {
		out := w.r.Append()
		if !out.Leaving {
			w.wrong("a source that leaves does not")
			return
		}
		c.there = vanishing
		w.r.RemoveClient(w.r.Client(out.From))
		c.there = gone
		w.r.Append()
	})
}

func playAckMove(w *world) {
	a := w.acks(wish{Label: "a"}, time.Minute, 0, nil)
	one := w.acks(wish{Label: "one", Group: "g"}, time.Minute, 2, nil)
	two := w.acks(wish{Label: "two", Group: "g"}, time.Minute, 1, nil)
	p, _ := w.marker("source", 3)
	w.several(5, 10)
	w.send(a, 1)
	w.done(a, 2)
	w.send(one, 1)
	w.send(two, 1)
	w.done(two, 3)
	w.say(a, []byte(wire.Leave))
	w.hear(a)
	grown := Geometry{Size: 2 * MinSize, MaxMessage: 60_000, MaxSinks: 9, MaxClients: 3}
	tallest := Geometry{Size: 2 * MinSize, MaxMessage: 60_000, MaxSinks: 9, MaxClients: 4}
	w.marked(p, 1<<40, text(1, 5), text(2, 6)) // landed
	w.say(a, upTo(3))                          // heard, and not settled
	w.sending = a
	w.r.Hear(a, w.out[a][0])
	w.move(grown)
	w.append()
	old, pc := one.ID(), w.books.clients[len(w.books.clients)-1]
	one, two, p = w.r.Sink(one.ID()), w.r.Sink(two.ID()), w.r.Client(p.ID())
	if one.ID() != old {
		panic("another sink")
	}
	w.connect(one)
	w.connect(two)
	w.away(one)
	w.send(two, 1)
	w.done(two, 1)
	w.sourceAway(p, pc)
	w.move(tallest)
	p = w.r.Client(p.ID())
	w.sourceBack(p, pc, w.newID())
	for i, raw := range [][]byte{[]byte(wire.Leave), {1, 2, 3}, upTo(5)} {
		w.raw(raw)
		w.receiveFrom(p)
		w.move(Geometry{Size: 2 * MinSize, MaxMessage: 60_000, MaxSinks: uint64(10 + i), MaxClients: 3})
		p = w.r.Client(p.ID())
		if i == 0 {
			w.appendLeave(w.books.clients[0])
			p, _ = w.marker("source", 0)
			continue
		}
		w.append()
	}
}

// playAnyAcks does what comes, by a seed.
func playAnyAcks(seed uint64) func(*world) {
	return func(w *world) {
		rng := rand.New(rand.NewPCG(seed, 1))
		w.books.skipped = true
		var there, absent []*Sink
		p, pc := w.marker("source", 0)
		source := true
		pick := func(of []*Sink) (int, *Sink) {
			k := rng.IntN(len(of))
			return k, of[k]
		}
		size := func() int { return rng.IntN(min(int(w.geo.MaxMessage)+2, 1<<(2+rng.IntN(15)))) }
		room := func() {
			for w.r.Landed() {
				if w.append(); w.r.Full() {
					for c := range w.r.Cursors {
						if rng.IntN(2) == 0 {
							w.lag(c.members[0], true)
						}
					}
					w.someoneAccepts(there, rng)
				}
			}
		}
		for i := range 90 {
			switch rng.IntN(14) {
			case 0:
				if len(there) < 5 {
					how := wish{Label: fmt.Sprint(i), UID: 7}
					var from *uint64
					if rng.IntN(2) == 0 {
						how.Group = "g"
					} else if rng.IntN(2) == 0 {
						n := w.r.Tail().Seq + rng.Uint64N(w.r.Head().Seq-w.r.Tail().Seq+1)
						from = &n
					}
					there = append(there, w.acks(how, time.Minute, uint32(rng.IntN(4)), from))
				}
			case 1:
				if len(there) > 1 {
					k, s := pick(there)
					there = slices.Delete(there, k, k+1)
					w.away(s)
					absent = append(absent, s)
				}
			case 2:
				if len(absent) > 0 {
					k, s := pick(absent)
					switch c := s.cursor; {
					case c.sole != nil && rng.IntN(3) > 0:
						w.back(s, w.newID(), c.Place().Seq+rng.Uint64N(2+w.r.Head().Seq-c.Place().Seq), 0)
						there = append(there, s)
					case c.sole != nil || len(c.members) > 1 && !w.r.HasUnderWay(s):
						w.remove(s)
					default:
						continue
					}
					absent = slices.Delete(absent, k, k+1)
				}
			case 3, 4:
				for k := range 1 + rng.IntN(4) {
					w.datagram(text(i+k, size()))
				}
				w.receive(Datagrams, w.in[1], MaxBatch)
				room()
			case 5:
				if !source {
					w.sourceBack(p, pc, w.newID())
					source = true
				}
				var messages [][]byte
				for k := range rng.IntN(4) {
					messages = append(messages, text(i+k, min(size()%15_000, int(w.geo.MaxMessage))))
				}
				w.marked(p, rng.Uint64(), messages...)
				room()
			case 6:
				if source {
					w.sourceAway(p, pc)
					source = false
				}
			case 7:
				w.pass(time.Duration(rng.IntN(5)) * time.Millisecond)
			case 8, 9, 10:
				if len(there) > 0 {
					_, s := pick(there)
					w.send(s, 1+rng.IntN(2))
				}
			case 11:
				if len(there) > 0 {
					if _, s := pick(there); w.r.Behind(s) && rng.IntN(3) == 0 {
						w.tooLarge(s)
					}
				}
			default:
				w.someoneAccepts(there, rng)
			}
			if len(there) == 0 {
				there = append(there, w.acks(wish{Label: fmt.Sprint(i)}, time.Minute, 0, nil))
			}
		}
	}
}

// someoneAccepts has a sink say how far it is, in more packets or fewer.
func (w *world) someoneAccepts(there []*Sink, rng *rand.Rand) {
	if len(there) == 0 {
		return
	}
	s := there[rng.IntN(len(there))]
	w.read(s)
	begin, end := w.r.underWay(s)
	if begin == end {
		w.send(s, 1)
		begin, end = w.r.underWay(s)
	}
	for range 1 + rng.IntN(3) {
		w.say(s, upTo(begin.Seq+rng.Uint64N(1+end.Seq-begin.Seq)))
	}
	w.hear(s)
}
