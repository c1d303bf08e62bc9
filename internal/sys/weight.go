// SPDX-License-Identifier: Apache-2.0

package sys

import "golang.org/x/sys/unix"

// Weights knows what a datagram or packet adds to OutQueue while it lies unread. The kernel counts the memory that it takes, which
// differs between kernels, so it is tried, once for each length. The zero Weights is ready; it is for one goroutine at a time,
// and does not block.
type Weights struct {
	short [shortSteps]uint32 // of lengths up to 64 KiB, by step; 0: not tried yet
	long  map[int]uint32     // of others
}

const (
	// weightStep is how far lengths may differ that weigh the same: the kernel rounds up to a cache line at least.
	weightStep = 64
	shortSteps = 64 << 10 / weightStep
	// skbSize is about what the kernel needs beside the bytes, where it cannot be tried.
	skbSize = 768
)

// Of is what a message of n bytes weighs.
func (w *Weights) Of(n int) int {
	step := max(0, n-1) / weightStep
	if step < shortSteps {
		if w.short[step] == 0 {
			w.short[step] = w.try((step + 1) * weightStep)
		}
		return int(w.short[step])
	}
	weight, ok := w.long[step]
	if !ok {
		if w.long == nil {
			w.long = make(map[int]uint32)
		}
		weight = w.try((step + 1) * weightStep)
		w.long[step] = weight
	}
	return int(weight)
}

func (w *Weights) try(n int) uint32 {
	guess := uint32(n + skbSize)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return guess
	}
	defer unix.Close(pair[1])
	defer unix.Close(pair[0])
	if n >= shortSteps*weightStep {
		SetSendBuffer(pair[0], 2*n)
	}
	if Send(pair[0], make([]byte, n)) != 0 {
		return guess
	}
	if weight, err := OutQueue(pair[0]); err == nil && weight >= n {
		return uint32(weight)
	}
	return guess
}
