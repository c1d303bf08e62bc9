// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"sort"
	"time"

	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// Who sent the messages, and when they were received, lies beside the ring, in runs: what one sender has sent and one receive
// has taken, one after the other, has one entry.
//
//	messages   | 17 18 19 20 | 21 | 22 23 ......... 31 | 32 ...            head
//	runs         17: a         21: b  22: not known      32: a, later
//
// Runs are numbered, and the last so many are in their slots; what is older than those is not known any more. APPEND writes new
// ones where nobody looks yet, into slots of the oldest, and their number with head.

// Sender is who sent messages, as far as the kernel tells. The zero Sender is nobody who is known.
type Sender struct {
	PID      int32  // in the broker's pid namespace; 0: it has none there
	UID, GID uint32 // likewise
	Source   uint16 // which of the channel's own sockets and queues, from 1 on; 0: a connection
	Bits     uint16
}

// Bits of Sender.Bits.
const (
	// SenderKnown says that PID, UID and GID are the sender's.
	SenderKnown = 1 << iota
	// senderAsked says, of what is landed, that somebody wants to know.
	senderAsked
	// senderEach says, of what is landed, that each datagram's sender is in its control data.
	senderEach
)

// origin is a sender with the time of receipt, unix ns. The zero origin is not known.
type origin struct {
	Time int64
	Sender
}

// AsksForOrigins says whether some sink asks for origins. Then a source's socket should have SO_PASSCRED (unix(7)), which costs its
// senders something.
func (r *Ring) AsksForOrigins() bool { return r.askers > 0 }

// askFor counts a sink that comes or goes, if it asks for origins.
func (r *Ring) askFor(spec *Spec, by int) {
	if !spec.asks() {
		return
	}
	before := r.AsksForOrigins()
	if r.askers += by; before != r.AsksForOrigins() {
		r.dirty = len(r.recv.Hdr) // the room for control data is another one
	}
}

// asked is the sender as RECV writes it down.
func (r *Ring) asked(kind uint32, who Sender) Sender {
	switch {
	case !r.AsksForOrigins():
		return Sender{}
	case IsPacket(kind):
		who.Bits |= senderAsked
		return who
	case kind == Datagrams:
		return Sender{Source: who.Source, Bits: senderAsked | senderEach}
	default:
		return Sender{Source: who.Source, Bits: senderAsked}
	}
}

// landedAt notes of whom what is landed is, and when it came.
func (r *Ring) landedAt(who Sender) {
	now := int64(0)
	if who.Bits&senderAsked != 0 {
		now = time.Now().UnixNano()
	}
	r.c.Received.Store(now)
	r.c.Sender.Store(who)
}

// originOf is the origin of what landed in slot i.
func (r *Ring) originOf(i uint32) origin {
	at := r.c.Received.Load()
	if at == 0 {
		return origin{}
	}
	o := origin{at, r.c.Sender.Load()}
	if o.Bits&senderEach != 0 {
		if l := r.recv.Hdr[i].ControlLen(); l <= controlSpace {
			if who, ok := sys.FindCredentials(r.recv.Control[i].ForKernel()[:l]); ok {
				o.PID, o.UID, o.GID, o.Bits = who.PID, who.UID, who.GID, SenderKnown
			}
		}
	}
	o.Bits &= SenderKnown
	return o
}

// attribute writes down, where nobody looks yet, that what enters from seq on is of origin o.
func (r *Ring) attribute(a *appending, o origin, seq uint64) {
	if o != a.last {
		run := r.run(a.runs)
		run.First.Store(seq)
		run.Origin.Store(o)
		a.runs, a.last = a.runs+1, o
	}
}

// run is the slot of run number i.
func (r *Ring) run(i uint64) *run { return &r.runs[i&uint64(len(r.runs)-1)] }

// oldestRun is the number of the oldest run there is. The slots of what is older are for one APPEND to write to.
func (r *Ring) oldestRun() uint64 {
	kept := uint64(len(r.runs) - MaxBatch)
	return max(r.c.Runs.Load(), kept) - kept
}

func (r *Ring) lastOrigin() origin {
	if n := r.c.Runs.Load(); n > 0 {
		return r.run(n - 1).Origin.Load()
	}
	return origin{}
}

// runAt is the number of the run that the message seq is in; that of the oldest run less one, if it is in none.
func (r *Ring) runAt(seq uint64) uint64 {
	oldest, n := r.oldestRun(), r.c.Runs.Load()
	if n > 0 && r.run(n-1).First.Load() <= seq {
		return n - 1 // most want what is new
	}
	return oldest + uint64(sort.Search(int(n-oldest), func(i int) bool { return r.run(oldest+uint64(i)).First.Load() > seq })) - 1
}

// eachOrigin calls yield for the origins of the messages from seq to end, with how many have it one after the other, until yield
// returns false.
func (r *Ring) eachOrigin(seq, end uint64, yield func(o origin, n int) bool) {
	runs, oldest := r.c.Runs.Load(), r.oldestRun()
	for i := r.runAt(seq); seq < end; i++ {
		o, next := origin{}, end
		if i+1 > oldest {
			o = r.run(i).Origin.Load()
		}
		if i+1 < runs {
			next = min(end, r.run(i+1).First.Load())
		}
		if !yield(o, int(next-seq)) {
			return
		}
		seq = next
	}
}

// checkOrigins looks at the runs. If they cannot be what was written, no origin is known any more: that is no reason to give up
// a ring.
func (r *Ring) checkOrigins(head Place) {
	oldest := r.oldestRun()
	for i, n := oldest, r.c.Runs.Load(); i < n; i++ {
		if first := r.run(i).First.Load(); first >= head.Seq || i > oldest && first <= r.run(i-1).First.Load() {
			r.freed++
			r.c.Runs.Store(0)
			return
		}
	}
}

// moveOrigins takes over those of another ring, as far as there is room.
func (r *Ring) moveOrigins(o *Ring, from Place) {
	n, oldest := o.c.Runs.Load(), o.oldestRun()
	if at := o.runAt(from.Seq); at+1 > oldest {
		oldest = at
	}
	if kept := uint64(len(r.runs) - MaxBatch); n-oldest > kept {
		oldest = n - kept
	}
	for i := oldest; i < n; i++ {
		r.run(i - oldest).First.Store(o.run(i).First.Load())
		r.run(i - oldest).Origin.Store(o.run(i).Origin.Load())
	}
	r.c.Runs.Store(n - oldest)
}

// entry is an origin as a sink is told of it.
func (o *origin) entry() wire.Origin {
	return wire.Origin{Time: o.Time, PID: o.PID, UID: o.UID, GID: o.GID, Source: o.Source, Known: o.Bits&SenderKnown != 0}
}
