// SPDX-License-Identifier: Apache-2.0

// Package histogram counts times by size, to within 1.6 %, in memory that does not grow with their number. It makes no
// compatibility promise.
package histogram

import "math/bits"

// Buckets is how many places a histogram has: exact below 64 ns, then 64 for each power of two, up to half an hour. The
// benchmark's clients in C count into the same ones (internal/bench/c/meter.h).
const Buckets = 2304

// Histogram counts by Bucket.
type Histogram [Buckets]uint64

// Bucket is the place of a time of ns nanoseconds.
func Bucket(ns uint64) int {
	if ns < 64 {
		return int(ns)
	}
	e := bits.Len64(ns) - 1
	return min((e-5)*64+int(ns>>(e-6)&63), Buckets-1)
}

// middle is the time in nanoseconds that a bucket stands for.
func middle(i int) float64 {
	if i < 64 {
		return float64(i)
	}
	e := i/64 + 5
	width := float64(uint64(1) << (e - 6))
	return float64(uint64(1)<<e) + (float64(i%64)+0.5)*width
}

// Merge adds the counts of another.
func (h *Histogram) Merge(other *Histogram) {
	for i, n := range other {
		h[i] += n
	}
}

// Quantile is the time in nanoseconds under which the share q of all lies, 0 when there are none.
func (h *Histogram) Quantile(q float64) float64 {
	var total, sum uint64
	for _, n := range h {
		total += n
	}
	if total == 0 {
		return 0
	}
	for i, n := range h {
		if sum += n; n > 0 && float64(sum) >= q*float64(total) {
			return middle(i)
		}
	}
	return middle(Buckets - 1)
}
