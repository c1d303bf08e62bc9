// SPDX-License-Identifier: Apache-2.0

package hold

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxNotice is NOTIFY_BUFFER_MAX of systemd, in bytes: no notice of a broker's is longer.
	maxNotice = 4096
	// maxRights is SCM_MAX_FD of unix(7).
	maxRights = 253
)

// store is what brokers have said and given to keep. Its methods may be called at the same time.
type store struct {
	fd   int    // where they say it
	path string // that socket's

	mu     sync.Mutex
	kept   []kept
	most   int       // how many may be kept
	ready  bool      // the broker of now has said that it is
	alive  time.Time // its last sign of life
	closed bool

	readied chan struct{}                   // gets one each time that a broker says that it is ready
	above   func(ready bool, status string) // is told what a broker says of itself
}

// kept is a descriptor that outlives the broker which gave it.
type kept struct {
	name string
	fd   int
}

// newStore binds the socket for notices at path, for processes of the same user alone.
func newStore(path string, most int, above func(ready bool, status string)) (*store, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot hold anything: %w", os.NewSyscallError("socket", err))
	}
	os.Remove(path) // of a holder that was killed: the folder is locked, so it is nobody else's
	if err = unix.Fchmod(fd, 0o600); err == nil {
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: path})
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("cannot bind %s: %w", path, err)
	}
	return &store{fd: fd, path: path, most: most, readied: make(chan struct{}, 1), above: above}, nil
}

// close ends listen. What is kept ends with the process.
func (s *store) close() {
	os.Remove(s.path)
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	unix.Shutdown(s.fd, unix.SHUT_RD) // wakes it
}

// listen deals with what the broker says until close.
func (s *store) listen() {
	poll := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(poll, -1); err != nil && err != unix.EINTR || !s.catchUp() {
			return
		}
	}
}

// catchUp deals with all that brokers have said so far, and says whether they can say more. It waits for nobody but the service
// manager above, 5 s at most.
func (s *store) catchUp() (open bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := make([]byte, maxNotice+1)
	control := make([]byte, unix.CmsgSpace(4*maxRights))
	for !s.closed {
		n, oobn, flags, _, err := unix.Recvmsg(s.fd, text, control, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return true // EAGAIN
		}
		fds := rights(control[:oobn])
		if n <= maxNotice && flags&unix.MSG_CTRUNC == 0 {
			fds = s.take(strings.Split(string(text[:n]), "\n"), fds)
		}
		// After the notice was dealt with: that they are closed is what ends a barrier.
		for _, fd := range fds {
			unix.Close(fd)
		}
	}
	return false
}

// rights are the descriptors that came with a notice.
func rights(control []byte) (fds []int) {
	messages, _ := unix.ParseSocketControlMessage(control)
	for i := range messages {
		got, _ := unix.ParseUnixRights(&messages[i])
		fds = append(fds, got...)
	}
	return fds
}

// take deals with one notice, and returns the descriptors that are not kept. Precondition: mu is held.
func (s *store) take(lines []string, fds []int) (unused []int) {
	fields := make(map[string]string)
	for _, line := range lines {
		key, value, _ := strings.Cut(line, "=")
		fields[key] = value
	}
	if fields["READY"] == "1" {
		s.ready, s.alive = true, time.Now()
		select {
		case s.readied <- struct{}{}:
		default:
		}
	}
	if status, told := fields["STATUS"]; told || fields["READY"] == "1" {
		s.above(fields["READY"] == "1", status)
	}
	if fields["WATCHDOG"] == "1" {
		s.alive = time.Now()
	}
	switch name := fields["FDNAME"]; {
	case fields["FDSTOREREMOVE"] == "1":
		s.kept = slices.DeleteFunc(s.kept, func(k kept) bool {
			if k.name == name {
				unix.Close(k.fd)
			}
			return k.name == name
		})
	case fields["FDSTORE"] == "1" && name != "" && !strings.Contains(name, ":"):
		for len(fds) > 0 && len(s.kept) < s.most {
			if !s.has(fds[0]) {
				s.kept = append(s.kept, kept{name, fds[0]})
			} else {
				unused = append(unused, fds[0]) // the first name stays
			}
			fds = fds[1:]
		}
	}
	return append(unused, fds...)
}

// has says whether the same open file is kept already, so that telling it again, as a broker does that is not sure, does no harm.
// Precondition: mu is held.
func (s *store) has(fd int) bool {
	return slices.ContainsFunc(s.kept, func(k kept) bool {
		same, err := unix.FcntlInt(uintptr(k.fd), unix.F_DUPFD_QUERY, fd)
		if err == nil {
			return same == 1
		}
		// Kernels before 6.10. What brokers store are sockets, pipes and memfds, none of which they open twice.
		var a, b unix.Stat_t
		return unix.Fstat(k.fd, &a) == nil && unix.Fstat(fd, &b) == nil && a.Dev == b.Dev && a.Ino == b.Ino
	})
}

// begin forgets what the last broker has said, and returns what it gave to keep.
func (s *store) begin() []kept {
	s.catchUp()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ready, s.alive = false, time.Now()
	return slices.Clone(s.kept)
}

// excuse has the broker's silence begin now.
func (s *store) excuse() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.alive = time.Now()
}

// life is whether the broker has said that it is ready, and when it gave its last sign of life.
func (s *store) life() (ready bool, alive time.Time) {
	s.catchUp()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ready, s.alive
}

// environment is what a broker is told: the descriptors from 3 on, by name, and whom to tell what.
func (s *store) environment(names []string, watchdog time.Duration) []string {
	env := []string{
		fmt.Sprintf("%s=%d", holderMark, os.Getpid()), "NOTIFY_SOCKET=" + s.path, fmt.Sprintf("FDSTORE=%d", s.most),
		fmt.Sprintf("LISTEN_FDS=%d", len(names)), "LISTEN_FDNAMES=" + strings.Join(names, ":"),
	}
	if watchdog > 0 {
		env = append(env, fmt.Sprintf("WATCHDOG_USEC=%d", watchdog.Microseconds()))
	}
	for _, v := range syscall.Environ() {
		if name, _, _ := strings.Cut(v, "="); !slices.Contains(ofServiceManager, name) {
			env = append(env, v)
		}
	}
	return env
}

// ofServiceManager are variables that one sets (systemd.exec(5)). Those of another, above the holder, are not for the broker.
var ofServiceManager = []string{
	holderMark, "NOTIFY_SOCKET", "FDSTORE", "LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDS", "LISTEN_FDNAMES",
	"WATCHDOG_USEC", "WATCHDOG_PID", "SYSTEMD_EXEC_PID", "MANAGERPID",
}
