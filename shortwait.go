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

// A goroutine that waits in the runtime's poller costs 20 microseconds of CPU time more than a thread that waits in the
// system call itself: it asks once in vain, gives its processor (P) away, and the thread that wins one looks for other
// work before and after. If all Ps were idle meanwhile it is a multiple of that, for the runtime's monitor wakes up as
// well and looks around some sixty times. Where messages come often that is most of what they cost.
//
// So a call waits in the kernel first: the socket is a blocking one with a timeout (SO_RCVTIMEO, SO_SNDTIMEO in
// socket(7)), a slice, and after some slices in vain it is the poller's turn. What is idle stands in the poller and
// costs nothing. During a slice a P is held, unless the monitor wants it for somebody else, and contexts and Close have
// to wait for its end.
const (
	// slice is well under the 10 ms after which the monitor takes the P of a system call away although nobody needs it.
	// The kernel rounds it up to its ticks.
	slice = 5 * time.Millisecond
	// slices is how often to wait in vain. Together that costs what waking up from the poller costs once.
	slices = 20
	// yieldEvery is how often the scheduler has to see the goroutine. One that it has not seen for 10 ms is, to the
	// monitor, one that runs that long: then the P is taken away in every system call, however short.
	yieldEvery = 4 * time.Millisecond
)

// waits is how many wait in the kernel now, in the whole process. Half of the Ps are always left to others.
var waits atomic.Int32

// waiting decides how the calls on one socket wait. One goroutine at a time may use it, but for stop.
type waiting struct {
	possible bool // the socket has a timeout
	blocking bool // it is a blocking one
	most     int32
	yielded  time.Time
	stop     atomic.Bool // the call that waits is to end
}

// prepare gives conn a timeout.
func (w *waiting) prepare(conn *net.UnixConn) (syscall.RawConn, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	timeout := syscall.NsecToTimeval(int64(slice))
	err = raw.Control(func(fd uintptr) {
		w.possible = syscall.SetsockoptTimeval(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &timeout) == nil &&
			syscall.SetsockoptTimeval(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDTIMEO, &timeout) == nil &&
			syscall.SetNonblock(int(fd), false) == nil
		w.blocking = w.possible
	})
	return raw, err
}

// begin is to be called before each call and says whether it may wait, as far as it is up to others; end after it.
func (w *waiting) begin() (may bool) {
	if now := time.Now(); now.Sub(w.yielded) > yieldEvery {
		w.yielded, w.most = now, int32(runtime.GOMAXPROCS(0)/2)
		runtime.Gosched()
	}
	if !w.possible || w.stop.Load() {
		return false
	}
	if waits.Add(1) > w.most {
		waits.Add(-1)
		return false
	}
	return true
}

func (w *waiting) end(may bool) {
	if may {
		waits.Add(-1)
	}
}

// read is read(2), which waits for a slice if it may. It is not recv: Go's makes an address of the sender's name, in
// fresh memory each time, and read has no flags to say that it must not wait.
func (w *waiting) read(fd int, b []byte, may bool) (n int, err error) {
	if may != w.blocking {
		if err := syscall.SetNonblock(fd, !may); err != nil {
			return 0, err
		}
		w.blocking = may
	}
	return syscall.Read(fd, b)
}

// send is sendmsg(2), in the same way.
func (w *waiting) send(fd int, b []byte, may bool) error {
	flags := syscall.MSG_NOSIGNAL
	if !may {
		flags |= syscall.MSG_DONTWAIT
	}
	_, err := syscall.SendmsgN(fd, b, nil, nil, flags)
	return err
}

// isUnready tells whether err means that a wait was in vain, or that a signal ended it. (After a wait with a timeout
// the kernel does not go on by itself, signal(7).)
func isUnready(err error) bool {
	return errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EINTR)
}
