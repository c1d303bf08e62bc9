// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/broker/ring/mem"
	"github.com/msgmux/msgmux/internal/sys"
)

// recvLog is what RECV writes down; the rest the kernel does, by the length that it writes into each header.
type recvLog struct {
	Land   mem.Value[land]
	From   mem.Value[uint64]
	Sender mem.Value[Sender]
}

// From is where messages come from.
type From struct {
	Client uint64 // the id of the client that the socket belongs to; 0: of none
	Sender Sender // of a connection, the other end; of the channel's own sockets only Source is looked at
}

// Receive is the operation RECV: it takes what fd's queue holds, at most limit datagrams (kind Datagrams) or one
// packet (kinds Packets and Marked), into the landing zone; a packet, if the ring has room for it, to its place in the ring behind
// head, where nobody looks yet: see aim. It does not block. The
// errors are those of recvmmsg(2); EAGAIN means that there was nothing. Any other error of a datagram socket comes once and
// means: try again (the kernel keeps an error that it hid behind a partial result for the next call, in a successor too).
//
// For a connection, n = 1 with Empty() is its end: recvmmsg fills every remaining header with zeros there, which is
// why a packet is received alone.
//
// Preconditions: nothing is landed.
func (r *Ring) Receive(fd int, kind uint32, from From, limit int) (n int, errno unix.Errno) {
	if IsPacket(kind) {
		limit = 1
	}
	limit = min(limit, r.batch)
	who := r.asked(kind, from.Sender)
	if kind == Queues {
		return r.take(fd, limit, who)
	}
	r.preset()
	l := fieldsOf[recvLog](r)
	if IsPacket(kind) {
		window := r.window()
		r.recv.Hdr[0].Aim(r.aim(kind, window))
		l.Land.Store(newLand(kind, uint32(window)))
	} else {
		r.recv.Hdr[0].Aim(r.recv.Iov[:1])
		l.Land.Store(newLand(kind, 0))
	}
	l.From.Store(from.Client)
	l.Sender.Store(who)
	r.log(opRecv, "recv.logged")
	n, errno = r.ops.Recvmmsg("recv", fd, mem.ForKernel(r.recv.Hdr[:limit]))
	r.ops.Seam("recv.taken")
	r.dirty = n
	r.landed(n, l.Land.Load(), from.Client, who)
	r.done("recv.landed")
	if r.opt.Descriptors && n > 0 {
		r.discard(n)
	}
	return n, errno
}

// landed says that n slots have been received: now, which the clock is asked for only if somebody wants to know.
func (r *Ring) landed(n int, what land, from uint64, who Sender) {
	if n == 0 {
		return
	}
	r.landedAt(who)
	r.waits(n, what, from, 0)
}

// waits says what lies in the landing zone: n slots, of the first of which offset bytes have entered.
func (r *Ring) waits(n int, what land, from, offset uint64) {
	r.c.Land.Store(what)
	r.c.From.Store(from)
	r.c.Offset.Store(offset)
	r.c.Slots.Store(newSlots(0, uint32(n)))
}

func (r *Ring) redoRecv() error {
	n, err := touched(r.recv.Hdr[:r.batch])
	if err != nil {
		return err
	}
	l := fieldsOf[recvLog](r)
	r.landed(n, l.Land.Load(), l.From.Load(), l.Sender.Load())
	return nil
}

// touched counts the leading headers that the kernel has written to. One behind an untouched one cannot be: the kernel
// goes through them in order, in one system call.
func touched(vec []mem.Header) (int, error) {
	n := 0
	for n < len(vec) && vec[n].Len() != sys.Untouched {
		n++
	}
	for i := n; i < len(vec); i++ {
		if vec[i].Len() != sys.Untouched {
			return 0, fmt.Errorf("commit record %d after an untouched one", i)
		}
	}
	return n, nil
}

// aim sets where the next packet goes: as much of it as the window takes there, and what is more into the landing zone.
//
//	ring          ... records | packet ...............| free ...         the window
//	                         head
//	landing zone  |           |                       | rest of the packet ...        of one that is larger
//
// A packet is in the ring's own format, so what is received there needs no copy.
func (r *Ring) aim(kind uint32, window uint64) []mem.Iovec {
	v, room := r.recv.PacketIov[:0], uint64(r.geo.room())
	to := func(b []byte) {
		v = v[:len(v)+1]
		v[len(v)-1].Set(b)
	}
	if kind == Marked {
		to(r.recv.Mark.ForKernel()[:])
	}
	if window > 0 {
		to(r.data.Slice(r.c.Head.Pos.Load()&r.mask, window))
	}
	to(r.landing.Slice(window, room-window))
	return v
}

// window is how many bytes behind head may be received into: as many as the largest packet has, but not more than a
// sixteenth of the ring for a packet of one large message; or 0. Room is made for it where that takes nothing from anybody.
func (r *Ring) window() uint64 {
	want := r.geo.window()
	head, tail := r.c.Head.load(), r.c.Tail.load()
	if head.Pos-tail.Pos+want > r.geo.Size && (r.someoneLags() || !r.reclaim(want)) {
		return 0
	}
	r.present(head.Pos, want)
	return want
}

func (r *Ring) someoneLags() bool {
	return slices.ContainsFunc(r.cursors, func(c *Cursor) bool { return c.lagging })
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
	b := r.data.Slice(at*chunk, chunk+n)
	if r.opt.Lock {
		_ = sys.Lock(b) // that this user may not is known from the state
	}
	sys.Populate(b)
	r.presence[at] = true
}

// preset makes the headers that the last receive used ready for the next one.
func (r *Ring) preset() {
	control := uint64(0)
	if r.opt.Descriptors || r.AsksForOrigins() {
		control = controlSpace
	}
	for i := range r.recv.Hdr[:r.dirty] {
		h := &r.recv.Hdr[i]
		h.Preset()
		h.SetControlLen(control)
	}
	r.dirty = 0
}

// discard hands on the descriptors that came with the last n datagrams.
func (r *Ring) discard(n int) {
	for i := range n {
		r.close(&r.recv.Hdr[i], &r.recv.Control[i])
	}
}
