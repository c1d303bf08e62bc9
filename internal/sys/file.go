// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"time"

	"golang.org/x/sys/unix"
)

// FileID tells one file from another that has its name later. The zero value is no file.
type FileID struct{ Dev, Ino uint64 }

// FileAt is the file at path, links followed; false if there is none, or it cannot be looked at. It may block on the file
// systems on the way.
func FileAt(path string) (FileID, bool) {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return FileID{}, false
	}
	return FileID{uint64(st.Dev), st.Ino}, true
}

// FileOf is the file behind a descriptor; false if fd is not open.
func FileOf(fd int) (FileID, bool) {
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil {
		return FileID{}, false
	}
	return FileID{uint64(st.Dev), st.Ino}, true
}

// Birth is when the file at path was made, and which it is; a link is not followed. The zero time is not known: there is no such
// file, or its file system does not tell (statx(2), STATX_BTIME). It may block on the file systems on the way.
func Birth(path string) (time.Time, FileID) {
	return birth(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW)
}

// BirthOf is when the file behind a descriptor was made, as [Birth] tells it.
func BirthOf(fd int) time.Time {
	at, _ := birth(fd, "", unix.AT_EMPTY_PATH)
	return at
}

func birth(dir int, path string, flags int) (time.Time, FileID) {
	var st unix.Statx_t
	if unix.Statx(dir, path, flags, unix.STATX_INO|unix.STATX_BTIME, &st) != nil || st.Mask&unix.STATX_BTIME == 0 {
		return time.Time{}, FileID{}
	}
	return time.Unix(st.Btime.Sec, int64(st.Btime.Nsec)), FileID{unix.Mkdev(st.Dev_major, st.Dev_minor), st.Ino}
}
