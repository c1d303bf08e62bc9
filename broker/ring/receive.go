// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// Landed says whether something waits in the landing zone. While it does, nothing may be received.
func (r *Ring) Landed() bool { return r.c.Next < r.c.Landed }

// Full says whether the next landed record did not fit when Append was last called: the ring is full, and a source
// waits.
func (r *Ring) Full() bool { return r.full }

// Receive is the operation RECV: it takes what fd's queue holds, at most limit datagrams (kind Datagrams) or one
// packet (kind Packets), into the landing zone; a packet, if the ring has room for it, to its place in the ring behind
// head, where nobody looks yet: see aim. It does not wait. The errors are those of recvmmsg(2); EAGAIN means
// that there was nothing. Any other error of a datagram socket comes once and means: try again (the kernel keeps an
// error that it hid behind a partial result for the next call, in a successor too).
//
// For a connection, n = 1 with Empty() is its end: recvmmsg fills every remaining header with zeros there, which is
// why a packet is received alone.
//
// Preconditions: nothing is landed.
func (r *Ring) Receive(fd int, kind uint32, limit int) (n int, errno unix.Errno) {
	if kind == Packets {
		limit = 1
	}
	limit = min(limit, r.batch)
	if kind == Queues {
		return r.take(fd, limit)
	}
	r.preset()
	r.c.LandKind, r.c.Split = kind, 0
	h := &r.recv.Hdr[0].Hdr
	h.Iov, h.Iovlen = &r.recv.Iov[0], 1
	if kind == Packets {
		h.Iov, h.Iovlen = r.aim()
	}
	r.log(opRecv, "recv.logged")
	n, errno = r.ops.Recvmmsg("recv", fd, r.recv.Hdr[:limit])
	r.ops.Seam("recv.taken")
	if n > 0 {
		r.rejoin()
		r.dirty = n
		r.c.Next, r.c.Offset, r.c.Landed = 0, 0, uint32(n)
	}
	r.done("recv.landed")
	if r.opt.Descriptors && n > 0 {
		r.discard(n)
	}
	return n, errno
}

// aim sets where the next packet goes.
//
//	ring          ... records | packet ...............| free ...         the window, Split bytes
//	                         head
//	landing zone  | room for Split bytes | rest of the packet ...        only of one that is larger
//
// A packet is in the ring's own format, so one that is received there needs no copy. For one that is larger than its window
// the first part is copied down in front of the rest: a message of more than a sixteenth of the ring.
func (r *Ring) aim() (*unix.Iovec, uint64) {
	v, split, room := &r.recv.PacketIov, r.window(), uint64(r.geo.room())
	r.c.Split = uint32(split)
	v[0].Base, v[0].Len = &r.data[r.c.Head.Pos.Load()&r.mask], split
	v[1].Base, v[1].Len = &r.landing[split], room-split
	if split == 0 {
		return &v[1], 1
	}
	return &v[0], 2
}

// window is how many bytes behind head may be received into: as many as the largest packet has, but not more than a
// sixteenth of the ring for it; or 0. Room is made for it where that takes nothing from anybody. A ring of the layout before
// has no windows: the program of that layout, which may come back to it, knows of none.
func (r *Ring) window() uint64 {
	if r.Outdated() {
		return 0
	}
	want := min(uint64(r.geo.room()), max(wire.MaxPacket, r.geo.Size/16))
	head, tail := r.c.Head.load(), r.c.Tail.load()
	if head.Pos-tail.Pos+want > r.geo.Size && (r.someoneLags() || !r.reclaim(want)) {
		return 0
	}
	r.present(head.Pos, want)
	return want
}

func (r *Ring) someoneLags() bool {
	return slices.ContainsFunc(r.cursors, func(s *Sink) bool { return s.lagging })
}

// chunk is the piece in which the ring is made present.
const chunk = 256 << 10

// present sees that all n bytes from pos on are in memory and stay there, for the kernel writes to them after its point of
// no return, where a missing page would lose the packet. A large ring is not made present before it is used: that takes a
// while, and not every ring is ever full.
func (r *Ring) present(pos, n uint64) {
	at := pos & r.mask / chunk
	if r.presence[at] {
		return
	}
	b := r.data[at*chunk:][:chunk+n]
	if r.opt.Lock {
		_ = sys.Lock(b) // that this user may not is known from the state
	}
	sys.Populate(b)
	r.presence[at] = true
}

// rejoin makes a packet whole that was larger than its window.
func (r *Ring) rejoin() {
	if split := r.c.Split; split > 0 && r.recv.Hdr[0].Len > split {
		copy(r.landing[:split], r.data[r.c.Head.Pos.Load()&r.mask:])
		r.c.Split = 0
	}
}

// preset makes the headers that the last receive used ready for the next one.
func (r *Ring) preset() {
	for i := range r.recv.Hdr[:r.dirty] {
		h := &r.recv.Hdr[i]
		h.Len = sys.Untouched
		if r.opt.Descriptors {
			h.Hdr.Controllen = controlSpace
		}
	}
	r.dirty = 0
}

// discard hands on the descriptors that came with the last n datagrams.
func (r *Ring) discard(n int) {
	for i := range n {
		if l := r.recv.Hdr[i].Hdr.Controllen; l > 0 && l <= controlSpace {
			if _, fds, _ := sys.ParseControl(r.recv.Control[i][:l]); len(fds) > 0 {
				r.opt.Closer(fds)
			}
		}
	}
}

// Empty says that what was received last is a single packet of no bytes, and takes it out of the landing zone: the
// end of a connection. It is never a message, because packets hold records.
func (r *Ring) Empty() bool {
	if r.c.LandKind != Packets || r.c.Landed != 1 || r.recv.Hdr[0].Len != 0 {
		return false
	}
	r.c.Next = 1
	return true
}

// Outcome is what one call of Append did.
type Outcome struct {
	Entered int  // records that entered the ring
	Refused int  // messages refused, all reasons together
	Full    bool // what is landed does not fit: the ring is full, and a source waits

	// Bad says what was wrong with a packet that was refused: its source is to be told, and closed.
	Bad *wire.Error
}

func (o *Outcome) refuse(why *wire.Error) {
	o.Refused++
	o.Bad = why
}

// Append is the operation APPEND: landed messages enter the ring, as many as fit, in their order. Room is made if it
// can be (see reclaim). What does not fit stays landed, and Full tells so.
func (r *Ring) Append() (out Outcome) {
	r.full = false
	for r.Landed() && !r.full {
		r.append(&out)
	}
	out.Full = r.full
	r.waiting.Store(r.c.Landed - r.c.Next)
	return out
}

func (r *Ring) append(out *Outcome) {
	c, l := r.c, &r.c.Log
	start, tail := c.Head.load(), c.Tail.load()
	head, next, offset := start, c.Next, c.Offset
	for i := range l.Refused {
		l.Refused[i] = c.Refused[i].Load()
	}
	for next < c.Landed {
		payload := r.slot(next)
		switch {
		case payload == nil:
			l.Refused[TooLarge]++
			out.refuse(wire.Refuse(wire.CodeTooLarge, "a message has at most %d bytes", r.geo.MaxMessage))
		case c.LandKind == Packets && len(payload) == 0:
			// The end of a connection, which a predecessor received and did not live to see.
		case c.LandKind == Packets:
			if offset == 0 {
				if _, err := wire.CheckRecords(payload, int(r.geo.MaxMessage)); err != nil {
					reason, why := BadPacket, asRefusal(err)
					if why.Code == wire.CodeTooLarge {
						reason = TooLarge
					}
					l.Refused[reason]++
					out.refuse(why)
					break
				}
			}
			var fits bool
			if head, offset, fits = r.put(head, tail, payload, offset); !fits {
				r.full = true
			}
		default:
			if !r.fits(head, tail, len(payload)) {
				r.full = true
				break
			}
			r.setLength(head.Pos, uint32(len(payload)))
			copy(r.data[head.Pos&r.mask+wire.RecordHeader:], payload)
			head = r.enter(head, len(payload))
		}
		if r.full {
			break
		}
		next, offset = next+1, 0
	}
	if next == c.Next && offset == c.Offset {
		// Not even one record fits: make room, and let Append call again. If there is none to make, it is full.
		if need := wire.Padded(r.nextLength()); r.reclaim(uint64(need)) {
			r.full = false
		}
		return
	}
	r.full = false // try again behind what did fit: reclaim may find room
	out.Entered += int(head.Seq - start.Seq)
	l.Place, l.Next, l.Offset = head, next, offset
	// The bytes and the index are in place already, where nobody looks yet: recovery has only to set the words.
	r.log(opAppend, "append.logged")
	r.applyAppend()
	r.done("append.done")
}

func (r *Ring) applyAppend() {
	c, l := r.c, &r.c.Log
	r.change()
	c.Head.store(l.Place)
	r.ops.Seam("append.head")
	for i := range l.Refused {
		c.Refused[i].Store(l.Refused[i])
	}
	c.Next, c.Offset = l.Next, l.Offset
	r.changed()
}

// slot is what landed in slot i, or nil if it is larger than may be.
func (r *Ring) slot(i uint32) []byte {
	h, room := &r.recv.Hdr[i], r.geo.MaxMessage
	if r.c.LandKind == Packets {
		room = uint64(r.geo.room())
	}
	if h.Hdr.Flags&unix.MSG_TRUNC != 0 || uint64(h.Len) > room {
		return nil
	}
	if r.c.Split > 0 {
		return r.data[(r.c.Head.Pos.Load()-r.c.Offset)&r.mask:][:h.Len:h.Len]
	}
	return r.landing[int(i)*r.geo.stride():][:h.Len:h.Len]
}

// fits says whether a record with n bytes of payload has room at head, in bytes and in index entries.
func (r *Ring) fits(head, tail Place, n int) bool {
	return head.Pos-tail.Pos+uint64(wire.Padded(n)) <= r.geo.Size && head.Seq-tail.Seq < uint64(len(r.index))
}

// enter writes the index entry of the record at head and returns the place behind it.
func (r *Ring) enter(head Place, n int) Place {
	r.index[head.Seq&uint64(len(r.index)-1)].Words = uint32(head.Pos / 4)
	return Place{head.Pos + uint64(wire.Padded(n)), head.Seq + 1}
}

// put takes over records of a packet from offset on, as many as fit, and returns where it came to. A packet is in the
// ring's own format, so the bytes go over as they are, or have been received where they belong.
func (r *Ring) put(head, tail Place, packet []byte, offset uint64) (Place, uint64, bool) {
	from, at := offset, head.Pos
	for offset < uint64(len(packet)) {
		n := int(getLength(packet[offset:]))
		if !r.fits(head, tail, n) {
			break
		}
		head = r.enter(head, n)
		offset += uint64(wire.Padded(n))
	}
	if r.c.Split == 0 {
		copy(r.data[at&r.mask:], packet[from:min(offset, uint64(len(packet)))])
	}
	return head, offset, offset >= uint64(len(packet))
}

// nextLength is the payload length of the next landed record. Preconditions: one is landed and was not refused.
func (r *Ring) nextLength() int {
	if r.c.LandKind == Packets {
		return int(getLength(r.slot(r.c.Next)[r.c.Offset:]))
	}
	return int(r.recv.Hdr[r.c.Next].Len)
}

func getLength(b []byte) uint32 {
	return uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
}

func asRefusal(err error) *wire.Error {
	if e := (*wire.Error)(nil); errors.As(err, &e) {
		return e
	}
	return wire.Refuse(wire.CodeBadPacket, "%v", err)
}
