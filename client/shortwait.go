// SPDX-License-Identifier: Apache-2.0

package msgmux

import (
	"errors"
	"net"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/msgmux/msgmux/internal/sys"
)

// A goroutine that waits in the runtime's poller costs 20 microseconds of CPU time more than a thread that waits in the
// system call itself: it asks once in vain, gives its processor (P) away, and the thread that wins one looks for other
// work before and after. Where messages come often that is most of what they cost.
//
// So a call waits in the kernel first, and keeps its P: the socket is a blocking one with a timeout (SO_RCVTIMEO,
// SO_SNDTIMEO in socket(7)), a slice, and after some slices in vain it is the poller's turn. What is idle stands in the
// poller and costs nothing. Contexts and Close have to wait for the end of a slice. The garbage collector has not: the
// runtime interrupts whoever is to stop.
//
// A P that is kept is one that others may want. At most half of them are kept; and the goroutine yields now and then,
// at the latest when the runtime's monitor interrupts it because it has had its P for 10 ms, and sees from how long
// that takes whether others were waiting. If so, the whole process leaves its waiting to the poller for a while.
const (
	// slice bounds how long a wait does not notice that it is to end. The kernel rounds it up to its ticks.
	slice = 5 * time.Millisecond
	// inVain is how often to wait in vain. Together that costs what waking up from the poller costs once.
	inVain = 20

	// Others count as waiting for the P if a goroutine that yields has to wait busyAfter for its next turn. Then they
	// have it for busyFor.
	busyAfter = time.Millisecond
	busyFor   = 200 * time.Millisecond

	// The monitor looks around a hundred times a second for as long as a P is in use, and its interrupts wake other
	// threads; for a sink with a thousand messages a second that is a third of the cost. If it finds all Ps idle it
	// sleeps until something wakes it, such as a system call of the program. In the poller, between two messages, they
	// are idle. So after an interrupt the poller has a turn of calmFor, at most once each calmEvery.
	calmFor   = 20 * time.Millisecond
	calmEvery = time.Second

	// A monitor that sleeps interrupts nobody. So a goroutine that has not yielded for yieldEvery does it by itself; it
	// looks at the clock each lookEvery calls.
	yieldEvery = 100 * time.Millisecond
	lookEvery  = 32
)

// The waiting of the whole process. Times are as of sinceStart.
var (
	waits     atomic.Int32 // how many wait in the kernel now
	pollUntil atomic.Int64 // nobody is to wait in the kernel before; 0: anybody may
	calmed    atomic.Int64 // when the poller had its last turn of calmFor
)

var start = time.Now()

func sinceStart() int64 { return int64(time.Since(start)) }

// isPollersTurn says whether to leave the waiting to the poller.
func isPollersTurn() bool {
	until := pollUntil.Load()
	if until == 0 {
		return false
	}
	if sinceStart() < until {
		return true
	}
	pollUntil.CompareAndSwap(until, 0)
	return false
}

// waiting decides how the calls on one socket wait. One goroutine at a time may use it, but for stop.
type waiting struct {
	possible bool        // the socket has a timeout and is a blocking one
	most     int32       // how many may wait in the kernel
	calls    int         // since it was looked at the clock
	yielded  int64       // when; as of sinceStart
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
	})
	w.hasYielded(0)
	return raw, err
}

// begin is to be called before each call and says whether it may wait in the kernel; if so, end is to be called after it.
func (w *waiting) begin() (may bool) {
	if !w.possible || w.stop.Load() || isPollersTurn() {
		return false
	}
	if waits.Add(1) > w.most {
		waits.Add(-1)
		return false
	}
	return true
}

// end ends a call that may have waited. away is how long others had the P after an interrupt, 0 if there was none.
func (w *waiting) end(away time.Duration) {
	waits.Add(-1)
	if away > 0 {
		w.hasYielded(away)
		if last := calmed.Load(); w.yielded-last > int64(calmEvery) && calmed.CompareAndSwap(last, w.yielded) {
			leaveToPoller(w.yielded + int64(calmFor))
		}
		return
	}
	if w.calls++; w.calls >= lookEvery {
		w.calls = 0
		if sinceStart()-w.yielded > int64(yieldEvery) {
			w.hasYielded(sys.Yield())
		}
	}
}

// hasYielded draws the conclusions from how long others had the P.
func (w *waiting) hasYielded(away time.Duration) {
	w.calls, w.yielded, w.most = 0, sinceStart(), int32(runtime.GOMAXPROCS(0)/2)
	if away > busyAfter {
		leaveToPoller(w.yielded + int64(busyFor))
	}
}

// leaveToPoller gives the poller a turn until then, unless it has a longer one.
func leaveToPoller(then int64) {
	for {
		until := pollUntil.Load()
		if until >= then || pollUntil.CompareAndSwap(until, then) {
			return
		}
	}
}

// recv is recv(2), which waits for a slice if it may.
func (w *waiting) recv(fd int, b []byte, may bool) (int, error) {
	if !may {
		n, _, e := sys.Recv(fd, b, syscall.MSG_DONTWAIT)
		return n, asError(e)
	}
	n, away, e := sys.Recv(fd, b, 0)
	w.end(away)
	return n, asError(e)
}

// send is send(2), in the same way.
func (w *waiting) send(fd int, b []byte, may bool) error {
	if !may {
		_, e := sys.Send(fd, b, syscall.MSG_NOSIGNAL|syscall.MSG_DONTWAIT)
		return asError(e)
	}
	away, e := sys.Send(fd, b, syscall.MSG_NOSIGNAL)
	w.end(away)
	return asError(e)
}

// asError is nil for 0.
func asError(e syscall.Errno) error {
	if e == 0 {
		return nil
	}
	return e
}

// isUnready tells whether err means that a wait was in vain, or that a signal ended it. (After a wait with a timeout
// the kernel does not go on by itself, signal(7).)
func isUnready(err error) bool {
	return errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EINTR)
}
