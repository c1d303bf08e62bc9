// SPDX-License-Identifier: Apache-2.0

//go:build ring_watch

package ring

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/broker/ring/layout2"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// scene is a piece of a broker's life, in which some operations come about. Together they have every operation in every way
// that its code tells apart.
type scene struct {
	name string
	geo  Geometry
	play func(w *world)
	long bool // it has very many moments
}

func tiny() Geometry { return Geometry{Size: MinSize, MaxMessage: 300, MaxSinks: 6, MaxClients: 2} }

func scenes() []scene {
	return append(ackScenes(), []scene{
		{"datagrams", tiny(), playDatagrams, false},
		{"packets", tiny(), playPackets, false},
		{"shares and taps", tiny(), playShares, false},
		{"forms", tiny(), playForms, false},
		{"table", tiny(), playTable, false},
		{"registration", tiny(), func(w *world) { w.consume(); w.consume() }, false},
		{"full, bytes", Geometry{Size: MinSize, MaxMessage: 60_000, MaxSinks: 6}, playFull, false},
		{"left out by all", Geometry{Size: MinSize, MaxMessage: 60_000, MaxSinks: 6}, playLeftOut, false},
		{"in parts", Geometry{Size: MinSize, MaxMessage: 60_000, MaxSinks: 6}, playParts, false},
		{"wrap", Geometry{Size: MinSize, MaxMessage: 60_000, MaxSinks: 6}, playWrap, false},
		{"large packets", Geometry{Size: MinSize, MaxMessage: MinSize / 2, MaxSinks: 6}, playLarge, false},
		{"queues", tiny(), playQueues, false},
		{"patience", Geometry{Size: MinSize, MaxMessage: 60_000, MaxSinks: 6}, playPatience, false},
		{"origins", tiny(), playOrigins, false},
		{"origins, used up", tiny(), playRuns, false},
		{"credentials", tiny(), playCredentials, false},
		{"move", tiny(), playMove, false},
		{"move what waits", Geometry{Size: MinSize, MaxMessage: 60_000, MaxSinks: 6, MaxClients: 2}, playMoveWaiting, false},
		{"upgrade", tiny(), func(w *world) { playUpgrade(w, newOutdated(w, false)) }, false},
		{"upgrade, begun", tiny(), func(w *world) { playUpgrade(w, newOutdated(w, true)) }, false},
		{"upgrade, full", full(), func(w *world) { playUpgrade(w, newOutdatedFull(w)) }, false},
		{"descriptors", tiny(), playDescriptors, false},
		{"set aside", tiny(), playSetAside, false},
		{"fallen bits", tiny(), playFallen, false},
		{"anything, 1", tiny(), playAnything(1), true},
		{"anything, 2", Geometry{Size: MinSize, MaxMessage: 60_000, MaxSinks: 12}, playAnything(2), true},
		{"anything, 3", tiny(), playAnything(3), true},
	}...)
}

// playAnything does what comes, by a seed.
func playAnything(seed uint64) func(*world) {
	return func(w *world) {
		rng := rand.New(rand.NewPCG(seed, 0))
		var sinks []*Sink
		some := func(f func(*Sink)) {
			if len(sinks) > 0 {
				f(sinks[rng.IntN(len(sinks))])
			}
		}
		size := func() int { return rng.IntN(min(int(w.geo.MaxMessage)+2, 1<<(2+rng.IntN(15)))) }
		appendIfRoom := func() {
			for w.r.Landed() {
				if w.append(); w.r.Full() {
					for _, s := range sinks {
						w.read(s)
						w.send(s, 1)
					}
				}
			}
		}
		for i := range 70 {
			switch rng.IntN(12) {
			case 0:
				if len(sinks) < 4 {
					spec := wish{Kind: Dynamic, Label: fmt.Sprint(i), UID: 7, Tap: rng.IntN(4) == 0}
					if spec.Frames = rng.IntN(2) == 0; spec.Frames {
						spec.Kind, spec.Meta = Framed, rng.IntN(2) == 0
					}
					if rng.IntN(3) == 0 {
						spec.Group, spec.Tap = "g", false
					}
					sinks = append(sinks, w.add(spec, rng.IntN(3) == 0))
				}
			case 1:
				if len(sinks) > 2 {
					k := rng.IntN(len(sinks))
					w.remove(sinks[k])
					sinks = slices.Delete(sinks, k, k+1)
				}
			case 2, 3, 4:
				for k := range 1 + rng.IntN(4) {
					w.datagram(text(i+k, size()))
				}
				w.receive(Datagrams, w.in[1], MaxBatch)
				appendIfRoom()
			case 5, 6:
				var messages [][]byte
				for k, n := 0, 1+rng.IntN(4); k < n; k++ {
					messages = append(messages, text(i+k, size()%15_000))
				}
				w.packet(messages...)
				w.receive(Packets, w.packets[1], 1)
				appendIfRoom()
			case 7:
				some(func(s *Sink) {
					if w.r.Behind(s) && rng.IntN(3) == 0 {
						w.tooLarge(s)
					}
				})
			case 8:
				w.pass(time.Duration(rng.IntN(5)) * time.Millisecond)
			default:
				some(func(s *Sink) {
					w.read(s)
					w.send(s, 1+rng.IntN(2))
				})
			}
			if len(sinks) == 0 {
				sinks = append(sinks, w.add(wish{Kind: Dynamic, Label: fmt.Sprint(i)}, false))
			}
		}
	}
}

func text(i, n int) []byte { return bytes.Repeat([]byte{byte('a' + i%26)}, n) }

func playDatagrams(w *world) {
	a := w.add(wish{Kind: Dynamic, Label: "a", UID: 7, Ordinary: true}, false)
	b := w.add(wish{Kind: Static, Label: "b"}, false)
	_ = unix.SetsockoptInt(w.out[a][0], unix.SOL_SOCKET, unix.SO_SNDBUF, 0) // takes a part of a batch only
	for round, sizes := range [][]int{{5}, {0, 1, 2, 3, 4}, {300, 301, 1000, 7}, {0}, {20, 20, 20, 20, 20, 20}} {
		for i, n := range sizes {
			w.datagram(text(round+i, n))
		}
		w.pass(3 * time.Millisecond)
		w.take(Datagrams, w.in[1])
		w.send(a, 1)
		w.pass(time.Millisecond)
		w.send(b, 3)
		w.read(a)
		w.send(a, 3)
	}
	w.send(b, 1)
	w.receive(Datagrams, w.in[1], 3) // there is nothing
	// What was built for one sink is of no use for the next one.
	for i := range 5 {
		w.datagram(text(i, 5))
	}
	w.take(Datagrams, w.in[1])
	a.burst = 4
	w.send(a, 1)
	a.burst = 1
	w.r.built.first, w.r.built.count = 0, 0 // as after a start
	w.send(a, 1)
	w.send(b, 1)
}

func playPackets(w *world) {
	a := w.add(wish{Kind: Framed, Label: "a", Frames: true}, false)
	b := w.add(wish{Kind: Dynamic, Label: "b"}, false)
	w.packet(text(1, 5))
	w.packet(text(2, 0), text(3, 300), text(4, 1))
	w.raw([]byte{1, 0, 0, 0})                     // ends outside
	w.raw(wire.AppendRecord(nil, text(5, 301)))   // too large
	w.packet(text(6, 10), text(7, 20))            // the ring goes on
	w.raw(make([]byte, 3*wire.RecordHeader))      // three of no bytes
	w.raw(bytes.Repeat([]byte{0xff}, 2*70_000+3)) // larger than any packet may be
	for range 7 {
		w.receive(Packets, w.packets[1], 1)
		w.append()
		w.send(a, 2)
	}
	w.send(b, 9)
	w.datagram(text(8, 8)) // datagrams after packets
	w.take(Datagrams, w.in[1])
	w.packet(text(9, 9))
	w.receive(Packets, w.packets[1], 1)
	w.append()
	w.send(b, 2)
	w.send(a, 2)
	unix.Shutdown(w.packets[0], unix.SHUT_WR)
	w.do("end", func() {
		w.kind, w.books.from = Packets, 77
		w.r.Receive(w.packets[1], Packets, From{Client: 77}, 1)
		if !w.r.Empty() || w.r.Landed() {
			w.wrong("the end of a connection is none, or waits for room")
		}
	})
}

func playShares(w *world) {
	m1 := w.add(wish{Kind: Dynamic, Label: "m1", Group: "g", UID: 7, Patience: time.Second}, false)
	tap := w.add(wish{Kind: Dynamic, Label: "tap", Tap: true}, false)
	for i := range 9 {
		w.datagram(text(i, 3*i))
	}
	w.take(Datagrams, w.in[1])
	w.send(tap, 1)
	m1.burst = 2
	w.send(m1, 1)
	m2 := w.add(wish{Kind: Framed, Frames: true, Label: "m2", Group: "g", UID: 7}, false)
	old := w.add(wish{Kind: Dynamic, Label: "old"}, true)
	oldtap := w.add(wish{Kind: Framed, Frames: true, Label: "oldtap", Tap: true}, true)
	w.send(m2, 1)
	w.datagram(text(1, 1))
	w.take(Datagrams, w.in[1])
	w.send(m1, 1)
	w.send(old, 3)
	w.send(oldtap, 3)
	w.remove(m1)
	w.datagram(text(2, 2))
	w.take(Datagrams, w.in[1])
	w.remove(m2)
	w.send(old, 3)
	w.remove(tap)
}

// playForms has sinks that do not want all messages, and want another end of those that they get, beside one that takes all.
func playForms(w *world) {
	all := w.add(wish{Kind: Dynamic, Label: "all"}, false)
	lines := w.add(wish{Kind: Dynamic, Label: "lines", Form: Form{NoEmpty: true, End: wire.EndNewline, MaxSize: 20}}, false)
	bare := w.add(wish{Kind: Dynamic, Label: "bare", Group: "g", Form: Form{End: wire.EndNone, NoEmpty: true}}, false)
	for i, m := range []string{"a", "", "line\n", "\n\n", "", string(text(2, 30)), "b\x00"} {
		w.datagram([]byte(m))
		if i%2 == 1 {
			w.take(Datagrams, w.in[1])
		}
	}
	w.take(Datagrams, w.in[1])
	w.send(all, 2)
	for _, s := range []*Sink{lines, bare} {
		for n := 0; n < 20 && w.r.Behind(s); n++ {
			if w.r.LeavesOut(s) {
				w.leaveOut(s)
			} else {
				w.send(s, 1)
			}
		}
	}
	w.move(Geometry{Size: 2 * MinSize, MaxMessage: 500, MaxSinks: 9})
	w.remove(w.r.Sink(lines.ID()))
	w.remove(w.r.Sink(bare.ID()))
}

func playTable(w *world) {
	a := w.add(wish{Kind: Dynamic, Label: "a", Address: "@a", UID: 7, Inode: 99, Ordinary: true, Patience: time.Second}, false)
	for i := range 3 {
		w.datagram(text(i, 10))
	}
	w.take(Datagrams, w.in[1])
	b := w.add(wish{Kind: Static, Label: "b", Address: "/b", UID: 8}, true)
	w.send(a, 1)
	spec, how := *a.Spec(), *a.cursor.Spec()
	spec.Label, spec.Address, spec.Inode, how.Patience = "another", "@elsewhere", 100, time.Hour
	w.update(a, spec, how)
	w.do("patience", func() {
		c := w.cursorOf(a)
		how.Patience = time.Minute
		c.specs = append(c.specs, described{*a.Spec(), how})
		w.r.SetPatience(a.cursor, time.Minute)
		c.specs = c.specs[1:]
	})
	s, c := w.subscriber("framed")
	w.greet(s, nil, c)
	p, pc := w.publisher("source")
	w.greet(nil, p, pc)
	w.do("client leaves", func() {
		pc.there = vanishing
		w.r.RemoveClient(p)
		pc.there = gone
	})
	w.number("/run/source")
	w.number("/run/source", "/a")
	w.remove(b) // with something not sent
	again := w.add(wish{Kind: Dynamic, Label: "c"}, false)
	w.send(again, 1)
	w.remove(a)
}

// fill has messages enter until the ring is full, s taking all of them.
func (w *world) fill(size int, takers ...*Sink) {
	w.silently(func() {
		for i := range 200_000 {
			if w.datagram(text(i, size)); w.r.Full() {
				return
			}
			w.kind, w.books.from, w.from = Datagrams, 0, Sender{}
			w.r.Receive(w.in[1], Datagrams, From{}, 1)
			w.books.received(w.r)
			w.r.Append()
			for _, s := range takers {
				if w.send(s, 5); w.r.Full() {
					break
				}
				w.read(s)
			}
			if w.r.Full() {
				return
			}
		}
		panic("never full")
	})
}

func playFull(w *world) {
	a := w.add(wish{Kind: Dynamic, Label: "a"}, false)
	slow := w.add(wish{Kind: Dynamic, Label: "slow"}, false)
	_ = unix.SetsockoptInt(w.out[slow][0], unix.SOL_SOCKET, unix.SO_SNDBUF, 60_000) // takes two or so
	w.fill(50_000, a)
	w.append() // still full
	w.silently(func() { w.send(slow, 1) })
	w.append() // room for one
	w.take(Datagrams, w.in[1])
	w.lag(slow, true)
	w.append() // at its cost: SKIP and TAIL
	w.send(a, 2)
	w.read(a)
	w.packet(text(1, 10), text(2, 20))
	w.receive(Packets, w.packets[1], 1)
	w.append()
	w.lag(slow, false)
	w.read(slow)
	w.send(slow, 3)
	w.tooLarge(slow)
	w.datagram(text(3, 3))
	w.take(Datagrams, w.in[1])
	w.tooLarge(a)
	w.read(slow)
	w.send(slow, 2)
}

// playLeftOut has a message that nobody can take, so that nobody's accepting moves delivered: making room does.
func playLeftOut(w *world) {
	a := w.add(wish{Kind: Dynamic, Label: "a"}, false)
	b := w.add(wish{Kind: Dynamic, Label: "b"}, false)
	all := func(n int) {
		for _, s := range []*Sink{a, b} {
			w.send(s, n)
			w.read(s)
		}
	}
	w.several(1, 100)
	all(2)
	w.several(1, 40_000)
	w.tooLarge(a)
	w.tooLarge(b)
	w.silently(func() {
		for i := 0; w.r.Head().Pos+60_000 < MinSize; i++ {
			w.several(1, 50_000)
			all(3)
		}
	})
	for range 2 {
		w.several(1, 50_000)
		all(3)
	}
	if w.r.Delivered() != w.r.Head() {
		w.wrong("what nobody can take is still kept for somebody")
	}
}

// playParts has packets enter in parts, as room comes.
func playParts(w *world) {
	a := w.add(wish{Kind: Framed, Frames: true, Label: "a"}, false)
	slow := w.add(wish{Kind: Framed, Frames: true, Label: "slow"}, false)
	w.fill(50_000, a)
	w.silently(func() { w.send(slow, 1) })
	w.append()
	w.packet(text(1, 20_000), text(2, 0), text(3, 20_000), text(4, 20_000))
	w.receive(Packets, w.packets[1], 1) // there is no window
	for range 4 {
		w.append()
		w.send(slow, 1)
		w.read(slow)
		w.send(a, 1)
		w.read(a)
	}
	for i := range 3000 { // many pieces with many records each
		if i%1000 == 0 {
			w.silently(func() {
				w.raw(make([]byte, 5000*wire.RecordHeader))
				w.receive(Packets, w.packets[1], 1)
				w.append()
			})
		}
	}
	w.lag(slow, true)
	w.packet(text(5, 30_000), text(6, 10))
	w.receive(Packets, w.packets[1], 1)
	w.append()
	w.send(a, 9)
}

func playWrap(w *world) {
	a := w.add(wish{Kind: Dynamic, Label: "a"}, false)
	w.silently(func() {
		for i := 0; w.r.Head().Pos+100_000 < MinSize; i++ {
			w.datagram(text(i, 50_000))
			w.take(Datagrams, w.in[1])
			w.send(a, 3)
			w.read(a)
		}
	})
	for i := range 4 {
		w.datagram(text(i, 30_000))
		w.packet(text(i, 9000), text(i, 9001))
		w.take(Datagrams, w.in[1])
		w.receive(Packets, w.packets[1], 1)
		w.append()
		w.send(a, 3)
		w.read(a)
	}
}

func playLarge(w *world) {
	a := w.add(wish{Kind: Dynamic, Label: "a"}, false)
	_ = unix.SetsockoptInt(w.out[a][0], unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 4<<20)
	w.raw(append(binary.LittleEndian.AppendUint32(nil, 400_000), text(0, 200_000)...)) // its record ends outside
	w.receive(Packets, w.packets[1], 1)
	w.append()
	w.raw(wire.AppendRecord(text(0, 70_000), text(1, 80_000))) // no records, and larger than its window
	w.receive(Packets, w.packets[1], 1)
	w.append()
	for i, n := range []int{wire.MaxPacket - wire.RecordHeader, wire.MaxPacket, 200_000, 1, 300_000} {
		w.packet(text(i, n))
		w.receive(Packets, w.packets[1], 1)
		w.append()
		if i != 3 {
			w.send(a, 2)
			w.read(a)
		}
	}
	w.silently(func() { // until such a packet has a window, and no room
		for i := 0; w.r.Head().Pos-a.cursor.Place().Pos < MinSize-250_000; i++ {
			w.packet(text(i, 20_000))
			w.receive(Packets, w.packets[1], 1)
			w.append()
		}
	})
	w.packet(text(7, 300_000))
	w.receive(Packets, w.packets[1], 1)
	w.append()
	w.move(Geometry{Size: 4 * MinSize, MaxMessage: MinSize / 2, MaxSinks: 6})
	w.append()
}

// playOrigins has messages of several senders, known and unknown, one after the other.
func playOrigins(w *world) {
	in := openQueue(w.t, "origins")
	plain := w.add(wish{Kind: Dynamic, Label: "plain"}, false)
	w.datagram(text(0, 3)) // nobody asks yet
	w.take(Datagrams, w.in[1])
	w.datagram(text(1, 3)) // nor when that is sent
	meta := w.add(wish{Kind: Framed, Frames: true, Meta: true, Label: "meta"}, false)
	w.datagram(text(2, 3))
	w.datagram(text(3, 301)) // too large
	w.datagram(text(4, 0))
	w.attestIf(false)
	w.datagram(text(5, 5))
	w.attest()
	w.datagram(text(6, 6))
	w.receive(Datagrams, w.in[1], 3)
	w.append()
	w.send(meta, 1)
	w.take(Datagrams, w.in[1])
	var k sys.Kernel
	for round := range 2 {
		for i := range 3 {
			w.packet(text(i, 5), text(i, 6))
			w.receive(Packets, w.packets[1], 1)
			w.append()
		}
		if e := k.QueueSend("", in, text(round, 9)); e != 0 {
			w.t.Fatal(e)
		}
		w.take(Queues, in)
		w.datagram(text(round, 10))
		w.take(Datagrams, w.in[1])
		w.send(meta, 2)
		w.send(plain, 2)
	}
	again := w.add(wish{Kind: Framed, Frames: true, Meta: true, Label: "again"}, true)
	w.send(again, 1)
	w.remove(meta)
	w.remove(again)
	w.datagram(text(7, 7)) // the kernel tells no more
	w.take(Datagrams, w.in[1])
	w.datagram(text(8, 8))
	w.take(Datagrams, w.in[1])
	meta = w.add(wish{Kind: Dynamic, Frames: true, Meta: true, Label: "late"}, true)
	without := w.add(wish{Kind: Framed, Frames: true, Label: "without"}, true)
	w.datagram(text(9, 9))
	w.take(Datagrams, w.in[1])
	w.send(meta, 9)
	w.send(without, 9) // a packet of two pieces after one of three
}

// playCredentials has sinks that get the senders' credentials beside one that shares their slots and does not, with senders that
// are known, that are not, and that are gone.
func playCredentials(w *world) {
	w.dead = []int32{2, 4, 5}
	in := openQueue(w.t, "credentials")
	var k sys.Kernel
	plain := w.add(wish{Kind: Dynamic, Label: "plain"}, false)
	w.datagram(text(0, 3)) // nobody asks yet
	w.take(Datagrams, w.in[1])
	pass := w.add(wish{Kind: Dynamic, Label: "pass", Credentials: true}, false)
	lines := w.add(wish{Kind: Static, Label: "lines", Group: "g", Credentials: true, Form: Form{End: wire.EndNewline}}, false)
	sinks := []*Sink{pass, plain, lines}
	for round := range 2 {
		w.clients = 0
		for i := range 6 {
			w.packet(text(i, 5), text(i, 6))
			w.receive(Packets, w.packets[1], 1)
			w.append()
			if i == 3 {
				w.datagram(text(round, 9))
				w.take(Datagrams, w.in[1])
			}
		}
		if e := k.QueueSend("", in, text(round, 9)); e != 0 {
			w.t.Fatal(e)
		}
		w.take(Queues, in)
		for i, s := range sinks {
			if s.burst = 5; round == 1 {
				s.burst = MaxSend
			}
			w.send(s, 1+i)
		}
		for _, s := range sinks {
			w.send(s, 30)
		}
	}
	spec, how := *pass.Spec(), *pass.Cursor().Spec()
	for range 2 {
		spec.Credentials = !spec.Credentials
		w.update(pass, spec, how)
		w.datagram(text(1, 4))
		w.take(Datagrams, w.in[1])
		w.send(pass, 2)
	}
	w.move(Geometry{Size: 2 * MinSize, MaxMessage: 500, MaxSinks: 9})
	for _, id := range []uint64{pass.ID(), lines.ID()} {
		s := w.r.Sink(id)
		w.out[s] = socketpair(w.t, unix.SOCK_DGRAM)
		w.r.Connect(s, true, 1)
		w.attest()
		w.datagram(text(1, 4))
		w.take(Datagrams, w.in[1])
		w.send(s, 2)
		w.remove(s)
	}
}

// playRuns has more origins than there are runs, and moves them.
func playRuns(w *world) {
	meta := w.add(wish{Kind: Framed, Frames: true, Meta: true, Label: "meta"}, false)
	one := func(i int) {
		w.datagram(text(i, i%50))
		w.take(Datagrams, w.in[1])
	}
	w.silently(func() {
		for i := range len(w.r.runs) - MaxBatch - 2 {
			one(i)
		}
	})
	for i := range 4 {
		one(i)
	}
	w.silently(func() {
		for i := range MaxBatch - 3 {
			one(i)
		}
		w.send(meta, 1)
		w.read(meta)
	})
	for i := range 4 { // into the slots of the first ones
		one(i)
	}
	for _, to := range []Geometry{{Size: 2 * MinSize, MaxMessage: 300, MaxSinks: 6}, tiny()} {
		w.move(to)
	}
	meta = w.r.Sink(meta.ID())
	w.out[meta] = socketpair(w.t, unix.SOCK_SEQPACKET)
	w.r.Connect(meta, true, 1)
	one(0)
	w.send(meta, 9)
}

// playDescriptors has strangers attach descriptors to all that they send: the broker gets them, and closes them.
func playDescriptors(w *world) {
	s := w.acks(wish{Label: "a"}, time.Minute, 0, nil)
	attached := func(fd int, b []byte) {
		if err := unix.Sendmsg(fd, b, unix.UnixRights(w.in[0]), nil, unix.MSG_DONTWAIT); err != nil {
			w.t.Fatal(err)
		}
	}
	for round := range 3 {
		w.closed = 0
		for i := range 3 {
			attached(w.in[0], text(i, 5))
			w.attested = append(w.attested, w.attests)
		}
		w.take(Datagrams, w.in[1])
		attached(w.packets[0], wire.AppendRecord(nil, text(round, 7)))
		w.receive(Packets, w.packets[1], 1)
		w.append()
		w.send(s, 1)
		for range 2 {
			attached(w.out[s][1], upTo(uint64(4*round+2)))
		}
		w.hear(s)
		w.registration = unix.UnixRights(w.in[0])
		w.consume()
		if w.registration = nil; w.closed != 7 {
			w.wrong(fmt.Sprintf("7 descriptors were attached, and %d are closed", w.closed))
		}
	}
}

func full() Geometry { return Geometry{Size: MinSize, MaxMessage: 60_000, MaxSinks: 6, MaxClients: 2} }

func playQueues(w *world) {
	in, out := openQueue(w.t, "in"), openQueue(w.t, "out")
	var k sys.Kernel
	q := w.add(wish{Kind: Static, Label: "q"}, false)
	q.Queue(true)
	m := w.add(wish{Kind: Static, Label: "m", Group: "g"}, false)
	m.Queue(true)
	buf, prio := make([]byte, 1024), uint32(0)
	for round := range 3 {
		for i := range 1 + 2*round {
			if e := k.QueueSend("", in, text(i, 10*i)); e != 0 {
				w.t.Fatal(e)
			}
		}
		w.packet(text(round, 30)) // a packet before
		w.receive(Packets, w.packets[1], 1)
		w.append()
		w.datagram(text(round, 301)) // one that was cut, in the same slot
		w.take(Datagrams, w.in[1])
		w.take(Queues, in)
		for _, s := range []*Sink{q, m} {
			w.sendTo(s, out, 1)
			for {
				if _, e := k.QueueReceive("", out, buf, &prio); e != 0 {
					break
				}
			}
		}
	}
	w.sendTo(q, out, 1)
}

func playPatience(w *world) {
	a := w.add(wish{Kind: Dynamic, Label: "a", UID: 7, Ordinary: true, Patience: 50 * time.Millisecond}, false)
	slow := w.add(wish{Kind: Dynamic, Label: "slow", UID: 8, Ordinary: true, Patience: 50 * time.Millisecond}, false)
	old := w.add(wish{Kind: Dynamic, Label: "old", Patience: 50 * time.Millisecond}, true)
	w.fill(50_000, a, old)
	for i := range 30 {
		w.turn(10 * time.Millisecond)
		if i%10 == 9 {
			w.append()
			w.send(a, 2)
			w.read(a)
			w.send(old, 2)
			w.read(old)
		}
	}
	w.send(slow, 5)
}

// playMove moves the ring to another shape, and back, with something in every field.
func playMove(w *world) {
	a := w.add(wish{Kind: Dynamic, Label: "a", UID: 7, Ordinary: true}, false)
	b := w.add(wish{Kind: Framed, Frames: true, Label: "b"}, false)
	tap := w.add(wish{Kind: Dynamic, Label: "tap", Tap: true}, false)
	w.number("/run/source", "/a")
	m := w.add(wish{Kind: Dynamic, Label: "m", Group: "g"}, false)
	goes := w.add(wish{Kind: Static, Label: "goes"}, false)
	short := [2]*Sink{}
	for i := range short {
		short[i] = w.add(wish{Kind: Static, Label: fmt.Sprint("short", i), Form: Form{MaxSize: 1}}, false)
	}
	w.publisher("source")
	for i := range 9 {
		w.datagram(text(i, 20*i))
	}
	w.datagram(text(9, 301))
	w.pass(3 * time.Millisecond)
	w.take(Datagrams, w.in[1])
	w.raw([]byte{1, 0, 0, 0})
	w.take(Packets, w.packets[1])
	w.send(a, 3)
	a.burst = 2
	w.send(tap, 1)
	w.tooLarge(b)
	goes.burst = 1
	w.send(goes, 1)
	w.tooLarge(goes)
	w.remove(goes)
	for _, s := range short {
		w.send(s, 1)
		w.leaveOut(s)
	}
	w.remove(short[0])
	old := w.add(wish{Kind: Dynamic, Label: "old"}, true)
	w.subscriber("late, and attaching")
	for _, s := range []*Sink{m, old} {
		s.burst = 1
		w.send(s, 1)
	}
	w.do("attempt", func() {
		w.silently(func() { w.r.Attempt() })
		w.books.attempts = 1
	})
	// What takes longer to come about.
	w.plant(unsafe.Pointer(&w.r.c.Uncertain), 3)
	w.books.uncertain = 3
	w.unread(a)
	w.plant(unsafe.Pointer(&w.r.c.AsOwn), 4)
	w.books.asOwn = 4
	w.plant(unsafe.Pointer(&a.cursor.e.Owed), uint64(time.Minute))
	w.cursorOf(a).owed = time.Minute
	w.plant(unsafe.Pointer(&a.cursor.e.Left), 5)
	w.cursorOf(a).away = 5
	w.keepChannel()
	w.newID() // of nobody who is there
	w.lag(b, true)
	for i, to := range []Geometry{{Size: 2 * MinSize, MaxMessage: 500, MaxSinks: 9}, tiny()} {
		if i == 1 {
			w.nothingEmpty()
		}
		w.move(to)
		for _, s := range []*Sink{a, b, old} {
			s = w.r.Sink(s.ID())
			kind := unix.SOCK_DGRAM
			if s.frames {
				kind = unix.SOCK_SEQPACKET
			}
			w.out[s] = socketpair(w.t, kind)
			w.r.Connect(s, true, 1)
			if s.burst = 2; s.ID() != old.ID() || i == 1 {
				w.send(s, 1)
			}
		}
	}
}

// keepChannel has something in what nothing is said of.
func (w *world) keepChannel() {
	w.books.channel.kept = w.keep(unsafe.Pointer(w.r.c), silentOfControl)
}

// plant writes a number past the watched stores, as if it had come about.
func (w *world) plant(p unsafe.Pointer, n uint64) {
	*(*uint64)(p) = n
	w.twins[0].wrote(p, 8)
}

// nothingEmpty says which fields have nothing in them, in any entry: a move that forgot them would not be noticed.
func (w *world) nothingEmpty() {
	empty := make(map[string]bool)
	for _, f := range fieldsIn[control]() {
		empty[f.name] = !f.filled(unsafe.Pointer(w.r.c))
	}
	look := func(fields []field, p unsafe.Pointer) {
		for _, f := range fields {
			if was, known := empty[f.name]; was || !known {
				empty[f.name] = !f.filled(p)
			}
		}
	}
	for _, c := range w.r.cursors {
		look(fieldsIn[cursorEntry](), unsafe.Pointer(c.e))
	}
	for _, s := range w.r.sinkByID {
		look(fieldsIn[sinkEntry](), unsafe.Pointer(s.e))
	}
	for _, c := range w.r.clientByID {
		look(fieldsIn[clientEntry](), unsafe.Pointer(c.e))
	}
	for _, elsewhere := range []string{"control.Word", "control.Slots", "control.Offset", "control.Land", "control.From",
		"control.Runs", "control.Received", "control.Sender", "cursorEntry.Word",
		"cursorEntry.Known", "sinkEntry.Said", "sinkEntry.Acked", "sinkEntry.From", "sinkEntry.To", "clientEntry.Left", "clientEntry.Taken"} {
		delete(empty, elsewhere) // of what is landed, or of who acknowledges or has a stage, in other scenes, or of no meaning
	}
	for name, nothing := range empty {
		if nothing {
			w.wrong("there is nothing in " + name + " to be moved")
		}
	}
}

// playMoveWaiting moves a ring that is full, with what waits for room: a part of a batch, one that is too large among it, and a
// part of a packet.
func playMoveWaiting(w *world) {
	a := w.add(wish{Kind: Dynamic, Label: "a"}, false)
	w.lag(w.add(wish{Kind: Framed, Frames: true, Meta: true, Tap: true, Label: "meta"}, false), true)
	p, pc := w.publisher("source")
	w.greet(nil, p, pc)
	_ = unix.SetsockoptInt(w.out[a][0], unix.SOL_SOCKET, unix.SO_SNDBUF, 60_000) // takes two or so
	w.fill(50_000)
	w.silently(func() { w.send(a, 1) })
	w.append()
	w.datagram(text(1, 59_000))
	w.attestIf(false) // of that one nobody is known
	w.datagram(text(2, 59_001))
	w.attest()
	w.datagram(text(3, 59_002))
	w.datagram(text(4, 61_000)) // too large
	w.receive(Datagrams, w.in[1], MaxBatch)
	w.append()
	w.move(Geometry{Size: 2 * MinSize, MaxMessage: 60_000, MaxSinks: 6, MaxClients: 2})
	w.append()
	a = w.r.Sink(a.ID())
	w.silently(func() {
		for i := 0; !w.r.Full(); i++ {
			w.packet(text(i, 20_000), text(i, 20_001), text(i, 20_002))
			w.receive(Packets, w.packets[1], 1)
			w.append()
		}
	})
	w.move(Geometry{Size: 4 * MinSize, MaxMessage: 60_000, MaxSinks: 7, MaxClients: 2})
	w.append()
}

// playUpgrade makes a ring of one of the layout before.
func playUpgrade(w *world, old *layout2.Ring) {
	defer old.Close()
	n, err := Create(Geometry{Size: 2 * MinSize, MaxMessage: w.geo.MaxMessage, MaxSinks: 9, MaxClients: 3}, old.Generation+1, Options{Ops: w.r.opt.Ops, Unpublished: true})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(n.Retire)
	epoch := n.Epoch()
	w.outdated(old)
	w.books.channel.kept = nil
	for _, f := range silentOfControl {
		b := f.bytesOf(unsafe.Pointer(n.c))
		if f.name == "control.Since" {
			b = binary.NativeEndian.AppendUint64(nil, uint64(old.Totals.Since))
		}
		w.books.channel.kept = append(w.books.channel.kept, b...)
	}
	w.become(n, "upgrade", func() {
		if err := n.takeFrom(old); err != nil {
			panic(err)
		}
	})
	if n.c.Since.Load() != old.Totals.Since || n.Epoch() != epoch {
		w.wrong("another ring")
	}
	w.keepAll()
	for _, c := range w.books.cursors {
		for _, m := range c.members {
			if s := w.r.Sink(m.id); !s.Attaching() {
				kind := unix.SOCK_DGRAM
				if s.frames {
					kind = unix.SOCK_SEQPACKET
				}
				w.out[s] = socketpair(w.t, kind)
				w.r.Connect(s, true, 1)
			}
		}
	}
	w.append()
	for _, id := range slices.Sorted(maps.Keys(w.r.sinkByID)) {
		if s := w.r.Sink(id); !s.Attaching() {
			w.send(s, 1)
		}
	}
}

// keepAll writes something into what has to stay of all that has come into the tables.
func (w *world) keepAll() {
	for _, c := range w.books.cursors {
		if x := c.find(w.r); x != nil {
			c.kept = w.keep(unsafe.Pointer(x.e), silentOfCursor)
		}
		for _, m := range c.members {
			if x := w.r.Sink(m.id); x != nil {
				m.kept = w.keep(unsafe.Pointer(x.e), silentOfSink)
			}
		}
	}
	for _, c := range w.books.clients {
		if x := w.r.Client(c.id); x != nil {
			c.kept = w.keep(unsafe.Pointer(x.e), silentOfClient)
		}
	}
}

// move goes over to a ring of another shape, as a broker does at its start.
func (w *world) move(to Geometry) {
	n, err := Create(to, w.r.Generation()+1, Options{Ops: w.r.opt.Ops, Unpublished: true, Credentials: true})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(n.Retire)
	old, was := *w, w.books.channel
	w.become(n, "move", func() {
		if err := old.r.MoveTo(n); err != nil {
			panic(err)
		}
	})
	is, tried := w.books.channel, old.points
	w.books.channel = was
	stop := old.watch()
	w.mutation.look(&old)
	old.do("after a move", func() {}) // the old ring is as it was
	w.mutation.look(w)
	stop()
	w.books.channel = is
	for i := range tried {
		w.points[i] += old.points[i] - tried[i]
	}
}

// become goes over to a ring that is not published yet and that f fills.
func (w *world) become(n *Ring, what string, f func()) {
	ch := &w.books.channel
	was := *ch
	ch.geometry, ch.generation = n.geo, was.generation+1
	other := &world{t: w.t, from: w.from, books: w.books, problems: w.problems, mutation: w.mutation}
	w.mutation.look(other)
	defer w.mutation.look(w)
	other.over(n, len(w.twins)-1)
	stop := other.watch()
	other.do(what, func() {
		f()
		n.Publish()
	})
	stop()
	if !other.published() {
		w.wrong("the new ring is none")
	}
	for i, k := range other.points {
		w.points[i] += k
	}
	w.steps += other.steps
	w.over(n, len(other.twins)-1)
}

// play plays one scene, and returns what went wrong and how many kills were tried.
func play(t *testing.T, s scene, levels int, m *mutation) (w *world) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	if w = newWorld(t, s, levels, m); m != nil && !m.counting && len(w.problems) > 0 {
		return w
	}
	defer w.watch()()
	m.look(w)
	if !w.published() {
		w.problems["a ring that was made is none"]++
		return w
	}
	defer func() {
		switch p := recover().(type) {
		case nil:
		case caught:
		case ranAway:
			w.problems["it never came to an end"]++
		default:
			if m == nil || m.counting {
				panic(p)
			}
			w.problems[fmt.Sprintf("panic: %v", p)]++
		}
	}()
	w.do("begin", func() {})
	s.play(w)
	w.do("end", func() {})
	return w
}
