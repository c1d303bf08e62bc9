// SPDX-License-Identifier: Apache-2.0

package main

import (
	"math"
	"math/bits"
	"time"
)

// latencies counts times by size, to within 1/latencySteps (3 %), in memory that does not grow with their number: each
// power of two is divided into latencySteps equal steps.
type latencies struct {
	Counts []uint64 // by bucket; shorter than latencyBuckets if the last ones are empty
}

const (
	latencyBits    = 5
	latencySteps   = 1 << latencyBits
	latencyBuckets = (64 - latencyBits + 1) * latencySteps
)

// bucket is where a number of nanoseconds is counted. Below latencySteps it is the number itself; above, the position
// of the highest bit and the latencyBits below it.
func bucket(n uint64) int {
	shift := max(bits.Len64(n)-latencyBits-1, 0)
	return shift<<latencyBits + int(n>>shift)
}

// bound is the largest number in a bucket.
func bound(b int) uint64 {
	shift := max(b>>latencyBits-1, 0)
	return uint64(b-shift<<latencyBits+1)<<shift - 1
}

// add counts one time; a negative one, after a step of the clock, as 0.
func (l *latencies) add(d time.Duration) {
	b := bucket(uint64(max(d, 0)))
	if b >= len(l.Counts) {
		l.Counts = append(l.Counts, make([]uint64, b+1-len(l.Counts))...)
	}
	l.Counts[b]++
}

// merge adds the counts of another.
func (l *latencies) merge(other latencies) {
	if more := len(other.Counts) - len(l.Counts); more > 0 {
		l.Counts = append(l.Counts, make([]uint64, more)...)
	}
	for b, n := range other.Counts {
		l.Counts[b] += n
	}
}

// quantile is the time that a part q (0 to 1) of all does not exceed; 0 if there are none.
func (l *latencies) quantile(q float64) time.Duration {
	var all uint64
	for _, n := range l.Counts {
		all += n
	}
	rank := max(uint64(math.Ceil(q*float64(all))), 1)
	for b, n := range l.Counts {
		if n >= rank {
			return time.Duration(bound(b))
		}
		rank -= n
	}
	return 0
}
