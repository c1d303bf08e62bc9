// SPDX-License-Identifier: Apache-2.0

package scout

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/need"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/test"
)

// Two users who are neither root nor the broker's own.
const mallory, victor = 65533, 65532

// tree makes files in a folder of root's. A line is: what, name, owner, mode or what a link says.
func tree(t *testing.T, lines ...string) string {
	t.Helper()
	need.Root(t, "unit")
	dir := test.Folder(t)
	os.Chmod(dir, 0o755)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	owners := map[string]int{"root": 0, "mallory": mallory, "victor": victor}
	for _, line := range lines {
		f := strings.Fields(line)
		path := dir + "/" + f[1]
		switch f[0] {
		case "folder":
			must(os.Mkdir(path, 0o755))
		case "open": // all may exchange names in it
			must(os.Mkdir(path, 0o755))
			must(os.Chmod(path, 0o777))
		case "sticky":
			must(os.Mkdir(path, 0o755))
			must(os.Chmod(path, 0o777|os.ModeSticky))
		case "socket":
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			must(err)
			t.Cleanup(func() { unix.Close(fd) })
			must(unix.Bind(fd, &unix.SockaddrUnix{Name: path}))
			must(os.Chmod(path, 0o777))
		case "file":
			must(os.WriteFile(path, nil, 0o644))
		case "link": // to f[3], in the tree if it begins with a slash
			to := f[3]
			if strings.HasPrefix(to, "/") {
				to = dir + to
			}
			must(os.Symlink(to, path))
		case "name":
			must(os.Link(dir+f[3], path))
		}
		must(os.Lchown(path, owners[f[2]], owners[f[2]]))
	}
	return dir
}

// TestWhoLeads: what a declared path may lead over, and where it may end. One that was not declared leads wherever the kernel
// would; its owner is proved by others.
func TestWhoLeads(t *testing.T) {
	dir := tree(t,
		"folder etc root",
		"socket etc/own root",
		"socket etc/let mallory", // root's folder: somebody let him bind there
		"link etc/to-own root own",
		"link etc/chain root to-own",
		"link etc/absolute root /etc/own",
		"link etc/up root ../etc/../etc/own",
		"link etc/planted mallory own",
		"link etc/over-planted root planted",
		"name etc/second root /etc/own",

		"folder theirs mallory",
		"socket theirs/in mallory",
		"socket theirs/by-root root", // a socket unit's, in the folder of a service
		"socket theirs/victors victor",
		"link theirs/hop mallory /etc/own",
		"link theirs/roots root /etc/own", // he can give it another name
		"folder theirs/deep root",
		"socket theirs/deep/in mallory",
		"folder theirs/victors-folder victor",
		"socket theirs/victors-folder/in victor",
		"name theirs/stolen root /etc/let",
		"link etc/agent root /theirs/in",
		"link etc/to-hop root /theirs/hop",

		"open all root",
		"socket all/in victor",
		"link all/link root /etc/own",
		"sticky tmp root",
		"socket tmp/in victor",
		"link tmp/link root /etc/own",
		"link tmp/planted mallory /etc/own",
		"name tmp/stolen root /etc/own",
	)
	s := New(Config{Unmapped: NoUser})
	defer s.Close()
	for _, test := range []struct {
		path     string
		declared bool // whether a declared one leads there
		to       string
	}{
		{"etc/own", true, "etc/own"},
		{"etc/let", true, "etc/let"},
		{"etc/to-own", true, "etc/own"},
		{"etc/chain", true, "etc/own"},
		{"etc/absolute", true, "etc/own"},
		{"etc/up", true, "etc/own"},
		{"etc/second", true, "etc/own"},
		{"etc//./own", true, "etc/own"},
		{"etc/planted", false, "etc/own"},
		{"etc/over-planted", false, "etc/own"},
		{"theirs/in", true, "theirs/in"},
		{"etc/agent", true, "theirs/in"},
		{"theirs/by-root", true, "theirs/by-root"},
		{"theirs/victors", false, "theirs/victors"},
		{"theirs/hop", false, "etc/own"},
		{"etc/to-hop", false, "etc/own"},
		{"theirs/roots", false, "etc/own"},
		{"theirs/deep/in", true, "theirs/deep/in"},
		{"theirs/victors-folder/in", true, "theirs/victors-folder/in"},
		{"theirs/stolen", false, "etc/let"},
		{"theirs/../etc/own", false, "etc/own"}, // it has two names, and the way there is his
		{"all/in", true, "all/in"},
		{"all/link", false, "etc/own"},
		{"tmp/in", true, "tmp/in"},
		{"tmp/link", true, "etc/own"},
		{"tmp/planted", false, "etc/own"},
		{"tmp/stolen", false, "etc/own"},
	} {
		want, _ := sys.FileAt(dir + "/" + test.to)
		file, err := s.Look(dir+"/"+test.path, 0)
		if err != nil || file != want {
			t.Errorf("%s leads to %v (%v) and not to %s", test.path, file, err, test.to)
		}
		file, err = s.Look(dir+"/"+test.path, Declared)
		if test.declared && (err != nil || file != want) {
			t.Errorf("declared, %s leads to %v (%v) and not to %s", test.path, file, err, test.to)
		}
		if !test.declared && !errors.Is(err, ErrForeign) {
			t.Errorf("declared, %s leads to %v (%v)", test.path, file, err)
		}
		found, err := s.Connect(dir+"/"+test.path, 0, Declared)
		if err == nil {
			unix.Close(found.FD)
		}
		if (err == nil) != test.declared || err == nil && found.File != want {
			t.Errorf("declared, %s is connected to %v: %v", test.path, found.File, err)
		}
	}
}

// TestBrokersOwnSocket in another user's folder is a declared sink's end, as root's is: a socket unit made it for the broker alone.
func TestBrokersOwnSocket(t *testing.T) {
	dir := tree(t, "folder theirs mallory", "socket theirs/by-unit victor", "socket theirs/in mallory", "link theirs/hop victor in")
	for path, want := range map[string]error{"theirs/by-unit": nil, "theirs/in": nil, "theirs/hop": ErrForeign} {
		w := walker{uid: victor, unmapped: NoUser, declared: true}
		end, _, err := w.walk(dir + "/" + path)
		if err == nil {
			unix.Close(end)
		}
		if !errors.Is(err, want) {
			t.Errorf("%s: %v", path, err)
		}
	}
	w := walker{uid: 1, unmapped: NoUser, declared: true}
	if _, _, err := w.walk(dir + "/theirs/by-unit"); !errors.Is(err, ErrForeign) {
		t.Errorf("somebody else's socket: %v", err)
	}
}

// TestWhereNothingLeads: the errors are the kernel's.
func TestWhereNothingLeads(t *testing.T) {
	dir := tree(t, "folder etc root", "file etc/file root", "link etc/round root round", "link etc/dangling root nowhere", "socket etc/dead root")
	s := New(Config{Unmapped: NoUser})
	defer s.Close()
	for path, want := range map[string]error{
		"etc/nowhere": unix.ENOENT, "etc/dangling": unix.ENOENT, "etc/file/x": unix.ENOTDIR, "etc/round": unix.ELOOP,
		"etc/file": ErrNoSocket, "etc": ErrNoSocket, strings.Repeat("n", 300): unix.ENAMETOOLONG,
	} {
		for _, who := range []uint32{0, Declared} {
			before := len(open(t))
			if _, err := s.Connect(dir+"/"+path, 0, who); !errors.Is(err, want) {
				t.Errorf("%s (asked by %d): %v instead of %v", path, who, err, want)
			}
			if after := len(open(t)); after != before {
				t.Errorf("%s: %d descriptors are open, %d before", path, after, before)
			}
		}
	}
	if _, err := s.Look("relative", 0); err != unix.EINVAL {
		t.Error(err)
	}
}

// open lists the descriptors of this process.
func open(t *testing.T) []os.DirEntry {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return all
}
