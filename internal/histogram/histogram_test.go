// SPDX-License-Identifier: Apache-2.0

package histogram

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestBucketsRise with the times that they stand for, to within 1.6 %.
func TestBucketsRise(t *testing.T) {
	was := -1
	for ns := uint64(0); ns < 1<<24; ns += 1 + ns/1000 {
		i := Bucket(ns)
		if i < was || i > was+1 && was >= 0 && ns < 64 {
			t.Fatalf("bucket of %d ns is %d after %d", ns, i, was)
		}
		if ns > 64 && math.Abs(middle(i)-float64(ns)) > float64(ns)/64 {
			t.Fatalf("bucket %d stands for %.0f ns, not for %d", i, middle(i), ns)
		}
		was = i
	}
	if i := Bucket(math.MaxUint64); i != Buckets-1 {
		t.Errorf("the longest time is in bucket %d, want the last", i)
	}
}

// TestQuantilesAreClose to those of the sorted times, of two histograms together.
func TestQuantilesAreClose(t *testing.T) {
	var one, other Histogram
	if q := one.Quantile(0.5); q != 0 {
		t.Errorf("of nothing: %v", q)
	}
	all := make([]float64, 10_000)
	for i := range all {
		all[i] = math.Round(rand.ExpFloat64() * 1e6)
		h := &one
		if i%2 > 0 {
			h = &other
		}
		h[Bucket(uint64(all[i]))]++
	}
	one.Merge(&other)
	slices.Sort(all)
	for _, q := range []float64{0, 0.5, 0.99, 0.999, 1} {
		exact := all[max(int(q*10_000)-1, 0)]
		if got := one.Quantile(q); math.Abs(got-exact) > exact/64+1 {
			t.Errorf("quantile %v: %v, exactly %v", q, got, exact)
		}
	}
}
