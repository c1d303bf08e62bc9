// SPDX-License-Identifier: Apache-2.0

package meter

import (
	"math"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The offsets that c/meter.h asserts.
func TestLayoutIsThatOfTheCClients(t *testing.T) {
	if n := unsafe.Sizeof(Head{}); n != 32 {
		t.Errorf("head is %d bytes, want 32", n)
	}
	if n := unsafe.Offsetof(Tally{}.Hist); n != 96 {
		t.Errorf("histogram begins at %d, want 96", n)
	}
	if n := unsafe.Sizeof(Tally{}); n > tallyStride {
		t.Errorf("tally is %d bytes, more than its place of %d", n, tallyStride)
	}
}

func TestBucketsRise(t *testing.T) {
	was := -1
	for ns := uint64(0); ns < 1<<24; ns += 1 + ns/1000 {
		i := bucket(ns)
		if i < was || i > was+1 && was >= 0 && ns < 64 {
			t.Fatalf("bucket of %d ns is %d after %d", ns, i, was)
		}
		if ns > 64 && math.Abs(middle(i)-float64(ns)) > float64(ns)/64 {
			t.Fatalf("bucket %d stands for %.0f ns, not for %d", i, middle(i), ns)
		}
		was = i
	}
	if i := bucket(math.MaxUint64); i != Buckets-1 {
		t.Errorf("largest latency is in bucket %d, want the last", i)
	}
}

func TestQuantile(t *testing.T) {
	var h [Buckets]uint64
	if q := Quantile(&h, 0.5); q != 0 {
		t.Errorf("empty histogram has median %v", q)
	}
	h[bucket(10)], h[bucket(100_000)] = 98, 2
	if q := Quantile(&h, 0.5); q != 10 {
		t.Errorf("median %v, want 10", q)
	}
	if q := Quantile(&h, 0.99); math.Abs(q-100_000) > 1600 {
		t.Errorf("p99 %v, want about 100000", q)
	}
}

func TestBoardIsShared(t *testing.T) {
	b, fd, err := Create(2)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	defer b.Close()
	other, err := Map(fd)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	b.SetPhase(Run)
	Write(&other.Tally(2).Count, 7)
	if other.Phase() != Run || Read(&b.Tally(2).Count) != 7 {
		t.Error("two mappings of the board differ")
	}
}
