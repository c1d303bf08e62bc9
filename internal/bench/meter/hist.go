// SPDX-License-Identifier: Apache-2.0

package meter

import "math/bits"

// bucket is the place of a latency of ns nanoseconds in a histogram.
func bucket(ns uint64) int {
	if ns < 64 {
		return int(ns)
	}
	e := bits.Len64(ns) - 1
	return min((e-5)*64+int(ns>>(e-6)&63), Buckets-1)
}

// middle is the latency in nanoseconds that a bucket stands for.
func middle(i int) float64 {
	if i < 64 {
		return float64(i)
	}
	e := i/64 + 5
	width := float64(uint64(1) << (e - 6))
	return float64(uint64(1)<<e) + (float64(i%64)+0.5)*width
}

// Quantile is the latency in nanoseconds under which the share q of the
// histogram lies, 0 when it is empty.
func Quantile(hist *[Buckets]uint64, q float64) float64 {
	var total, sum uint64
	for _, n := range hist {
		total += n
	}
	if total == 0 {
		return 0
	}
	for i, n := range hist {
		if sum += n; float64(sum) >= q*float64(total) {
			return middle(i)
		}
	}
	return middle(Buckets - 1)
}
