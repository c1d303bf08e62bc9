// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Epoll is an epoll(7) instance. Its methods do not block.
type Epoll struct{ fd int }

// NewEpoll makes one. The caller closes it.
func NewEpoll() (*Epoll, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	return &Epoll{fd}, nil
}

// FD is the descriptor, for EpollWait.
func (e *Epoll) FD() int { return e.fd }

// Close closes the instance; what it watches stays open.
func (e *Epoll) Close() error { return unix.Close(e.fd) }

// Add watches fd for events; key comes back with each event.
func (e *Epoll) Add(fd int, events uint32, key uint64) error {
	return e.ctl(unix.EPOLL_CTL_ADD, fd, events, key)
}

// Modify changes what fd is watched for.
func (e *Epoll) Modify(fd int, events uint32, key uint64) error {
	return e.ctl(unix.EPOLL_CTL_MOD, fd, events, key)
}

// Remove stops watching fd. It must be called before fd is closed when another descriptor shares the open file
// description (the service manager's copy does): epoll watches the description, and would go on telling of it.
func (e *Epoll) Remove(fd int) error {
	return e.ctl(unix.EPOLL_CTL_DEL, fd, 0, 0)
}

func (e *Epoll) ctl(op, fd int, events uint32, key uint64) error {
	ev := unix.EpollEvent{Events: events, Fd: int32(uint32(key)), Pad: int32(uint32(key >> 32))}
	if err := unix.EpollCtl(e.fd, op, fd, &ev); err != nil {
		return fmt.Errorf("cannot watch descriptor %d: %w", fd, os.NewSyscallError("epoll_ctl", err))
	}
	return nil
}

// Key is what Add was told for the descriptor that ev is about.
func Key(ev *Event) uint64 {
	return uint64(uint32(ev.Fd)) | uint64(uint32(ev.Pad))<<32
}

// shortWait is how long EpollWait waits without telling the Go scheduler. Such a wait holds a P, but costs some 35 us
// of CPU less than one that gives the P away and has to win it back. It must be well under the 10 ms after which the
// scheduler's monitor starts to interrupt a thread that holds a P. On a quiet channel the wait becomes a long one
// after it, so that an idle broker costs nothing.
const shortWait = 2 * time.Millisecond

// EpollWait implements [Ops]. It needs Linux 5.11 (epoll_pwait2) for waits under a millisecond.
func (Kernel) EpollWait(_ string, epfd int, events []Event, d time.Duration) (int, unix.Errno) {
	if d == 0 {
		return epollWait(epfd, events, 0, true)
	}
	short := shortWait
	if d > 0 && d < short {
		short = d
	}
	if n, e := epollWait(epfd, events, short, true); n > 0 || e != 0 || d == short {
		return n, e
	}
	if d > 0 {
		d -= short
	}
	return epollWait(epfd, events, d, false)
}

func epollWait(epfd int, events []Event, d time.Duration, raw bool) (int, unix.Errno) {
	var ts *unix.Timespec
	var t unix.Timespec
	if d >= 0 {
		t = unix.NsecToTimespec(int64(d))
		ts = &t
	}
	var n uintptr
	var e unix.Errno
	if raw {
		n, _, e = unix.RawSyscall6(unix.SYS_EPOLL_PWAIT2, uintptr(epfd), uintptr(unsafe.Pointer(unsafe.SliceData(events))),
			uintptr(len(events)), uintptr(unsafe.Pointer(ts)), 0, 0)
	} else {
		n, _, e = unix.Syscall6(unix.SYS_EPOLL_PWAIT2, uintptr(epfd), uintptr(unsafe.Pointer(unsafe.SliceData(events))),
			uintptr(len(events)), uintptr(unsafe.Pointer(ts)), 0, 0)
	}
	switch e {
	case 0:
		return int(n), 0
	case unix.EINTR:
		return 0, 0
	}
	return 0, e
}

// Event is struct epoll_event; see Key.
type Event = unix.EpollEvent

// What epoll can be asked to tell of (epoll_ctl(2)).
const (
	Readable = unix.EPOLLIN
	Writable = unix.EPOLLOUT
	HungUp   = unix.EPOLLRDHUP // the other end is closed for writing; EPOLLHUP and EPOLLERR come unasked
	OneShot  = unix.EPOLLONESHOT
	Edge     = unix.EPOLLET
)

// WaitReadable waits until one of the descriptors can be read from, or its other end is gone, and returns its index in
// fds; -1 after timeout (< 0: for ever). It is for goroutines that may wait.
func WaitReadable(timeout time.Duration, fds ...int) (int, error) {
	set := make([]unix.PollFd, len(fds))
	for i, fd := range fds {
		set[i] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
	}
	var deadline time.Time
	if timeout >= 0 {
		deadline = time.Now().Add(timeout)
	}
	for {
		ms := -1
		if timeout >= 0 {
			ms = int(max(0, time.Until(deadline)+time.Millisecond-1) / time.Millisecond)
		}
		n, err := unix.Poll(set, ms)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return -1, os.NewSyscallError("poll", err)
		case n == 0:
			return -1, nil
		}
		for i := range set {
			if set[i].Revents != 0 {
				return i, nil
			}
		}
	}
}

// WaitAny waits until at least one of the descriptors can be read from or has hung up, at most for d (< 0: for ever),
// and says of each in ready whether it is one. It is for goroutines that may wait.
func WaitAny(d time.Duration, fds []int, ready []bool) error {
	set := make([]unix.PollFd, len(fds))
	for i, fd := range fds {
		set[i] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
	}
	ms := -1
	if d >= 0 {
		ms = int((d + time.Millisecond - 1) / time.Millisecond)
	}
	if _, err := unix.Poll(set, ms); err != nil && err != unix.EINTR {
		return os.NewSyscallError("poll", err)
	}
	for i := range set {
		ready[i] = set[i].Revents != 0
	}
	return nil
}
