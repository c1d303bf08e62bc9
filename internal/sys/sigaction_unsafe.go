// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// DefaultAction has the kernel do what it does by itself with a signal (sigaction(2), SIG_DFL), until restore is called.
// signal.Reset is not enough: the runtime keeps a function of its own installed for a signal that was ever asked for, and
// so a program that has asked for SIGTSTP is never stopped by it again.
func DefaultAction(s syscall.Signal) (restore func(), err error) {
	// struct sigaction of the kernel: function, flags, restorer, mask of 64 signals. All zero is SIG_DFL.
	const size, maskSize = 4, 8
	var before, byDefault [size]uint64
	if err := sigaction(s, &byDefault[0], &before[0], maskSize); err != nil {
		return nil, fmt.Errorf("cannot set the action of %v: %w", s, err)
	}
	return func() { _ = sigaction(s, &before[0], nil, maskSize) }, nil // what was set can be set again
}

func sigaction(s syscall.Signal, action, before *uint64, maskSize uintptr) error {
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(action)), uintptr(unsafe.Pointer(before)), maskSize, 0, 0)
	if errno != 0 {
		return os.NewSyscallError("rt_sigaction", errno)
	}
	return nil
}
