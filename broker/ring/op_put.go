// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/broker/ring/mem"
)

// putLog is what PUT writes down.
type putLog struct {
	Cursor mem.Value[uint32] // slots of the two tables
	Sink   mem.Value[uint32]
	Base   mem.Value[uint64] // what the sink had accepted before
	From   mem.Value[Place]  // where the cursor stood
	End    mem.Value[Place]  // where it goes
	Maybe  mem.Value[uint64] // what Uncertain will be if the outcome is not known
}

// maxGive is how many messages a queue is given in one turn.
const maxGive = 64

// give is the operation PUT, once for each message: Send for a message queue. See take for what a kill may do.
func (r *Ring) give(s *Sink, fd int) (n int, errno unix.Errno) {
	r.sentBytes = 0
	limit := min(maxGive, int(s.burst))
	for n < limit && r.Behind(s) {
		cur, base := s.cursor.e.Done.load(), s.e.Accepted.Load()
		end := r.next(cur)
		payload, newline := s.form.of(r.payload(cur))
		if n > 0 && r.LeavesOut(s) {
			break // the caller asks before it sends
		}
		if newline {
			r.put = append(append(r.put[:0], payload...), '\n')
			payload = r.put
		}
		l := fieldsOf[putLog](r)
		l.Cursor.Store(uint32(s.cursor.slot))
		l.Sink.Store(uint32(s.slot))
		l.Base.Store(base)
		l.From.Store(cur)
		l.End.Store(end)
		l.Maybe.Store(r.c.Uncertain.Load() + 1)
		r.log(opPut, "put.logged")
		errno = r.ops.QueueSend("put", fd, payload)
		if errno == 0 {
			r.ops.Seam("put.sent")
			r.accepted(s, cur.Seq, end, base+1)
			n++
			r.sentBytes += end.Pos - cur.Pos
		}
		r.done("put.done")
		if errno != 0 {
			break
		}
	}
	if n > 0 {
		s.learn(n, n == limit)
		errno = 0
	}
	return n, errno
}

// redoPut makes the cursor whole: its sequence number is written behind its position, so that tells how far the dead
// broker came. Where the cursor had not moved, the message is given again, if it was given.
func (r *Ring) redoPut() error {
	l := fieldsOf[putLog](r)
	c, err := entryAt(r.cursorTable, &l.Cursor)
	if err != nil {
		return err
	}
	from, end := l.From.Load(), l.End.Load()
	switch c.Done.Seq.Load() {
	case from.Seq:
		c.Done.Pos.Store(from.Pos)
		r.c.Uncertain.Store(l.Maybe.Load())
	case end.Seq:
		return r.redoAccepted(&l.Cursor, &l.Sink, from.Seq, end, l.Base.Load()+1)
	}
	return nil
}
