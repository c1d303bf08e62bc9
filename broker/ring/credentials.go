// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"math/bits"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/sys"
)

// Sinks that want the senders' credentials. What such a one is sent carries SCM_CREDENTIALS (unix(7)) of who has sent it, so that
// for a receiver that asks the kernel it comes from him, and not from the broker.
//
//	as it is         Hdr -> Iov     no control data: the kernel tells of the broker
//	with the sender  Hdr -> Iov     the record's payload
//	                     -> signs   the sender's pid, uid and gid
//
// That the headers point there need not be known to a successor, which binds all of them anew. What carries none, for want of a
// sender that is known and there, is counted.

// signs is room for the control data of what is sent to one sink.
type signs [MaxSend][sys.CredentialsSpace]byte

// slotSet says something of each slot of one send, counted from its first.
type slotSet [MaxSend / 64]uint64

func (s *slotSet) add(i int)      { s[i/64] |= 1 << (i % 64) }
func (s *slotSet) has(i int) bool { return s[i/64]>>(i%64)&1 != 0 }

// below is how many of the first n slots are in the set.
func (s *slotSet) below(n int) (count uint64) {
	for i := range s {
		switch left := n - 64*i; {
		case left >= 64:
			count += uint64(bits.OnesCount64(s[i]))
		case left > 0:
			count += uint64(bits.OnesCount64(s[i] & (1<<left - 1)))
		}
	}
	return count
}

// sign has the slots of the send array from first on, count of them, carry the credentials of who has sent the messages from seq
// on. Other sinks share the slots: see unsign. unsigned are those that carry none.
func (r *Ring) sign(s *Sink, seq uint64, first, count int) (unsigned slotSet) {
	i := 0
	r.eachOrigin(seq, seq+uint64(count), func(o origin, n int) bool {
		known := r.opt.Credentials && o.Bits&SenderKnown != 0 && o.PID > 0
		for end := i + n; i < end; i++ {
			if !known || seq+uint64(i) < s.asOwn {
				unsigned.add(i)
				continue
			}
			sys.PutCredentials(r.signs[i][:], sys.Credentials{PID: o.PID, UID: o.UID, GID: o.GID})
			r.send.Hdr[first+i].Carry(r.signs[i][:])
		}
		return true
	})
	return unsigned
}

// unsign undoes sign.
func (r *Ring) unsign(first, count int) {
	for i := first; i < first+count; i++ {
		r.send.Hdr[i].Carry(nil)
	}
}

// refusesCredentials says whether errno may be the kernel's word on the credentials that a message carries: the sender is gone, or
// not one that this process may name.
func refusesCredentials(errno unix.Errno) bool {
	return errno == unix.ESRCH || errno == unix.EPERM || errno == unix.EINVAL
}

// endOfRun is the number of the first message behind seq that may be of another sender.
func (r *Ring) endOfRun(seq uint64) uint64 {
	if next := r.runAt(seq) + 1; next < r.c.Runs.Load() {
		return r.run(next).First.Load()
	}
	return r.c.Head.Seq.Load()
}

// countUnsigned counts, of the first n slots of the send that is logged, those that carried none.
func (r *Ring) countUnsigned(n int) {
	l := fieldsOf[sendLog](r)
	unsigned := l.Unsigned.Load()
	r.c.AsOwn.Store(l.AsOwn.Load() + unsigned.below(n))
}
