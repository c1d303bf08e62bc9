// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"encoding/binary"
	"os"

	"golang.org/x/sys/unix"
)

// Eventfd wakes a thread that waits in epoll (eventfd(2)). Signal may be called from any goroutine.
type Eventfd struct{ fd int }

// NewEventfd makes one, not waiting on either side. The caller closes it.
func NewEventfd() (*Eventfd, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("eventfd2", err)
	}
	return &Eventfd{fd}, nil
}

// FD is the descriptor to watch for EPOLLIN.
func (e *Eventfd) FD() int { return e.fd }

// Signal wakes the waiter; several signals before it wakes are one.
func (e *Eventfd) Signal() {
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

// Close closes the descriptor.
func (e *Eventfd) Close() error { return unix.Close(e.fd) }
