// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"os"

	"golang.org/x/sys/unix"
)

// Inotify tells that something happened in a folder (inotify(7)). What happened is not told: events can be lost, so
// the truth is a scan anyway.
type Inotify struct{ fd int }

// WatchFolder watches for entries that come, go, or are renamed, and for the folder itself going. The caller closes it.
func WatchFolder(dir string) (*Inotify, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	const events = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_CLOSE_WRITE |
		unix.IN_ATTRIB | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR
	if _, err := unix.InotifyAddWatch(fd, dir, events); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("inotify_add_watch", err)
	}
	return &Inotify{fd}, nil
}

// FD is readable when something happened.
func (n *Inotify) FD() int { return n.fd }

// Drain forgets what happened. gone says that the folder itself is gone, and the watch with it.
func (n *Inotify) Drain() (gone bool) {
	var buf [4096]byte
	for {
		k, err := unix.Read(n.fd, buf[:])
		if err == unix.EINTR {
			continue
		}
		if err != nil || k <= 0 {
			return gone
		}
		for at := 0; at+unix.SizeofInotifyEvent <= k; {
			mask := uint32(buf[at+4]) | uint32(buf[at+5])<<8 | uint32(buf[at+6])<<16 | uint32(buf[at+7])<<24
			length := int(uint32(buf[at+12]) | uint32(buf[at+13])<<8 | uint32(buf[at+14])<<16 | uint32(buf[at+15])<<24)
			gone = gone || mask&(unix.IN_DELETE_SELF|unix.IN_MOVE_SELF|unix.IN_IGNORED|unix.IN_UNMOUNT) != 0
			at += unix.SizeofInotifyEvent + length
		}
	}
}

// Close ends the watch.
func (n *Inotify) Close() error { return unix.Close(n.fd) }
