// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/broker/sys"
	"github.com/msgmux/msgmux/broker/wire"
)

// POSIX message queues have no batch, and their calls leave no full record of what they did. So what is exact for
// sockets is not quite for them, across SIGKILL only: of a message that was being taken, the length is not known any
// more, and it is lost; one that was being given may be given again. Both are counted as uncertain.

// maxGive is how many messages a queue is given in one turn.
const maxGive = 64

// take is the operation TAKE: Receive for a message queue.
func (r *Ring) take(fd, limit int) (n int, errno unix.Errno) {
	r.preset()
	for i := range r.recv.Priority[:limit] {
		r.recv.Priority[i] = sys.Untouched
	}
	r.c.LandKind = Datagrams
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
		r.c.Log.Maybe = r.c.Uncertain.Load() + 1
		r.log(opPut, "put.logged")
		errno = r.ops.QueueSend("put", fd, payload)
		if errno == 0 {
			r.ops.Seam("put.sent")
			r.accepted(s, Place{cur.Pos + uint64(wire.Padded(size)), cur.Seq + 1}, s.e.Accepted.Load()+1)
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
