// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// QueueReceive implements [Ops]. A deadline in the past instead of O_NONBLOCK, which would belong to everyone who
// shares the queue's description: mq_timedreceive(3) looks at it only if it would have to wait.
func (Kernel) QueueReceive(_ string, fd int, buf []byte, priority *uint32) (int, unix.Errno) {
	var past unix.Timespec
	for {
		n, _, e := unix.RawSyscall6(unix.SYS_MQ_TIMEDRECEIVE, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(buf))),
			uintptr(len(buf)), uintptr(unsafe.Pointer(priority)), uintptr(unsafe.Pointer(&past)), 0)
		switch e {
		case 0:
			return int(n), 0
		case unix.EINTR:
		case unix.ETIMEDOUT:
			return 0, unix.EAGAIN
		default:
			return 0, e
		}
	}
}

// QueueSend implements [Ops].
func (Kernel) QueueSend(_ string, fd int, b []byte) unix.Errno {
	var past unix.Timespec
	for {
		_, _, e := unix.RawSyscall6(unix.SYS_MQ_TIMEDSEND, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))),
			uintptr(len(b)), 0, uintptr(unsafe.Pointer(&past)), 0)
		switch e {
		case unix.EINTR:
		case unix.ETIMEDOUT:
			return unix.EAGAIN
		default:
			return e
		}
	}
}

// QueueAttributes is struct mq_attr of mq_getattr(3).
type QueueAttributes struct {
	Flags       int64
	MaxMessages int64
	MessageSize int64 // the largest message, in bytes; a receive needs a buffer of at least that
	Messages    int64 // that are queued now
	_           [4]int64
}

// QueueAttributesOf asks a message queue how large it is and how full.
func QueueAttributesOf(fd int) (a QueueAttributes, err error) {
	_, _, e := unix.RawSyscall(unix.SYS_MQ_GETSETATTR, uintptr(fd), 0, uintptr(unsafe.Pointer(&a)))
	if e != 0 {
		return a, os.NewSyscallError("mq_getsetattr", e)
	}
	return a, nil
}

// mqueueMagic is the file system type of message queues (MQUEUE_MAGIC in the kernel's ipc/mqueue.c).
const mqueueMagic = 0x19800202

// IsQueue says whether path leads to a message queue: a file of the mqueue file system, usually below /dev/mqueue.
func IsQueue(path string) bool {
	var fs unix.Statfs_t
	var st unix.Stat_t
	return unix.Statfs(path, &fs) == nil && int64(fs.Type) == mqueueMagic &&
		unix.Stat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG
}

// OpenQueue opens the message queue at path for sending. The caller owns the descriptor. Errors are *os.SyscallError.
func OpenQueue(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("open", err)
	}
	return fd, nil
}

// ReopenQueue opens the queue behind fd, which may be open for receiving only, for sending.
func ReopenQueue(fd int) (int, error) { return OpenQueue(fmt.Sprintf("/proc/self/fd/%d", fd)) }

// QueueName is the name of the queue behind fd, as in /dev/mqueue.
func QueueName(fd int) (string, error) {
	return os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
}

// BoundTo is the address that a socket is bound to, in the form of UnixSocket.Name.
func BoundTo(fd int) (string, error) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return "", os.NewSyscallError("getsockname", err)
	}
	if sa, ok := sa.(*unix.SockaddrUnix); ok {
		return sa.Name, nil
	}
	return "", os.NewSyscallError("getsockname", unix.EAFNOSUPPORT)
}
