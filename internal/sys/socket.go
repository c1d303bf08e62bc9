// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Close closes a descriptor. The number is free afterwards whatever the outcome (close(2)), so there is nothing to
// tell.
func Close(fd int) { unix.Close(fd) }

// Duplicate is another descriptor of the same open file, close-on-exec. The caller owns it.
func Duplicate(fd int) (int, error) {
	n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	return n, os.NewSyscallError("fcntl", err)
}

// Hush has everything fail from now on that is sent to the socket fd (EPIPE for a connected sender, shutdown(2)); what lies in
// its queue can be received still. It says whether fd is a socket that can be hushed. A message queue is not.
func Hush(fd int) bool { return unix.Shutdown(fd, unix.SHUT_RD) == nil }

// HangUp ends a connection for both ends, whoever else has a copy of fd.
func HangUp(fd int) { unix.Shutdown(fd, unix.SHUT_RDWR) }

// OutQueue is how many bytes sent through fd its peer has not read yet, with the kernel's own overhead (SIOCOUTQ,
// unix(7)); 0 means that it has read everything.
func OutQueue(fd int) (int, error) {
	n, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ)
	return n, os.NewSyscallError("ioctl", err)
}

// PendingError takes the error that the kernel has for fd (SO_ERROR, socket(7)), 0 if it has none. Of a connection ECONNRESET says
// that the other end closed with something unread.
func PendingError(fd int) unix.Errno {
	e, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	return unix.Errno(e)
}

// InQueue is how many bytes wait to be read from fd, a connection or a datagram socket (SIOCINQ, unix(7)). Packets of no
// bytes do not show.
func InQueue(fd int) (int, error) {
	n, err := unix.IoctlGetInt(fd, unix.SIOCINQ)
	return n, os.NewSyscallError("ioctl", err)
}

// Reply sends one datagram without waiting. What cannot be sent now is not sent.
func Reply(fd int, b []byte) error {
	return os.NewSyscallError("send", unix.Send(fd, b, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL))
}

// Accept takes a connection from a listening socket. It waits if none is there. The descriptor is close-on-exec and
// not O_NONBLOCK.
func Accept(fd int) (int, error) {
	for {
		n, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
		if err == unix.EINTR || err == unix.ECONNABORTED {
			continue
		}
		return n, os.NewSyscallError("accept4", err)
	}
}

// IsOutOfDescriptors says whether err means that the process, or the machine, can have no more of them.
func IsOutOfDescriptors(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE)
}

// PeerCredentials are those of the process that connected (SO_PEERCRED, unix(7)).
func PeerCredentials(fd int) (Credentials, error) {
	u, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return Credentials{}, os.NewSyscallError("getsockopt", err)
	}
	return Credentials{PID: u.Pid, UID: u.Uid, GID: u.Gid}, nil
}

// Take reads one datagram or packet and forgets it, without waiting. The descriptors that came with it are open and the
// caller's: without room for them the kernel would close them within the call, which can take seconds.
func Take(fd int) (attached []int, err error) {
	var b [1]byte
	var control [ControlSpace]byte
	_, n, _, _, err := unix.Recvmsg(fd, b[:], control[:], unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("recvmsg", err)
	}
	_, attached, _ = ParseControl(control[:n])
	return attached, nil
}

// IsHungUp says whether the other end of a connection is closed, or will send no more.
func IsHungUp(fd int) bool {
	set := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	for {
		if _, err := unix.Poll(set, 0); err != unix.EINTR {
			return set[0].Revents != 0
		}
	}
}

// SetSendBuffer sets the send buffer of fd, in bytes as setsockopt(2) takes it: the kernel doubles it. Beyond
// net.core.wmem_max it needs CAP_NET_ADMIN; without, it gets what is allowed.
func SetSendBuffer(fd, bytes int) {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, bytes) != nil {
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, bytes)
	}
}
