// SPDX-License-Identifier: Apache-2.0

package scout

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// localTypes are the file systems that ask nobody but the kernel and its disks, so that they answer.
var localTypes = map[string]bool{
	"tmpfs": true, "ramfs": true, "devtmpfs": true, "mqueue": true,
	"ext2": true, "ext3": true, "ext4": true, "xfs": true, "btrfs": true, "f2fs": true, "zfs": true, "bcachefs": true,
	"squashfs": true, "erofs": true, "overlay": true,
}

// mounts knows which mounted file systems are local. The kernel says when that changes (proc_pid_mountinfo(5)).
type mounts struct {
	mu    sync.Mutex
	fd    int // /proc/self/mountinfo, of which nobody but changed asks for news: they are told once. -1 without one
	local map[int]bool
}

// newMounts opens the list. Without one, no file system is known to be local.
func newMounts() *mounts {
	fd, err := unix.Open("/proc/self/mountinfo", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		fd = -1
	}
	return &mounts{fd: fd}
}

func (m *mounts) close() {
	if m.fd >= 0 {
		unix.Close(m.fd)
	}
}

// has says whether fd is of a local file system. It asks no file system.
func (m *mounts) has(fd int) bool {
	id, ok := mountOf(fd)
	if !ok || m.fd < 0 {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	// In this order: fd keeps its mount, so no other one has that number by now, and what made it has been told.
	if m.changed() || m.local == nil {
		m.read()
	}
	return m.local[id]
}

// changed says whether something was mounted or unmounted since it was asked last.
func (m *mounts) changed() bool {
	set := []unix.PollFd{{Fd: int32(m.fd), Events: unix.POLLPRI}}
	n, err := unix.Poll(set, 0)
	return err != nil || n > 0
}

// read reads the list anew.
func (m *mounts) read() {
	m.local = make(map[int]bool)
	var text []byte
	for b := make([]byte, 16<<10); ; {
		n, err := unix.Pread(m.fd, b, int64(len(text)))
		if n <= 0 || err != nil {
			break
		}
		text = append(text, b[:n]...)
	}
	for line := range bytes.Lines(text) {
		// ID parent major:minor root mount-point options optional... - type source options
		before, after, ok := strings.Cut(string(line), " - ")
		number, _, _ := strings.Cut(before, " ")
		if id, err := strconv.Atoi(number); ok && err == nil {
			kind, _, _ := strings.Cut(after, " ")
			m.local[id] = localTypes[kind]
		}
	}
}

// mountOf is the number of the mount that fd is of (proc_pid_fdinfo(5)).
func mountOf(fd int) (int, bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", fd))
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(text)) {
		if number, ok := strings.CutPrefix(line, "mnt_id:"); ok {
			id, err := strconv.Atoi(strings.TrimSpace(number))
			return id, err == nil
		}
	}
	return 0, false
}
