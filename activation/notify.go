// SPDX-License-Identifier: Apache-2.0

package activation

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// ErrBarrierTimeout means that the service manager did not read our messages in time. They may still be read later.
var ErrBarrierTimeout = errors.New("service manager did not answer in time")

const (
	// maxRights is SCM_MAX_FD of unix(7): more descriptors in one message are EINVAL.
	maxRights = 253
	// maxStoreName is what systemd takes as FDNAME (sd_pid_notify_with_fds(3)).
	maxStoreName = 255
	// maxStatus keeps a message under the 4096 bytes beyond which systemd ignores it whole (NOTIFY_BUFFER_MAX), and the
	// status readable. In bytes.
	maxStatus = 1024
	// sendPatience bounds how long a message may wait for room in the service manager's queue. It is far longer than any
	// healthy manager needs, also in the middle of daemon-reexec.
	sendPatience = 5 * time.Second
	// sendRetry is the pause after a condition that nothing wakes us from.
	sendRetry = 10 * time.Millisecond
)

var watchdogPing = []byte(daemon.SdNotifyWatchdog)

// Notifier talks to the service manager through one connected socket. Methods may be called at the same time. All of
// them wait for room in the manager's queue, 5 s at most, except [Notifier.Watchdog].
//
// A nil Notifier is a process without a service manager: every method does nothing and returns nil.
type Notifier struct {
	fd       int // blocking; no call of ours waits in it all the same
	addr     string
	indirect bool // the service manager started another process, which started us

	reconnecting atomic.Bool    // a goroutine is connecting to the manager's new socket
	goroutines   sync.WaitGroup // that one; Close must not pull the descriptor away under it
}

// NewNotifier connects to $NOTIFY_SOCKET. Without one it returns nil, nil. The variable stays set. Addresses other than
// a path or an abstract name (sd_notify(3) also knows vsock) are refused: they cannot carry descriptors.
func NewNotifier() (*Notifier, error) {
	name := os.Getenv("NOTIFY_SOCKET")
	if name == "" {
		return nil, nil
	}
	if (name[0] != '/' && name[0] != '@') || len(name) < 2 {
		return nil, fmt.Errorf("cannot use NOTIFY_SOCKET %q: neither an absolute path nor an abstract name", name)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot reach service manager: %w", os.NewSyscallError("socket", err))
	}
	n := &Notifier{fd: fd, addr: name, indirect: isIndirect(os.Getpid(), os.Getenv("SYSTEMD_EXEC_PID"))}
	if err := n.connect(); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return n, nil
}

// isIndirect says whether the service manager tells that it started another process than pid (systemd.exec(5)).
func isIndirect(pid int, told string) bool {
	n, err := strconv.Atoi(told)
	return err == nil && n != pid
}

// HandsBack says whether what is stored may come back to this program: only a process that the service manager starts itself is
// handed anything over (LISTEN_PID of sd_listen_fds(3)). One that was started from a shell in a service has only inherited
// NOTIFY_SOCKET. A nil Notifier hands nothing back.
func (n *Notifier) HandsBack() bool { return n != nil && !n.indirect }

// connect may be repeated: a datagram socket takes a new peer at any time, so the descriptor never changes.
func (n *Notifier) connect() error {
	// An address of its own for each call: Connect writes into it, and two may be under way.
	if err := unix.Connect(n.fd, &unix.SockaddrUnix{Name: n.addr}); err != nil {
		return fmt.Errorf("cannot connect to service manager at %s: %w", n.addr, os.NewSyscallError("connect", err))
	}
	return nil
}

// Close releases the socket. Nobody may use the Notifier during or after it.
func (n *Notifier) Close() error {
	if n == nil {
		return nil
	}
	n.goroutines.Wait()
	return os.NewSyscallError("close", unix.Close(n.fd))
}

// Ready says that the start is complete. An empty status leaves the status as it is.
func (n *Notifier) Ready(status string) error {
	if status == "" {
		return n.send(daemon.SdNotifyReady)
	}
	return n.send(daemon.SdNotifyReady, statusLine(status))
}

// Status sets the text that systemctl status shows. It is the caller's to call it seldom enough.
func (n *Notifier) Status(text string) error { return n.send(statusLine(text)) }

// Stopping says that the service is on its way out.
func (n *Notifier) Stopping() error { return n.send(daemon.SdNotifyStopping) }

// Watchdog tells that the data thread is well. It never blocks and allocates nothing. A ping for which there is no room
// is not sent, and that is no error: the manager has unread messages of ours, and the next ping is soon.
func (n *Notifier) Watchdog() error {
	if n == nil {
		return nil
	}
	err := unix.Send(n.fd, watchdogPing, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	switch {
	case err == nil, isFull(err), err == unix.EINTR:
		return nil
	case isLost(err) && n.reconnecting.CompareAndSwap(false, true):
		// Connecting looks up a path, which may block. So it is not done here, and this ping is lost.
		n.goroutines.Go(func() {
			n.connect() // if it fails, so will the next ping, which tries again
			n.reconnecting.Store(false)
		})
	}
	return os.NewSyscallError("send", err)
}

// Store gives copies of descriptors to the descriptor store, all under one name. The caller keeps its own. What a
// successor inherits is known only after [Notifier.Barrier], and not even then that it was stored: beyond
// FileDescriptorStoreMax= the manager closes silently, so the caller must count.
//
// A file that is in the store already, under whatever name, is not stored again. The manager does not watch the
// descriptors (FDPOLL=0): otherwise it would drop a client that sends and hangs up while the broker is away, and what
// it sent with it.
func (n *Notifier) Store(name string, fds ...int) error {
	if n == nil {
		return nil
	}
	if !validStoreName(name) {
		return fmt.Errorf("cannot store descriptor: bad name %q", name)
	}
	text := "FDSTORE=1\nFDNAME=" + name + "\nFDPOLL=0"
	for len(fds) > 0 {
		part := fds[:min(len(fds), maxRights)]
		fds = fds[len(part):]
		if err := n.sendRights(time.Now().Add(sendPatience), text, part...); err != nil {
			return fmt.Errorf("cannot store descriptor %s: %w", name, err)
		}
	}
	return nil
}

// Remove takes every descriptor of that name out of the store. A name that is not there is no error.
func (n *Notifier) Remove(name string) error {
	if n == nil {
		return nil
	}
	if !validStoreName(name) {
		return fmt.Errorf("cannot remove stored descriptor: bad name %q", name)
	}
	return n.send("FDSTOREREMOVE=1", "FDNAME="+name)
}

// Barrier waits until the manager has read everything that was sent before it. [ErrBarrierTimeout] after timeout.
func (n *Notifier) Barrier(timeout time.Duration) error {
	if n == nil {
		return nil
	}
	deadline := time.Now().Add(timeout)
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return fmt.Errorf("cannot set barrier: %w", os.NewSyscallError("pipe2", err))
	}
	defer unix.Close(pipe[0])
	// Alone in its message: with any other field in it the manager ignores them all (sd_notify_barrier(3)).
	err := n.sendRights(deadline, "BARRIER=1", pipe[1])
	// Our copy of the write end goes, so that the manager's is the last one.
	unix.Close(pipe[1])
	switch {
	case errors.Is(err, unix.EAGAIN):
		return ErrBarrierTimeout
	case err != nil:
		return fmt.Errorf("cannot set barrier: %w", err)
	}
	// Nothing is ever written, so there is nothing to ask for: the hang-up is reported anyway.
	switch ready, err := waitFor(pipe[0], 0, deadline); {
	case err != nil:
		return fmt.Errorf("cannot wait for barrier: %w", err)
	case !ready:
		return ErrBarrierTimeout
	}
	return nil
}

// send sends one message of the given lines.
func (n *Notifier) send(lines ...string) error {
	if n == nil {
		return nil
	}
	text := strings.Join(lines, "\n")
	if err := n.sendRights(time.Now().Add(sendPatience), text); err != nil {
		return fmt.Errorf("cannot send %s to service manager: %w", lines[0], err)
	}
	return nil
}

// sendRights sends one message with descriptors, and waits until deadline for what passes by itself. The error is
// EAGAIN if it did not pass.
func (n *Notifier) sendRights(deadline time.Time, text string, fds ...int) error {
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	reconnected := false
	for {
		err := unix.Sendmsg(n.fd, []byte(text), rights, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		switch {
		case err == nil:
			return nil
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			if _, err := waitFor(n.fd, unix.POLLOUT, deadline); err != nil {
				return err
			}
		// Nothing wakes us from these. ETOOMANYREFS: an ordinary user may have as many descriptors under way as it may
		// have open (RLIMIT_NOFILE); each one that the manager reads makes room.
		case isFull(err), err == unix.ETOOMANYREFS:
			time.Sleep(sendRetry)
		case isLost(err) && !reconnected:
			reconnected = true
			if err := n.connect(); err != nil {
				return err
			}
		default:
			return os.NewSyscallError("sendmsg", err)
		}
		if !time.Now().Before(deadline) {
			return os.NewSyscallError("sendmsg", unix.EAGAIN)
		}
	}
}

// waitFor waits until fd has one of the events, or an error or hang-up. False if deadline came first.
func waitFor(fd int, events int16, deadline time.Time) (bool, error) {
	poll := []unix.PollFd{{Fd: int32(fd), Events: events}}
	for {
		// Rounded up to poll's milliseconds: rounded down, the last one would be spent spinning.
		left := max(time.Until(deadline)+time.Millisecond-1, 0)
		n, err := unix.Poll(poll, int(left.Milliseconds()))
		if err != unix.EINTR {
			return n > 0, os.NewSyscallError("poll", err)
		}
	}
}

// isFull: no room now, more later.
func isFull(err error) bool {
	return err == unix.EAGAIN || err == unix.ENOBUFS || err == unix.ENOMEM
}

// isLost: the socket at the other end was closed. ECONNREFUSED comes once, then the socket is unconnected.
func isLost(err error) bool {
	return err == unix.ECONNREFUSED || err == unix.ENOTCONN || err == unix.ECONNRESET || err == unix.EPIPE
}

// statusLine makes a text fit for STATUS=: one line, so that it cannot add fields of its own to the message; UTF-8,
// because systemd ignores anything else; not too long.
func statusLine(text string) string {
	text = strings.ReplaceAll(text, "\n", " ")
	if len(text) > maxStatus {
		text = text[:maxStatus]
	}
	return "STATUS=" + strings.ToValidUTF8(text, "")
}

// validStoreName is fdname_is_valid of systemd: printable ASCII without the colon that separates names.
func validStoreName(name string) bool {
	if name == "" || len(name) > maxStoreName {
		return false
	}
	for i := range len(name) {
		if c := name[i]; c < ' ' || c >= 0x7f || c == ':' {
			return false
		}
	}
	return true
}

// WatchdogInterval is the time after which the manager kills a process that does not ping, and whether it does so at
// all. Ping at less than half of it.
func WatchdogInterval() (time.Duration, bool) {
	d, err := daemon.SdWatchdogEnabled(false)
	// It multiplies without looking, so an absurd number comes back as another, perhaps a very short, time.
	if err != nil || d <= 0 || strconv.FormatInt(d.Microseconds(), 10) != os.Getenv("WATCHDOG_USEC") {
		return 0, false
	}
	return d, true
}

// StoreLimit is FileDescriptorStoreMax= of the unit. Managers before systemd 254 do not tell: known is false.
func StoreLimit() (n int, known bool) {
	n, err := strconv.Atoi(os.Getenv("FDSTORE"))
	if err != nil || n < 0 {
		return 0, false
	}
	return n, true
}
