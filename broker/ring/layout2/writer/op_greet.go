// SPDX-License-Identifier: Apache-2.0

package writer

import (
	"syscall"

	"github.com/msgmux/msgmux/broker/ring/mem"
	"github.com/msgmux/msgmux/internal/sys"
)

// Greet is the operation GREET: it sends an attaching client its ok, as one packet, and attaches it with that. It does
// not block. Whoever finds the client attaching after a kill knows that it has not got its ok, and greets it.
//
// Preconditions: text has at most 64 bytes; what the client sent before its ok has been taken from fd.
func (r *Ring) Greet(s *Sink, fd int, text []byte) syscall.Errno {
	g, l := r.greet, &r.c.Log
	var b [64]byte
	n := copy(b[:], text)
	g.Buf.Store(b)
	g.Iov[0].Set(g.Buf.ForKernel()[:n])
	g.Hdr[0].Preset()
	l.Slot.Store(uint32(s.slot))
	l.By.Store(uint32(s.slot))
	r.log(opGreet, "greet.logged")
	_, errno := r.ops.Sendmmsg("greet", fd, mem.ForKernel(g.Hdr[:]))
	r.ops.Seam("greet.sent")
	r.applyGreet()
	r.done("greet.done")
	return errno
}

func (r *Ring) applyGreet() {
	if r.greet.Hdr[0].Len() != sys.Untouched {
		r.entries[r.c.Log.Slot.Load()].State.Store(active)
	}
}

func (r *Ring) redoGreet() error {
	r.applyGreet()
	return nil
}
