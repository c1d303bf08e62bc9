// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What follows are system calls that may wait and are not told to the Go scheduler: the goroutine stays on its P, and
// nothing has to be won back when the call ends. The price is that the P does nothing else meanwhile, so they are for
// waits with a limit (SO_RCVTIMEO, SO_SNDTIMEO in socket(7)), and for who yields where others want the P.
//
// The runtime gets its P back when it needs it: it sends its preemption signal to a thread that it wants to stop, or
// that has run for 10 ms, and after a signal the kernel does not go on by itself with a wait that has a limit
// (signal(7)). With GODEBUG=asyncpreemptoff=1 there are no such signals, and the limit is the end.
//
// Errors are bare errno values, 0 for success.

// Recv is recv(2). After EINTR the goroutine has stopped if the runtime wanted it to, and away, more than 0, is how long
// it then had to wait for a P.
func Recv(fd int, b []byte, flags int) (n int, away time.Duration, e unix.Errno) {
	r, _, e := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))),
		uintptr(len(b)), uintptr(flags), 0, 0)
	switch e {
	case 0:
		return int(r), 0, 0
	case unix.EINTR:
		away = afterInterrupt()
	}
	return 0, away, e
}

// Send is send(2) on a socket that takes a message whole or not at all. EINTR and away are as with Recv.
func Send(fd int, b []byte, flags int) (away time.Duration, e unix.Errno) {
	_, _, e = unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))),
		uintptr(len(b)), uintptr(flags), 0, 0)
	if e == unix.EINTR {
		away = afterInterrupt()
	}
	return away, e
}

// Yield lets other goroutines run and returns how long it took until the P was back: next to nothing if none wanted it.
func Yield() (away time.Duration) {
	before := monotonic()
	runtime.Gosched()
	return time.Duration(monotonic() - before)
}

// afterInterrupt lets the runtime stop the goroutine if that is why it was interrupted, and returns how long that took.
//
// A function looks when it is called whether its goroutine is to stop. This one and monotonic do not, stopped does: so
// nothing is missed. It must not be Gosched that stops the goroutine: that is not what the garbage collector waits for,
// which would ask again, and interrupt again, thousands of times.
//
//go:nosplit
func afterInterrupt() (away time.Duration) {
	before := monotonic()
	return time.Duration(stopped() - before)
}

// stopped is when the goroutine goes on after it was stopped, if it was to be.
//
//go:noinline
func stopped() int64 { return monotonic() }

// monotonic is CLOCK_MONOTONIC in nanoseconds, without looking whether to stop, as time.Now does.
//
//go:nosplit
func monotonic() int64 {
	var t unix.Timespec
	// It cannot fail: the clock is there on every Linux.
	_, _, _ = unix.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_MONOTONIC, uintptr(unsafe.Pointer(&t)), 0)
	return int64(t.Sec)*1e9 + int64(t.Nsec)
}
