// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"syscall"

	"github.com/msgmux/msgmux/broker/ring/mem"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// ackLog is what ACK writes down; what was said the kernel writes beside it, and into each header how long it was.
type ackLog struct {
	Sink  mem.Value[uint32] // its slot
	Said  mem.Value[said]   // what it had said before
	Acked mem.Value[uint64]
	Last  mem.Value[uint64] // the number behind what it has under way
	Most  mem.Value[uint64] // the number behind what its cursor was sent
}

// Hear is the operation ACK: it takes from fd, the connection of s, what the sink has said, and writes it down. It does not
// block. n is how many packets it took; more says that there may be more. What the packets mean, Settle finds out.
//
// A connection whose sink closed it with something unread tells so first (ECONNRESET, once), before what the sink had said.
//
// An acknowledgement is absolute, so one that is heard twice does no harm. One that a dead broker had heard and not written down
// would: a sink that has acknowledged everything says it once. So the kernel records each, as in RECV.
func (r *Ring) Hear(s *Sink, fd int) (n int, more bool) {
	a, l := r.acks, fieldsOf[ackLog](r)
	for i := range a.Hdr[:r.heard] {
		a.Hdr[i].Preset()
		if r.opt.Descriptors {
			a.Hdr[i].SetControlLen(controlSpace)
		}
	}
	l.Sink.Store(uint32(s.slot))
	l.Said.Store(s.e.Said.Load())
	l.Acked.Store(s.e.Acked.Load())
	_, end := r.underWay(s)
	l.Last.Store(end.Seq)
	l.Most.Store(max(s.cursor.e.Sent.Seq.Load(), end.Seq))
	r.log(opAck, "ack.logged")
	n, errno := r.ops.Recvmmsg("ack", fd, mem.ForKernel(a.Hdr[:]))
	r.ops.Seam("ack.taken")
	r.heard = n
	r.applyAck(s.e, n)
	r.done("ack.done")
	if r.opt.Descriptors {
		for i := range n {
			r.close(&a.Hdr[i], &a.Control[i])
		}
	}
	more = n == maxAcks || errno == syscall.ECONNRESET
	for ; n > 0 && a.Hdr[n-1].Len() == 0; n-- { // the end of a connection: no end of packets of no bytes
		more = false
	}
	return n, more
}

// applyAck makes what was said before, and n packets since, what the sink has said. A packet of no bytes is the end of the
// connection, which epoll tells of.
//
// What is beyond what a member of a share has under way it has said of a range that it had before: the next one may be of lower
// numbers, which somebody else had left undone.
func (r *Ring) applyAck(e *sinkEntry, n int) {
	l := fieldsOf[ackLog](r)
	what, acked := l.Said.Load(), l.Acked.Load()
	for i := range n {
		size := min(r.acks.Hdr[i].Len(), 2*wire.AckSize)
		if size == 0 {
			continue
		}
		b := r.acks.Buf[i].Load()
		switch s, err := wire.ParseSaid(b[:size]); {
		case err != nil:
			what |= saidGarbage
		case s.Leaving:
			what |= saidLeave
		case s.Done > l.Most.Load():
			what |= saidGarbage
		case s.Done <= l.Last.Load():
			acked = max(acked, s.Done)
		}
	}
	e.Acked.Store(acked)
	e.Said.Store(what)
}

func (r *Ring) redoAck() error {
	n, err := touched(r.acks.Hdr[:])
	if err != nil {
		return err
	}
	e, err := entryAt(r.sinkTable, &fieldsOf[ackLog](r).Sink)
	if err == nil {
		r.applyAck(e, n)
	}
	return err
}

// close hands on the descriptors that came with a packet.
func (r *Ring) close(h *mem.Header, control *mem.Value[[controlSpace]byte]) {
	if l := h.ControlLen(); l > 0 && l <= controlSpace {
		if _, fds, _ := sys.ParseControl(control.ForKernel()[:l]); len(fds) > 0 {
			r.opt.Closer(fds)
		}
	}
}
