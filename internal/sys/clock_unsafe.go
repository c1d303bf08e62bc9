// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ThreadTime is the processor time that the calling thread has used, in user space and in the kernel (clock_gettime(2),
// CLOCK_THREAD_CPUTIME_ID). It means something only to a goroutine that is locked to its thread. It does not block, and costs a
// short system call.
func ThreadTime() time.Duration {
	var t unix.Timespec
	_, _, _ = unix.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_THREAD_CPUTIME_ID, uintptr(unsafe.Pointer(&t)), 0)
	return time.Duration(t.Nano())
}
