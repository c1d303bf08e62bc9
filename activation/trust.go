// SPDX-License-Identifier: Apache-2.0

package activation

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrForeign means that somebody else can change what lies in a folder, or put another one in its place.
var ErrForeign = errors.New("somebody else has a say there")

// CheckFolder says whether a folder is ours: an existing folder at dir that belongs to root or to the user of this process,
// in folders of which the same holds up to the root. Where everybody may write, as in /tmp, the sticky bit has to keep names
// whose they are. A group that may write is trusted: somebody gave it that right. Of a symbolic link, both the link and what
// it leads to have to be ours. The error wraps [ErrForeign] if they are not.
func CheckFolder(dir string) error {
	switch st, err := os.Stat(dir); {
	case err != nil:
		return err
	case !st.IsDir():
		return fmt.Errorf("%s is no folder", dir)
	}
	// Both ways up: that of the names, and that of what they lead to.
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	for _, way := range []string{filepath.Clean(dir), real} {
		for at := way; ; at = filepath.Dir(at) {
			if err := checkOne(at); err != nil {
				return err
			}
			if at == filepath.Dir(at) {
				break
			}
		}
	}
	return nil
}

// checkOne looks at one folder or link of the way, and at nothing above it.
func checkOne(path string) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	if st.Uid != 0 && st.Uid != uint32(os.Geteuid()) && !unmapped(st.Uid) {
		return fmt.Errorf("%w: %s belongs to uid %d", ErrForeign, path, st.Uid)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR && st.Mode&unix.S_IWOTH != 0 && st.Mode&unix.S_ISVTX == 0 {
		return fmt.Errorf("%w: everybody may write to %s, and replace what others put there", ErrForeign, path)
	}
	return nil
}

// unmapped says whether uid is what a user namespace shows for users that it does not know (user_namespaces(7)). There,
// the host's own folders look like that. Outside of one it is a user like any other.
func unmapped(uid uint32) bool {
	overflow, err := os.ReadFile("/proc/sys/kernel/overflowuid")
	if err != nil || strings.TrimSpace(string(overflow)) != strconv.FormatUint(uint64(uid), 10) {
		return false
	}
	known, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && strings.Join(strings.Fields(string(known)), " ") != "0 0 4294967295"
}
