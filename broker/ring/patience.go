// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"time"

	"github.com/msgmux/msgmux/internal/wire"
)

// MaxStep is the most that the channel's clock advances from one turn of the
// loop to the next. A broker that was stopped, swapped out or restarted must
// not hold that time against its sinks.
const MaxStep = 50 * time.Millisecond

// payBackPart is how slowly an account is paid back: one part in ten of real
// time. A sink that makes others wait for less than a tenth of the time is
// therefore waited for without end; one that does so for longer is not.
const payBackPart = 10

// Step clamps d, the time since the last turn of the loop, to what the
// channel's clock may advance: 0 to MaxStep.
func Step(d time.Duration) time.Duration {
	return min(max(d, 0), MaxStep)
}

// Account is what a sink, or the dynamic sinks of one ordinary user together,
// have made others wait. The zero value is an account of one sink that owes
// nothing. An account belongs to one Patience and must not be copied while it
// is in use.
type Account struct {
	Owed   time.Duration // never negative
	Shared bool          // several sinks draw on it: paid back, never cleared

	user          uint32 // whose it is, if it is shared
	charged, paid uint64 // the turns of the last charge and pay-back: once a turn, whatever the number of sinks
}

// PayBack pays back a tenth of dt. Turn does this for every account that it
// sees; the caller does it for a shared account that no sink uses at the
// moment, so that a user who left and comes back finds it as if he had stayed.
func (a *Account) PayBack(dt time.Duration) {
	a.Owed = max(0, a.Owed-dt/payBackPart)
}

// Standing is one sink as the rule sees it at one turn of the loop. The caller
// owns it and may use it again; Turn keeps no pointer to it.
type Standing struct {
	// Patience is how long others wait for the sink: wire.Forever is
	// always, 0 is never. A sink that started at the oldest record has 0 until
	// it has caught up once.
	Patience time.Duration

	// Account is not nil. Only sinks with one shared account have the same.
	Account *Account

	// Lag is head - cursor in bytes.
	Lag uint64

	// Behind is how long ago, on the channel's clock, the message at the
	// cursor was first accepted by another sink. It means something only
	// with BehindDelivered.
	Behind          time.Duration
	BehindDelivered bool // the cursor is before delivered

	// CaughtUp says that during dt the sink had nothing left to read, while
	// it was connected and no tap. Others are charged the whole of dt for its
	// sake, so it must be a fair sample of that time; see Turn.
	CaughtUp bool

	// New says that the sink has not been there for as long as it takes to pay back its patience. It means something only
	// with a shared account: who is over it gets no second patience by coming back.
	New bool

	// Tap says that the sink only looks on. It is no company to others: the
	// only sink beside taps is still the only one.
	Tap bool

	// Lagging says that the sink is no longer waited for. It goes in as the
	// last turn left it, and comes out as it is from now on.
	Lagging bool
}

// Patience decides who is waited for when the ring is full. The zero value is
// ready. It reads no clock, touches no descriptor and allocates nothing; it is
// not safe for concurrent use.
type Patience struct {
	turn uint64
	due  time.Duration // what was too little to be paid back, less than payBackPart
}

// Turn is called in a turn of the loop with all sinks, connected or not, and
// says whether any of them began or ceased to be lagging.
//
// dt is what the channel's clock advanced since the last call, 0 to MaxStep.
// full says that during dt the ring was full and a source waiting; size is the
// size of the ring in bytes, not 0. In this order:
//
//   - charge: while the ring is full, each sink that holds it up pays dt if
//     another sink, not lagging itself, had nothing left to read;
//   - decide: while the ring is full, a sink that is behind delivered, and
//     whose account and whose time behind both exceed its patience, is lagging
//     from now on; with patience 0 at once. The time behind does not matter
//     where a shared account exceeds the patience and the sink is new, nor
//     where it exceeds it twice;
//   - forgive: a lagging sink with at most half the ring left to read is
//     waited for again, and its own account is cleared;
//   - pay back: each account a tenth of dt.
//
// The only sink beside taps is never lagging. Otherwise the order of sinks
// makes no difference: all charges are made before the first decision, and no
// decision looks at another. For the same reason one pass is enough. Giving up
// on a sink moves the tail, and the caller can use that room at once, but
// nothing that decides about the other sinks depends on the tail: a second
// pass in the same turn would decide the same.
//
// When to look at CaughtUp matters as much as how. A sink has something left
// to read while messages lie in its kernel queue, even if its cursor is at the
// head. And the loop must not look only when the slowest sink has just made
// room: by then a sink that is hardly faster has always caught up, and would
// have the slowest one charged with all of the time. So charge by the clock:
// call Turn every few milliseconds with the states found before anything is
// sent, and in between, where it matters, with a dt of 0. That charges nobody
// and pays nothing back, but a sink with patience 0 is left behind at once.
func (p *Patience) Turn(dt time.Duration, size uint64, full bool, sinks []Standing) (changed bool) {
	p.turn++
	if full {
		p.charge(dt, sinks)
	}
	company := 0
	for i := range sinks {
		if !sinks[i].Tap {
			company++
		}
	}
	for i := range sinks {
		s := &sinks[i]
		was := s.Lagging
		only := company == 1 && !s.Tap
		if full && !only && s.exhausted() {
			s.Lagging = true
		}
		// A sink can be given up and forgiven here in one turn: it owed much,
		// but it is another one that holds up the ring by now.
		if s.Lagging && (only || s.Lag <= size/2) {
			s.Lagging = false
			if !s.Account.Shared {
				s.Account.Owed = 0
			}
		}
		changed = changed || s.Lagging != was
	}
	p.payBack(dt, sinks)
	return changed
}

// charge puts dt on the account of each sink that holds up a full ring while
// another one is idle.
func (p *Patience) charge(dt time.Duration, sinks []Standing) {
	// A ring is full when the next record does not fit, which a large record
	// may do long before all bytes are used. So the sink that is furthest
	// behind, whose cursor is the tail, is the measure, not the size.
	var used uint64
	idle := 0
	for i := range sinks {
		s := &sinks[i]
		if s.Lagging {
			continue
		}
		used = max(used, s.Lag)
		if s.CaughtUp {
			idle++
		}
	}
	for i := range sinks {
		s := &sinks[i]
		if s.Lagging || !s.BehindDelivered || s.Patience == wire.Forever || 8*s.Lag <= 7*used {
			continue
		}
		others := idle
		if s.CaughtUp {
			others-- // its own leisure is no loss to anybody else
		}
		if others > 0 && s.Account.charged != p.turn {
			s.Account.charged = p.turn
			s.Account.Owed += dt
		}
	}
}

// exhausted says that the sink is not waited for any longer when room is
// needed. Both conditions matter: a sink that pauses for less than its
// patience is never behind by more, whatever it owes; and one that is far
// behind costs nobody anything while all others are busy too.
//
// But being behind begins anew with each sink, and with each message that it
// reads: sinks that come, or pause, one after the other could make others wait
// for ever, and none of them for long. So with a shared account it excuses no
// new sink, and nobody once the account is at twice the patience. Hung sinks,
// however many, bring it to hardly more than once, so that the user's healthy
// ones still have their pauses. What is beyond is a habit; from there on a user
// makes others wait for the tenth of the time that is paid back.
func (s *Standing) exhausted() bool {
	if !s.BehindDelivered {
		return false // it is at the front: what it has not taken nobody has
	}
	if s.Patience == 0 {
		return true
	}
	over := s.Account.Owed - s.Patience // no overflow: neither is negative
	if over <= 0 {
		return false
	}
	return s.Behind > s.Patience || s.Account.Shared && (s.New || over > s.Patience)
}

// payBack pays back a tenth of dt once on each account. What the division
// leaves over is kept for the next turn: turns can be as short as microseconds.
func (p *Patience) payBack(dt time.Duration, sinks []Standing) {
	p.due += dt
	whole := p.due - p.due%payBackPart
	p.due -= whole
	for i := range sinks {
		if a := sinks[i].Account; a.paid != p.turn {
			a.paid = p.turn
			a.PayBack(whole)
		}
	}
}
