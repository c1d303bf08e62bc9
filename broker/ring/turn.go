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
// cursors have nothing left to read. idle is asked for the latter about one that was sent everything: has its sink, or
// of a share one of them, also read everything? So the moments must not depend on what the sinks do. The
// caller takes them by the clock, in the middle of its work if need be; right after the slowest sink has moved, all
// others would always look idle. With d = 0 nobody is charged, and only sinks without patience are judged.
func (r *Ring) Turn(d time.Duration, idle func(*Cursor) bool) (changed bool) {
	d = Step(d)
	r.Advance(d)
	if !r.full && !r.Owing() {
		return false
	}
	head, delivered := r.c.Head.load(), r.c.Delivered.load()
	r.standings = r.standings[:0]
	for _, c := range r.cursors {
		at := c.e.Done.load()
		st := Standing{
			Patience:        c.patience(),
			Account:         c.account,
			Lag:             head.Pos - at.Pos,
			BehindDelivered: at.Seq < delivered.Seq,
			CaughtUp:        d > 0 && r.full && at.Seq == head.Seq && c.connected > 0 && !c.tap && idle(c),
			Tap:             c.tap,
			New:             (r.clock-c.joined)/payBackPart < c.Spec().Patience,
			Lagging:         c.lagging,
		}
		if st.BehindDelivered {
			st.Behind = r.acceptedFor(at)
		}
		r.standings = append(r.standings, st)
	}
	changed = r.patience.Turn(d, r.geo.Size, r.full, r.standings)
	for i, c := range r.cursors {
		if owed := int64(c.account.Owed); owed != c.e.Owed.Load() {
			c.e.Owed.Store(owed)
		}
		if lagging := r.standings[i].Lagging; lagging != c.lagging {
			r.setFlag(c, flagLagging, lagging)
			r.verdicts = append(r.verdicts, Verdict{c, lagging})
		}
	}
	r.payBack(d)
	return changed
}

// Verdict is a cursor that was left behind, or (Lagging false) forgiven.
type Verdict struct {
	Cursor  *Cursor
	Lagging bool
}

// Verdicts are those since the last call. They are valid until the next Turn.
func (r *Ring) Verdicts() []Verdict {
	v := r.verdicts
	r.verdicts = r.verdicts[:0]
	return v
}

// Owing says whether some account or verdict is open, so that the rule has something to do.
func (r *Ring) Owing() bool {
	for _, a := range r.accounts {
		if a.Owed > 0 {
			return true
		}
	}
	for _, c := range r.cursors {
		if c.lagging || c.account.Owed > 0 {
			return true
		}
	}
	return false
}

// Contended says whether time may be charged to somebody: the ring is full, and beside a sink that takes messages there is
// another one to be waited for. If not, nothing changes by looking again and again.
func (r *Ring) Contended() bool {
	if !r.full {
		return false
	}
	there, others := false, 0
	for _, c := range r.cursors {
		if !c.tap {
			there = there || c.connected > 0
			others++
		}
	}
	return there && others > 1
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
	if a.Shared && a.Owed == 0 && !slices.ContainsFunc(r.cursors, func(c *Cursor) bool { return c.account == a }) {
		delete(r.accounts, a.user)
	}
}

// Blocker is the cursor that the sources wait for while the ring is full: the one that is furthest behind, of those that are
// waited for; if all have been left behind, the one that needs least to give somebody what nobody has had. It is nil if there
// is none but taps.
func (r *Ring) Blocker() *Cursor {
	var b *Cursor
	for _, c := range r.cursors {
		if c.tap {
			continue
		}
		switch {
		case b == nil || b.lagging && !c.lagging:
			b = c
		case b.lagging == c.lagging && (c.e.Done.Seq.Load() < b.e.Done.Seq.Load()) != c.lagging:
			b = c
		}
	}
	return b
}

// HasReceiver says whether somebody is connected whose acceptance counts: a sink, and no tap. Without one, nothing is
// received.
func (r *Ring) HasReceiver() bool { return r.receivers > 0 }
