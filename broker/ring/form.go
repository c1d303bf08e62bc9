// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"github.com/msgmux/msgmux/broker/ring/mem"
	"github.com/msgmux/msgmux/internal/wire"
)

// Form is how a sink of plain messages wants them. The zero value is: all of them, as they are.
type Form struct {
	NoEmpty bool     // those of no bytes are left out; with an End, those that have nothing but an end
	End     wire.End // what each ends in
	MaxSize uint32   // those of more bytes are left out; 0: none
}

// of is what a message becomes: payload without its end, and whether a newline follows it.
func (f Form) of(payload []byte) (body []byte, newline bool) {
	if f.End == wire.EndAsIs {
		return payload, false
	}
	n := len(payload)
	for n > 0 && (payload[n-1] == '\n' || payload[n-1] == 0) {
		n--
	}
	return payload[:n], f.End == wire.EndNewline
}

// leavesOut says whether a message is one of those that are not wanted.
func (f Form) leavesOut(payload []byte) bool {
	body, newline := f.of(payload)
	size := len(body)
	if size == 0 && f.NoEmpty {
		return true
	}
	if newline {
		size++
	}
	return f.MaxSize > 0 && size > int(f.MaxSize)
}

// payload is the message at p.
func (r *Ring) payload(p Place) []byte {
	return r.data.Slice(p.Pos&r.mask+wire.RecordHeader, uint64(r.length(p.Pos)))
}

// LeavesOut says whether s does not want the next message, by its Form.
//
// Preconditions: Behind(s).
func (r *Ring) LeavesOut(s *Sink) bool {
	return s.form != Form{} && r.leavesOut(s, s.cursor.e.Done.load())
}

func (r *Ring) leavesOut(s *Sink, p Place) bool { return s.form.leavesOut(r.payload(p)) }

// LeaveOut has the next message pass by s, which does not want it. It counts as left out, unless it is still wanted by another sink
// that reads from the same cursor: then that one gets it, and s nothing before. passed says which.
//
// Preconditions: LeavesOut(s).
func (r *Ring) LeaveOut(s *Sink) (passed bool) { return r.pass(s, 1) }

// formed makes the slots of the send array from first on, count of them, end as s wants it, up to the first message that it does not
// want. It returns how many these are, at least one. Other sinks share the slots: see unformed.
//
//	as it is     Hdr -> Iov                 the record's payload
//	with an end  Hdr -> ended[2i], [2i+1]   the payload without its end, a newline
//
// That the headers point there need not be known to a successor, which binds all of them anew.
func (r *Ring) formed(s *Sink, cur Place, first, count int) (n int) {
	for at := cur; n < count && (n == 0 || !r.leavesOut(s, at)); at = r.next(at) {
		if s.form.End != wire.EndAsIs {
			body, newline := s.form.of(r.payload(at))
			parts := r.ended[2*n : 2*n+1]
			parts[0].Set(body)
			if newline {
				parts = r.ended[2*n : 2*n+2]
				parts[1].Set(newlineByte)
			}
			r.send.Hdr[first+n].Aim(parts)
		}
		n++
	}
	return n
}

// unformed undoes formed for the n slots from first on.
func (r *Ring) unformed(first, n int) {
	for i := first; i < first+n; i++ {
		r.send.Hdr[i].Aim(r.send.Iov[i : i+1])
	}
}

// form is that of a sink with that Spec.
func (s *Spec) form() Form {
	if s.Frames {
		return Form{}
	}
	return s.Form
}

var newlineByte = []byte{'\n'}

// ended is room for what formed points to.
type ended [2 * MaxSend]mem.Iovec
