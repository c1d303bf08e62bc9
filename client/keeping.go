// SPDX-License-Identifier: Apache-2.0

package msgmux

import (
	"net"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/msgmux/msgmux/internal/sys"
)

// A sink with SinkOptions.OwnProcessor first waits in the kernel, in a call that the Go scheduler is not told of: its processor (P) does
// nothing else meanwhile, and nothing has to be won back when a message comes. The socket blocks, with a timeout; what has waited for that
// long in vain goes on waiting in the runtime's poller, and so does what the runtime has interrupted, because it wants the processor
// or wants to stop the world. docs/decisions/0019 has what is gained, and why it is nothing for a guest in another program.
const (
	// keepFor is how long one wait keeps the processor, and so how late a context or a deadline may be noticed. The kernel rounds it up to
	// its ticks.
	keepFor = 4 * time.Millisecond

	// The runtime's monitor looks around a hundred times a second while a processor is in use, and interrupts who has had one for 10 ms. Once
	// it finds all processors idle it sleeps until something wakes it, and that no raw call does. So after an interrupt the poller has a turn
	// of calmFor, in which they are idle between two messages; at most once each calmEvery, since others may keep the monitor awake.
	calmFor   = 20 * time.Millisecond
	calmEvery = time.Second
)

// kept is how many processors the sinks of the process keep now.
var kept atomic.Int32

// keeping is how a sink keeps a processor. It belongs to who has the turn.
type keeping struct {
	most   int32     // how many may be kept by all sinks: half of those that there are; 0: none by this one
	calm   time.Time // until when the poller has its turn; zero: it has none
	calmed time.Time // when the last one began
}

// prepare makes conn a socket that blocks, with a timeout. All other calls to it say themselves that they do not wait.
func (k *keeping) prepare(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	timeout := syscall.NsecToTimeval(int64(keepFor))
	if control := raw.Control(func(fd uintptr) {
		if err = syscall.SetsockoptTimeval(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &timeout); err == nil {
			err = syscall.SetNonblock(int(fd), false)
		}
	}); control != nil {
		return control
	}
	if err == nil {
		k.most = int32(runtime.GOMAXPROCS(0) / 2)
	}
	return err
}

// begin says whether the next call may keep its processor; then end is to be called after it.
func (k *keeping) begin() bool {
	if k.most == 0 || !k.calm.IsZero() && time.Now().Before(k.calm) {
		return false
	}
	k.calm = time.Time{}
	for n := kept.Load(); n < k.most; n = kept.Load() {
		if kept.CompareAndSwap(n, n+1) {
			return true
		}
	}
	return false
}

func (k *keeping) end(interrupted bool) {
	kept.Add(-1)
	if !interrupted {
		return
	}
	if now := time.Now(); now.Sub(k.calmed) > calmEvery {
		k.calm, k.calmed = now.Add(calmFor), now
	}
}

// recv is recv(2) into the buffer, and what is too much into rest. Where the processor may be kept it waits for a moment first. EAGAIN is for
// the poller.
func (in *inlet) recv(fd int, rest []byte) (n int, errno syscall.Errno) {
	if in.dry != nil && in.keep.most > 0 {
		// Something is to be said before anybody waits.
		if n, errno = sys.Recv(fd, in.buffer, rest); errno != syscall.EAGAIN {
			return n, errno
		}
		in.dry()
	}
	if !in.keep.begin() {
		return sys.Recv(fd, in.buffer, rest)
	}
	n, errno = sys.RecvKeeping(fd, in.buffer, rest)
	in.keep.end(errno == syscall.EINTR)
	if errno == syscall.EINTR {
		errno = syscall.EAGAIN
	}
	return n, errno
}
