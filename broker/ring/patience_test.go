// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/msgmux/msgmux/internal/wire"
)

// The tests named after promise 4, isolation with patience, hold one sentence
// of it each. Some ask single turns, some run a whole channel (see runModel).

const testRing = 1 << 20 // bytes

// hung is a sink that holds up a full ring and has long lost all patience.
func hung() Standing {
	return Standing{
		Patience: time.Second, Account: &Account{Owed: time.Hour},
		Lag: testRing, Behind: time.Hour, BehindDelivered: true,
	}
}

// idle is a sink that waits for others.
func idle() Standing {
	return Standing{Patience: time.Second, Account: new(Account), CaughtUp: true}
}

func TestPromise4_OnlySinksThatHoldUpOthersAreCharged(t *testing.T) {
	const dt = 10 * time.Millisecond
	limit := uint64(testRing / 8 * 7)
	for _, c := range []struct {
		name    string
		change  func(s, other *Standing)
		full    bool
		charged bool
	}{
		{"full and another idle", func(s, other *Standing) {}, true, true},
		{"just above 7/8", func(s, other *Standing) { s.Lag = limit + 1; other.Lag = testRing }, true, true},
		{"just 7/8", func(s, other *Standing) { s.Lag = limit; other.Lag = testRing }, true, false},
		{"room in the ring", func(s, other *Standing) {}, false, false},
		{"nobody idle", func(s, other *Standing) { other.CaughtUp = false }, true, false},
		{"only a lagging one idle", func(s, other *Standing) { other.Lagging, other.Lag = true, testRing }, true, false},
		{"only itself idle", func(s, other *Standing) { s.CaughtUp, other.CaughtUp = true, false }, true, false},
		{"itself idle too", func(s, other *Standing) { s.CaughtUp = true }, true, true},
		{"at delivered", func(s, other *Standing) { s.BehindDelivered = false }, true, false},
		{"lagging already", func(s, other *Standing) { s.Lagging = true }, true, false},
		{"patience for ever", func(s, other *Standing) { s.Patience = wire.Forever }, true, false},
	} {
		s, other := hung(), idle()
		s.Behind, s.Account.Owed = 0, time.Minute
		c.change(&s, &other)
		sinks := []Standing{s, other}
		new(Patience).Turn(dt, testRing, c.full, sinks)
		want := time.Minute - dt/10
		if c.charged {
			want += dt
		}
		if got := s.Account.Owed; got != want {
			t.Errorf("%s: owes %v, want %v", c.name, got, want)
		}
	}
}

func TestPromise4_LeftBehindWhenAccountAndTimeBehindExceedPatience(t *testing.T) {
	for _, c := range []struct {
		name    string
		change  func(s *Standing)
		lagging bool
	}{
		{"both exceed", func(s *Standing) {}, true},
		{"both by a little", func(s *Standing) { s.Behind, s.Account.Owed = time.Second+1, time.Second+1 }, true},
		{"behind is just patience", func(s *Standing) { s.Behind = time.Second }, false},
		{"account is just patience", func(s *Standing) { s.Account.Owed = time.Second }, false},
		{"at delivered", func(s *Standing) { s.BehindDelivered = false }, false},
	} {
		s := hung()
		c.change(&s)
		busy := Standing{Patience: time.Second, Account: new(Account), Lag: testRing / 2}
		sinks := []Standing{busy, s}
		changed := new(Patience).Turn(0, testRing, true, sinks)
		if sinks[1].Lagging != c.lagging || changed != c.lagging {
			t.Errorf("%s: lagging %v, changed %v, want %v", c.name, sinks[1].Lagging, changed, c.lagging)
		}
		// With room in the ring nobody is left behind.
		sinks = []Standing{busy, s}
		if new(Patience).Turn(0, testRing, false, sinks) || sinks[1].Lagging {
			t.Errorf("%s, with room: lagging", c.name)
		}
	}
}

func TestPromise4_PauseShorterThanPatienceCostsNothing(t *testing.T) {
	for _, rate := range []float64{20, 100, 400} { // the ring lasts 3 s, 0.6 s, 0.15 s
		run := func(length int, owed time.Duration) *modelChannel {
			pausing := pauses(1.1*rate, length, 10000)
			sinks := []speed{constant(rate), constant(rate), func(t int) float64 { return pausing(t + 5000) }}
			accounts := []*Account{{}, {}, {Owed: owed}}
			return runModel(14000, flood, sinks, nil, &codeRule{accounts: accounts})
		}
		for _, length := range []int{1, 100, 500, 900, 1000} {
			for _, owed := range []time.Duration{0, time.Minute} { // it has paused often before
				if c := run(length, owed); slices.Max(c.lost) > 0 || c.leftBehindAt[2] >= 0 {
					t.Errorf("%v a ms, pause of %d ms, owed %v: lost %v", rate, length, owed, c.lost)
				}
			}
		}
		// A sink that pauses for longer than the ring and its patience together
		// does lose, and it alone.
		if c := run(5000, 0); c.lost[2] == 0 || c.lost[0]+c.lost[1] > 0 {
			t.Errorf("%v a ms, pause of 5 s: lost %v", rate, c.lost)
		}
	}
}

func TestPromise4_EqualSinksNeverLoseToJitter(t *testing.T) {
	for _, n := range []int{2, 4, 16} {
		for _, rate := range []float64{5, 20, 100} {
			for _, pause := range []int{3, 30, 300} {
				sinks := make([]speed, n)
				for i := range sinks {
					sinks[i] = jitter(rate, 0.06/float64(pause), pause, uint32(100*pause+i))
				}
				c := runModel(15000, flood, sinks, nil, &codeRule{})
				if slices.Max(c.lost) > 0 || slices.Max(c.leftBehindAt) >= 0 {
					t.Errorf("%d sinks, %v a ms, pauses of %d ms: lost %v", n, rate, pause, c.lost)
				}
			}
		}
	}
}

func TestPromise4_SomewhatSlowerSinkSlowsTheRestALittle(t *testing.T) {
	for _, rate := range []float64{20, 100} {
		c := runModel(modelTime, flood, []speed{constant(rate), constant(0.95 * rate)}, nil, &codeRule{})
		if c.lost[1] > 0 || c.leftBehindAt[1] >= 0 {
			t.Errorf("95 %% of %v a ms: lost %.0f", rate, c.lost[1])
		}
		if want := 0.949 * rate * modelTime; c.got[0] < want {
			t.Errorf("beside 95 %% of %v a ms: got %.0f, want %.0f", rate, c.got[0], want)
		}
		// A far slower one is left behind and slows nobody for long.
		c = runModel(modelTime, flood, []speed{constant(rate), constant(0.3 * rate)}, nil, &codeRule{})
		if c.lost[1] == 0 {
			t.Errorf("30 %% of %v a ms: lost nothing", rate)
		}
		if want := 0.95 * rate * modelTime; c.got[0] < want {
			t.Errorf("beside 30 %% of %v a ms: got %.0f, want %.0f", rate, c.got[0], want)
		}
	}
}

func TestPromise4_HungSinksAreLeftBehindTogetherAfterOnePatience(t *testing.T) {
	for _, n := range []int{1, 8, 60} {
		sinks := []speed{constant(100), constant(100)}
		for i := range n {
			sinks = append(sinks, hangs(70*i/n)) // within an eighth of the ring
		}
		c := runModel(10000, flood, sinks, nil, &codeRule{})
		first, last := slices.Min(c.leftBehindAt[2:]), slices.Max(c.leftBehindAt[2:])
		// The ring lasts 600 ms. While a second is charged a tenth is paid back.
		const want, tolerance = 600 + 1112, 5
		if first < want-tolerance || last > want+tolerance {
			t.Errorf("%d hung sinks: left behind after %d to %d ms, want %d", n, first, last, want)
		}
		if c.lost[0]+c.lost[1] > 0 || c.leftBehindAt[0] >= 0 {
			t.Errorf("%d hung sinks: the others lost %v", n, c.lost[:2])
		}
		// The whole cost to the others is that one wait.
		if want := 100.0 * (10000 - 1112 - tolerance); c.got[0] < want {
			t.Errorf("%d hung sinks: got %.0f, want %.0f", n, c.got[0], want)
		}
	}
}

func TestPromise4_PatienceZeroIsNeverWaitedFor(t *testing.T) {
	s := hung()
	s.Patience, s.Behind, s.Account.Owed = 0, 0, 0
	for _, c := range []struct {
		name    string
		full    bool
		behind  bool
		lagging bool
	}{
		{"full", true, true, true},
		{"room in the ring", false, true, false},
		{"at delivered", true, false, false},
	} {
		s.BehindDelivered = c.behind
		// Nobody need be idle, nothing be owed, no time have passed.
		sinks := []Standing{s, {Patience: time.Second, Account: new(Account), Lag: testRing / 2}}
		changed := new(Patience).Turn(0, testRing, c.full, sinks)
		if sinks[0].Lagging != c.lagging || changed != c.lagging {
			t.Errorf("%s: lagging %v, changed %v, want %v", c.name, sinks[0].Lagging, changed, c.lagging)
		}
	}

	patience := []time.Duration{time.Second, 0, 0}
	channel := runModel(10000, flood, []speed{constant(100), constant(50), constant(0)}, patience, &codeRule{})
	if want := 100.0 * 9999; channel.got[0] != want {
		t.Errorf("beside two that are never waited for: got %.0f, want %.0f", channel.got[0], want)
	}
}

func TestPromise4_PatienceForeverIsNeverLeftBehind(t *testing.T) {
	s := hung()
	s.Patience, s.Behind, s.Account.Owed = wire.Forever, wire.Forever, wire.Forever
	sinks := []Standing{s, idle()}
	if new(Patience).Turn(MaxStep, testRing, true, sinks) || sinks[0].Lagging {
		t.Error("left behind")
	}
	// It can stop the channel.
	c := runModel(modelTime, flood, []speed{constant(100), hangs(100)}, []time.Duration{time.Second, wire.Forever}, &codeRule{})
	if want := c.cur[1] + modelRing; c.head != want || c.lost[1] > 0 {
		t.Errorf("head %.0f, want %.0f; lost %.0f", c.head, want, c.lost[1])
	}
}

func TestPromise4_OneUsersSinksShareOneAccount(t *testing.T) {
	const dt = 10 * time.Millisecond
	const owed = 1500 * time.Millisecond
	account := &Account{Owed: owed, Shared: true}
	one := hung()
	one.Account, one.Behind = account, 0
	var p Patience

	// Three that hold up others at once cost what one costs, and are paid back
	// once, turn after turn.
	for turn := range time.Duration(3) {
		p.Turn(dt, testRing, true, []Standing{one, idle(), one, one})
		if want := owed + (turn+1)*(dt-dt/10); account.Owed != want {
			t.Fatalf("turn %d: owes %v, want %v", turn, account.Owed, want)
		}
	}

	// What one has run up counts against another, who is left behind as soon
	// as it is far enough behind.
	other := hung()
	other.Account = account
	sinks := []Standing{one, other, idle()}
	if !p.Turn(0, testRing, true, sinks) || sinks[0].Lagging || !sinks[1].Lagging {
		t.Errorf("lagging %v and %v, want the second", sinks[0].Lagging, sinks[1].Lagging)
	}

	// Forgiveness leaves the account as it is.
	before := account.Owed
	sinks[1].Lag = 0
	if !p.Turn(0, testRing, false, sinks) || sinks[1].Lagging || account.Owed != before {
		t.Errorf("forgiven: lagging %v, owes %v, want %v", sinks[1].Lagging, account.Owed, before)
	}
}

func TestPromise4_ComingBackUnderNewNameBuysNothing(t *testing.T) {
	// A user's sinks hang one after another, two seconds apart. The ring lasts
	// 0.6 s, so that each hung sink makes others wait for at least 0.4 s before
	// it is one second behind, whatever it owes.
	sinks := []speed{constant(100), constant(100)}
	for i := range 10 {
		sinks = append(sinks, hangs(2000*(i+1)))
	}
	patience := slices.Repeat([]time.Duration{time.Second}, len(sinks))
	run := func(shared bool) (wait float64) {
		user := &Account{Shared: true}
		accounts := make([]*Account, len(sinks))
		for i := range accounts {
			accounts[i] = user
			if i < 2 || !shared {
				accounts[i] = new(Account)
			}
		}
		const steps = 30000
		c := runModel(steps, flood, sinks, patience, &codeRule{accounts: accounts})
		return steps - c.got[0]/100
	}
	separate, shared := run(false), run(true)
	if separate < 10*1000 {
		t.Errorf("with an account each, 10 hung sinks cost the others %.0f ms, expected 10 times 1 s", separate)
	}
	if shared > 1112+9*500 {
		t.Errorf("with one account, 10 hung sinks cost the others %.0f ms, expected 1.1 s and 9 times 0.4 s", shared)
	}

	// Nor does staying away for a while: the account is paid back as ever.
	away := Account{Owed: time.Second, Shared: true}
	for range 100 {
		away.PayBack(MaxStep)
	}
	if want := time.Second / 2; away.Owed != want {
		t.Errorf("after 5 s away: owes %v, want %v", away.Owed, want)
	}
	away.PayBack(time.Minute)
	if away.Owed != 0 {
		t.Errorf("after a minute away: owes %v, want nothing", away.Owed)
	}
}

// Where one sink's pause ends and the next one's begins, being behind begins anew, and the account does not.
func TestPromise4_NoExcuseOnASharedAccount(t *testing.T) {
	for _, c := range []struct {
		name    string
		owed    time.Duration
		change  func(s *Standing)
		lagging bool
	}{
		{"new, over the patience", time.Second + 1, func(s *Standing) { s.New = true }, true},
		{"new, just at it", time.Second, func(s *Standing) { s.New = true }, false},
		{"new, an account of its own", time.Hour, func(s *Standing) { s.New = true; s.Account.Shared = false }, false},
		{"not new, over twice", 2*time.Second + 1, func(s *Standing) {}, true},
		{"not new, just at twice", 2 * time.Second, func(s *Standing) {}, false},
		{"an account of its own", time.Hour, func(s *Standing) { s.Account.Shared = false }, false},
		{"at delivered", time.Hour, func(s *Standing) { s.New = true; s.BehindDelivered = false }, false},
		{"patience for ever", wire.Forever, func(s *Standing) { s.New = true; s.Patience = wire.Forever }, false},
	} {
		s := hung()
		s.Behind, s.Account = 0, &Account{Owed: c.owed, Shared: true}
		c.change(&s)
		sinks := []Standing{s, idle()}
		if new(Patience).Turn(0, testRing, true, sinks); sinks[0].Lagging != c.lagging {
			t.Errorf("%s: lagging %v, want %v", c.name, sinks[0].Lagging, c.lagging)
		}
	}
}

// An ordinary user's sinks do their worst beside two of others. For the first seconds they may; after that the others keep
// 85 % of their rate, as long as it lasts. The user's own sink that reads loses nothing for it.
func TestPromise4_OrdinaryUserTakesATenthAtMost(t *testing.T) {
	const (
		second = 1000
		fast   = 2000.0 // a ms; the ring lasts 30 ms
	)
	for _, c := range []struct {
		name     string
		patience time.Duration
		sinks    []speed
		comeBack func(t, i int) bool // i counts those sinks only
	}{
		{"comes back before its patience is over", time.Second, these(constant(0))(),
			func(t, _ int) bool { return t%950 == 0 }},
		{"comes back at once", time.Second, these(constant(0))(),
			func(t, _ int) bool { return t%5 == 0 }},
		{"eight that come back in turn", time.Second, several(8, func(int) speed { return constant(0) })(),
			func(t, i int) bool { return (t+i*120)%950 == 0 }},
		{"eight that come back together", time.Second, several(8, func(int) speed { return constant(0) })(),
			func(t, i int) bool { return t%950 == 0 }},
		{"comes back, with less patience", 100 * time.Millisecond, these(constant(0))(),
			func(t, _ int) bool { return t%95 == 0 }},
		{"reads before it hangs and comes back", time.Second, these(pauses(10*fast, 950, 1000))(),
			func(t, _ int) bool { return t%1000 == 0 }},
		{"stays and pauses", time.Second, these(pauses(10*fast, 950, 1000))(), nil},
		{"stays and reads as slowly as it may", time.Second, these(constant(62))(), nil},
		{"twenty that pause in turn", time.Second, several(20, func(i int) speed {
			paused := pauses(2*fast, 950, 19000)
			return func(t int) float64 { return paused(t + i*950) }
		})(), nil},
	} {
		run := func(steps int) *modelChannel {
			user := &Account{Shared: true}
			sinks, patience, accounts := these(constant(fast), constant(fast))(), []time.Duration{time.Second, time.Second}, []*Account{{}, {}}
			for _, s := range append(these(constant(fast))(), c.sinks...) { // the user's own that reads comes first
				sinks, patience, accounts = append(sinks, s), append(patience, c.patience), append(accounts, user)
			}
			return runModelOf(steps, flood, sinks, patience, &codeRule{accounts: accounts}, func(t, i int) bool {
				return i >= 3 && c.comeBack != nil && c.comeBack(t, i-3)
			})
		}
		before, after := run(3*second), run(63*second)
		rate := (after.got[0] - before.got[0]) / (60 * second)
		if rate < 0.85*fast {
			t.Errorf("%s: others get %.1f of %.0f a ms", c.name, rate, fast)
		}
		if after.lost[0]+after.lost[1]+after.lost[2] > 0 {
			t.Errorf("%s: others lost %.0f and %.0f, the user's own that reads %.0f", c.name, after.lost[0], after.lost[1], after.lost[2])
		}
	}
}

func TestPromise4_OnlySinkIsAlwaysWaitedFor(t *testing.T) {
	tap := Standing{Account: new(Account), Tap: true, Lag: testRing, BehindDelivered: true}
	for _, patience := range []time.Duration{0, time.Second} {
		for _, company := range [][]Standing{nil, {tap}, {tap, tap}} {
			s := hung()
			s.Patience = patience
			sinks := append([]Standing{s}, company...)
			new(Patience).Turn(MaxStep, testRing, true, sinks)
			if sinks[0].Lagging {
				t.Errorf("patience %v, %d taps: left behind", patience, len(company))
			}
			if want := time.Hour - MaxStep/10; s.Account.Owed != want {
				t.Errorf("patience %v, %d taps: owes %v, want %v", patience, len(company), s.Account.Owed, want)
			}
			for i := range company {
				if !sinks[1+i].Lagging {
					t.Errorf("patience %v, %d taps: waits for a tap", patience, len(company))
				}
			}

			// One that is left alone is waited for again at once.
			s.Lagging = true
			sinks = append([]Standing{s}, company...)
			if !new(Patience).Turn(MaxStep, testRing, true, sinks) || sinks[0].Lagging {
				t.Errorf("patience %v, %d taps: still lagging when alone", patience, len(company))
			}
		}
	}
	// Two sinks are each other's company, even if neither is in a hurry.
	sinks := []Standing{hung(), hung()}
	if !new(Patience).Turn(0, testRing, true, sinks) || !sinks[0].Lagging || !sinks[1].Lagging {
		t.Error("two hung sinks: not both left behind")
	}

	c := runModel(20000, flood, []speed{pauses(100, 4000, 5000)}, nil, &codeRule{})
	if c.lost[0] > 0 || c.leftBehindAt[0] >= 0 {
		t.Errorf("alone, with pauses of 4 s: lost %.0f", c.lost[0])
	}
}

func TestPromise4_ForgivenAtHalfTheRing(t *testing.T) {
	for _, full := range []bool{false, true} {
		for _, shared := range []bool{false, true} {
			s := hung()
			s.Lagging, s.Account.Shared = true, shared
			s.Lag = testRing/2 + 1
			sinks := []Standing{s, idle()}
			var p Patience
			if p.Turn(0, testRing, full, sinks) || !sinks[0].Lagging || s.Account.Owed != time.Hour {
				t.Errorf("full %v, shared %v: forgiven above half", full, shared)
			}
			sinks[0].Lag = testRing / 2
			if !p.Turn(0, testRing, full, sinks) || sinks[0].Lagging {
				t.Errorf("full %v, shared %v: not forgiven at half", full, shared)
			}
			if want := time.Hour; shared && s.Account.Owed != want || !shared && s.Account.Owed != 0 {
				t.Errorf("full %v, shared %v: owes %v", full, shared, s.Account.Owed)
			}
		}
	}

	// A sink that reads on after a long pause is left behind for as long as it
	// needs to catch up, and each later pause is treated like the one before.
	lost := func(steps int) float64 {
		c := runModel(steps, flood, []speed{constant(100), pauses(300, 5000, 20000)}, nil, &codeRule{})
		if c.lagging[1] || c.head-c.cur[1] > modelRing/2 {
			t.Errorf("after %d ms: lagging %v, lag %.0f", steps, c.lagging[1], c.head-c.cur[1])
		}
		return c.lost[1]
	}
	one, two, three := lost(20000), lost(40000), lost(60000)
	if second, third := two-one, three-two; second == 0 || math.Abs(third-second) > second/100 {
		t.Errorf("lost %.0f in the second pause, %.0f in the third", second, third)
	}
}

func TestPromise4_ClockAdvancesByAtMost50ms(t *testing.T) {
	for d, want := range map[time.Duration]time.Duration{
		-time.Second: 0, -1: 0, 0: 0, 1: 1, 49 * time.Millisecond: 49 * time.Millisecond,
		50 * time.Millisecond: 50 * time.Millisecond, 50*time.Millisecond + 1: 50 * time.Millisecond, time.Hour: 50 * time.Millisecond,
	} {
		if got := Step(d); got != want {
			t.Errorf("Step(%v) = %v, want %v", d, got, want)
		}
	}
}

// A sink can be due and be no burden at all, when another one holds up the
// ring: it is forgiven with the same breath, and nothing has changed.
func TestPatienceGivesUpAndForgivesInOneTurn(t *testing.T) {
	s := hung()
	s.Lag = testRing / 2
	sinks := []Standing{s, {Patience: wire.Forever, Account: new(Account), Lag: testRing, BehindDelivered: true}}
	if new(Patience).Turn(0, testRing, true, sinks) || sinks[0].Lagging {
		t.Error("lagging")
	}
	if s.Account.Owed != 0 {
		t.Errorf("owes %v, want nothing", s.Account.Owed)
	}
}

// One record of half the ring can find no room although nobody is 7/8 behind.
func TestPatienceChargesWhenLargeRecordDoesNotFit(t *testing.T) {
	s, busy := hung(), idle()
	s.Account.Owed, s.Behind, s.Lag = 0, 0, testRing*6/10
	busy.CaughtUp, busy.Lag, busy.BehindDelivered = false, testRing/2, true
	sinks := []Standing{s, busy, idle()}
	var p Patience
	p.Turn(10*time.Millisecond, testRing, true, sinks)
	if want := 9 * time.Millisecond; s.Account.Owed != want {
		t.Errorf("the furthest behind owes %v, want %v", s.Account.Owed, want)
	}
	if busy.Account.Owed != 0 {
		t.Errorf("the one in the middle owes %v, want nothing", busy.Account.Owed)
	}
	// One that is lagging is no measure.
	sinks = append(sinks, hung())
	sinks[3].Lagging = true
	p.Turn(10*time.Millisecond, testRing, true, sinks)
	if want := 18 * time.Millisecond; s.Account.Owed != want {
		t.Errorf("beside a lagging one the furthest behind owes %v, want %v", s.Account.Owed, want)
	}
}

// Turns of a busy loop are too short for a tenth of them to be whole.
func TestPatiencePaysBackShortTurns(t *testing.T) {
	s := idle()
	s.Account.Owed = time.Second
	var p Patience
	for range 1_000_000 {
		p.Turn(9, testRing, false, []Standing{s})
	}
	if want := time.Second - 900*time.Microsecond; s.Account.Owed != want {
		t.Errorf("after 9 ms: owes %v, want %v", s.Account.Owed, want)
	}
}

func TestPatienceDoesNotAllocate(t *testing.T) {
	sinks := []Standing{hung(), idle(), hung(), idle()}
	sinks[2].Account = &Account{Shared: true}
	var p Patience
	if n := testing.AllocsPerRun(100, func() { p.Turn(time.Millisecond, testRing, true, sinks) }); n != 0 {
		t.Errorf("%v allocations in a turn", n)
	}
}

func BenchmarkPatience(b *testing.B) {
	sinks := []Standing{hung()}
	sinks[0].Patience = wire.Forever
	for range 63 {
		sinks = append(sinks, idle())
	}
	var p Patience
	for b.Loop() {
		p.Turn(time.Millisecond, testRing, true, sinks)
	}
}
