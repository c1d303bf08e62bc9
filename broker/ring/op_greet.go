// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/broker/ring/mem"
	"github.com/msgmux/msgmux/internal/sys"
)

// maxGreeting is the longest ok, in bytes: with a label of 64 it has 170.
const maxGreeting = 256

// greetLog is what GREET writes down. Whether the ok was sent, the length in its header says.
type greetLog struct {
	Sink   mem.Value[uint32] // slots of the two tables; Sink noSlot: of a source, and otherwise Client says nothing
	Client mem.Value[uint32]
}

// Greet is the operation GREET: it sends an attaching sink its ok, as one packet, and attaches it with that. It does
// not block. Whoever finds it attaching after a kill knows that it has not got its ok, and greets it.
//
// Preconditions: text has at most maxGreeting bytes; what the client sent before its ok has been taken from fd.
func (r *Ring) Greet(s *Sink, fd int, text []byte) unix.Errno {
	fieldsOf[greetLog](r).Sink.Store(uint32(s.slot))
	return r.greetEntry(fd, text)
}

// GreetClient is Greet for a connected source.
func (r *Ring) GreetClient(c *Client, fd int, text []byte) unix.Errno {
	l := fieldsOf[greetLog](r)
	l.Sink.Store(noSlot)
	l.Client.Store(uint32(c.slot))
	return r.greetEntry(fd, text)
}

func (r *Ring) greetEntry(fd int, text []byte) unix.Errno {
	g := r.greet
	var b [maxGreeting]byte
	n := copy(b[:], text)
	g.Buf.Store(b)
	g.Iov[0].Set(g.Buf.ForKernel()[:n])
	g.Hdr[0].Preset()
	r.log(opGreet, "greet.logged")
	_, errno := r.ops.Sendmmsg("greet", fd, mem.ForKernel(g.Hdr[:]))
	r.ops.Seam("greet.sent")
	_ = r.redoGreet() // the slots are its own
	r.done("greet.done")
	return errno
}

func (r *Ring) redoGreet() error {
	l := fieldsOf[greetLog](r)
	if r.greet.Hdr[0].Len() == sys.Untouched {
		return nil
	}
	if l.Sink.Load() != noSlot {
		e, err := entryAt(r.sinkTable, &l.Sink)
		if err == nil {
			e.State.Store(active)
		}
		return err
	}
	e, err := entryAt(r.clientTable, &l.Client)
	if err == nil {
		e.State.Store(active)
	}
	return err
}
