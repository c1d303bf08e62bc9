// SPDX-License-Identifier: Apache-2.0

package writer

import (
	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/wire"
)

// maxGive is how many messages a queue is given in one turn.
const maxGive = 64

// give is the operation PUT, once for each message: Send for a message queue. See take for what a kill may do.
func (r *Ring) give(s *Sink, fd int) (n int, errno unix.Errno) {
	for n < maxGive && r.Behind(s) {
		cur, base := s.cursor.e.Cursor.load(), s.e.Accepted.Load()
		size := r.length(cur.Pos)
		payload := r.data.Slice(cur.Pos&r.mask+wire.RecordHeader, uint64(size))
		end := Place{cur.Pos + uint64(wire.Padded(int(size))), cur.Seq + 1}
		l := &r.c.Log
		l.Slot.Store(uint32(s.cursor.slot))
		l.By.Store(uint32(s.slot))
		l.Base.Store(base)
		l.Place.Store(end)
		l.Other.Store(cur)
		l.Maybe.Store(r.c.Uncertain.Load() + 1)
		r.log(opPut, "put.logged")
		errno = r.ops.QueueSend("put", fd, payload)
		if errno == 0 {
			r.ops.Seam("put.sent")
			r.accepted(s, end, base+1)
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

// redoPut makes the cursor whole: its sequence number is written behind its position, so that tells how far the dead
// broker came. Where the cursor had not moved, the message is given again, if it was given.
func (r *Ring) redoPut() error {
	l := &r.c.Log
	e := &r.entries[l.Slot.Load()]
	from, end := l.Other.Load(), l.Place.Load()
	switch e.Cursor.Seq.Load() {
	case from.Seq:
		e.Cursor.store(from)
		r.c.Uncertain.Store(l.Maybe.Load())
	case end.Seq:
		r.redoAccepted(end, l.Base.Load()+1)
	}
	return nil
}
