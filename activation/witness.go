// SPDX-License-Identifier: Apache-2.0

package activation

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Witness tells whether the descriptor store still holds what it was given at one moment. The store has the only write end of
// a pipe, whose read end is ours: when the service manager lets go of it, the kernel reports that the pipe is hung up (pipe(7),
// poll(2)). No other way to look into the store works for every manager, and without a bus.
//
// A nil Witness has nothing to tell: it holds.
type Witness struct{ fd int }

// Witness gives the store a witness under that name, in the place of one that had it before. It may block as
// [Notifier.Store] does. The caller closes it. A nil Notifier makes a nil Witness.
func (n *Notifier) Witness(name string) (*Witness, error) {
	if n == nil {
		return nil, nil
	}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("cannot make a witness: %w", os.NewSyscallError("pipe2", err))
	}
	err := n.Remove(name)
	if err == nil {
		err = n.Store(name, pipe[1])
	}
	unix.Close(pipe[1]) // so that the store's copy is the only one
	if err != nil {
		unix.Close(pipe[0])
		return nil, err
	}
	return &Witness{fd: pipe[0]}, nil
}

// AdoptWitness is the witness that a predecessor gave the store, of which fd is what we were handed over. It stands where it stood,
// which a new one would not. It owns fd from then on, also after an error: without procfs the read end cannot be had again.
func AdoptWitness(fd int) (*Witness, error) {
	defer unix.Close(fd)
	end, err := unix.Open("/proc/self/fd/"+strconv.Itoa(fd), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot adopt a witness: %w", os.NewSyscallError("open", err))
	}
	return &Witness{fd: end}, nil
}

// Holds says whether the store holds the witness, or is still to read the message that it came with. It does not block.
func (w *Witness) Holds() bool {
	if w == nil {
		return true
	}
	poll := []unix.PollFd{{Fd: int32(w.fd)}}
	for {
		n, err := unix.Poll(poll, 0)
		if !errors.Is(err, unix.EINTR) {
			return err != nil || n == 0
		}
	}
}

// Close releases the witness. What the store holds of it stays there until it is removed, and tells nobody anything.
func (w *Witness) Close() {
	if w != nil {
		unix.Close(w.fd)
	}
}
