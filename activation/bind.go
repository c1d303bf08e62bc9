// SPDX-License-Identifier: Apache-2.0

package activation

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/wire"
)

// ErrServed means that the folder belongs to a broker that is alive.
var ErrServed = errors.New("the folder is in use")

// backlog is how many connections may wait to be accepted, in all. A user who connects without end fills any, so it is as
// long as systemd's; the kernel lowers it to net.core.somaxconn.
const backlog = 4096

// lockName is the file in the folder that a broker holds locked. It is never removed: two brokers could then hold locks
// on two files of that name.
const lockName = ".lock"

// Sockets are the sockets of a channel that was started by hand. The caller owns their descriptors; nothing here closes
// them once Bind has returned.
type Sockets struct {
	Own

	lock  int // of the lock file; -1 once it is released
	files []boundFile
}

// boundFile is a socket file as it was right after it was bound.
type boundFile struct {
	path     string
	dev, ino uint64
}

// Bind makes dir, 0755, if it is missing, and binds the sockets of a channel in it, and another socket for sources at each of the
// paths, all with exactly the given mode (0660 in general), whatever the umask. Sockets of a dead broker are replaced. Where a
// live one has them, or anything else listens, the error wraps [ErrServed] and names it; where a folder is not ours,
// [ErrForeign] (see [CheckFolder]). Files that are not sockets are never touched.
func Bind(dir string, mode fs.FileMode, sources ...string) (*Sockets, error) {
	s, err := bind(dir, mode.Perm(), sources)
	if err != nil {
		return nil, fmt.Errorf("cannot bind sockets in %s: %w", dir, err)
	}
	return s, nil
}

func bind(dir string, mode fs.FileMode, sources []string) (_ *Sockets, err error) {
	// Absolute, so that Unlink still finds the files after a chdir.
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	if err := makeFolder(dir); err != nil {
		return nil, err
	}
	if err := CheckFolder(dir); err != nil {
		return nil, err
	}
	s := &Sockets{Own: noneOwn(), lock: -1}
	defer func() {
		if err != nil {
			s.abandon()
		}
	}()
	if s.lock, err = lockFolder(dir); err != nil {
		return nil, err
	}
	// All are looked at before the first one is replaced: a refusal must leave everything as it was.
	sources = append([]string{filepath.Join(dir, wire.SocketSource)}, sources...)
	for _, p := range s.places() {
		if err := checkDead(dir, p.name); err != nil {
			return nil, err
		}
	}
	for i, path := range sources {
		if err := checkSource(path, sources[:i]); err != nil {
			return nil, err
		}
	}
	one := func(path, name string, kind Kind) (Descriptor, error) {
		d, file, err := bindOne(path, kind, mode)
		if err != nil {
			return absent, fmt.Errorf("%s: %w", path, err)
		}
		d.Name = name
		s.files = append(s.files, file)
		return d, nil
	}
	for _, p := range s.places() {
		if *p.place, err = one(filepath.Join(dir, p.name), p.name, p.kind); err != nil {
			return nil, err
		}
	}
	for _, path := range sources {
		d, err := one(path, wire.SocketSource, Datagram)
		if err != nil {
			return nil, err
		}
		s.Sources = append(s.Sources, d)
	}
	return s, nil
}

// checkSource returns nil if a socket for sources can be bound at path, others being those that are bound as well.
func checkSource(path string, others []string) error {
	dir, name := filepath.Split(path)
	if slices.Contains(others, path) {
		return fmt.Errorf("%s is named twice", path)
	}
	if err := CheckFolder(filepath.Clean(dir)); err != nil {
		return err
	}
	return checkDead(dir, name)
}

// abandon undoes a Bind that failed half-way.
func (s *Sockets) abandon() {
	for _, d := range s.All() {
		unix.Close(d.FD)
	}
	s.Unlink()
}

// Unlink removes the socket files that Bind made, and no file that somebody else has put in their place since. Then it
// lets another broker have the folder. Clients that are connected stay connected. A second call does nothing.
func (s *Sockets) Unlink() error {
	var errs []error
	for _, f := range s.files {
		var st unix.Stat_t
		if unix.Lstat(f.path, &st) != nil || uint64(st.Dev) != f.dev || st.Ino != f.ino {
			continue
		}
		if err := os.Remove(f.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	s.files = nil
	if s.lock >= 0 {
		unix.Close(s.lock)
		s.lock = -1
	}
	return errors.Join(errs...)
}

func makeFolder(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil // if it is no folder, the lock file cannot be opened
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.Chmod(dir, 0o755) // the umask may have taken bits away
}

// lockFolder takes the lock that keeps a second broker out, without waiting. The lock goes with the descriptor: when
// the process dies, the kernel lets it go.
func lockFolder(dir string) (int, error) {
	path := filepath.Join(dir, lockName)
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	if err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err == nil {
		return fd, nil
	}
	unix.Close(fd)
	if err != unix.EWOULDBLOCK {
		return -1, &fs.PathError{Op: "flock", Path: path, Err: err}
	}
	if err := checkDead(dir, "control"); errors.Is(err, ErrServed) {
		return -1, err
	}
	return -1, fmt.Errorf("%w: another msgmuxd is just starting or stopping there", ErrServed)
}

// checkDead returns nil if nothing listens at dir/name: no file, or a socket that nobody has open.
func checkDead(dir, name string) error {
	path := filepath.Join(dir, name)
	if len(path) > wire.MaxSocketPath {
		return fmt.Errorf("the path %s has %d bytes, a socket's has at most %d", path, len(path), wire.MaxSocketPath)
	}
	var st unix.Stat_t
	switch err := unix.Lstat(path, &st); {
	case err == unix.ENOENT:
		return nil
	case err != nil:
		return &fs.PathError{Op: "lstat", Path: path, Err: err}
	case st.Mode&unix.S_IFMT != unix.S_IFSOCK:
		return fmt.Errorf("%s is in the way: not a socket", path)
	}
	// A full backlog must not hold us up, so this socket does not block. Against a live datagram socket the answer is
	// EPROTOTYPE, which tells enough. Where a service manager listens, the connection starts the service; that is no harm.
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	switch err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err {
	case unix.ECONNREFUSED, unix.ENOENT:
		return nil
	case nil:
		return served(dir, name, fd)
	case unix.EPROTOTYPE, unix.EAGAIN:
		return fmt.Errorf("%w: somebody listens at %s", ErrServed, path)
	default:
		return fmt.Errorf("cannot tell whether %s is in use: %w", path, err)
	}
}

// served names the process that listens at the other end of fd: the one that called listen(2).
func served(dir, name string, fd int) error {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil || cred.Pid == 0 {
		// It has no number in our pid namespace.
		return fmt.Errorf("%w: a process of another container serves %s", ErrServed, dir)
	}
	who := "a process"
	if comm, err := os.ReadFile("/proc/" + strconv.Itoa(int(cred.Pid)) + "/comm"); err == nil {
		who = strings.TrimSpace(string(comm))
	}
	if who == "systemd" {
		return fmt.Errorf("%w: systemd with pid %d listens at %s; start its service unit instead, or use another folder",
			ErrServed, cred.Pid, filepath.Join(dir, name))
	}
	return fmt.Errorf("%w: %s with pid %d already serves %s", ErrServed, who, cred.Pid, dir)
}

// bindOne replaces whatever dead socket is at path.
//
// The file of a socket gets the mode of the socket itself, less the umask (bind in unix(7)). So the mode is set on the
// socket before it is bound, and on the file afterwards: in between it can only be narrower than asked. A temporary name
// and a rename would do as well, but the socket would carry the temporary name for ever, in ss(8) and for its peers.
func bindOne(path string, kind Kind, mode fs.FileMode) (_ Descriptor, _ boundFile, err error) {
	typ := unix.SOCK_DGRAM
	if kind == SeqpacketListener {
		typ = unix.SOCK_SEQPACKET
	}
	// Blocking, like a socket from systemd: a caller that must not block says so in each call.
	fd, err := unix.Socket(unix.AF_UNIX, typ|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return absent, boundFile{}, os.NewSyscallError("socket", err)
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	if _, err := RefuseRights(fd); err != nil {
		return absent, boundFile{}, err
	}
	// Before bind, because a datagram that is queued earlier would carry no credentials.
	if filepath.Base(path) == "register" {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
			return absent, boundFile{}, os.NewSyscallError("setsockopt", err)
		}
	}
	if err := unix.Fchmod(fd, uint32(mode)); err != nil {
		return absent, boundFile{}, os.NewSyscallError("fchmod", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return absent, boundFile{}, err
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return absent, boundFile{}, os.NewSyscallError("bind", err)
	}
	file, err := settle(path, mode)
	if err != nil {
		os.Remove(path)
		return absent, boundFile{}, err
	}
	if kind == SeqpacketListener {
		if err := unix.Listen(fd, backlog); err != nil {
			os.Remove(path)
			return absent, boundFile{}, os.NewSyscallError("listen", err)
		}
	}
	return Descriptor{FD: fd, Kind: kind}, file, nil
}

// settle gives the socket file its mode and notes which file it is. It follows no symbolic link that somebody with
// access to the folder may have put there: O_PATH holds the very file, and its /proc entry leads to nothing else
// (fchmodat2(2), which could do without, is too new).
func settle(path string, mode fs.FileMode) (boundFile, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return boundFile{}, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return boundFile{}, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return boundFile{}, fmt.Errorf("%s was replaced by somebody", path)
	}
	if st.Mode&0o7777 != uint32(mode) {
		if err := unix.Chmod("/proc/self/fd/"+strconv.Itoa(fd), uint32(mode)); err != nil {
			return boundFile{}, &fs.PathError{Op: "chmod", Path: path, Err: err}
		}
	}
	return boundFile{path, uint64(st.Dev), st.Ino}, nil
}
