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

// Broom takes packets that mean nothing but that they came. It is for one goroutine at a time.
type Broom struct {
	hdr     []Mmsghdr
	iov     []unix.Iovec
	control [][ControlSpace]byte
	scrap   [1]byte
}

// NewBroom makes a Broom that takes n packets at most.
func NewBroom(n int) *Broom {
	b := &Broom{hdr: make([]Mmsghdr, n), iov: make([]unix.Iovec, n), control: make([][ControlSpace]byte, n)}
	for i := range b.hdr {
		b.iov[i] = unix.Iovec{Base: &b.scrap[0], Len: 1}
		b.hdr[i].Hdr = unix.Msghdr{Iov: &b.iov[i], Iovlen: 1, Control: &b.control[i][0]}
		b.hdr[i].Hdr.SetControllen(ControlSpace)
	}
	return b
}

// Take is what [Take] is, for the next most packets or datagrams of fd, and all in one call. It says how many came: fewer than most, and
// there are no more. Behind the end of a connection, packets of no bytes come.
func (b *Broom) Take(fd, most int) (n int, attached []int, errno unix.Errno) {
	n, errno = Kernel{}.Recvmmsg("", fd, b.hdr[:min(most, len(b.hdr))])
	for i := range b.hdr[:n] {
		h := &b.hdr[i].Hdr
		if h.Controllen > 0 {
			_, fds, _ := ParseControl(b.control[i][:h.Controllen])
			attached = append(attached, fds...)
		}
		h.SetControllen(ControlSpace)
	}
	return n, attached, errno
}
