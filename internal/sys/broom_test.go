// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestBroom: one call takes what is there, as far as it may, whatever its size, and hands on every descriptor that came along.
func TestBroom(t *testing.T) {
	one, other := unixPair(t, unix.SOCK_SEQPACKET)
	send := func(bytes, descriptors int) {
		t.Helper()
		fds := make([]int, descriptors)
		for i := range fds {
			fds[i] = int(os.Stdin.Fd())
		}
		var control []byte
		if descriptors > 0 {
			control = unix.UnixRights(fds...)
		}
		if err := unix.Sendmsg(other, make([]byte, bytes), control, nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	b := NewBroom(4)
	take := func(most, want, descriptors int) {
		t.Helper()
		n, attached, errno := b.Take(one, most)
		CloseDescriptors(attached)
		if n != want || len(attached) != descriptors || (errno != 0) != (want == 0) {
			t.Errorf("%d packets and %d descriptors instead of %d and %d (%v)", n, len(attached), want, descriptors, errno)
		}
	}
	take(4, 0, 0)
	for _, descriptors := range []int{0, 253, 1, 0, 2} {
		send(1+descriptors, descriptors)
	}
	take(1, 1, 0)
	take(9, 4, 256)
	take(4, 0, 0)
	send(3, 253) // there is as much room as before
	take(4, 1, 253)
	if allocs := testing.AllocsPerRun(100, func() { unix.Send(other, []byte{0}, 0); b.Take(one, 4) }); allocs > 0 {
		t.Errorf("%v allocations for each call", allocs)
	}
	unix.Shutdown(other, unix.SHUT_WR)
	take(3, 3, 0)
}
