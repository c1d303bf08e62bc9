// SPDX-License-Identifier: Apache-2.0

package writer

import (
	"fmt"
	"sort"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/broker/ring/mem"
	"github.com/msgmux/msgmux/internal/wire"
)

// What a send hands over; opLog.Kind.
const (
	sendDatagrams = 1
	sendPacket    = 2
)

// Behind says whether s has something left to be sent.
func (r *Ring) Behind(s *Sink) bool {
	return s.cursor.e.Cursor.Seq.Load() != r.c.Head.Seq.Load()
}

// Send is the operation SEND: it offers fd, the socket of s, what is next for it, at most MaxSend datagrams or one
// packet of frames. It does not block. It returns how many messages were accepted; where it was none, errno says why
// (EAGAIN: its queue is full). Where some were accepted and not all that was offered, errno is EAGAIN as well: mostly the
// queue is full by then, and if it is something else, the next Send tells. EMSGSIZE means that the socket can never take
// the next message: see Skip.
//
// Preconditions: Behind(s).
func (r *Ring) Send(s *Sink, fd int) (n int, errno unix.Errno) {
	if s.queue.Load() {
		return r.give(s, fd)
	}
	cur := s.cursor.e.Cursor.load()
	var vec []mem.Header
	kind, first := uint32(sendDatagrams), 0
	if s.frames {
		kind = sendPacket
		vec = r.buildPacket(s, cur)
	} else {
		var count int
		first, count = r.buildDatagrams(cur, s.burst)
		vec = r.send.Hdr[first : first+count]
	}
	for i := range vec {
		vec[i].Preset()
	}
	l, base := &r.c.Log, s.e.Accepted.Load()
	l.Slot.Store(uint32(s.cursor.slot))
	l.By.Store(uint32(s.slot))
	l.Kind.Store(kind)
	l.First.Store(uint32(first))
	l.Count.Store(uint32(len(vec)))
	l.Base.Store(base)
	l.From.Store(cur.Seq)
	r.log(opSend, "send.logged")
	sent, errno := r.ops.Sendmmsg("send", fd, mem.ForKernel(vec))
	r.ops.Seam("send.sent")
	if sent > 0 {
		end := r.ends(kind, first)[sent-1].Load()
		n = int(end.Seq - cur.Seq)
		r.accepted(s, end, base+uint64(n))
		if sent < len(vec) {
			errno = unix.EAGAIN
		}
		s.learn(sent, sent == len(vec))
	}
	r.done("send.done")
	return n, errno
}

// minBurst is the least that a sink is offered at once, if there is so much.
const minBurst = 8

// learn sets how many datagrams s is offered at once: twice what it took when it did not take all, and twice as many
// again when it did. Each one offered has its record preset, so offering 256 to a queue of 10 would cost more than the
// send.
func (s *Sink) learn(took int, all bool) {
	if all {
		s.burst = min(2*s.burst, MaxSend)
	} else {
		s.burst = uint64(max(minBurst, min(2*took, MaxSend)))
	}
}

func (r *Ring) ends(kind uint32, first int) []mem.Value[Place] {
	if kind == sendPacket {
		return r.send.PacketEnd[:]
	}
	return r.send.Ends[first:]
}

// accepted moves the cursor that s uses to end, and delivered with it.
func (r *Ring) accepted(s *Sink, end Place, count uint64) {
	e := s.cursor.e
	e.Word.Add(1)
	e.Cursor.store(end)
	e.Word.Add(1)
	if s.cursor != s {
		s.e.Accepted.Store(count)
	}
	r.ops.Seam("send.cursor")
	if s.cursor.catching && end.Seq >= r.c.Delivered.Seq.Load() {
		r.setFlag(s.cursor, flagCatching, false)
	}
	if !s.tap {
		r.deliver(end)
	}
}

// deliver moves delivered to p if that is further, and writes down when.
func (r *Ring) deliver(p Place) {
	old := r.c.Delivered.load()
	if p.Seq <= old.Seq {
		return
	}
	now, mask := r.ms(), uint64(len(r.index)-1)
	for seq := old.Seq; seq < p.Seq; seq++ {
		r.index[seq&mask].At.Store(now)
	}
	r.change()
	r.c.Delivered.store(p)
	r.changed()
}

// redoSend sets the cursor from the last slot that the kernel touched.
func (r *Ring) redoSend() error {
	l := &r.c.Log
	first, count := l.First.Load(), l.Count.Load()
	vec := r.send.Hdr[:]
	if l.Kind.Load() == sendPacket {
		vec = r.send.Packet[:]
	}
	if count > uint32(len(vec)) || first > uint32(len(vec))-count {
		return fmt.Errorf("slots %d+%d", first, count)
	}
	n, err := touched(vec[first : first+count])
	if err != nil || n == 0 {
		return err
	}
	end := r.ends(l.Kind.Load(), int(first))[n-1].Load()
	r.redoAccepted(end, l.Base.Load()+end.Seq-l.From.Load())
	return nil
}

// redoAccepted is accepted for values that may be wrong: check finds out afterwards.
func (r *Ring) redoAccepted(end Place, count uint64) {
	l := &r.c.Log
	e := &r.entries[l.Slot.Load()]
	e.Cursor.store(end)
	if l.By.Load() != l.Slot.Load() {
		r.entries[l.By.Load()].Accepted.Store(count)
	}
	if id := e.Identity.Load(); id.Bits&bitTap != 0 {
		return
	}
	head, old := r.c.Head.load(), r.c.Delivered.load()
	if end.Seq > old.Seq && end.Seq <= head.Seq && end.Seq-old.Seq <= uint64(len(r.index)) {
		r.clock = time.Duration(r.c.Clock.Load())
		r.deliver(end)
	}
}

// buildDatagrams makes the send array hold the records from cur on, and returns where they are in it. What was built
// for one sink serves the next one that is at the same place or a little behind.
func (r *Ring) buildDatagrams(cur Place, burst uint64) (first, count int) {
	head, b := r.c.Head.load(), &r.built
	want := min(head.Seq-cur.Seq, burst)
	if cur.Seq < b.first || cur.Seq > b.first+b.count || cur.Seq-b.first+want > sendSlots {
		b.first, b.count = cur.Seq, 0
	}
	first = int(cur.Seq - b.first)
	for have := b.count - uint64(first); have < want; have++ {
		i := int(b.count)
		at := cur
		if i > 0 {
			at = r.send.Ends[i-1].Load()
		}
		n := r.length(at.Pos)
		r.send.Iov[i].Set(r.data.Slice(at.Pos&r.mask+wire.RecordHeader, uint64(n)))
		r.send.Ends[i].Store(Place{at.Pos + uint64(wire.Padded(int(n))), at.Seq + 1})
		b.count++
	}
	return first, int(want)
}

// buildPacket points the packet at as many records from cur on as a packet may hold: a piece of the ring as it is.
func (r *Ring) buildPacket(s *Sink, cur Place) []mem.Header {
	a, head := r.send, r.c.Head.load()
	end := Place{cur.Pos + uint64(wire.Padded(int(r.length(cur.Pos)))), cur.Seq + 1}
	if limit := cur.Pos + wire.MaxPacket - wire.SinkHeader; end.Pos < limit {
		end = r.last(end, head, limit)
	}
	a.PacketEnd[0].Store(end)
	a.PacketIov[1].Set(r.data.Slice(cur.Pos&r.mask, end.Pos-cur.Pos))
	var h [wire.SinkHeader]byte
	wire.PutSinkHeader(h[:], cur.Seq, s.cursor.e.Lost.Load())
	a.PacketHeader.Store(h)
	return a.Packet[:]
}

// place is where the record with number seq begins. Preconditions: from.Seq <= seq, seq is in the ring or its head.
func (r *Ring) place(from Place, seq uint64) Place {
	head := r.c.Head.load()
	if seq == head.Seq {
		return head
	}
	words := r.index[seq&uint64(len(r.index)-1)].Words.Load() - uint32(from.Pos/4)
	return Place{from.Pos + uint64(words)*4, seq}
}

// last is the furthest place between from and to that is not beyond position limit.
func (r *Ring) last(from, to Place, limit uint64) Place {
	if to.Pos <= limit {
		return to
	}
	n := sort.Search(int(to.Seq-from.Seq), func(i int) bool {
		return r.place(from, from.Seq+uint64(i)+1).Pos > limit
	})
	return r.place(from, from.Seq+uint64(n))
}
