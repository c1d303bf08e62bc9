// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/msgmux/msgmux/internal/wire"
)

// referenceSink is a Standing without its account, which is a number here.
type referenceSink struct {
	Standing
	account int
}

// reference is the rule in the words of the promise, one sink and one account
// at a time, with no thought of speed. Owed is by account number.
type reference struct {
	owed    map[int]time.Duration
	shared  map[int]bool
	elapsed time.Duration
}

func (r *reference) turn(dt time.Duration, size uint64, full bool, before []referenceSink) []referenceSink {
	after := slices.Clone(before)

	// The furthest behind that anybody is waited for.
	furthest := uint64(0)
	for _, s := range before {
		if !s.Lagging {
			furthest = max(furthest, s.Lag)
		}
	}
	holdsUp := func(i int) bool {
		s := before[i]
		return full && !s.Lagging && s.BehindDelivered && s.Patience != wire.Forever &&
			float64(s.Lag) > float64(furthest)*7/8
	}
	anotherIsIdle := func(i int) bool {
		for j, s := range before {
			if j != i && !s.Lagging && s.CaughtUp {
				return true
			}
		}
		return false
	}
	for account := range r.owed {
		for i, s := range before {
			if s.account == account && holdsUp(i) && anotherIsIdle(i) {
				r.owed[account] += dt
				break
			}
		}
	}

	onlyOne := func(i int) bool {
		for j, s := range before {
			if j != i && !s.Tap {
				return false
			}
		}
		return !before[i].Tap
	}
	cleared := map[int]bool{}
	for i, s := range before {
		owed := r.owed[s.account]
		giveUp := s.Patience == 0 || s.Behind > s.Patience && owed > s.Patience
		if r.shared[s.account] {
			giveUp = giveUp || s.New && owed > s.Patience || float64(owed) > 2*float64(s.Patience)
		}
		if full && s.BehindDelivered && giveUp && !onlyOne(i) {
			after[i].Lagging = true
		}
		if after[i].Lagging && (2*s.Lag <= size || onlyOne(i)) {
			after[i].Lagging = false
			cleared[s.account] = !r.shared[s.account]
		}
	}

	paid := r.elapsed / 10
	r.elapsed += dt
	for account := range r.owed {
		inUse := slices.ContainsFunc(before, func(s referenceSink) bool { return s.account == account })
		switch {
		case cleared[account]:
			r.owed[account] = 0
		case inUse:
			r.owed[account] = max(0, r.owed[account]-(r.elapsed/10-paid))
		}
	}
	return after
}

// TestPatienceAgainstReference drives the code and the reference through the
// same random schedules: sinks and users come, go and change places, and most
// values lie on or next to the limits of the rule.
func TestPatienceAgainstReference(t *testing.T) {
	const schedules, turns = 4000, 40
	var givenUp, forgiven, charged int
	for seed := range uint64(schedules) {
		random := rand.New(rand.NewPCG(seed, 4))
		fail := func(format string, args ...any) {
			t.Helper()
			t.Fatalf("schedule %d: %s", seed, fmt.Sprintf(format, args...))
		}
		pick := func(of ...time.Duration) time.Duration { return of[random.IntN(len(of))] }
		near := func(n uint64) uint64 { return n + uint64(random.IntN(3)) - 1 }
		size := uint64(1) << (3 + random.IntN(20))

		// Accounts 0, 1 and 2 are shared, the others are of one sink each.
		ref := reference{owed: map[int]time.Duration{}, shared: map[int]bool{0: true, 1: true, 2: true}}
		accounts := map[int]*Account{}
		sinks := make([]referenceSink, 1+random.IntN(7))
		for i := range sinks {
			s := &sinks[i]
			s.account = 3 + i
			if random.IntN(2) == 0 {
				s.account = random.IntN(3)
			}
			s.Patience = pick(0, time.Millisecond, 20*time.Millisecond, time.Second, wire.Forever)
			s.Tap = random.IntN(6) == 0
			s.Lagging = random.IntN(4) == 0
			if accounts[s.account] == nil {
				owed := pick(0, time.Millisecond, 20*time.Millisecond, time.Second, time.Second+1, 2*time.Second, 2*time.Second+1)
				ref.owed[s.account] = owed
				accounts[s.account] = &Account{Owed: owed, Shared: s.account < 3}
			}
			s.Account = accounts[s.account]
		}

		var code Patience
		for turn := range turns {
			// Some of the sinks, in any order.
			random.Shuffle(len(sinks), func(i, j int) { sinks[i], sinks[j] = sinks[j], sinks[i] })
			n := len(sinks) - min(len(sinks), random.IntN(3))
			full := random.IntN(4) > 0
			dt := pick(0, 1, 7, time.Microsecond, time.Millisecond, MaxStep)
			standings := make([]Standing, n)
			before := maps.Clone(ref.owed)
			for i := range n {
				s := &sinks[i]
				s.Lag = []uint64{0, near(size / 2), near(size - size/8), size, random.Uint64N(size + 1)}[random.IntN(5)]
				s.Behind = pick(0, s.Patience, s.Patience-1, min(s.Patience, time.Hour)+1, time.Hour)
				s.BehindDelivered = random.IntN(4) > 0
				s.CaughtUp = !s.Tap && random.IntN(3) == 0
				s.New = random.IntN(3) == 0
				standings[i] = s.Standing
			}
			changed := code.Turn(dt, size, full, standings)
			after := ref.turn(dt, size, full, sinks[:n])
			wantChanged := false
			for i, s := range after {
				if standings[i].Lagging != s.Lagging {
					fail("turn %d: sink %+v: lagging %v, reference %v", turn, sinks[i], standings[i].Lagging, s.Lagging)
				}
				switch was := sinks[i].Lagging; {
				case !was && s.Lagging:
					givenUp++
				case was && !s.Lagging:
					forgiven++
				}
				wantChanged = wantChanged || s.Lagging != sinks[i].Lagging
			}
			if changed != wantChanged {
				fail("turn %d: changed %v, reference %v", turn, changed, wantChanged)
			}
			for account, owed := range ref.owed {
				if accounts[account].Owed != owed {
					fail("turn %d: account %d owes %v, reference %v", turn, account, accounts[account].Owed, owed)
				}
				if owed > before[account] {
					charged++
				}
			}
			copy(sinks, after)
		}
	}
	// Schedules in which nothing happens would prove nothing.
	if min(givenUp, forgiven, charged) < schedules {
		t.Errorf("in %d schedules %d given up, %d forgiven, %d charged", schedules, givenUp, forgiven, charged)
	}
}
