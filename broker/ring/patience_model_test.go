// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sort"
	"testing"
	"time"

	"github.com/msgmux/msgmux/internal/wire"
)

// This file holds a model of a channel: one source, sinks of different speeds,
// a ring of a fixed number of messages, in steps of 1 ms and without kernel
// queues. The rule of patience was designed on such a model, with fractions of
// a millisecond and of a message. Here the model's rule and the real code are
// put into the same channel and must come to the same figures.

const (
	modelRing = 60000 // messages
	modelTime = 60000 // ms
	unit      = 1024  // bytes of a message, as the real code sees it
	noise     = 1e-6  // messages that are no more than a rounding error
)

// speed is how many messages a sink can take, or a source send, in the
// millisecond t.
type speed func(t int) float64

// modelChannel is the state of one run.
type modelChannel struct {
	t             int
	head, backlog float64
	delivered     float64
	patience      []time.Duration
	cur, got      []float64
	lost          []float64
	idle          []float64 // share of this ms in which the sink had nothing to read
	lagging       []bool
	leftBehindAt  []int // ms of the first time that it was lagging, or -1
	joined        []int // ms of when it last came

	// When the delivered position reached what.
	reached   []float64
	reachedAt []int
}

// modelRule decides once a step who is waited for. It also lets the source
// write, because giving up on a sink frees room at once.
type modelRule interface {
	step(c *modelChannel)
}

func (c *modelChannel) tail() float64 {
	tail := c.delivered
	for i := range c.cur {
		if !c.lagging[i] {
			tail = min(tail, c.cur[i])
		}
	}
	return tail
}

// write takes from the source what there is room for, and says whether the
// source still waits.
func (c *modelChannel) write() (full bool) {
	w := min(c.backlog, max(0, modelRing-(c.head-c.tail())))
	c.head += w
	c.backlog -= w
	return c.backlog > 0
}

// behind is for how many ms another sink has had the message at the cursor.
func (c *modelChannel) behind(i int) int {
	k := sort.Search(len(c.reached), func(k int) bool { return c.reached[k] > c.cur[i] })
	if k == len(c.reached) {
		return 0
	}
	return c.t - c.reachedAt[k]
}

// runModel runs one scenario for so many ms.
func runModel(steps int, source speed, sinks []speed, patience []time.Duration, rule modelRule) *modelChannel {
	return runModelOf(steps, source, sinks, patience, rule, func(int, int) bool { return false })
}

// runModelOf is runModel in which sinks go and come back: in the ms t, sink i begins anew where comeBack says so.
func runModelOf(steps int, source speed, sinks []speed, patience []time.Duration, rule modelRule, comeBack func(t, i int) bool) *modelChannel {
	n := len(sinks)
	if patience == nil {
		patience = slices.Repeat([]time.Duration{time.Second}, n)
	}
	c := &modelChannel{
		patience: patience,
		cur:      make([]float64, n), got: make([]float64, n), lost: make([]float64, n),
		idle: make([]float64, n), lagging: make([]bool, n),
		leftBehindAt: slices.Repeat([]int{-1}, n),
		joined:       make([]int, n),
		reached:      []float64{0}, reachedAt: []int{0},
	}
	for c.t = range steps {
		c.backlog = min(c.backlog+source(c.t), 1e9)
		for i, s := range sinks {
			if comeBack(c.t, i) {
				c.cur[i], c.lagging[i], c.joined[i] = c.delivered, false, c.t
			}
			can := s(c.t)
			take := min(can, c.head-c.cur[i])
			c.cur[i] += take
			c.got[i] += take
			c.idle[i] = 0
			if can > 0 {
				c.idle[i] = (can - take) / can
			}
		}
		c.delivered = slices.Max(c.cur)
		if c.delivered > c.reached[len(c.reached)-1] {
			c.reached = append(c.reached, c.delivered)
			c.reachedAt = append(c.reachedAt, c.t)
		}
		rule.step(c)
		for i := range c.cur {
			if over := c.head - modelRing - c.cur[i]; over > noise {
				c.lost[i] += over
				c.cur[i] += over
			}
			if c.lagging[i] && c.leftBehindAt[i] < 0 {
				c.leftBehindAt[i] = c.t
			}
		}
	}
	return c
}

// originalRule is the rule as it was first written down: fractions of a
// millisecond, two passes, no shared accounts. It is kept as it was, and is
// not to be improved.
type originalRule struct{ owed []float64 }

func (r *originalRule) step(c *modelChannel) {
	if r.owed == nil {
		r.owed = make([]float64, len(c.cur))
	}
	for pass := range 2 {
		if !c.write() {
			continue
		}
		for i := range c.cur {
			if c.lagging[i] || c.cur[i] >= c.delivered || c.patience[i] == wire.Forever {
				continue
			}
			patience := float64(c.patience[i]) / float64(time.Millisecond)
			if pass == 0 && c.head-c.cur[i] > modelRing*7.0/8 {
				most := 0.0
				for j := range c.cur {
					if j != i && !c.lagging[j] {
						most = max(most, c.idle[j])
					}
				}
				r.owed[i] += most
			}
			c.lagging[i] = float64(c.behind(i)) > patience && r.owed[i] > patience
		}
	}
	for i := range c.cur {
		r.owed[i] = max(0, r.owed[i]-0.1)
		// The model skips the lost messages first; that changes no outcome
		// here, because what is skipped is more than half a ring away.
		if c.lagging[i] && c.head-c.cur[i] <= modelRing/2 {
			c.lagging[i], r.owed[i] = false, 0
		}
	}
}

// codeRule lets the real code decide. CaughtUp is a yes or no, the model's
// idle share is a fraction. Both ways to bring them together are tried.
type codeRule struct {
	// With sample there is one turn a step, in which a sink has caught up with
	// the probability of its idle share: what a caller sees who looks at fair
	// moments. Without it the step is divided into turns in each of which
	// everything holds all the time.
	sample *rand.Rand

	accounts  []*Account // nil: one for each sink
	rule      Patience
	standings []Standing
	cuts      []float64
}

func (r *codeRule) step(c *modelChannel) {
	if r.standings == nil {
		r.standings = make([]Standing, len(c.cur))
		for i := range r.standings {
			account := new(Account)
			if r.accounts != nil {
				account = r.accounts[i]
			}
			r.standings[i] = Standing{Patience: c.patience[i], Account: account}
		}
	}
	full := c.write()
	for i := range r.standings {
		s := &r.standings[i]
		s.Lag = uint64((c.head - c.cur[i]) * unit)
		s.BehindDelivered = c.cur[i] < c.delivered
		s.Behind = time.Duration(c.behind(i)) * time.Millisecond
		s.New = time.Duration(c.t-c.joined[i])*time.Millisecond < 10*c.patience[i]
		s.Lagging = c.lagging[i]
	}
	changed := false
	if r.sample != nil || !full {
		coin := 1.0
		if r.sample != nil {
			coin = r.sample.Float64()
		}
		changed = r.turn(c.idle, time.Millisecond, full, coin)
	} else {
		// All idle times begin with the step, so that the part in which
		// anybody is idle is as long as the largest share, as in the model.
		r.cuts = append(append(r.cuts[:0], 0, 1), c.idle...)
		slices.Sort(r.cuts)
		for k := 1; k < len(r.cuts); k++ {
			from := time.Duration(r.cuts[k-1] * float64(time.Millisecond))
			to := time.Duration(r.cuts[k] * float64(time.Millisecond))
			if to > from {
				changed = r.turn(c.idle, to-from, full, r.cuts[k-1]) || changed
			}
		}
	}
	for i := range r.standings {
		c.lagging[i] = r.standings[i].Lagging
	}
	if changed {
		c.write()
	}
}

// turn is one turn in which those have caught up whose idle share is above.
func (r *codeRule) turn(shares []float64, dt time.Duration, full bool, above float64) (changed bool) {
	for i := range r.standings {
		r.standings[i].CaughtUp = shares[i] > above
	}
	return r.rule.Turn(dt, modelRing*unit, full, r.standings)
}

// Speeds.

func constant(r float64) speed { return func(int) float64 { return r } }

func flood(int) float64 { return 1e6 }

func hangs(after int) speed {
	return func(t int) float64 {
		if t < after {
			return 100
		}
		return 0
	}
}

// pauses reads r messages a ms, but nothing in the first length ms of every.
func pauses(r float64, length, every int) speed {
	return func(t int) float64 {
		if t%every < length {
			return 0
		}
		return r
	}
}

// jitter reads r messages a ms, plus or minus half, and pauses for d ms with
// the probability p in each ms.
func jitter(r, p float64, d int, seed uint32) speed {
	random, left := newTwister(seed), 0
	return func(int) float64 {
		if left > 0 {
			left--
			return 0
		}
		if random.float() < p {
			left = d
		}
		return r * (0.5 + random.float())
	}
}

func several(n int, one func(i int) speed) func() []speed {
	return func() []speed {
		sinks := make([]speed, n)
		for i := range sinks {
			sinks[i] = one(i)
		}
		return sinks
	}
}

func these(sinks ...speed) func() []speed { return func() []speed { return sinks } }

// scenarios are those that the rule was designed on, and what the original
// model came to, in messages: the head, then for each sink got and lost.
var scenarios = []struct {
	name     string
	source   speed
	sinks    func() []speed
	patience []time.Duration
	head     float64
	got      []float64
	lost     []float64 // nil: nothing
}{
	{
		name: "4 equal, 100 a ms, 30 ms pauses", source: flood,
		sinks: several(4, func(i int) speed { return jitter(100, .002, 30, uint32(i)) }),
		head:  5652115.9, got: []float64{5647161.6, 5628852.3, 5638708.6, 5592115.9},
	},
	{
		name: "4 equal, 20 a ms, 30 ms pauses", source: flood,
		sinks: several(4, func(i int) speed { return jitter(20, .002, 30, uint32(i)) }),
		head:  1178423.2, got: []float64{1147675.1, 1125770.5, 1127741.7, 1118423.2},
	},
	{
		name: "16 equal, 100 a ms, 60 ms pauses", source: flood,
		sinks: several(16, func(i int) speed { return jitter(100, .003, 60, uint32(i)) }),
		head:  4950777.2,
		got: []float64{
			4930766.0, 4941239.4, 4890777.2, 4893540.2, 4949037.2, 4903858.7, 4947014.4, 4910874.3,
			4940272.1, 4938205.3, 4923294.2, 4905858.2, 4926372.1, 4930022.1, 4949802.9, 4941312.8,
		},
	},
	{
		name: "100 and 95 a ms", source: flood, sinks: these(constant(100), constant(95)),
		head: 5759905, got: []float64{5759810, 5699905},
	},
	{
		name: "100 and 70 a ms", source: flood, sinks: these(constant(100), constant(70)),
		head: 4259930, got: []float64{4259860, 4199930},
	},
	{
		name: "100 and 50 a ms", source: flood, sinks: these(constant(100), constant(50)),
		head: 5934900, got: []float64{5874900, 2999950}, lost: []float64{0, 2874950},
	},
	{
		name: "100 and 10 a ms, patience 1 s, 10 s", source: flood, sinks: these(constant(100), constant(10)),
		patience: []time.Duration{time.Second, 10 * time.Second},
		head:     659990, got: []float64{659980, 599990},
	},
	{
		name: "100 and 1 a ms, second forever", source: flood, sinks: these(constant(100), constant(1)),
		patience: []time.Duration{time.Second, wire.Forever},
		head:     119999, got: []float64{119998, 59999},
	},
	{
		name: "3 x 100 a ms and one message a second", source: flood,
		sinks: these(constant(100), constant(100), constant(100), constant(.001)),
		head:  5948701.7, got: []float64{5888701.7, 5888701.7, 5888701.7, 60}, lost: []float64{0, 0, 0, 5888641.7},
	},
	{
		name: "3 x 100 a ms and one hung", source: flood,
		sinks: these(constant(100), constant(100), constant(100), constant(0)),
		head:  5948700, got: []float64{5888700, 5888700, 5888700, 0}, lost: []float64{0, 0, 0, 5888700},
	},
	{
		name: "2 x 100 a ms and 8 that hang one by one", source: flood,
		sinks: several(10, func(i int) speed {
			if i < 2 {
				return constant(100)
			}
			return hangs(10 * (i - 2))
		}),
		head: 5948700,
		got:  []float64{5888700, 5888700, 0, 900, 1900, 2900, 3900, 4900, 5900, 6900},
		lost: []float64{0, 0, 5888700, 5887800, 5886800, 5885800, 5884800, 5883800, 5882800, 5881800},
	},
	{
		name: "3 x 100 and 130 a ms, 0.5 s pause in 5", source: flood,
		sinks: these(constant(100), constant(100), constant(100), pauses(130, 500, 5000)),
		head:  6059900, got: []float64{5999900, 5999900, 5999900, 6059800},
	},
	{
		name: "1000 and 80 a ms", source: flood, sinks: these(constant(1000), constant(80)),
		head: 4859920, got: []float64{4859840, 4799920},
	},
	{
		name: "bursts, 60 a ms on average, and a sink of 70", source: func(t int) float64 {
			if t%1000 < 200 {
				return 300
			}
			return 0
		},
		sinks: these(constant(1000), constant(70)),
		head:  3600000, got: []float64{3600000, 3600000},
	},
}

// TestPatienceAgreesWithModel runs each scenario three times. The original
// rule must give the figures of the original program, so that it is known to
// be the original. The real code must give the same figures but for the
// tolerance, for it counts in whole nanoseconds and bytes. Fed with samples
// it may give up on a sink some ms sooner or later.
func TestPatienceAgreesWithModel(t *testing.T) {
	const (
		portTolerance    = 0.00001 // of head
		codeTolerance    = 0.00001
		sampledTolerance = 0.001
	)
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			original := runModel(modelTime, s.source, s.sinks(), s.patience, &originalRule{})
			if math.Abs(original.head-s.head) > portTolerance*s.head {
				t.Errorf("model: head %.1f, originally %.1f", original.head, s.head)
			}
			lost := s.lost
			if lost == nil {
				lost = make([]float64, len(s.got))
			}
			for i := range s.got {
				want := figures{s.head, s.got[i], lost[i]}
				if got := (figures{original.head, original.got[i], original.lost[i]}); !got.near(want, portTolerance) {
					t.Errorf("model, sink %d: %v, originally %v", i, got, want)
				}
			}
			compare := func(what string, rule *codeRule, tolerance float64) {
				code := runModel(modelTime, s.source, s.sinks(), s.patience, rule)
				for i := range s.got {
					want := figures{original.head, original.got[i], original.lost[i]}
					got := figures{code.head, code.got[i], code.lost[i]}
					if !got.near(want, tolerance) {
						t.Errorf("%s, sink %d: %v, model %v", what, i, got, want)
					}
					// A loss is a matter of principle, however small.
					if (got.lost > 0) != (want.lost > 0) {
						t.Errorf("%s, sink %d: lost %.1f, model %.1f", what, i, got.lost, want.lost)
					}
				}
			}
			compare("code", &codeRule{}, codeTolerance)
			compare("code on samples", &codeRule{sample: rand.New(rand.NewPCG(1, 2))}, sampledTolerance)
		})
	}
}

// figures is what a run came to for one sink, in messages.
type figures struct{ head, got, lost float64 }

func (f figures) near(g figures, tolerance float64) bool {
	d := max(math.Abs(f.head-g.head), math.Abs(f.got-g.got), math.Abs(f.lost-g.lost))
	return d <= tolerance*max(f.head, g.head)
}

func (f figures) String() string {
	return fmt.Sprintf("head %.1f got %.1f lost %.1f", f.head, f.got, f.lost)
}

// twister is the Mersenne Twister MT19937 of Matsumoto and Nishimura, seeded
// by one key word, with floats of 53 bits: the generator that the original
// figures were drawn from.
type twister struct {
	state [624]uint32
	next  int
}

func newTwister(seed uint32) *twister {
	m := &twister{next: 624}
	s := &m.state
	s[0] = 19650218
	for i := 1; i < 624; i++ {
		s[i] = 1812433253*(s[i-1]^s[i-1]>>30) + uint32(i)
	}
	i := 1
	wrap := func() {
		if i++; i == 624 {
			s[0], i = s[623], 1
		}
	}
	for range 624 {
		s[i] = (s[i] ^ (s[i-1]^s[i-1]>>30)*1664525) + seed
		wrap()
	}
	for range 623 {
		s[i] = (s[i] ^ (s[i-1]^s[i-1]>>30)*1566083941) - uint32(i)
		wrap()
	}
	s[0] = 1 << 31
	return m
}

func (m *twister) word() uint32 {
	s := &m.state
	if m.next == 624 {
		for k := range s {
			y := s[k]&(1<<31) | s[(k+1)%624]&(1<<31-1)
			s[k] = s[(k+397)%624] ^ y>>1 ^ -(y&1)&0x9908b0df
		}
		m.next = 0
	}
	y := s[m.next]
	m.next++
	y ^= y >> 11
	y ^= y << 7 & 0x9d2c5680
	y ^= y << 15 & 0xefc60000
	return y ^ y>>18
}

// float is in [0, 1).
func (m *twister) float() float64 {
	a, b := m.word()>>5, m.word()>>6
	return (float64(a)*(1<<26) + float64(b)) / (1 << 53)
}
