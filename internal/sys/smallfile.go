// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// ErrNotSmallFile means that what is at a path is no regular file, or a larger one than it may be.
var ErrNotSmallFile = errors.New("no small regular file")

// ReadSmallFile reads a regular file of at most limit bytes. It neither waits for a FIFO's writer nor reads a device, and
// takes no more memory than limit, whatever the file grows to meanwhile. Symbolic links are followed. The error wraps
// [ErrNotSmallFile] if it is no such file; fs.ErrNotExist and the like are as open(2) has them. It may block if the file
// system does.
func ReadSmallFile(path string, limit int) ([]byte, error) {
	// O_NONBLOCK has a FIFO opened at once, and does nothing to a regular file (open(2)).
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err == unix.ENXIO { // a socket, or a device without anything behind it
		return nil, fmt.Errorf("cannot read %s: %w", path, ErrNotSmallFile)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, &fs.PathError{Op: "fstat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fmt.Errorf("cannot read %s: %w", path, ErrNotSmallFile)
	}
	text, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err != nil {
		return nil, err
	}
	if len(text) > limit {
		return nil, fmt.Errorf("cannot read %s: %w: more than %d bytes", path, ErrNotSmallFile, limit)
	}
	return text, nil
}
