// SPDX-License-Identifier: Apache-2.0

package activation_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/activation"
	"github.com/msgmux/msgmux/activation/activationtest"
	"github.com/msgmux/msgmux/internal/test"
)

func manager(t *testing.T) *activationtest.Manager {
	t.Helper()
	m, err := activationtest.New(test.Folder(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// service is this test binary as a service that prints a report into the returned buffer.
func service() (*exec.Cmd, *bytes.Buffer) {
	var out bytes.Buffer
	cmd := exec.Command(os.Args[0])
	// Under the race detector every exit would sleep for a second.
	cmd.Env = append(os.Environ(), childVariable+"=1", "GORACE=atexit_sleep_ms=0")
	cmd.Stdout = &out
	cmd.Stderr = os.Stderr
	return cmd, &out
}

func parseReport(t *testing.T, out *bytes.Buffer) (r report) {
	t.Helper()
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatalf("the child printed %q: %v", out, err)
	}
	return r
}

func TestInherited(t *testing.T) {
	m := manager(t)
	seq, _ := pair(t, unix.SOCK_SEQPACKET)
	for name, fd := range map[string]int{
		"source":  newSocket(t, unix.AF_UNIX, unix.SOCK_DGRAM),
		"publish": listening(t, unix.AF_UNIX, unix.SOCK_SEQPACKET),
		"metrics": listening(t, unix.AF_INET, unix.SOCK_STREAM),
	} {
		if err := m.Give(name, fd); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Stash("s1", seq); err != nil {
		t.Fatal(err)
	}
	if err := m.Stash("mux-data", memfd(t, "data")); err != nil {
		t.Fatal(err)
	}
	want := map[string]activation.Kind{
		"source": activation.Datagram, "publish": activation.SeqpacketListener, "metrics": activation.StreamListener,
		"s1": activation.SeqpacketConn, "mux-data": activation.Memfd,
	}
	// The order differs from start to start.
	for range 5 {
		cmd, out := service()
		if err := m.Start(cmd); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
		r := parseReport(t, out)
		if r.Err != "" || len(r.Descriptors) != len(want) {
			t.Fatalf("got %v, error %q", r.Descriptors, r.Err)
		}
		for _, d := range r.Descriptors {
			if d.Kind != want[d.Name] {
				t.Errorf("%s is a %v, want a %v", d.Name, d.Kind, want[d.Name])
			}
		}
		if len(r.NotClosing) > 0 || len(r.Left) > 0 || r.Again > 0 {
			t.Errorf("not close-on-exec %v; variables left %q; %d descriptors at a second call", r.NotClosing, r.Left, r.Again)
		}
	}
}

func TestInheritedVariables(t *testing.T) {
	for _, tt := range []struct {
		name   string
		script string   // before the exec; descriptors 3 and 4 are datagram sockets
		names  []string // what is returned
		err    string
	}{
		{"nothing", "", nil, ""},
		{"good", "export LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=a:b", []string{"a", "b"}, ""},
		{"no names", "export LISTEN_PID=$$ LISTEN_FDS=2", []string{"unknown", "unknown"}, ""},
		{"empty name", "export LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=a:", []string{"a", ""}, ""},
		{"one empty name", "export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=", []string{""}, ""},
		{"other process", "export LISTEN_PID=1 LISTEN_FDS=2 LISTEN_FDNAMES=a:b", nil, ""},
		{"other process, garbage", "export LISTEN_PID=1 LISTEN_FDS=junk", nil, ""},
		{"no pid", "export LISTEN_FDS=2 LISTEN_FDNAMES=a:b", nil, ""},
		{"bad pid", "export LISTEN_PID=me LISTEN_FDS=2", nil, `"me" is not a process id`},
		{"no number", "export LISTEN_PID=$$ LISTEN_FDNAMES=a:b", nil, ""},
		{"zero", "export LISTEN_PID=$$ LISTEN_FDS=0 LISTEN_FDNAMES=", nil, ""},
		{"junk", "export LISTEN_PID=$$ LISTEN_FDS=two", nil, `"two" is not a number`},
		{"negative", "export LISTEN_PID=$$ LISTEN_FDS=-1", nil, `"-1" is not a number`},
		{"huge", "export LISTEN_PID=$$ LISTEN_FDS=9223372036854775807", nil, "not a number"},
		{"large", "export LISTEN_PID=$$ LISTEN_FDS=2000000000", nil, "announces 2000000000, descriptor 5 is not inherited"},
		{"closed", "exec 4>&-; export LISTEN_PID=$$ LISTEN_FDS=2", nil, "descriptor 4 is not inherited"},
		{"more names", "export LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=a:b:c", nil, "3 names for 2 descriptors"},
		{"fewer names", "export LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=a", nil, "1 names for 2 descriptors"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, b := pair(t, unix.SOCK_DGRAM)
			cmd, out := service()
			cmd.Args = []string{"sh", "-c", tt.script + "\n" + `exec "$0"`, cmd.Path}
			cmd.Path = "/bin/sh"
			for _, fd := range []int{a, b} {
				copied, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
				if err != nil {
					t.Fatal(err)
				}
				f := os.NewFile(uintptr(copied), "")
				defer f.Close()
				cmd.ExtraFiles = append(cmd.ExtraFiles, f)
			}
			if err := cmd.Run(); err != nil {
				t.Fatal(err)
			}
			r := parseReport(t, out)
			var names []string
			for _, d := range r.Descriptors {
				names = append(names, d.Name)
			}
			if !slices.Equal(names, tt.names) {
				t.Errorf("got names %q, want %q", names, tt.names)
			}
			if (tt.err == "") != (r.Err == "") || !strings.Contains(r.Err, tt.err) {
				t.Errorf("got error %q, want %q", r.Err, tt.err)
			}
			if len(r.Left) > 0 {
				t.Errorf("variables left: %q", r.Left)
			}
		})
	}
}
