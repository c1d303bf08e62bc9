// SPDX-License-Identifier: Apache-2.0

package activation_test

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/activation"
)

// childVariable makes this test binary play a service: it reports what it inherited and exits.
const childVariable = "ACTIVATION_TEST_CHILD"

// report is what the child prints.
type report struct {
	Descriptors []activation.Descriptor
	Err         string
	NotClosing  []int    // descriptors that would survive another exec
	Left        []string // variables that were still set
	Again       int      // descriptors that a second call returned
}

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		child()
		return
	}
	before := openDescriptors()
	code := m.Run()
	// The runtime opens some of its own on the way (epoll), hence kinds of files and not numbers.
	if after := openDescriptors(); code == 0 && after > before {
		fmt.Fprintf(os.Stderr, "%d sockets, pipes and files are open, %d were at the start\n", after, before)
		code = 1
	}
	os.Exit(code)
}

// openDescriptors counts everything but anonymous inodes, which are the runtime's.
func openDescriptors() (n int) {
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		link, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err == nil && !strings.HasPrefix(link, "anon_inode:") {
			n++
		}
	}
	return n
}

func child() {
	// An open file of the process itself, in the way of a LISTEN_FDS that is too large.
	own, _ := os.Open("/dev/null")
	defer own.Close()
	var r report
	ds, err := activation.Inherited()
	r.Descriptors = ds
	if err != nil {
		r.Err = err.Error()
	}
	for _, d := range ds {
		if flags, err := unix.FcntlInt(uintptr(d.FD), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			r.NotClosing = append(r.NotClosing, d.FD)
		}
	}
	for _, v := range os.Environ() {
		if strings.HasPrefix(v, "LISTEN_") {
			r.Left = append(r.Left, v)
		}
	}
	again, _ := activation.Inherited()
	r.Again = len(again)
	json.NewEncoder(os.Stdout).Encode(r)
}

// own makes fd close at the end of the test.
func own(t *testing.T, fd int, err error) int {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func newSocket(t *testing.T, domain, typ int) int {
	t.Helper()
	fd, err := unix.Socket(domain, typ|unix.SOCK_CLOEXEC, 0)
	return own(t, fd, err)
}

// listening is a new listening socket; an empty path lets the kernel choose an address.
func listening(t *testing.T, domain, typ int) int {
	t.Helper()
	fd := newSocket(t, domain, typ)
	if domain == unix.AF_UNIX {
		if err := unix.Bind(fd, &unix.SockaddrUnix{}); err != nil { // autobind
			t.Fatal(err)
		}
	}
	if err := unix.Listen(fd, 1); err != nil {
		t.Fatal(err)
	}
	return fd
}

func pair(t *testing.T, typ int) (int, int) {
	t.Helper()
	p, err := unix.Socketpair(unix.AF_UNIX, typ|unix.SOCK_CLOEXEC, 0)
	return own(t, p[0], err), own(t, p[1], err)
}

func memfd(t *testing.T, name string) int {
	t.Helper()
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	return own(t, fd, err)
}
