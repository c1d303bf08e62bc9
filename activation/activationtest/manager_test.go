// SPDX-License-Identifier: Apache-2.0

package activationtest_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/activation/activationtest"
	"github.com/msgmux/msgmux/internal/test"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func manager(t *testing.T) *activationtest.Manager {
	t.Helper()
	dir := test.Folder(t)
	m, err := activationtest.New(dir)
	must(t, err)
	t.Cleanup(func() { m.Close() })
	return m
}

// send sends a message as a careless program would, and waits until it has been dealt with.
func send(t *testing.T, m *activationtest.Manager, text string, fds ...int) {
	t.Helper()
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(s)
	must(t, unix.Sendmsg(s, []byte(text), unix.UnixRights(fds...), &unix.SockaddrUnix{Name: m.Socket()}, 0))
	must(t, m.Sync())
}

func memfd(t *testing.T) int {
	t.Helper()
	fd, err := unix.MemfdCreate("x", unix.MFD_CLOEXEC)
	must(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// TestFaults: what systemd only mentions in its journal must be seen by a test.
func TestFaults(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		fds        int
		fault      string // a part of the one fault, or none
		stored     []string
	}{
		{"barrier", "BARRIER=1", 1, "", nil},
		{"barrier in company", "STATUS=x\nBARRIER=1", 1, "in company", nil},
		{"barrier without a pipe", "BARRIER=1", 0, "0 descriptors", nil},
		{"too long", "STATUS=" + strings.Repeat("x", 4096), 0, "ignored", nil},
		{"not UTF-8", "STATUS=\xff", 0, "UTF-8", nil},
		{"removal of nothing", "FDSTOREREMOVE=1", 0, "without a good name", nil},
		{"without FDSTORE", "FDNAME=a", 1, "", nil},
		{"no name", "FDSTORE=1", 1, "", []string{"stored"}},
		{"bad name", "FDSTORE=1\nFDNAME=a:b", 1, "bad name", []string{"stored"}},
		{"too many", "FDSTORE=1\nFDNAME=a", 4, "store is full", []string{"a", "a", "a"}},
		{"unknown field", "X_OWN=1\n", 0, "", nil},
	} {
		m := manager(t)
		m.SetStoreMax(3)
		var fds []int
		for range tt.fds {
			fds = append(fds, memfd(t))
		}
		send(t, m, tt.text, fds...)
		f := m.Faults()
		if (tt.fault == "") != (len(f) == 0) || len(f) > 1 || tt.fault != "" && !strings.Contains(f[0], tt.fault) {
			t.Errorf("%s: faults %q", tt.name, f)
		}
		if got := m.Stored(); !slices.Equal(got, tt.stored) {
			t.Errorf("%s: stored %q", tt.name, got)
		}
		if s := m.State(); s.Status != "" {
			t.Errorf("%s: status %q", tt.name, s.Status)
		}
	}
}

// TestPoll: without FDPOLL=0 the store loses what hangs up, and keeps files, which cannot.
func TestPoll(t *testing.T) {
	m := manager(t)
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	send(t, m, "FDSTORE=1\nFDNAME=polled", p[0])
	send(t, m, "FDSTORE=1\nFDNAME=file", memfd(t))
	unix.Close(p[0])
	if got := m.Stored(); !slices.Equal(got, []string{"file", "polled"}) {
		t.Errorf("stored %q", got)
	}
	unix.Close(p[1])
	if got := m.Stored(); !slices.Equal(got, []string{"file"}) {
		t.Errorf("after the hang-up: stored %q", got)
	}
}

// TestStart looks at the variables and descriptors that a service gets, and at what is forgotten and what is not.
func TestStart(t *testing.T) {
	t.Setenv("LISTEN_FDS", "99")
	t.Setenv("NOTIFY_SOCKET", "/another")
	m := manager(t)
	start := func() map[string]string {
		t.Helper()
		cmd := exec.Command("sh", "-c", `echo PID=$$; env; ls -l /proc/self/fd | grep -c 'memfd:x' || :`)
		var out strings.Builder
		cmd.Stdout = &out
		must(t, m.Start(cmd))
		must(t, cmd.Wait())
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		vars := map[string]string{"memfds": lines[len(lines)-1]}
		for _, l := range lines {
			name, value, _ := strings.Cut(l, "=")
			vars[name] = value
		}
		return vars
	}
	check := func(vars map[string]string, want map[string]string) {
		t.Helper()
		for name, value := range want {
			if vars[name] != value {
				t.Errorf("%s is %q, want %q", name, vars[name], value)
			}
		}
	}
	check(start(), map[string]string{
		"LISTEN_PID": "", "LISTEN_FDS": "", "NOTIFY_SOCKET": m.Socket(), "FDSTORE": "4096", "WATCHDOG_USEC": "", "memfds": "0",
	})
	must(t, m.Give("unit", memfd(t)))
	must(t, m.Stash("kept", memfd(t)))
	m.SetWatchdog(1500 * time.Millisecond)
	send(t, m, "READY=1\nSTATUS=x")
	vars := start()
	check(vars, map[string]string{
		"LISTEN_PID": vars["PID"], "LISTEN_FDS": "2", "WATCHDOG_USEC": "1500000", "WATCHDOG_PID": vars["PID"], "memfds": "2",
	})
	if n := vars["LISTEN_FDNAMES"]; n != "unit:kept" && n != "kept:unit" {
		t.Errorf("LISTEN_FDNAMES is %q", n)
	}
	if s := m.State(); s != (activationtest.State{}) {
		t.Errorf("a new process begins with %+v", s)
	}
	m.Take("unit")
	m.EmptyStore()
	check(start(), map[string]string{"LISTEN_FDS": "", "memfds": "0"})
}
