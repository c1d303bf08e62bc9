// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"slices"
	"time"
)

// Turn applies the rule of patience (see Patience) for the d of channel time since it was last called, and moves the
// clock on by it. It says whether a sink was left behind or forgiven: then Append may find room.
//
// What holds at the moment of the call is taken for the whole of d, as a sample: whether the ring is full, and which
// sinks have nothing left to read. idle is asked for the latter about a sink that was sent everything: has it, or for
// a share has one of its members, also read everything? So the moments must not depend on what the sinks do. The
// caller takes them by the clock, in the middle of its work if need be; right after the slowest sink has moved, all
// others would always look idle. With d = 0 nobody is charged, and only sinks without patience are judged.
func (r *Ring) Turn(d time.Duration, idle func(*Sink) bool) (changed bool) {
	d = Step(d)
	r.Advance(d)
	if !r.full && !r.Owing() {
		return false
	}
	head, delivered := r.c.Head.load(), r.c.Delivered.load()
	now, mask := r.ms(), uint64(len(r.index)-1)
	r.standings, r.judged = r.standings[:0], r.judged[:0]
	for _, s := range r.cursors {
		cur := s.e.Cursor.load()
		st := Standing{
			Patience:        s.patience(),
			Account:         s.account,
			Lag:             Occupied(head.Pos-cur.Pos, head.Seq-cur.Seq, r.geo.Size, uint64(len(r.index))),
			BehindDelivered: cur.Seq < delivered.Seq,
			CaughtUp:        d > 0 && r.full && cur.Seq == head.Seq && s.connected > 0 && !s.tap && idle(s),
			Tap:             s.tap,
			New:             (r.clock-s.joined)/payBackPart < s.Spec().Patience,
			Lagging:         s.lagging,
		}
		if st.BehindDelivered {
			st.Behind = time.Duration(now-r.index[cur.Seq&mask].At.Load()) * time.Millisecond
		}
		r.standings = append(r.standings, st)
		r.judged = append(r.judged, s)
	}
	changed = r.patience.Turn(d, r.geo.Size, r.full, r.standings)
	for i, s := range r.judged {
		if owed := int64(s.account.Owed); owed != s.e.Owed.Load() {
			s.e.Owed.Store(owed)
		}
		if lagging := r.standings[i].Lagging; lagging != s.lagging {
			r.setFlag(s, flagLagging, lagging)
			r.verdicts = append(r.verdicts, Verdict{s, lagging})
		}
	}
	r.payBack(d)
	return changed
}

// Verdict is a sink that was left behind, or (Lagging false) forgiven.
type Verdict struct {
	Sink    *Sink
	Lagging bool
}

// Verdicts are those since the last call. They are valid until the next Turn.
func (r *Ring) Verdicts() []Verdict {
	v := r.verdicts
	r.verdicts = r.verdicts[:0]
	return v
}

// patience is how long others wait for s: its own, but none before it has caught up after a start at the tail, and
// none for a tap.
func (s *Sink) patience() time.Duration {
	if s.tap || s.catching {
		return 0
	}
	return s.Spec().Patience
}

// Owing says whether some account or verdict is open, so that the rule has something to do.
func (r *Ring) Owing() bool {
	for _, a := range r.accounts {
		if a.Owed > 0 {
			return true
		}
	}
	for _, s := range r.cursors {
		if s.lagging || s.account.Owed > 0 {
			return true
		}
	}
	return false
}

// payBack pays back the accounts of ordinary users that have no sink now, and closes those that owe nothing. The others
// were paid back in this turn: Patience sees every sink.
func (r *Ring) payBack(d time.Duration) {
	for uid, a := range r.accounts {
		if a.paid != r.patience.turn {
			if a.PayBack(d); a.Owed == 0 {
				delete(r.accounts, uid)
			}
		}
	}
}

// closeAccount closes the account of an ordinary user's sink that has gone, if nothing is owed and it was the last one.
func (r *Ring) closeAccount(a *Account) {
	if a.Shared && a.Owed == 0 && !slices.ContainsFunc(r.cursors, func(s *Sink) bool { return s.account == a }) {
		delete(r.accounts, a.user)
	}
}

// Blocker is the sink that the sources wait for while the ring is full: of those that hold the tail, one; nil if it
// is nobody.
func (r *Ring) Blocker() *Sink {
	var b *Sink
	for _, s := range r.cursors {
		if !s.lagging && (b == nil || s.e.Cursor.Seq.Load() < b.e.Cursor.Seq.Load()) {
			b = s
		}
	}
	return b
}

// HasReceiver says whether somebody is connected whose acceptance counts: a sink, and no tap. Without one, nothing is
// received.
func (r *Ring) HasReceiver() bool { return r.receivers > 0 }
