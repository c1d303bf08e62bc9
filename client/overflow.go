// SPDX-License-Identifier: Apache-2.0

package msgmux

import (
	"math/bits"
	"runtime"
	"sync"
	"syscall"
)

// A sink's buffer is as large as the packets that came, and each receive has room for the largest there is: what the
// buffer is too small for goes to an overflow that the whole process has in common, and then the buffer grows. So no
// packet is cut off, nothing has to be asked for beforehand, and a sink costs what it receives.
const (
	// firstBuffer is what a sink begins with, in bytes.
	firstBuffer = 4 << 10
	// overflowSize is above the largest datagram that Linux makes at all: 4 MiB and a little more pass, never a quarter MiB
	// more.
	overflowSize = MaxMessage + 256<<10
)

// overflow is memory outside of the Go heap: the collector would take it for as much as it could hold, and nearly all of
// it is never touched.
type overflow struct{ memory []byte }

// overflows are those that no receive uses now. There are never more than goroutines that receive at the same moment; the
// collector frees those that it finds unused.
var overflows sync.Pool

// takeOverflow returns an overflow that is the caller's until it gives it back.
func takeOverflow() (*overflow, error) {
	if o, ok := overflows.Get().(*overflow); ok {
		return o, nil
	}
	memory, err := syscall.Mmap(-1, 0, overflowSize, syscall.PROT_READ|syscall.PROT_WRITE,
		syscall.MAP_PRIVATE|syscall.MAP_ANON|syscall.MAP_NORESERVE)
	if err != nil {
		return nil, err
	}
	o := &overflow{memory}
	runtime.AddCleanup(o, func(memory []byte) { _ = syscall.Munmap(memory) }, memory)
	return o, nil
}

// give gives the overflow back.
func (o *overflow) give() { overflows.Put(o) }

// into returns a larger buffer with what is in buffer and the n bytes behind it that are in the overflow, whose memory
// then goes back to the kernel.
func (o *overflow) into(buffer []byte, n int) []byte {
	size := len(buffer) + n
	larger := make([]byte, 1<<bits.Len(uint(size-1)))
	copy(larger[copy(larger, buffer):], o.memory[:n])
	_ = syscall.Madvise(o.memory, syscall.MADV_DONTNEED) // it is only thrift
	return larger
}
