// SPDX-License-Identifier: Apache-2.0

package writer

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/broker/ring/mem"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// Receive is the operation RECV: it takes what fd's queue holds, at most limit datagrams (kind Datagrams) or one
// packet (kind Packets), into the landing zone; a packet, if the ring has room for it, to its place in the ring behind
// head, where nobody looks yet: see aim. It does not block. The errors are those of recvmmsg(2); EAGAIN means
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
	if kind == Packets {
		split := r.window()
		r.c.Land.Store(newLand(Packets, uint32(split)))
		r.recv.Hdr[0].Aim(r.aim(split))
	} else {
		r.c.Land.Store(newLand(kind, 0))
		r.recv.Hdr[0].Aim(r.recv.Iov[:1])
	}
	r.log(opRecv, "recv.logged")
	n, errno = r.ops.Recvmmsg("recv", fd, mem.ForKernel(r.recv.Hdr[:limit]))
	r.ops.Seam("recv.taken")
	if n > 0 {
		r.rejoin()
		r.dirty = n
		r.landed(n)
	}
	r.done("recv.landed")
	return n, errno
}

// landed says that n slots have been received.
func (r *Ring) landed(n int) {
	r.c.Next.Store(0)
	r.c.Offset.Store(0)
	r.c.Landed.Store(uint32(n))
}

func (r *Ring) redoRecv() error {
	n, err := touched(r.recv.Hdr[:r.batch])
	if err != nil {
		return err
	}
	r.landed(n)
	if n > 0 {
		r.rejoin()
	}
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

// aim sets where the next packet goes: its first split bytes into the window.
//
//	ring          ... records | packet ...............| free ...         the window, split bytes
//	                         head
//	landing zone  | room for split bytes | rest of the packet ...        only of one that is larger
//
// A packet is in the ring's own format, so one that is received there needs no copy. For one that is larger than its window
// the first part is copied down in front of the rest: a message of more than a sixteenth of the ring.
func (r *Ring) aim(split uint64) []mem.Iovec {
	v, room := r.recv.PacketIov[:], uint64(r.geo.room())
	v[1].Set(r.landing.Slice(split, room-split))
	if split == 0 {
		return v[1:]
	}
	v[0].Set(r.data.Slice(r.c.Head.Pos.Load()&r.mask, split))
	return v
}

// window is how many bytes behind head may be received into: as many as the largest packet has, but not more than a
// sixteenth of the ring for it; or 0. Room is made for it where that takes nothing from anybody.
func (r *Ring) window() uint64 {
	want := min(uint64(r.geo.room()), max(wire.MaxPacket, r.geo.Size/16))
	head, tail := r.c.Head.load(), r.c.Tail.load()
	if head.Pos-tail.Pos+want > r.geo.Size && (r.someoneLags() || !r.reclaim(want)) {
		return 0
	}
	return want
}

func (r *Ring) someoneLags() bool {
	return slices.ContainsFunc(r.cursors, func(s *Sink) bool { return s.lagging })
}

// rejoin makes a packet whole that was larger than its window.
func (r *Ring) rejoin() {
	if split := r.c.Land.Load().split(); split > 0 && uint64(r.recv.Hdr[0].Len()) > split {
		r.landing.Copy(0, r.data.Slice(r.c.Head.Pos.Load()&r.mask, split))
		r.c.Land.Store(newLand(Packets, 0))
	}
}

// preset makes the headers that the last receive used ready for the next one.
func (r *Ring) preset() {
	for i := range r.recv.Hdr[:r.dirty] {
		h := &r.recv.Hdr[i]
		h.Preset()
	}
	r.dirty = 0
}
