// SPDX-License-Identifier: Apache-2.0

package meter

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sharpenTimers lets no timer of this process be late for the sake of another: the default slack of 50 us would blur
// the paced rates. The C clients do the same. It is a matter of each thread; later ones inherit it (proc(5)).
func sharpenTimers() error {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return fmt.Errorf("cannot list the threads: %w", err)
	}
	for _, thread := range threads {
		if err := os.WriteFile("/proc/"+thread.Name()+"/timerslack_ns", []byte("1"), 0); err != nil {
			return fmt.Errorf("cannot set the timer slack: %w", err)
		}
	}
	return nil
}

// sleepUntil waits until CLOCK_MONOTONIC is at the time, in nanoseconds, or a signal comes. The Go scheduler is not
// told: how a load generator waits is not what the client costs, and is to cost what it costs in C.
func sleepUntil(at uint64) {
	t := unix.NsecToTimespec(int64(at))
	_, _, _ = unix.RawSyscall6(unix.SYS_CLOCK_NANOSLEEP, unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME,
		uintptr(unsafe.Pointer(&t)), 0, 0, 0)
}
