// SPDX-License-Identifier: Apache-2.0

package scout

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// maxLinks is how many symbolic links one path may lead through, as for the kernel (path_resolution(7)).
	maxLinks = 40
	// maxTarget is how long what a link says may be, in bytes (PATH_MAX).
	maxTarget = 4096

	// resolveCached is RESOLVE_CACHED of openat2(2), Linux 5.12; x/sys/unix has no name for it.
	resolveCached = 0x20
)

// errMayBlock means that only a file system that may never answer could say how it goes on.
var errMayBlock = errors.New("a file system that may not answer")

// walker follows paths. Each step is taken from an open folder, and the path's end is an open file (O_PATH, open(2)).
//
// A declared path, which nobody proves to be theirs, leads by what root or the broker's own user made and by nothing else:
// whoever could put a link on the way would lend himself what the broker may reach. So links are followed where one of these made
// them and nobody else can exchange them. Where a folder is somebody else's, what lies in it is his say: there a path ends at
// a socket that he or root made, and goes over no link.
type walker struct {
	uid      uint32 // the broker's own user
	unmapped uint32 // shown by this user namespace for users without a number in it
	declared bool
	local    *mounts // blocks on no file system but these; nil: may block
}

// ground is who has a say about the names in a folder.
type ground struct {
	foreign bool   // somebody else than root and the broker's user
	uid     uint32 // who; if it is one
	anybody bool   // several, or all
	shared  bool   // all may make names in it, but not exchange those of others
}

// ours says whether a user is root or the broker's own.
func (w *walker) ours(uid uint32) bool { return uid == 0 || uid == w.uid }

// enter is the ground of a folder that lies on this one.
func (w *walker) enter(g ground, st *unix.Stat_t) ground {
	g.shared = st.Mode&unix.S_IWOTH != 0
	if g.shared && st.Mode&unix.S_ISVTX == 0 {
		g.foreign, g.anybody = true, true
	}
	// In a user namespace the host's own folders look like those of a user without a number. Its links count as a stranger's.
	if w.ours(st.Uid) || st.Uid == w.unmapped || g.foreign && st.Uid == g.uid {
		return g
	}
	g.anybody = g.anybody || g.foreign
	g.foreign, g.uid = true, st.Uid
	return g
}

// walk returns what path leads to. The caller closes it. Errors are errnos, errMayBlock, or wrap [ErrForeign].
func (w *walker) walk(path string) (end int, st unix.Stat_t, err error) {
	if !strings.HasPrefix(path, "/") {
		return -1, st, unix.EINVAL
	}
	var on ground
	at, st, err := w.top(&on)
	if err != nil {
		return -1, st, err
	}
	defer func() {
		if err != nil {
			unix.Close(at)
		}
	}()
	links := 0
	for rest := path; ; {
		var name string
		rest = strings.TrimLeft(rest, "/")
		if rest == "" {
			return at, st, nil
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return -1, st, unix.ENOTDIR
		}
		name, rest, _ = strings.Cut(rest, "/")
		var next int
		if next, st, err = w.step(at, name, rest != ""); err != nil {
			return -1, st, err
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFLNK:
			if jumps(next) {
				unix.Close(next)
				if next, err = w.jump(at, name, &st, on); err != nil {
					return -1, st, err
				}
				on = w.enter(on, &st)
				unix.Close(at)
				at = next
				break
			}
			target, err := w.follow(next, &st, on, name)
			unix.Close(next)
			if links++; err == nil && links > maxLinks {
				err = unix.ELOOP
			}
			if err != nil {
				return -1, st, err
			}
			if rest = target + "/" + rest; strings.HasPrefix(target, "/") {
				top, _, err := w.top(&on)
				if err != nil {
					return -1, st, err
				}
				unix.Close(at)
				at = top
			}
			st.Mode = unix.S_IFDIR // where at is
		case unix.S_IFDIR:
			on = w.enter(on, &st)
			unix.Close(at)
			at = next
		default:
			if err := w.mayEnd(&st, on, name); err != nil {
				unix.Close(next)
				return -1, st, err
			}
			unix.Close(at)
			at = next
		}
	}
}

// top is the root folder.
func (w *walker) top(on *ground) (int, unix.Stat_t, error) {
	var st unix.Stat_t
	fd, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, st, err
	}
	if err = w.look(fd, &st); err != nil {
		unix.Close(fd)
		return -1, st, err
	}
	*on = w.enter(ground{}, &st)
	return fd, st, nil
}

// step opens name in a folder. folder says that it should be one, so that what is mounted on demand is mounted.
func (w *walker) step(at int, name string, folder bool) (fd int, st unix.Stat_t, err error) {
	const flags = unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC
	switch {
	case w.local != nil:
		// What the kernel knows without asking the file system. It may be what is mounted there, which look finds out.
		fd, err = unix.Openat2(at, name, &unix.OpenHow{Flags: flags, Resolve: resolveCached})
		if err == unix.EAGAIN {
			// The file system that at is of answers; another one, which is not known yet, is not asked.
			fd, err = unix.Openat2(at, name, &unix.OpenHow{Flags: flags, Resolve: unix.RESOLVE_NO_XDEV})
		}
		switch errno, _ := errors.AsType[unix.Errno](err); errno {
		case unix.EXDEV, unix.EAGAIN, unix.ENOSYS, unix.EINVAL, unix.EPERM: // Linux before 5.12; a sandbox
			err = errMayBlock
		}
	case folder:
		if fd, err = unix.Openat(at, name, flags|unix.O_DIRECTORY, 0); err != unix.ENOTDIR {
			break
		}
		fallthrough
	default:
		fd, err = unix.Openat(at, name, flags, 0)
	}
	if err != nil {
		return -1, st, err
	}
	if err = w.look(fd, &st); err != nil {
		unix.Close(fd)
		return -1, st, err
	}
	return fd, st, nil
}

// look asks what fd is, unless that may block.
func (w *walker) look(fd int, st *unix.Stat_t) error {
	if w.local != nil && !w.local.has(fd) {
		return errMayBlock
	}
	return unix.Fstat(fd, st)
}

// mayFollow says whether a path may lead over this link.
func (w *walker) mayFollow(st *unix.Stat_t, on ground, name string) error {
	if !w.declared || !on.foreign && w.ours(st.Uid) {
		return nil
	}
	who := fmt.Sprintf("uid %d", st.Uid)
	if on.anybody {
		who = "everybody"
	} else if on.foreign {
		who = fmt.Sprintf("uid %d", on.uid)
	}
	return fmt.Errorf("%w: %s can exchange the symbolic link %q on the way", ErrForeign, who, name)
}

// jumps says whether a link leads elsewhere than it says, as those of procfs do.
func jumps(fd int) bool {
	var fs unix.Statfs_t
	return unix.Fstatfs(fd, &fs) == nil && int64(fs.Type) == unix.PROC_SUPER_MAGIC
}

// jump opens what such a link leads to.
func (w *walker) jump(at int, name string, st *unix.Stat_t, on ground) (int, error) {
	if err := w.mayFollow(st, on, name); err != nil {
		return -1, err
	}
	fd, err := unix.Openat(at, name, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err == nil {
		err = unix.Fstat(fd, st)
	}
	return fd, err
}

// follow is what a link says.
func (w *walker) follow(fd int, st *unix.Stat_t, on ground, name string) (string, error) {
	if err := w.mayFollow(st, on, name); err != nil {
		return "", err
	}
	b := make([]byte, maxTarget)
	n, err := unix.Readlinkat(fd, "", b)
	switch {
	case err != nil:
		return "", err
	case n == 0:
		return "", unix.ENOENT
	case n == len(b):
		return "", unix.ENAMETOOLONG
	}
	return string(b[:n]), nil
}

// mayEnd says whether a path may end at this file.
func (w *walker) mayEnd(st *unix.Stat_t, on ground, name string) error {
	switch {
	case !w.declared || !on.foreign && !on.shared:
		return nil
	case st.Nlink > 1:
		return fmt.Errorf("%w: %q has %d names, and lies where others than root can make one", ErrForeign, name, st.Nlink)
	case on.foreign && !on.anybody && st.Uid != on.uid && !w.ours(st.Uid):
		return fmt.Errorf("%w: %q belongs to uid %d and lies in a folder of uid %d", ErrForeign, name, st.Uid, on.uid)
	}
	return nil
}
