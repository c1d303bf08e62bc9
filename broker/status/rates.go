// SPDX-License-Identifier: Apache-2.0

package status

import (
	"math"
	"time"

	"github.com/msgmux/msgmux/broker/ring"
)

// Rates are averages since an earlier look at the counts. Each look leaves its counts for the next one: the status line of a
// service does so every second, and a channel that nobody looks at does nothing for its rates.
const (
	ratesApart = 900 * time.Millisecond // looks that are nearer to the one before are not kept: a second, less a late timer
	ratesMin   = 20 * time.Millisecond  // less says too little
	ratesMax   = 10 * time.Second       // more says too little of what is now
)

// rates are the two last looks that were kept. One goroutine at a time may use them.
type rates struct{ last, before sight }

// sight is what was counted at one look.
type sight struct {
	at       time.Time // zero: there was none
	received uint64
	sinks    []tally // by place in the sink table
}

// tally is what a sink had accepted.
type tally struct{ id, took uint64 }

// since is the look to compare with: the last one that is old enough for a good average, or else the one that is there.
func (r *rates) since(now time.Time) (s *sight, seconds float64) {
	s = &r.last
	if now.Sub(s.at) < ratesApart && now.Sub(r.before.at) <= ratesMax {
		s = &r.before
	}
	if passed := now.Sub(s.at); passed >= ratesMin && passed <= ratesMax {
		return s, passed.Seconds()
	}
	return nil, 0
}

// keep remembers a look, unless the last one is too near.
func (r *rates) keep(now time.Time, t *ring.Totals, numbers []ring.Numbers) {
	if now.Sub(r.last.at) < ratesApart {
		return
	}
	r.last, r.before = r.before, r.last
	s := &r.last
	s.at, s.received = now, t.Received()
	clear(s.sinks)
	for i := range numbers {
		n := &numbers[i]
		for n.Slot >= len(s.sinks) {
			s.sinks = append(s.sinks, tally{})
		}
		s.sinks[n.Slot] = tally{n.Spec.ID, n.Took}
	}
}

// took is what a sink had accepted then; 0 of one that was not there.
func (s *sight) took(n *ring.Numbers) uint64 {
	if n.Slot < len(s.sinks) && s.sinks[n.Slot].id == n.Spec.ID {
		return s.sinks[n.Slot].took
	}
	return 0
}

// perSecond is how fast a count has grown, to a hundredth. One that is smaller than before has not.
func perSecond(now, before uint64, seconds float64) float64 {
	if now <= before {
		return 0
	}
	return math.Round(100*float64(now-before)/seconds) / 100
}
