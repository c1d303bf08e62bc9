// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/broker/ring/mem"
	"github.com/msgmux/msgmux/internal/sys"
)

// POSIX message queues have no batch, and their calls leave no full record of what they did. So what is exact for
// sockets is not quite for them, across SIGKILL only: of a message that was being taken, the length is not known any
// more, and it is lost; one that was being given (see give) may be given again. Both are counted as uncertain.

// takeLog is what TAKE writes down.
type takeLog struct {
	Maybe  mem.Value[uint64] // what Uncertain will be if the outcome is not known
	Sender mem.Value[Sender]
}

// take is the operation TAKE: Receive for a message queue.
func (r *Ring) take(fd, limit int, who Sender) (n int, errno unix.Errno) {
	r.preset()
	for i := range r.recv.Priority { // the one behind the batch too: recovery looks at it
		r.recv.Priority[i].Store(sys.Untouched)
	}
	l := fieldsOf[takeLog](r)
	l.Maybe.Store(r.c.Uncertain.Load() + 1)
	l.Sender.Store(who)
	r.log(opTake, "take.logged")
	stride, room := uint64(r.geo.stride()), uint64(r.geo.room())
	for n < limit {
		buf := r.landing.Slice(uint64(n)*stride, room)
		k, e := r.ops.QueueReceive("take", fd, buf, r.recv.Priority[n].ForKernel())
		if e != 0 {
			errno = e
			break
		}
		r.ops.Seam("take.taken")
		h := &r.recv.Hdr[n]
		h.SetFlags(0)
		h.SetLen(uint32(k))
		n++
	}
	if n > 0 {
		errno = 0
		r.dirty = n
	}
	r.landed(n, newLand(Datagrams, 0), 0, who)
	r.done("take.landed")
	return n, errno
}

// redoTake lands the messages whose lengths were written down. If the kernel wrote a priority for the one behind
// them, that one was taken and is lost.
func (r *Ring) redoTake() error {
	n := 0
	for n < r.batch && r.recv.Hdr[n].Len() != sys.Untouched {
		n++
	}
	l := fieldsOf[takeLog](r)
	if n < r.batch && r.recv.Priority[n].Load() != sys.Untouched {
		r.c.Uncertain.Store(l.Maybe.Load())
	}
	r.landed(n, newLand(Datagrams, 0), 0, l.Sender.Load())
	return nil
}
