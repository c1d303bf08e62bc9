// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// POSIX message queues have no batch, and their calls leave no full record of what they did. So what is exact for
// sockets is not quite for them, across SIGKILL only: of a message that was being taken, the length is not known any
// more, and it is lost; one that was being given may be given again. Both are counted as uncertain.

// maxGive is how many messages a queue is given in one turn.
const maxGive = 64

// take is the operation TAKE: Receive for a message queue.
func (r *Ring) take(fd, limit int) (n int, errno unix.Errno) {
	r.preset()
	for i := range r.recv.Priority { // the one behind the batch too: recovery looks at it
		r.recv.Priority[i] = sys.Untouched
	}
	r.c.LandKind, r.c.Split = Datagrams, 0
	r.c.Log.Maybe = r.c.Uncertain.Load() + 1
	r.log(opTake, "take.logged")
	stride := r.geo.stride()
	for n < limit {
		buf := r.landing[n*stride:][:r.geo.room():r.geo.room()]
		k, e := r.ops.QueueReceive("take", fd, buf, &r.recv.Priority[n])
		if e != 0 {
			errno = e
			break
		}
		r.ops.Seam("take.taken")
		r.recv.Hdr[n].Hdr.Flags = 0
		r.recv.Hdr[n].Len = uint32(k)
		n++
	}
	if n > 0 {
		errno = 0
		r.dirty = n
		r.c.Next, r.c.Offset, r.c.Landed = 0, 0, uint32(n)
	}
	r.done("take.landed")
	return n, errno
}

// recoverTake lands the messages whose lengths were written down. If the kernel wrote a priority for the one behind
// them, that one was taken and is lost.
func (r *Ring) recoverTake() {
	n := 0
	for n < r.batch && r.recv.Hdr[n].Len != sys.Untouched {
		n++
	}
	if n < r.batch && r.recv.Priority[n] != sys.Untouched {
		r.c.Uncertain.Store(r.c.Log.Maybe)
	}
	r.c.Next, r.c.Offset, r.c.Landed = 0, 0, uint32(n)
}

// give is the operation PUT, once for each message: Send for a message queue.
func (r *Ring) give(s *Sink, fd int) (n int, errno unix.Errno) {
	for n < maxGive && r.Behind(s) {
		cur := s.cursor.e.Cursor.load()
		size := int(r.length(cur.Pos))
		payload := r.data[cur.Pos&r.mask+wire.RecordHeader:][:size:size]
		end := Place{cur.Pos + uint64(wire.Padded(size)), cur.Seq + 1}
		l := &r.c.Log
		l.Slot, l.By, l.Base = uint32(s.cursor.slot), uint32(s.slot), s.e.Accepted.Load()
		l.Place, l.Other, l.Maybe = end, cur, r.c.Uncertain.Load()+1
		r.log(opPut, "put.logged")
		errno = r.ops.QueueSend("put", fd, payload)
		if errno == 0 {
			r.ops.Seam("put.sent")
			r.accepted(s, end, l.Base+1)
			n++
		}
		r.done("put.done")
		if errno != 0 {
			break
		}
	}
	if n > 0 {
		errno = 0
	}
	return n, errno
}

// recoverPut makes the cursor whole: its sequence number is written behind its position, so that tells how far the dead
// broker came. Where the cursor had not moved, the message is given again, if it was given.
func (r *Ring) recoverPut() {
	l := &r.c.Log
	e := &r.entries[l.Slot]
	switch e.Cursor.Seq.Load() {
	case l.Other.Seq:
		e.Cursor.store(l.Other)
		r.c.Uncertain.Store(l.Maybe)
	case l.Place.Seq:
		e.Cursor.store(l.Place)
		if l.By != l.Slot {
			r.entries[l.By].Accepted.Store(l.Base + 1)
		}
		if e.Bits&bitTap == 0 {
			r.recoverDelivered(l.Place)
		}
	}
}
