// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Peeked is a datagram that was looked at and is still in its queue.
type Peeked struct {
	Size    int    // of the whole datagram, in bytes; it may be larger than the buffer
	From    string // the sender's address: "@abstract", "/path", a relative path, or "" if it has none
	Control []byte // what came with it; descriptors in it are open and the caller's
}

// Peek looks at the datagram at the head of fd's queue without taking it and without waiting: EAGAIN if there is none.
// It fills buf as far as it goes. x/sys/unix would cut an abstract name at its first NUL; here it comes whole.
func Peek(fd int, buf, control []byte) (p Peeked, errno unix.Errno) {
	var name unix.RawSockaddrUnix
	iov := unix.Iovec{Base: unsafe.SliceData(buf), Len: uint64(len(buf))}
	h := unix.Msghdr{
		Name: (*byte)(unsafe.Pointer(&name)), Namelen: uint32(unsafe.Sizeof(name)),
		Iov: &iov, Iovlen: 1,
		Control: unsafe.SliceData(control), Controllen: uint64(len(control)),
	}
	for {
		n, _, e := unix.RawSyscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&h)),
			unix.MSG_PEEK|unix.MSG_TRUNC|unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
		switch e {
		case 0:
			return Peeked{Size: int(n), From: unixName(&name, int(h.Namelen)), Control: control[:h.Controllen]}, 0
		case unix.EINTR:
		default:
			return Peeked{}, e
		}
	}
}

// unixName is the address in name, of which size bytes count.
func unixName(name *unix.RawSockaddrUnix, size int) string {
	size -= int(unsafe.Offsetof(name.Path))
	if size <= 0 {
		return ""
	}
	b := unsafe.Slice((*byte)(unsafe.Pointer(&name.Path[0])), len(name.Path))[:min(size, len(name.Path))]
	if b[0] == 0 {
		return "@" + string(b[1:])
	}
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}
