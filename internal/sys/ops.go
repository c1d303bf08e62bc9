// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"time"

	"golang.org/x/sys/unix"
)

// Ops are the calls that the data thread makes. Each names its call site, the seam, so that a test can act at that
// one and at no other. None of them waits, except EpollWait.
//
// Errors are bare errno values, 0 for success: the callers branch on them, and a bare number is not allocated.
type Ops interface {
	// Recvmmsg receives up to len(vec) datagrams or packets without waiting (MSG_DONTWAIT, recvmmsg(2)) and returns
	// how many. The kernel writes vec[i].Len for each one it took.
	Recvmmsg(seam string, fd int, vec []Mmsghdr) (int, unix.Errno)
	// Sendmmsg sends without waiting and without SIGPIPE (MSG_DONTWAIT|MSG_NOSIGNAL, sendmmsg(2)) and returns how
	// many were accepted, a leading part of vec. An error is told only when the very first was refused.
	Sendmmsg(seam string, fd int, vec []Mmsghdr) (int, unix.Errno)
	// QueueReceive takes a message from a POSIX message queue without waiting (mq_timedreceive(3)); EAGAIN if there is
	// none. The kernel writes *priority when it took one, which is all the record that this call leaves.
	QueueReceive(seam string, fd int, buf []byte, priority *uint32) (int, unix.Errno)
	// QueueSend gives a message to a POSIX message queue without waiting (mq_timedsend(3)); EAGAIN if it is full. It
	// leaves no record.
	QueueSend(seam string, fd int, b []byte) unix.Errno
	// EpollWait waits for events for at most d; d < 0 is for ever. EINTR is no events.
	EpollWait(seam string, epfd int, events []Event, d time.Duration) (int, unix.Errno)
	// Seam marks a point between two calls. It does nothing outside tests.
	Seam(name string)
}

// Kernel is the real thing.
type Kernel struct{}

// Seam does nothing.
func (Kernel) Seam(string) {}
