// SPDX-License-Identifier: Apache-2.0

package activation_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/activation"
	"github.com/msgmux/msgmux/internal/test"
)

var socketKinds = map[string]activation.Kind{
	"source":    activation.Datagram,
	"publish":   activation.SeqpacketListener,
	"register":  activation.Datagram,
	"subscribe": activation.SeqpacketListener,
	"control":   activation.SeqpacketListener,
}

func descriptors(s *activation.Sockets) map[string]activation.Descriptor {
	return map[string]activation.Descriptor{
		"source": s.Sources[0], "publish": s.Publish, "register": s.Register, "subscribe": s.Subscribe, "control": s.Control,
	}
}

func closeAll(s *activation.Sockets) {
	for _, d := range s.All() {
		unix.Close(d.FD)
	}
}

// bind binds and undoes it at the end of the test.
func bind(t *testing.T, dir string) *activation.Sockets {
	t.Helper()
	s, err := activation.Bind(dir, 0o660)
	must(t, err)
	t.Cleanup(func() {
		s.Unlink()
		closeAll(s)
	})
	return s
}

// entries is what lies in a folder, without the lock file.
func entries(t *testing.T, dir string) (names []string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range list {
		if e.Name() != ".lock" {
			names = append(names, e.Name())
		}
	}
	return names
}

func TestBind(t *testing.T) {
	for _, umask := range []int{0, 0o022, 0o077, 0o777} {
		t.Run(fmt.Sprintf("umask %03o", umask), func(t *testing.T) {
			dir := filepath.Join(test.Folder(t), "run")
			old := syscall.Umask(umask)
			s, err := activation.Bind(dir, 0o660)
			syscall.Umask(old)
			must(t, err)
			defer closeAll(s)
			st, err := os.Stat(dir)
			must(t, err)
			if got := st.Mode().Perm(); got != 0o755 {
				t.Errorf("the folder has mode %v", got)
			}
			for name, d := range descriptors(s) {
				if d.Name != name || d.Kind != socketKinds[name] {
					t.Errorf("%s is %+v", name, d)
				}
				if kind, err := activation.Classify(d.FD); err != nil || kind != d.Kind {
					t.Errorf("%s is in truth a %v, %v", name, kind, err)
				}
				st, err := os.Lstat(filepath.Join(dir, name))
				if err != nil || st.Mode() != fs.ModeSocket|0o660 {
					t.Errorf("%s: %v, %v", name, st.Mode(), err)
				}
				if sa, err := unix.Getsockname(d.FD); err != nil || sa.(*unix.SockaddrUnix).Name != filepath.Join(dir, name) {
					t.Errorf("%s is bound to %v, %v", name, sa, err)
				}
				if flags, err := unix.FcntlInt(uintptr(d.FD), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK != 0 {
					t.Errorf("%s has flags %#x, %v", name, flags, err)
				}
				if flags, err := unix.FcntlInt(uintptr(d.FD), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
					t.Errorf("%s would survive exec, %v", name, err)
				}
			}
			must(t, s.Unlink(), s.Unlink())
			if left := entries(t, dir); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

// TestBoundSockets uses them as clients do.
func TestBoundSockets(t *testing.T) {
	dir := test.Folder(t)
	s := bind(t, dir)
	refuses, err := activation.RefuseRights(s.Sources[0].FD)
	must(t, err)
	for name, kind := range socketKinds {
		typ := unix.SOCK_DGRAM
		if kind == activation.SeqpacketListener {
			typ = unix.SOCK_SEQPACKET
		}
		c := newSocket(t, unix.AF_UNIX, typ)
		must(t, unix.Connect(c, &unix.SockaddrUnix{Name: filepath.Join(dir, name)}))
		at := descriptors(s)[name].FD
		if kind == activation.SeqpacketListener {
			at, _, err = unix.Accept4(at, unix.SOCK_CLOEXEC)
			own(t, at, err)
		}
		if err := unix.Sendmsg(c, []byte("x"), unix.UnixRights(c), nil, unix.MSG_DONTWAIT); refuses && err != unix.EPERM {
			t.Errorf("%s took a descriptor: %v", name, err)
		}
		must(t, unix.Sendmsg(c, []byte("hello"), nil, nil, unix.MSG_DONTWAIT))
		if name == "register" {
			text, control := make([]byte, 10), make([]byte, 200)
			_, n, _, _, err := unix.Recvmsg(at, text, control, unix.MSG_DONTWAIT)
			must(t, err)
			list, err := unix.ParseSocketControlMessage(control[:n])
			must(t, err)
			if len(list) != 1 {
				t.Fatalf("register: %d control messages", len(list))
			}
			cred, err := unix.ParseUnixCredentials(&list[0])
			if err != nil || int(cred.Pid) != os.Getpid() || int(cred.Uid) != os.Getuid() {
				t.Errorf("register: credentials %+v, %v", cred, err)
			}
		}
	}
}

// TestBindStale: sockets that a killed broker left are replaced.
func TestBindStale(t *testing.T) {
	dir := test.Folder(t)
	dead, err := activation.Bind(dir, 0o660)
	must(t, err)
	closeAll(dead)
	// Let go of the lock as death does, and leave the files: move them away from Unlink.
	must(t, os.Mkdir(dir+"/kept", 0o755))
	for name := range socketKinds {
		must(t, os.Rename(dir+"/"+name, dir+"/kept/"+name))
	}
	must(t, dead.Unlink())
	for name := range socketKinds {
		must(t, os.Rename(dir+"/kept/"+name, dir+"/"+name))
	}
	bind(t, dir)
	c := newSocket(t, unix.AF_UNIX, unix.SOCK_DGRAM)
	must(t, unix.Connect(c, &unix.SockaddrUnix{Name: dir + "/source"}))
}

func TestBindServed(t *testing.T) {
	dir := test.Folder(t)
	s := bind(t, dir)
	want := fmt.Sprintf("with pid %d already serves %s", os.Getpid(), dir)
	refused := func(when string, parts ...string) {
		t.Helper()
		again, err := activation.Bind(dir, 0o660)
		if err == nil {
			closeAll(again)
			t.Fatalf("%s: two brokers serve one folder", when)
		}
		for _, p := range parts {
			if !errors.Is(err, activation.ErrServed) || !strings.Contains(err.Error(), p) {
				t.Errorf("%s: the error does not say %q: %v", when, p, err)
			}
		}
		for name := range socketKinds {
			if _, err := os.Lstat(filepath.Join(dir, name)); err != nil {
				t.Errorf("%s: the refusal did harm: %v", when, err)
			}
		}
	}
	refused("locked", want)
	// A broker whose sockets are systemd's holds no lock.
	must(t, os.Remove(dir+"/.lock"))
	refused("not locked", want)
	// Control is dead, others are not.
	unix.Close(s.Control.FD)
	s.Control.FD = -1
	refused("publish is alive", want)
	for _, d := range []*activation.Descriptor{&s.Publish, &s.Register, &s.Subscribe} {
		unix.Close(d.FD)
		d.FD = -1
	}
	refused("source is alive", dir+"/source")
}

// TestBindSources: beside its own folder's, a channel receives from sockets elsewhere, which are bound and removed like that.
func TestBindSources(t *testing.T) {
	dir, other := test.Folder(t), test.Folder(t)
	first, second := filepath.Join(other, "log"), filepath.Join(other, "dsd.socket")
	s, err := activation.Bind(dir, 0o660, first, second)
	must(t, err)
	defer closeAll(s)
	var bound []string
	for _, d := range s.Sources {
		if d.Name != "source" || d.Kind != activation.Datagram {
			t.Errorf("a source is %+v", d)
		}
		sa, err := unix.Getsockname(d.FD)
		must(t, err)
		bound = append(bound, sa.(*unix.SockaddrUnix).Name)
	}
	if want := []string{filepath.Join(dir, "source"), first, second}; !slices.Equal(bound, want) {
		t.Errorf("sources are bound to %q, want %q", bound, want)
	}
	for _, path := range []string{first, second} {
		if st, err := os.Lstat(path); err != nil || st.Mode() != fs.ModeSocket|0o660 {
			t.Errorf("%s: %v, %v", path, st, err)
		}
	}
	// What is not theirs is left alone: another broker's socket, a file, a name that stands there twice.
	if _, err := activation.Bind(test.Folder(t), 0o660, first); !errors.Is(err, activation.ErrServed) {
		t.Errorf("a socket that is received from: %v", err)
	}
	must(t, os.WriteFile(filepath.Join(other, "file"), nil, 0o600))
	third := test.Folder(t)
	for _, bad := range [][]string{{filepath.Join(other, "file")}, {filepath.Join(other, "x"), filepath.Join(other, "x")}, {filepath.Join(third, "source")},
		{filepath.Join(other, strings.Repeat("x", 108))}, {filepath.Join(other, "none", "x")}} {
		if _, err := activation.Bind(third, 0o660, bad...); err == nil {
			t.Errorf("%q are sources", bad)
		}
		if left := entries(t, third); len(left) > 0 {
			t.Errorf("%q: left behind %q", bad, left)
		}
	}
	must(t, s.Unlink())
	if left := entries(t, other); !slices.Equal(left, []string{"file"}) {
		t.Errorf("left behind: %q", left)
	}
}

// TestBindFullBacklog: a broker that accepts nobody is alive all the same, and the answer does not wait for it.
func TestBindFullBacklog(t *testing.T) {
	dir := test.Folder(t)
	s := bind(t, dir)
	must(t, os.Remove(dir+"/.lock"), unix.Listen(s.Control.FD, 0))
	c := newSocket(t, unix.AF_UNIX, unix.SOCK_SEQPACKET)
	must(t, unix.Connect(c, &unix.SockaddrUnix{Name: dir + "/control"}))
	if _, err := activation.Bind(dir, 0o660); !errors.Is(err, activation.ErrServed) {
		t.Errorf("got %v", err)
	}
}

// TestBindTogether: of many that start at once, one wins.
func TestBindTogether(t *testing.T) {
	dir := filepath.Join(test.Folder(t), "new")
	var wg sync.WaitGroup
	var mu sync.Mutex
	var won []*activation.Sockets
	for range 8 {
		wg.Go(func() {
			s, err := activation.Bind(dir, 0o660)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won = append(won, s)
			} else if !errors.Is(err, activation.ErrServed) {
				t.Errorf("got %v", err)
			}
		})
	}
	wg.Wait()
	for _, s := range won {
		for name, d := range descriptors(s) {
			c := newSocket(t, unix.AF_UNIX, unix.SOCK_DGRAM)
			if d.Kind == activation.Datagram {
				must(t, unix.Connect(c, &unix.SockaddrUnix{Name: filepath.Join(dir, name)}))
			}
		}
		must(t, s.Unlink())
		closeAll(s)
	}
	if len(won) != 1 {
		t.Errorf("%d won", len(won))
	}
}

// TestBindInTheWay: what is not a socket belongs to somebody and stays.
func TestBindInTheWay(t *testing.T) {
	for name, put := range map[string]func(path string) error{
		"file":         func(path string) error { return os.WriteFile(path, []byte("precious"), 0o600) },
		"folder":       func(path string) error { return os.Mkdir(path, 0o700) },
		"dangling":     func(path string) error { return os.Symlink("nowhere", path) },
		"link to file": func(path string) error { return os.Symlink("/etc/passwd", path) },
	} {
		dir := test.Folder(t)
		path := dir + "/subscribe"
		must(t, put(path))
		before, err := os.Lstat(path)
		must(t, err)
		if _, err := activation.Bind(dir, 0o660); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: got %v", name, err)
		}
		after, err := os.Lstat(path)
		if err != nil || !os.SameFile(before, after) || before.Mode() != after.Mode() {
			t.Errorf("%s was touched: %v", name, err)
		}
		if left := entries(t, dir); len(left) != 1 {
			t.Errorf("%s: left behind %q", name, left)
		}
		must(t, os.RemoveAll(path))
		bind(t, dir) // the failure has let go of the lock
	}
	file := filepath.Join(test.Folder(t), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	if _, err := activation.Bind(file, 0o660); err == nil {
		t.Error("a file was taken for a folder")
	}
}

// TestUnlinkOwn: a socket that somebody else has put in the place of ours stays.
func TestUnlinkOwn(t *testing.T) {
	dir := test.Folder(t)
	s := bind(t, dir)
	must(t, os.Remove(dir+"/source"), os.Remove(dir+"/control"))
	other := newSocket(t, unix.AF_UNIX, unix.SOCK_DGRAM)
	must(t, unix.Bind(other, &unix.SockaddrUnix{Name: dir + "/source"}))
	must(t, s.Unlink())
	if left := entries(t, dir); len(left) != 1 || left[0] != "source" {
		t.Errorf("left: %q", left)
	}
}

func TestBindPath(t *testing.T) {
	base := test.Folder(t)
	long := filepath.Join(base, strings.Repeat("x", 108-len("/subscribe")-1-len(base)))
	if n := len(long + "/subscribe"); n != 108 {
		t.Fatalf("%d bytes", n)
	}
	if _, err := activation.Bind(long, 0o660); err == nil || !strings.Contains(err.Error(), "has 108 bytes, a socket's has at most 107") {
		t.Errorf("got %v", err)
	}
	if left := entries(t, long); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	bind(t, long[:len(long)-1])
	// A relative folder stays the same one after a chdir.
	t.Chdir(base)
	s, err := activation.Bind("rel", 0o600)
	must(t, err)
	defer closeAll(s)
	t.Chdir("/")
	must(t, s.Unlink())
	if left := entries(t, base+"/rel"); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestBindMode(t *testing.T) {
	dir := test.Folder(t)
	s, err := activation.Bind(dir, 0o606|fs.ModeSetuid)
	must(t, err)
	defer closeAll(s)
	defer s.Unlink()
	st, err := os.Lstat(dir + "/control")
	if err != nil || st.Mode() != fs.ModeSocket|0o606 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
}
