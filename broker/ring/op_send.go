// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"fmt"
	"slices"
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
	From   mem.Value[Place]  // where what is sent begins
	Orphan mem.Value[uint32] // slot of the sink that had left it undone; noSlot: nobody had it
	_      uint32

	// Of a sink that wants the senders' credentials: which of the slots carry none, and control.AsOwn before.
	Unsigned mem.Value[slotSet]
	AsOwn    mem.Value[uint64]
}

// What a send hands over; sendLog.Kind.
const (
	sendDatagrams = 1
	sendPacket    = 2
)

// Behind says whether s has something left to be sent that its socket may take.
func (r *Ring) Behind(s *Sink) bool {
	c := s.cursor
	if c.ack {
		return r.behindAck(s)
	}
	at := c.e.Done.Seq.Load()
	return at != r.c.Head.Seq.Load() && s.cannot != at+1
}

// behindAck is Behind for a sink with acknowledgements. A member of a share gets nothing before it has done what it has.
func (r *Ring) behindAck(s *Sink) bool {
	c := s.cursor
	if s.view {
		return false // it reads by itself
	}
	at := c.e.Sent.Seq.Load()
	if c.sole == nil {
		if r.HasUnderWay(s) {
			return false
		}
		if o := r.orphan(c); o != nil {
			begin, _ := r.underWay(o)
			at = begin.Seq
		}
	}
	return at != r.c.Head.Seq.Load() && s.cannot != at+1
}

// orphan is the member of a share that has left undone what is oldest, nil if none has left anything.
func (r *Ring) orphan(c *Cursor) (first *Sink) {
	var at uint64
	c.orphans = slices.DeleteFunc(c.orphans, func(o *Sink) bool {
		begin, end := r.underWay(o)
		if begin.Seq == end.Seq {
			return true
		}
		if first == nil || begin.Seq < at {
			first, at = o, begin.Seq
		}
		return false
	})
	return first
}

// offered is what is next for s: it begins at begin and ends before limit. orphan is the member of a share that had left it undone,
// nil if nobody had it.
func (r *Ring) offered(s *Sink) (begin, limit Place, orphan *Sink) {
	c, head := s.cursor, r.c.Head.load()
	switch {
	case !c.ack:
		return c.e.Done.load(), head, nil
	case c.sole == nil:
		if o := r.orphan(c); o != nil {
			begin, limit = r.underWay(o)
			return begin, limit, o
		}
	}
	return c.e.Sent.load(), head, nil
}

// Send is the operation SEND: it offers fd, the socket of s, what is next for it, at most MaxSend datagrams or one
// packet of frames. It does not block. It returns how many messages were accepted; where it was none, errno says why
// (EAGAIN: its queue is full). Where some were accepted and not all that was offered, errno is EAGAIN as well: mostly the
// queue is full by then, and if it is something else, the next Send tells; but 0, if it may well be the credentials of the next
// one. EMSGSIZE means that the socket can never take the next message: see TooLarge.
//
// Preconditions: Behind(s).
func (r *Ring) Send(s *Sink, fd int) (n int, errno unix.Errno) {
	if s.queue.Load() {
		return r.give(s, fd)
	}
	cur, limit, orphan := r.offered(s)
	var vec []mem.Header
	var unsigned slotSet
	kind, first := uint32(sendDatagrams), 0
	if s.frames {
		kind = sendPacket
		vec = r.buildPacket(s, cur, limit)
	} else {
		var count int
		first, count = r.buildDatagrams(cur, s.burst)
		if s.form != (Form{}) {
			count = r.formed(s, cur, first, count)
		}
		if s.passes {
			unsigned = r.sign(s, cur.Seq, first, count)
		}
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
	l.From.Store(cur)
	left := uint32(noSlot)
	if orphan != nil {
		left = uint32(orphan.slot)
	}
	l.Orphan.Store(left)
	if s.passes {
		l.Unsigned.Store(unsigned)
		l.AsOwn.Store(r.c.AsOwn.Load())
	}
	r.log(opSend, "send.logged")
	sent, errno := r.ops.Sendmmsg("send", fd, mem.ForKernel(vec))
	r.ops.Seam("send.sent")
	if s.form.End != wire.EndAsIs {
		r.unformed(first, len(vec))
	}
	if s.passes {
		r.unsign(first, len(vec))
	}
	again := false
	if sent > 0 {
		end := r.ends(kind, first)[sent-1].Load()
		n, r.sentBytes = int(end.Seq-cur.Seq), end.Pos-cur.Pos
		if s.cursor.ack {
			_ = r.applyOffered(s.cursor.e, s.e, end) // the slots are its own
		} else {
			r.accepted(s, cur.Seq, end, base+uint64(n))
		}
		if s.passes {
			r.countUnsigned(sent)
		}
		if sent < len(vec) && (!s.passes || unsigned.has(sent)) {
			errno = unix.EAGAIN
		}
		s.learn(sent, sent == len(vec))
	} else if errno == unix.EMSGSIZE && s.frames {
		// Its buffer is smaller than a packet. A shorter one may do, if not a single record is too much.
		if end := r.send.PacketEnd[0].Load(); end.Seq > cur.Seq+1 {
			s.room, again = wire.SinkHeader+(end.Pos-cur.Pos)/2, true
		}
	}
	if s.passes && sent == 0 && !unsigned.has(0) && refusesCredentials(errno) {
		s.asOwn, again = r.endOfRun(cur.Seq), true
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
	c, err := entryAt(r.cursorTable, &l.Cursor)
	if err == nil && c.Identity.Load().Bits&bitAck != 0 {
		return r.redoOffered(c, end)
	}
	if err := r.redoAccepted(&l.Cursor, &l.Sink, from.Seq, end, l.Base.Load()+end.Seq-from.Seq); err != nil {
		return err
	}
	if s, err := entryAt(r.sinkTable, &l.Sink); err == nil && s.Identity.Load().Bits&bitCredentials != 0 {
		r.countUnsigned(n)
	}
	return nil
}

// applyOffered writes down that a sink with acknowledgements was sent what is before end.
func (r *Ring) applyOffered(c *cursorEntry, s *sinkEntry, end Place) error {
	l := fieldsOf[sendLog](r)
	c.Word.Add(1)
	if c.Identity.Load().Bits&bitShare != 0 {
		s.From.store(l.From.Load())
		s.To.store(end)
		s.Acked.Store(l.From.Load().Seq)
		r.ops.Seam("send.member")
		if l.Orphan.Load() != noSlot {
			o, err := entryAt(r.sinkTable, &l.Orphan)
			if err != nil {
				return err
			}
			o.From.store(end)
			end = c.Sent.load()
		}
	}
	c.Sent.store(end)
	c.Word.Add(1)
	r.ops.Seam("send.offered")
	return nil
}

func (r *Ring) redoOffered(c *cursorEntry, end Place) error {
	s, err := entryAt(r.sinkTable, &fieldsOf[sendLog](r).Sink)
	if err == nil {
		err = r.checkGoal(end)
	}
	if err == nil {
		err = r.applyOffered(c, s, end)
	}
	return err
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
	if err := r.checkGoal(end); err != nil {
		return err
	}
	r.clock = time.Duration(r.c.Clock.Load())
	r.applyAccepted(c, s, c.Identity.Load().Bits&bitTap != 0, from, end, count)
	return nil
}

// TooLarge says that the socket of s can never take the next message (EMSGSIZE). It is left out and counts as lost, if no
// other socket that reads from the same cursor may take it: skipped says so. If one may, s gets nothing until it has. Nor does a
// sink with acknowledgements before it has done what is before: what is left out in the middle could not be told.
//
// Preconditions: Behind(s).
func (r *Ring) TooLarge(s *Sink) (skipped bool) { return r.pass(s, 0) }

// pass has the next message pass by s, unless another sink may take it. leftOut is 1 if it was not wanted.
func (r *Ring) pass(s *Sink, leftOut uint64) (passed bool) {
	c := s.cursor
	cur, _, _ := r.offered(s)
	s.cannot = cur.Seq + 1
	for _, o := range c.members {
		if o.self && o.cannot != s.cannot {
			return false
		}
	}
	if cur != c.e.Done.load() {
		return false
	}
	r.skip(c, r.next(cur), leftOut)
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
		r.send.Ends[i].Store(Place{at.Pos + wire.Padded(uint64(n)), at.Seq + 1})
		b.count++
	}
	return first, int(want)
}

// buildPacket points the packet at as many records from cur on as a packet may hold, up to last: a piece of the ring as it is. In
// front of them are their origins, if the sink asked for those.
func (r *Ring) buildPacket(s *Sink, cur, last Place) []mem.Header {
	a, lost, header := r.send, s.cursor.e.Lost.Load(), wire.SinkHeader
	iov := a.PacketIov[:2]
	if s.meta {
		header, iov = wire.MetaHeader, a.PacketIov[:3]
	}
	end := r.packetEnd(cur, last, s.room-wire.SinkHeader)
	if n := uint64(s.Spec().Batch); n > 0 && end.Seq-cur.Seq > n {
		end = r.placeOf(cur.Seq+n, end)
	}
	var h [wire.MetaHeader]byte
	if s.meta {
		var origins []byte
		origins, end = r.origins(cur.Seq, end)
		wire.PutMetaHeader(h[:], cur.Seq, lost, len(origins)/wire.OriginSize)
		iov[1].Set(origins)
	} else {
		wire.PutSinkHeader(h[:], cur.Seq, lost)
	}
	a.PacketHeader.Store(h)
	a.PacketEnd[0].Store(end)
	iov[0].Set(a.PacketHeader.ForKernel()[:header])
	iov[len(iov)-1].Set(r.data.Slice(cur.Pos&r.mask, end.Pos-cur.Pos))
	a.Packet[0].Aim(iov)
	return a.Packet[:]
}

// cutEvery is how many bytes of the ring have one place in Ring.cuts.
const cutEvery = 8 << 10

// packetEnd is how far a packet goes that begins at cur, ends at last at the latest, and has room bytes for records; at least behind
// the first.
//
// To find the end among the records is to read what no cache has any more, and takes a part of the time in which the packet is copied.
// So where a packet was cut off is remembered, and the packets of other sinks, which may come by much later, end there too, if that
// is no eighth less than they could hold. From then on those sinks are in step. A place that was forgotten, or of another round, is
// not where it would have to be.
func (r *Ring) packetEnd(cur, last Place, room uint64) Place {
	if last.Pos-cur.Pos <= room {
		return last
	}
	if end := r.next(cur); end.Pos-cur.Pos >= room {
		return end
	}
	limit, slack := cur.Pos+room, min(room/8, cutEvery)
	for _, at := range [...]uint64{limit, limit - slack} {
		if p := *r.cut(at); p.Pos <= limit && p.Pos >= limit-slack {
			return p
		}
	}
	end := r.atMost(limit)
	*r.cut(end.Pos) = end
	return end
}

func (r *Ring) cut(pos uint64) *Place { return &r.cuts[pos/cutEvery%uint64(len(r.cuts))] }

// origins are those of the messages from seq to end as a packet has them, or to before where they get too many: that is the new end.
// They are valid until the next call.
func (r *Ring) origins(seq uint64, end Place) ([]byte, Place) {
	b := r.meta[:0]
	r.eachOrigin(seq, end.Seq, func(o origin, n int) bool {
		if len(b) == cap(b) {
			end = r.numbered(seq)
			return false
		}
		b = b[:len(b)+wire.OriginSize]
		wire.PutOrigin(b[len(b)-wire.OriginSize:], seq, o.entry())
		seq += uint64(n)
		return true
	})
	return b, end
}
