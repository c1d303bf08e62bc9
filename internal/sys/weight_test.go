// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestWeights: what lies unread weighs as much as was said, whatever its length, and also together.
func TestWeights(t *testing.T) {
	for _, kind := range []int{unix.SOCK_DGRAM, unix.SOCK_SEQPACKET} {
		one, other := unixPair(t, kind)
		SetSendBuffer(one, 1<<20)
		var w Weights
		bytes := make([]byte, 200<<10)
		for n := range 200 << 10 {
			if n > 2000 && n%97 != 0 {
				continue
			}
			sum := 0
			for _, size := range []int{n, n / 2} {
				if errno := Send(one, bytes[:size]); errno != 0 {
					t.Fatalf("%d bytes: %v", size, errno)
				}
				sum += w.Of(size)
			}
			got, err := OutQueue(one)
			if err != nil || got != sum {
				t.Fatalf("%d and %d bytes weigh %d (%v), and it was said %d", n, n/2, got, err, sum)
			}
			for range 2 {
				unix.Recvfrom(other, bytes[:1], unix.MSG_DONTWAIT)
			}
		}
	}
}
