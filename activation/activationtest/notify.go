// SPDX-License-Identifier: Apache-2.0

package activationtest

import (
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

const (
	// maxMessage is NOTIFY_BUFFER_MAX of systemd, in bytes.
	maxMessage = 4096
	// maxRights is SCM_MAX_FD of the kernel.
	maxRights = 253
)

// read deals with messages in the order of the queue until the socket is closed.
func (m *Manager) read() {
	defer close(m.done)
	raw, err := m.conn.SyscallConn()
	if err != nil {
		return
	}
	// One byte more, to see that a message was too long.
	text := make([]byte, maxMessage+1)
	control := make([]byte, unix.CmsgSpace(4*maxRights))
	// Read calls the function whenever the socket is readable, until it says that it is done, which it never does.
	raw.Read(func(fd uintptr) bool {
		for m.readOne(int(fd), text, control) {
		}
		return false
	})
}

// readOne deals with the next message and says whether there was one.
func (m *Manager) readOne(fd int, text, control []byte) bool {
	// The gate comes first: a manager that is paused must not even take a message out of the queue.
	m.gate.Lock()
	defer m.gate.Unlock()
	n, oobn, flags, _, err := unix.Recvmsg(fd, text, control, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return err == unix.EINTR
	}
	m.receive(text[:n], control[:oobn], flags)
	return true
}

// receive deals with one message. Precondition: gate is held.
func (m *Manager) receive(text, control []byte, flags int) {
	fds := rights(control)
	m.mu.Lock()
	if len(text) > maxMessage || flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		m.fault("message of %d bytes or more ignored", len(text))
	} else {
		fds = m.take(strings.Split(strings.TrimSuffix(string(text), "\n"), "\n"), fds)
	}
	m.notify()
	m.mu.Unlock()
	// Last of all: this is what ends a barrier.
	for _, fd := range fds {
		unix.Close(fd)
	}
}

func rights(control []byte) []int {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil
	}
	var fds []int
	for _, c := range messages {
		if got, err := unix.ParseUnixRights(&c); err == nil {
			fds = append(fds, got...)
		}
	}
	return fds
}

// take deals with one message and returns the descriptors that are not kept. Precondition: mu is held.
func (m *Manager) take(fields []string, fds []int) (unused []int) {
	if slices.Contains(fields, "BARRIER=1") {
		if len(fields) > 1 || len(fds) != 1 {
			// Everything in it is lost, but the descriptor is closed, so the sender believes that all is well.
			m.fault("BARRIER=1 with %d descriptors and in company: %q", len(fds), fields)
			return fds
		}
		m.state.Barriers++
		return fds
	}
	for _, f := range fields {
		key, value, _ := strings.Cut(f, "=")
		switch {
		case f == "READY=1":
			m.state.Ready++
		case f == "STOPPING=1":
			m.state.Stopping++
		case f == "WATCHDOG=1":
			m.state.Watchdog++
			m.state.LastWatchdog = time.Now()
		case key == "STATUS" && utf8.ValidString(value):
			m.state.Status = value
			m.state.Statuses++
		case key == "STATUS":
			m.fault("status that is not UTF-8: %q", value)
		}
	}
	name, named := field(fields, "FDNAME")
	switch {
	case slices.Contains(fields, "FDSTOREREMOVE=1"):
		if !named || !validName(name) {
			m.fault("removal without a good name: %q", name)
			return fds
		}
		m.stored = discard(m.stored, func(e entry) bool { return e.name == name })
	case slices.Contains(fields, "FDSTORE=1"):
		if !named {
			name = "stored"
		} else if !validName(name) {
			m.fault("bad name %q for stored descriptors", name)
			name = "stored"
		}
		return m.store(name, !slices.Contains(fields, "FDPOLL=0"), fds)
	}
	return fds
}

// store adds descriptors to the store and returns those that it did not take. Precondition: mu is held.
func (m *Manager) store(name string, poll bool, fds []int) (unused []int) {
	for i, fd := range fds {
		if len(m.stored) >= m.storeMax {
			m.fault("store is full (%d): %d descriptors %q closed", m.storeMax, len(fds)-i, name)
			return append(unused, fds[i:]...)
		}
		if slices.ContainsFunc(m.stored, func(e entry) bool { return sameFile(e.fd, fd) }) {
			unused = append(unused, fd) // the first name stays
			continue
		}
		m.stored = slices.Insert(m.stored, 0, entry{name, fd, poll})
	}
	return unused
}

// sameFile says whether two descriptors are one open file description: what kcmp(2) tells systemd.
func sameFile(a, b int) bool {
	same, err := unix.FcntlInt(uintptr(a), unix.F_DUPFD_QUERY, b)
	if err == nil {
		return same == 1
	}
	// Kernels before 6.10. An inode is enough for sockets, and for a memfd unless it was opened a second time.
	var sa, sb unix.Stat_t
	return unix.Fstat(a, &sa) == nil && unix.Fstat(b, &sb) == nil && sa.Dev == sb.Dev && sa.Ino == sb.Ino
}

func field(fields []string, key string) (string, bool) {
	for _, f := range fields {
		if k, v, ok := strings.Cut(f, "="); ok && k == key {
			return v, true
		}
	}
	return "", false
}

// validName says whether systemd takes a name for stored descriptors.
func validName(name string) bool {
	bad := func(r rune) bool { return r < ' ' || r >= 0x7f || r == ':' }
	return name != "" && len(name) <= 255 && !strings.ContainsFunc(name, bad)
}
