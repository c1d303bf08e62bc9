// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"encoding/binary"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Eventfd wakes a thread that waits in epoll (eventfd(2)). Signal may be called from any goroutine, and after Close: the
// number may be somebody else's by then.
type Eventfd struct {
	fd     int
	mu     sync.RWMutex // guards closed
	closed bool
}

// NewEventfd makes one, not waiting on either side. The caller closes it.
func NewEventfd() (*Eventfd, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("eventfd2", err)
	}
	return &Eventfd{fd: fd}, nil
}

// FD is the descriptor to watch for EPOLLIN.
func (e *Eventfd) FD() int { return e.fd }

// Signal wakes the waiter; several signals before it wakes are one.
func (e *Eventfd) Signal() {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if e.closed {
		return
	}
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	// EAGAIN means that 2^64-2 signals are pending already: as good as one more.
	unix.Write(e.fd, one[:])
}

// Drain takes the pending signals.
func (e *Eventfd) Drain() {
	var n [8]byte
	unix.Read(e.fd, n[:])
}

// Close closes the descriptor. A second call does nothing.
func (e *Eventfd) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil
	}
	e.closed = true
	return unix.Close(e.fd)
}
