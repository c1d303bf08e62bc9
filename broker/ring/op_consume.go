// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/broker/ring/mem"
	"github.com/msgmux/msgmux/internal/sys"
)

// Consume is the operation CONSUME: it takes the datagram at the head of the registration socket's queue, which has
// been read by peeking, and clears the count of attempts. It does not block; descriptors that came along go to Closer.
func (r *Ring) Consume(fd int) unix.Errno {
	c := r.consume
	h := &c.Hdr[0]
	h.Preset()
	h.SetControlLen(controlSpace)
	r.log(opConsume, "consume.logged")
	_, errno := r.ops.Recvmmsg("consume", fd, mem.ForKernel(c.Hdr[:]))
	r.ops.Seam("consume.taken")
	r.applyConsume()
	if l := h.ControlLen(); h.Len() != sys.Untouched && r.opt.Closer != nil && l <= controlSpace {
		if _, fds, _ := sys.ParseControl(c.Control.ForKernel()[:l]); len(fds) > 0 {
			r.opt.Closer(fds)
		}
	}
	r.done("consume.done")
	return errno
}

func (r *Ring) applyConsume() {
	if r.consume.Hdr[0].Len() != sys.Untouched {
		r.c.Attempts.Store(0)
	}
}

func (r *Ring) redoConsume() error {
	r.applyConsume()
	return nil
}

// Attempt counts a broker that begins with the registration at the head of the queue, and returns how many had begun before.
// The registrar calls it, before it looks at the registration; it may do so on its own goroutine.
func (r *Ring) Attempt() (before uint32) {
	before = r.c.Attempts.Load()
	r.c.Attempts.Store(before + 1)
	return before
}

// Attempted says whether a broker has begun with the registration at the head of the queue. The registrar calls it, as Attempt.
func (r *Ring) Attempted() bool { return r.c.Attempts.Load() > 0 }
