// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ConnectDatagram makes a datagram socket and connects it to the one that is bound to name: "@abstract", or a path.
// The caller owns the descriptor. Connecting to a path waits for the file systems on the way, for ever if one of them
// does (a dead autofs), so it is not for a goroutine that others wait for.
//
// sndbuf is the send buffer in bytes, as setsockopt(2) takes it: the kernel books twice that, headers included, and
// what waits in the receiver's queue is charged to it. 0 leaves the default. Without CAP_NET_ADMIN
// net.core.wmem_max is the most. Errors are *os.SyscallError.
//
// The socket is close-on-exec and never O_NONBLOCK: that flag would belong to everyone who shares the socket.
// Whoever sends says MSG_DONTWAIT.
func ConnectDatagram(name string, sndbuf int) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if sndbuf > 0 {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sndbuf)
		if err == unix.EPERM {
			err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, sndbuf)
		}
		if err != nil {
			unix.Close(fd)
			return -1, os.NewSyscallError("setsockopt", err)
		}
	}
	if e := connectUnix(fd, name); e != 0 {
		unix.Close(fd)
		return -1, os.NewSyscallError("connect", e)
	}
	return fd, nil
}

// connectUnix is connect(2) for the longest names too: x/sys/unix has no room for an abstract name of 107 bytes.
func connectUnix(fd int, name string) unix.Errno {
	sa := unix.RawSockaddrUnix{Family: unix.AF_UNIX}
	n := len(name)
	abstract := n > 0 && name[0] == '@'
	if !abstract {
		n++ // the NUL that ends a path
	}
	if name == "" || n > len(sa.Path) {
		return unix.EINVAL
	}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&sa.Path[0])), len(sa.Path)), name)
	if abstract {
		sa.Path[0] = 0
	}
	size := unsafe.Offsetof(sa.Path) + uintptr(n)
	for {
		_, _, e := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&sa)), size)
		if e != unix.EINTR {
			return e
		}
	}
}

// PeerName returns the name of the socket that fd is connected to, in the form of UnixSocket.Name up to a NUL; it
// answers even when that socket is closed.
func PeerName(fd int) (string, error) {
	sa, err := unix.Getpeername(fd)
	if err != nil {
		return "", os.NewSyscallError("getpeername", err)
	}
	if sa, ok := sa.(*unix.SockaddrUnix); ok {
		return sa.Name, nil
	}
	return "", os.NewSyscallError("getpeername", unix.EAFNOSUPPORT)
}
