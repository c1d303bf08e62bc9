// SPDX-License-Identifier: Apache-2.0

package msgmux

import (
	"errors"
	"net"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
)

// A goroutine that waits in the runtime's poller costs some 20 microseconds of CPU time more than a thread that waits in
// the system call itself: it is asked once in vain, gives its processor (P) away, and the thread that wins it back looks
// for other work before and after. Where messages come thousands of times a second that is most of what they cost. So
// calls first wait in the kernel, for a moment: the socket is a blocking one with a timeout (SO_RCVTIMEO, SO_SNDTIMEO in
// socket(7)), and only when that has passed the poller is asked. What is idle stands in the poller and costs nothing.
//
// For that moment a P is held, unless the runtime's monitor wants it for somebody else, and contexts and Close have to
// wait for its end.

// shortWait is that moment. The kernel rounds it up to its ticks, of up to 10 ms.
const shortWait = 5 * time.Millisecond

// yieldEvery keeps the runtime's monitor quiet. It takes every goroutine that the scheduler has not seen for 10 ms for
// one that runs that long, and its P away from each of its system calls.
const yieldEvery = 4 * time.Millisecond

// shortWaits is how many wait in the kernel now, in the whole process. Half of the Ps are always left to others.
var shortWaits atomic.Int32

// waiting decides which calls on one socket wait in the kernel. One goroutine at a time may use it.
type waiting struct {
	possible bool // the socket has a timeout
	most     int32
	yielded  time.Time
}

// prepare makes conn a blocking socket with a timeout.
func (w *waiting) prepare(conn *net.UnixConn) (syscall.RawConn, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	timeout := syscall.NsecToTimeval(int64(shortWait))
	err = raw.Control(func(fd uintptr) {
		w.possible = syscall.SetsockoptTimeval(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &timeout) == nil &&
			syscall.SetsockoptTimeval(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDTIMEO, &timeout) == nil &&
			syscall.SetNonblock(int(fd), false) == nil
	})
	return raw, err
}

// begin is to be called before each call, and gives its flags; end after it.
func (w *waiting) begin() (flags int) {
	if now := time.Now(); now.Sub(w.yielded) > yieldEvery {
		w.yielded, w.most = now, int32(runtime.GOMAXPROCS(0)/2)
		runtime.Gosched()
	}
	if w.possible && shortWaits.Add(1) <= w.most {
		return 0
	}
	return syscall.MSG_DONTWAIT
}

func (w *waiting) end() {
	if w.possible {
		shortWaits.Add(-1)
	}
}

// isUnready tells whether err means that it is time to ask the poller: nothing came in time, or a signal ended the wait.
// (After a wait with a timeout the kernel does not go on by itself, signal(7).)
func isUnready(err error) bool {
	return errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EINTR)
}
