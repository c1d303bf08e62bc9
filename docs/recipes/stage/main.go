// SPDX-License-Identifier: Apache-2.0

package stage

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	// mark tells the inner process that it is one.
	mark = "MSGMUX_STAGE"
	// queueLength is what systemd sets where it boots; the kernel's own is 10.
	queueLength     = "512"
	queueLengthFile = "/proc/sys/net/unix/max_dgram_qlen"
)

// Setup is what the tests of a package need beside the commands of this repository.
type Setup struct {
	Packages []string // of Debian's, to be unpacked
	Commands []string // of the package's own module, to be built and put on PATH
}

// Main runs the tests of a package, with the commands on PATH. For root they run in a network namespace of their own, in
// which datagram sockets have queues of the length that they have on a system with systemd; the set-up, which needs the
// network, is done before.
func Main(m *testing.M, s Setup) {
	if os.Getenv(mark) != "" {
		if err := loopbackUp(); err != nil {
			fmt.Fprintln(os.Stderr, "stage:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	status, err := prepare(m, s)
	if err != nil {
		fmt.Fprintln(os.Stderr, "stage:", err)
		status = 1
	}
	os.Exit(status)
}

// prepare makes the set-up and runs the tests.
func prepare(m *testing.M, s Setup) (status int, err error) {
	dir, err := os.MkdirTemp("", "mm")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		return 0, err
	}
	top, err := top()
	if err != nil {
		return 0, err
	}
	if err := build(top, dir, []string{"./cmd/msgmuxd", "./cmd/msgmux", "./docs/examples/tailer"}); err != nil {
		return 0, err
	}
	if len(s.Commands) > 0 {
		if err := build(".", dir, s.Commands); err != nil {
			return 0, err
		}
	}
	if len(s.Packages) > 0 {
		script := filepath.Join(top, "docs", "recipes", "prepare.sh")
		cmd := exec.Command(script, append([]string{filepath.Join(top, "build", "recipes")}, s.Packages...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			// The tests say what they lack, and whether that is a failure.
			fmt.Fprintf(os.Stderr, "stage: cannot unpack %v: %v\n%s", s.Packages, err, out)
		}
	}
	os.Setenv("PATH", dir+":"+os.Getenv("PATH")+":/usr/sbin:/sbin")
	os.Setenv("LC_ALL", "C.UTF-8")
	if os.Geteuid() != 0 {
		return m.Run(), nil
	}
	return inNamespace()
}

// inNamespace runs this program again in a network namespace of its own.
func inNamespace() (int, error) {
	runtime.LockOSThread() // Pdeathsig is about the thread
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), mark+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return max(1, exit.ExitCode()), nil
	}
	return 0, err
}

// loopbackUp makes the new namespace fit for use.
func loopbackUp() error {
	if err := os.WriteFile(queueLengthFile, []byte(queueLength), 0o644); err != nil {
		return fmt.Errorf("cannot set the length of queues: %w", err)
	}
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot bring up loopback: %w", err)
	}
	defer unix.Close(s)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("cannot bring up loopback: %w", err)
	}
	request.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, request); err != nil {
		return fmt.Errorf("cannot bring up loopback: %w", err)
	}
	return nil
}

// build builds commands of the module at from into dir.
func build(from, dir string, commands []string) error {
	cmd := exec.Command("go", append([]string{"build", "-o", dir + "/"}, commands...)...)
	cmd.Dir = from
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot build %s: %w\n%s", strings.Join(commands, " "), err, out)
	}
	return nil
}

// NeedQueues wants datagram sockets with queues that are long enough for programs that do not wait.
func NeedQueues(t testing.TB) {
	t.Helper()
	text, err := os.ReadFile(queueLengthFile)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.TrimSpace(string(text)); n != queueLength {
		Lacking(t, "net.unix.max_dgram_qlen is "+n+" and not "+queueLength+", and only root can have a namespace with another")
	}
}
