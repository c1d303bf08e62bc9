// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// What follows are system calls that never wait (MSG_DONTWAIT) and so are not told to the Go scheduler. Telling it would
// wake the runtime's monitor in a process that was idle, which costs more than the call itself; and since they do not
// wait, nobody misses the processor meanwhile. Whoever is to wait leaves that to the runtime's poller, after EAGAIN.
//
// Errors are bare errno values, 0 for success.

// Recv is recv(2) into b and, for what b has no room for, into rest: n counts both. Descriptors that are attached to the
// packet are closed by the kernel, since there is no place for them.
func Recv(fd int, b, rest []byte) (n int, e unix.Errno) {
	for {
		if n, e = recv(fd, b, rest, unix.MSG_DONTWAIT); e != unix.EINTR {
			return n, e
		}
	}
}

// RecvKeeping is the exception: it is Recv on a socket that blocks, waits for as long as the socket's timeout says (SO_RCVTIMEO in
// socket(7)), and keeps the processor meanwhile. It is only for who has been told that nobody misses that. After EINTR the runtime may want
// the processor back.
func RecvKeeping(fd int, b, rest []byte) (n int, e unix.Errno) { return recv(fd, b, rest, 0) }

func recv(fd int, b, rest []byte, flags uintptr) (int, unix.Errno) {
	iov := [2]unix.Iovec{{Base: unsafe.SliceData(b), Len: uint64(len(b))}, {Base: unsafe.SliceData(rest), Len: uint64(len(rest))}}
	h := unix.Msghdr{Iov: &iov[0], Iovlen: uint64(len(iov))}
	n, _, e := unix.RawSyscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&h)), flags)
	if e != 0 {
		return 0, e
	}
	return int(n), 0
}

// Send is send(2), which here raises no SIGPIPE, on a socket that takes a message whole or not at all.
func Send(fd int, b []byte) unix.Errno {
	for {
		_, _, e := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))),
			uintptr(len(b)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		if e != unix.EINTR {
			return e
		}
	}
}

// SendDescriptors is Send with descriptors attached, of which the receiver gets copies.
func SendDescriptors(fd int, b []byte, fds ...int) unix.Errno {
	control := unix.UnixRights(fds...)
	iov := unix.Iovec{Base: unsafe.SliceData(b), Len: uint64(len(b))}
	h := unix.Msghdr{Iov: &iov, Iovlen: 1, Control: unsafe.SliceData(control), Controllen: uint64(len(control))}
	for {
		_, _, e := unix.RawSyscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&h)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		if e != unix.EINTR {
			return e
		}
	}
}

// RecvDescriptors is Recv into b alone, with the descriptors that came with the packet: they are open and the caller's. Those of an empty
// packet, which reads like the end of a connection, are closed.
func RecvDescriptors(fd int, b []byte) (n int, fds []int, e unix.Errno) {
	var control [ControlSpace]byte
	iov := unix.Iovec{Base: unsafe.SliceData(b), Len: uint64(len(b))}
	h := unix.Msghdr{Iov: &iov, Iovlen: 1, Control: &control[0], Controllen: uint64(len(control))}
	for {
		r, _, e := unix.RawSyscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&h)), unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
		switch e {
		case 0:
			if _, fds, _ = ParseControl(control[:h.Controllen]); r == 0 {
				CloseDescriptors(fds)
				fds = nil
			}
			return int(r), fds, 0
		case unix.EINTR:
		default:
			return 0, nil, e
		}
	}
}
