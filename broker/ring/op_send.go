// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/broker/ring/mem"
	"github.com/msgmux/msgmux/internal/wire"
)

// sendLog is what SEND writes down. How much of it the kernel took, the lengths in the headers say; where the cursor stands
// then, the ends beside them.
type sendLog struct {
	Cursor mem.Value[uint32] // slots of the two tables
	Sink   mem.Value[uint32]
	First  mem.Value[uint32] // the first slot of the send array
	Count  mem.Value[uint32] // how many slots
	Kind   mem.Value[uint32] // datagrams or a packet
	_      uint32
	Base   mem.Value[uint64] // what the sink had accepted before
	From   mem.Value[uint64] // the sequence number that the cursor stood at
}

// What a send hands over; sendLog.Kind.
const (
	sendDatagrams = 1
	sendPacket    = 2
)

// Behind says whether s has something left to be sent that its socket may take.
func (r *Ring) Behind(s *Sink) bool {
	at := s.cursor.e.Done.Seq.Load()
	return at != r.c.Head.Seq.Load() && s.cannot != at+1
}

// Send is the operation SEND: it offers fd, the socket of s, what is next for it, at most MaxSend datagrams or one
// packet of frames. It does not block. It returns how many messages were accepted; where it was none, errno says why
// (EAGAIN: its queue is full). Where some were accepted and not all that was offered, errno is EAGAIN as well: mostly the
// queue is full by then, and if it is something else, the next Send tells. EMSGSIZE means that the socket can never take
// the next message: see TooLarge.
//
// Preconditions: Behind(s).
func (r *Ring) Send(s *Sink, fd int) (n int, errno unix.Errno) {
	if s.queue.Load() {
		return r.give(s, fd)
	}
	cur := s.cursor.e.Done.load()
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
	l, base := fieldsOf[sendLog](r), s.e.Accepted.Load()
	l.Cursor.Store(uint32(s.cursor.slot))
	l.Sink.Store(uint32(s.slot))
	l.Kind.Store(kind)
	l.First.Store(uint32(first))
	l.Count.Store(uint32(len(vec)))
	l.Base.Store(base)
	l.From.Store(cur.Seq)
	r.log(opSend, "send.logged")
	sent, errno := r.ops.Sendmmsg("send", fd, mem.ForKernel(vec))
	r.ops.Seam("send.sent")
	again := false
	if sent > 0 {
		end := r.ends(kind, first)[sent-1].Load()
		n = int(end.Seq - cur.Seq)
		r.accepted(s, cur.Seq, end, base+uint64(n))
		if sent < len(vec) {
			errno = unix.EAGAIN
		}
		s.learn(sent, sent == len(vec))
	} else if errno == unix.EMSGSIZE && s.frames {
		// Its buffer is smaller than a packet. A shorter one may do, if not a single record is too much.
		if end := r.send.PacketEnd[0].Load(); end.Seq > cur.Seq+1 {
			s.room, again = (end.Pos-cur.Pos)/2, true
		}
	}
	r.done("send.done")
	if again {
		return r.Send(s, fd)
	}
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

// accepted moves the cursor of s from from to end, and delivered with it. count is what s has accepted then.
func (r *Ring) accepted(s *Sink, from uint64, end Place, count uint64) {
	r.applyAccepted(s.cursor.e, s.e, s.cursor.tap, from, end, count)
	s.cursor.catching = s.cursor.e.Flags.Load()&flagCatching != 0
}

func (r *Ring) applyAccepted(c *cursorEntry, s *sinkEntry, tap bool, from uint64, end Place, count uint64) {
	c.Word.Add(1)
	c.Done.store(end)
	c.Word.Add(1)
	s.Accepted.Store(count)
	r.ops.Seam("send.cursor")
	if f := c.Flags.Load(); f&flagCatching != 0 && end.Seq >= r.c.Delivered.Seq.Load() {
		c.Flags.Store(f &^ flagCatching)
	}
	if !tap {
		r.deliver(from, end)
	}
}

// deliver moves delivered to end, if what lies between from and end was accepted and that is further, and writes down when.
//
// Delivered is where the first message is that nobody has accepted. So what was accepted beyond it, by a sink that had to
// leave that message out (see TooLarge), does not move it: somebody else may take the message yet.
func (r *Ring) deliver(from uint64, end Place) {
	old := r.c.Delivered.load()
	if end.Seq <= old.Seq || from > old.Seq {
		return
	}
	r.firstAccepted(old.Pos, end.Pos)
	r.change()
	r.c.Delivered.store(end)
	r.changed()
}

// redoSend sets the cursor from the last slot that the kernel touched.
func (r *Ring) redoSend() error {
	l := fieldsOf[sendLog](r)
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
	end, from := r.ends(l.Kind.Load(), int(first))[n-1].Load(), l.From.Load()
	return r.redoAccepted(&l.Cursor, &l.Sink, from, end, l.Base.Load()+end.Seq-from)
}

// redoAccepted is accepted for values that may be wrong: check finds out afterwards.
func (r *Ring) redoAccepted(cursor, sink *mem.Value[uint32], from uint64, end Place, count uint64) error {
	c, err := entryAt(r.cursorTable, cursor)
	if err != nil {
		return err
	}
	s, err := entryAt(r.sinkTable, sink)
	if err != nil {
		return err
	}
	if head, old := r.c.Head.load(), r.c.Delivered.load(); end.Seq > head.Seq || end.Pos > head.Pos || end.Pos > old.Pos+2*r.geo.Size {
		return fmt.Errorf("a cursor goes to %d/%d, and head is %d/%d", end.Pos, end.Seq, head.Pos, head.Seq)
	}
	r.clock = time.Duration(r.c.Clock.Load())
	r.applyAccepted(c, s, c.Identity.Load().Bits&bitTap != 0, from, end, count)
	c.Word.Store(0)
	return nil
}

// TooLarge says that the socket of s can never take the next message (EMSGSIZE). It is left out and counts as lost, if no
// other socket that reads from the same cursor may take it: skipped says so. If one may, s gets nothing until it has.
//
// Preconditions: Behind(s).
func (r *Ring) TooLarge(s *Sink) (skipped bool) {
	c := s.cursor
	cur := c.e.Done.load()
	s.cannot = cur.Seq + 1
	if c.sinks > 1 {
		for i := range r.sinks {
			if o := r.sinks[i].Load(); o != nil && o.cursor == c && o.self && o.cannot != s.cannot {
				return false
			}
		}
	}
	r.skip(c, r.next(cur))
	return true
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
	end := r.next(cur)
	if limit := cur.Pos + s.room - wire.SinkHeader; head.Pos <= limit {
		end = head
	} else if end.Pos < limit {
		end = r.atMost(limit)
	}
	a.PacketEnd[0].Store(end)
	a.PacketIov[1].Set(r.data.Slice(cur.Pos&r.mask, end.Pos-cur.Pos))
	var h [wire.SinkHeader]byte
	wire.PutSinkHeader(h[:], cur.Seq, s.cursor.e.Lost.Load())
	a.PacketHeader.Store(h)
	return a.Packet[:]
}
