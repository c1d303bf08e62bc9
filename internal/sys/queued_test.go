// SPDX-License-Identifier: Apache-2.0

package sys_test

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/sys"
)

// TestQueued: what lies in the queue of a datagram socket is counted, again and again, and nothing of it is taken.
func TestQueued(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	want := func(messages, bytes uint64) {
		t.Helper()
		for range 3 {
			if m, b, err := sys.Queued(pair[0]); m != messages || b != bytes || err != nil {
				t.Errorf("%d messages, %d bytes, %v; want %d and %d", m, b, err, messages, bytes)
			}
		}
	}
	send := func(n int) {
		t.Helper()
		if _, err := unix.Write(pair[1], make([]byte, n)); err != nil {
			t.Fatal(err)
		}
	}
	take := func(want int) {
		t.Helper()
		b := make([]byte, 64<<10)
		if n, err := unix.Read(pair[0], b); n != want || err != nil {
			t.Fatalf("%d bytes, %v, want %d", n, err, want)
		}
	}
	want(0, 0)
	send(10)
	want(1, 10)
	send(50_000)
	send(1)
	want(3, 50_011)
	take(10)
	want(2, 50_001)
	take(50_000)
	take(1)
	want(0, 0)
	// The first look at messages without bytes sees all of them.
	send(0)
	send(7)
	send(0)
	if m, b, err := sys.Queued(pair[0]); m != 3 || b != 7 || err != nil {
		t.Errorf("%d messages, %d bytes, %v; want 3 and 7", m, b, err)
	}
	if m, _, _ := sys.Queued(pair[0]); m < 1 || m > 3 {
		t.Errorf("%d messages the second time", m)
	}
	take(0)
	take(7)
	take(0)
	want(0, 0)
}
