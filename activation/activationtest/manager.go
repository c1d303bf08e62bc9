// SPDX-License-Identifier: Apache-2.0

package activationtest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// DefaultStoreMax is the store's limit in a new Manager, in descriptors.
const DefaultStoreMax = 4096

// Manager is the service manager of one service. All methods may be called at the same time.
type Manager struct {
	path string
	conn *net.UnixConn
	done chan struct{} // closed when the reader has ended

	// gate is held while messages are read and dealt with, and by whoever paused the manager. Take it before mu.
	gate sync.Mutex

	mu       sync.Mutex
	changed  chan struct{} // closed and replaced at every change of what follows
	given    []entry       // of socket units; they stay whatever the service does
	stored   []entry       // the descriptor store, newest first
	storeMax int
	watchdog time.Duration
	state    State
	faults   []string
}

// entry is a descriptor of the manager's own.
type entry struct {
	name string
	fd   int
	poll bool // stored without FDPOLL=0: dropped when its peer hangs up
}

// State is what the service has said since it was last started.
type State struct {
	Ready        int // READY=1 messages
	Status       string
	Statuses     int // STATUS= messages
	Stopping     int
	Watchdog     int // WATCHDOG=1 messages
	LastWatchdog time.Time
	Barriers     int
}

// New starts a manager whose notify socket is in dir, which must be short enough for a socket's path. Close ends it.
func New(dir string) (*Manager, error) {
	path := filepath.Join(dir, "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("cannot listen for notifications: %w", err)
	}
	// Like systemd's own: the service may run as somebody else.
	if err := os.Chmod(path, 0o777); err != nil {
		conn.Close()
		return nil, err
	}
	m := &Manager{path: path, conn: conn, done: make(chan struct{}), changed: make(chan struct{}), storeMax: DefaultStoreMax}
	go m.read()
	return m, nil
}

// Close ends the manager, closes every descriptor that it holds and removes its socket. It must not be paused.
func (m *Manager) Close() error {
	err := errors.Join(m.conn.Close(), os.Remove(m.path))
	<-m.done
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range append(m.given, m.stored...) {
		unix.Close(e.fd)
	}
	m.given, m.stored = nil, nil
	return err
}

// Socket is the value of NOTIFY_SOCKET.
func (m *Manager) Socket() string { return m.path }

// SetStoreMax is FileDescriptorStoreMax=, in descriptors. What is already stored stays.
func (m *Manager) SetStoreMax(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.storeMax = n
}

// SetWatchdog is WatchdogSec= for the next start; 0 is none. The manager only announces it and counts pings: killing is
// left to the test.
func (m *Manager) SetWatchdog(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.watchdog = d
}

// Give adds a copy of fd as a socket unit's descriptor: every start gets it under that name. The caller keeps fd.
func (m *Manager) Give(name string, fd int) error { return m.add(&m.given, name, fd) }

// Stash puts a copy of fd into the store as if the service had stored it. The caller keeps fd.
func (m *Manager) Stash(name string, fd int) error { return m.add(&m.stored, name, fd) }

func (m *Manager) add(list *[]entry, name string, fd int) error {
	copied, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot copy descriptor %s: %w", name, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	*list = slices.Insert(*list, 0, entry{name: name, fd: copied})
	m.notify()
	return nil
}

// Take drops every socket unit's descriptor of that name, as stopping the unit does.
func (m *Manager) Take(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.given = discard(m.given, func(e entry) bool { return e.name == name })
	m.notify()
}

// EmptyStore is what stopping the service does to the store (without FileDescriptorStorePreserve=).
func (m *Manager) EmptyStore() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stored = discard(m.stored, func(entry) bool { return true })
	m.notify()
}

// Reload is a daemon-reload of systemd after FileDescriptorStoreMax= has become most: it closes what is beyond, beginning with the
// newest or with the oldest, which its versions do differently.
func (m *Manager) Reload(most int, newest bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.storeMax = most
	total := len(m.stored)
	older := total
	m.stored = discard(m.stored, func(entry) bool {
		older--
		if newest {
			return older >= most
		}
		return older < total-most
	})
	m.notify()
}

// Stored is the names in the store, newest first. A name is there as many times as it has descriptors.
func (m *Manager) Stored() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dropHungUp()
	names := make([]string, len(m.stored))
	for i, e := range m.stored {
		names[i] = e.name
	}
	return names
}

// Copy is a new descriptor of the newest stored file of that name. The caller owns it.
func (m *Manager) Copy(name string) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.stored {
		if e.name == name {
			return unix.FcntlInt(uintptr(e.fd), unix.F_DUPFD_CLOEXEC, 0)
		}
	}
	return -1, fmt.Errorf("no descriptor %s in the store", name)
}

// State is what the service has said so far. Messages that are still in the queue are not in it; see [Manager.Sync].
func (m *Manager) State() State {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state
}

// Faults is everything since New that systemd would have ignored or closed with a line in the journal only: messages
// that are too long or mix BARRIER=1 with others, bad names, a full store. Healthy services leave it empty.
func (m *Manager) Faults() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.faults)
}

// Wait returns when ok says yes to the state, or with an error after timeout. ok must not call the manager.
func (m *Manager) Wait(timeout time.Duration, ok func(State) bool) error {
	expired := time.After(timeout)
	for {
		m.mu.Lock()
		state, changed := m.state, m.changed
		m.mu.Unlock()
		if ok(state) {
			return nil
		}
		select {
		case <-changed:
		case <-m.done:
			return errors.New("the manager is closed")
		case <-expired:
			return fmt.Errorf("the service did not get there in %v: %+v", timeout, state)
		}
	}
}

// notify wakes everyone in Wait. Precondition: mu is held.
func (m *Manager) notify() {
	close(m.changed)
	m.changed = make(chan struct{})
}

// Pause makes the manager deaf, like a PID 1 that is stopped: messages queue up, nothing is stored, no barrier ends.
// Resume must follow.
func (m *Manager) Pause() { m.gate.Lock() }

// Resume ends a Pause.
func (m *Manager) Resume() { m.gate.Unlock() }

// Sync waits until every message that was sent before has been dealt with, also those of a process that is dead by now.
func (m *Manager) Sync() error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return err
	}
	defer unix.Close(pipe[0])
	err = unix.Sendmsg(fd, []byte("X_SYNC=1"), unix.UnixRights(pipe[1]), &unix.SockaddrUnix{Name: m.path}, unix.MSG_NOSIGNAL)
	unix.Close(pipe[1])
	if err != nil {
		return fmt.Errorf("cannot reach the manager: %w", err)
	}
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pipe[0])}}, 10_000)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return err
		case n == 0:
			return errors.New("the manager does not read its messages; is it paused?")
		default:
			return nil
		}
	}
}

// dropHungUp is what systemd does with descriptors that were stored without FDPOLL=0. Precondition: mu is held.
func (m *Manager) dropHungUp() {
	m.stored = discard(m.stored, func(e entry) bool {
		if !e.poll {
			return false
		}
		poll := []unix.PollFd{{Fd: int32(e.fd)}}
		n, err := unix.Poll(poll, 0)
		return err == nil && n > 0 && poll[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
	})
}

// discard closes the entries that gone picks and returns the others.
func discard(list []entry, gone func(entry) bool) []entry {
	return slices.DeleteFunc(list, func(e entry) bool {
		if !gone(e) {
			return false
		}
		unix.Close(e.fd)
		return true
	})
}

// fault records something that systemd only mentions in the journal. Precondition: mu is held.
func (m *Manager) fault(format string, args ...any) {
	m.faults = append(m.faults, fmt.Sprintf(format, args...))
}
