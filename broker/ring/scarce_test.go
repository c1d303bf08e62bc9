// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// withoutAddresses runs f while this process can map hardly anything more.
func withoutAddresses(t *testing.T, f func()) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	var pages uint64
	fmt.Sscan(string(b), &pages)
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_AS, &old); err != nil {
		t.Fatal(err)
	}
	const spare = 128 << 20 // for the runtime, which dies when it gets none
	limit := pages*uint64(os.Getpagesize()) + spare
	if err := unix.Setrlimit(unix.RLIMIT_AS, &unix.Rlimit{Cur: limit, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_AS, &old)
	f()
}

func openDescriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// TestNoAddresses: a ring for which there is no room is not a broken one, and nothing is left of one that could not be made.
func TestNoAddresses(t *testing.T) {
	g := Geometry{Size: 256 << 20, MaxMessage: 1024, MaxSinks: 16}
	r, err := Create(g, 1, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Retire)
	data, state := r.Descriptors()
	withoutAddresses(t, func() {
		before := openDescriptors(t)
		if _, err := Open(data, state, Options{}); err == nil || errors.Is(err, ErrBroken) {
			t.Errorf("opened where there is no room: %v", err)
		}
		if _, err := Create(g, 2, Options{}); err == nil {
			t.Error("made where there is no room")
		}
		if n := openDescriptors(t); n != before {
			t.Errorf("%d descriptors are left open", n-before)
		}
	})
	again, err := Open(data, state, Options{})
	if err != nil {
		t.Fatal(err)
	}
	again.files.unmap()
}
