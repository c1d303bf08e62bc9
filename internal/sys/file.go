// SPDX-License-Identifier: Apache-2.0

package sys

import "golang.org/x/sys/unix"

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
