// SPDX-License-Identifier: Apache-2.0

package crashtest

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/sys"
)

// Point is a place in the broker's code at which it can be killed: a seam between two calls, or a moment of a system
// call of the data thread.
type Point struct {
	Seam   string
	Moment string // "" for a seam
}

// The moments of a system call. After is told apart by what the call brought, because each leaves another trace.
const (
	Before = "before" // the call has not been made
	None   = "none"   // it was made, and brought nothing or an error
	Part   = "part"   // it took or gave some of what it could
	All    = "all"    // it took or gave everything that it could
)

// String is the point on one line.
func (p Point) String() string {
	if p.Moment == "" {
		return p.Seam
	}
	return p.Seam + " " + p.Moment
}

// ParsePoint is the inverse of String.
func ParsePoint(line string) Point {
	seam, moment, _ := strings.Cut(line, " ")
	return Point{seam, moment}
}

// Death is when a broker kills itself: the Hit-th time (from 1) that it comes by Point. The zero value is never.
type Death struct {
	Point Point
	Hit   uint64
}

// Anywhere is a Death that counts every point that the broker comes by.
func Anywhere(hit uint64) Death { return Death{Point{"*", ""}, hit} }

// killer is the kernel's system calls, with death on the way. Its methods may be called by several goroutines.
type killer struct {
	sys.Kernel
	death Death
	hits  atomic.Uint64

	mu     sync.Mutex // guards what follows
	record *os.File   // nil: nothing is recorded
	seen   map[Point]bool
	trace  *os.File // nil: no trace is written
}

// Seam implements [sys.Ops].
func (k *killer) Seam(name string) { k.pass(Point{name, ""}) }

// Recvmmsg implements [sys.Ops].
func (k *killer) Recvmmsg(seam string, fd int, vec []sys.Mmsghdr) (int, unix.Errno) {
	k.pass(Point{seam, Before})
	n, errno := k.Kernel.Recvmmsg(seam, fd, vec)
	k.pass(Point{seam, moment(n, len(vec))})
	return n, errno
}

// Sendmmsg implements [sys.Ops].
func (k *killer) Sendmmsg(seam string, fd int, vec []sys.Mmsghdr) (int, unix.Errno) {
	k.pass(Point{seam, Before})
	n, errno := k.Kernel.Sendmmsg(seam, fd, vec)
	k.pass(Point{seam, moment(n, len(vec))})
	return n, errno
}

// EpollWait implements [sys.Ops]. That it brings as many events as there is room for is no case of its own.
func (k *killer) EpollWait(seam string, epfd int, events []sys.Event, d time.Duration) (int, unix.Errno) {
	k.pass(Point{seam, Before})
	n, errno := k.Kernel.EpollWait(seam, epfd, events, d)
	k.pass(Point{seam, moment(n, 1<<30)})
	return n, errno
}

func moment(n, most int) string {
	switch {
	case n == 0:
		return None
	case n < most:
		return Part
	}
	return All
}

// pass is the broker coming by a point. If this is the end, it does not return: a SIGKILL that a process sends itself
// may take effect a little later in its other threads, but this one goes no further.
func (k *killer) pass(p Point) {
	if k.record != nil {
		k.note(p)
	}
	if k.trace != nil && p.Seam != "poll" {
		k.step(p)
	}
	if k.death.Hit == 0 || k.death.Point.Seam != "*" && k.death.Point != p {
		return
	}
	if k.hits.Add(1) != k.death.Hit {
		return
	}
	// Not an exit: nothing may run that a real kill would not let run, no deferred call, no flush.
	unix.Kill(unix.Getpid(), unix.SIGKILL)
	select {}
}

// note records that there is such a point.
func (k *killer) note(p Point) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.seen[p] {
		k.seen[p] = true
		fmt.Fprintln(k.record, p)
	}
}

// step adds a point to the trace: with one system call, so that it is there whenever the broker goes on.
func (k *killer) step(p Point) {
	k.mu.Lock()
	defer k.mu.Unlock()
	fmt.Fprintln(k.trace, goroutine(), p)
}

// goroutine is the number of this goroutine, as a stack trace names it; 0 if it cannot be told.
func goroutine() (n uint64) {
	var b [64]byte
	fmt.Sscanf(string(b[:runtime.Stack(b[:], false)]), "goroutine %d ", &n)
	return n
}
