// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Mmsghdr is struct mmsghdr of sendmmsg(2) and recvmmsg(2). Len is written by the kernel for each message that it
// took or delivered: it is the commit record of the system call.
type Mmsghdr struct {
	Hdr unix.Msghdr
	Len uint32
}

// Untouched is what Len is preset to. No message is that long, so any other value was written by the kernel.
const Untouched = 0xffffffff

// Recvmmsg implements [Ops]. RawSyscall6: the call does not block, and telling the scheduler about it costs more than
// it is worth; a batch of 64 may last 70 us, so sysmon would take the P away in the middle of it.
func (Kernel) Recvmmsg(_ string, fd int, vec []Mmsghdr) (int, unix.Errno) {
	for {
		n, _, e := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(vec))),
			uintptr(len(vec)), unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC, 0, 0)
		if e == unix.EINTR {
			continue
		}
		if e != 0 {
			return 0, e
		}
		return int(n), 0
	}
}

// Sendmmsg implements [Ops].
func (Kernel) Sendmmsg(_ string, fd int, vec []Mmsghdr) (int, unix.Errno) {
	for {
		n, _, e := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(vec))),
			uintptr(len(vec)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		if e == unix.EINTR {
			continue
		}
		if e != 0 {
			return 0, e
		}
		return int(n), 0
	}
}
