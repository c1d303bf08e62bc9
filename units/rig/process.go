// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/test"
)

// namespaces are those that a command enters. The container has no user namespace, and from its control group namespace
// clone3(2) may not be allowed to reach the control group that the command is put into.
const namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWPID

// environment is what every command gets, and nothing of the host's.
var environment = []string{
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	"HOME=/root", "LC_ALL=C.UTF-8", "SYSTEMD_PAGER=cat", "SYSTEMD_COLORS=0",
}

// Process is a command that was started in a container. It ends with the container at the latest.
type Process struct {
	m              *Machine
	arguments      []string
	cmd            *exec.Cmd
	stdout, stderr test.Output
	ended          chan struct{} // closed once the process has been waited for
}

// Run runs a command in the container, as root, and waits for it. It returns its standard output and its exit status, 128
// and the signal's number if it was killed. What it writes to standard error goes to the test's log. When ctx ends, the
// command is killed.
func (m *Machine) Run(ctx context.Context, argv ...string) (stdout string, exit int) {
	m.t.Helper()
	p, err := m.launch(ctx, nil, argv)
	if err != nil {
		m.t.Fatal(err)
	}
	exit = p.Wait()
	if text := strings.TrimSpace(p.Stderr()); text != "" {
		m.t.Logf("%s: %s: %s", m.suite, strings.Join(argv, " "), text)
	}
	return p.Stdout(), exit
}

// MustRun is Run for a command that must succeed: the test ends if it does not. Every command has a minute.
func (m *Machine) MustRun(argv ...string) string {
	m.t.Helper()
	return m.must(nil, argv)
}

// Start starts a command that runs beside the test. The caller stops it, or leaves that to the end of the container.
func (m *Machine) Start(argv ...string) *Process {
	m.t.Helper()
	p, err := m.launch(context.Background(), nil, argv)
	if err != nil {
		m.t.Fatal(err)
	}
	return p
}

// As returns argv as a command that runs as user, in whose session it finds the service manager of that user (who needs
// `loginctl enable-linger`).
func (m *Machine) As(user string, argv ...string) []string {
	m.t.Helper()
	id := strings.TrimSpace(m.MustRun("id", "-u", user))
	home := strings.Split(m.MustRun("getent", "passwd", user), ":")[5]
	return append([]string{"setpriv", "--reuid=" + user, "--regid=" + user, "--init-groups", "--inh-caps=-all", "--",
		"env", "HOME=" + home, "USER=" + user, "XDG_RUNTIME_DIR=/run/user/" + id}, argv...)
}

// Install copies a file of the host into the container, where it belongs to root. Folders are made as needed. A program
// that runs under that name goes on with its old file.
func (m *Machine) Install(hostPath, guestPath string, mode os.FileMode) {
	m.t.Helper()
	content, err := os.ReadFile(hostPath)
	if err != nil {
		m.t.Fatalf("cannot install %s: %v", guestPath, err)
	}
	m.WriteFile(guestPath, content, mode)
}

// WriteFile makes or replaces a file in the container, which belongs to root. Folders are made as needed.
func (m *Machine) WriteFile(guestPath string, content []byte, mode os.FileMode) {
	m.t.Helper()
	// Written beside and renamed: the old file may be a program that runs.
	script := `mkdir -p "$1" && cat >"$2.new" && chmod "$3" "$2.new" && mv "$2.new" "$2"`
	m.must(bytes.NewReader(content),
		[]string{"sh", "-c", script, "sh", path.Dir(guestPath), guestPath, fmt.Sprintf("%o", mode.Perm())})
}

// ReadFile returns the content of a file in the container.
func (m *Machine) ReadFile(guestPath string) string {
	m.t.Helper()
	return m.MustRun("cat", "--", guestPath)
}

// Journal returns what the journal has of this boot, all of it or what journalctl(1) finds by the given arguments, such as
// "--unit=msgmux". What was logged before the call is there.
func (m *Machine) Journal(arguments ...string) string {
	m.t.Helper()
	m.MustRun("journalctl", "--sync")
	return m.MustRun(append([]string{"journalctl", "--boot", "--no-pager", "--quiet", "--output=short-monotonic"}, arguments...)...)
}

// Until waits until done returns true, and ends the test if that takes longer than limit. It asks twenty times a second.
func (m *Machine) Until(what string, limit time.Duration, done func() bool) {
	m.t.Helper()
	for began := time.Now(); !done(); time.Sleep(50 * time.Millisecond) {
		if time.Since(began) > limit {
			m.t.Fatalf("%s: %s: not within %v", m.suite, what, limit)
		}
	}
}

// must runs a command that must succeed.
func (m *Machine) must(stdin io.Reader, argv []string) string {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	p, err := m.launch(ctx, stdin, argv)
	if err != nil {
		m.t.Fatal(err)
	}
	if exit := p.Wait(); exit != 0 {
		m.t.Fatalf("%s: %s: exit status %d\n%s%s", m.suite, strings.Join(argv, " "), exit, p.Stdout(), p.Stderr())
	}
	return p.Stdout()
}

// launch starts one command in the container. stdin may be nil.
func (m *Machine) launch(ctx context.Context, stdin io.Reader, argv []string) (*Process, error) {
	if len(argv) == 0 {
		return nil, errors.New("cannot start a command: there is none")
	}
	p := &Process{m: m, arguments: argv, ended: make(chan struct{})}
	// env, because the search for the program must be made in the container.
	p.cmd = exec.CommandContext(ctx, "/usr/bin/env", append([]string{"--"}, argv...)...)
	p.cmd.Env, p.cmd.Dir, p.cmd.Stdin = environment, "/", stdin
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	p.cmd.WaitDelay = 5 * time.Second // a child of the command may hold the pipes open
	started := make(chan error)
	go func() { started <- m.enterAndStart(p.cmd) }()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("cannot start %s in %s: %w", argv[0], m.suite, err)
	}
	go func() {
		p.cmd.Wait() // the exit status is in ProcessState, whatever the error
		close(p.ended)
	}()
	return p, nil
}

// The main goroutine keeps the main thread, so that enterAndStart never runs on it. That thread cannot end, and
// /proc/self is about it: had it entered a container, this process would take the container's mounts for its own.
func init() { runtime.LockOSThread() }

// enterAndStart starts cmd in the container's namespaces. It must have a goroutine of its own: the thread that has entered
// them is of no other use, and ends with the goroutine. The process is a child of this process all the same, so signals
// and its exit status are exact, unlike with nsenter(1) in between.
func (m *Machine) enterAndStart(cmd *exec.Cmd) error {
	runtime.LockOSThread() // and never unlocked
	leader, err := unix.PidfdOpen(m.leader, 0)
	if err != nil {
		return fmt.Errorf("cannot find the container's systemd: %w", err)
	}
	defer unix.Close(leader)
	// Services ask for the control group of whoever calls them, and refuse one that is outside (logind of systemd 257).
	group, err := m.commandGroup()
	if err != nil {
		return err
	}
	defer unix.Close(group)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: group}
	// A mount namespace can only be entered by a thread that shares its root and working directory with nobody.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("cannot unshare: %w", err)
	}
	if err := unix.Setns(leader, namespaces); err != nil {
		return fmt.Errorf("cannot enter namespaces: %w", err)
	}
	return cmd.Start()
}

// commandGroup opens the control group of commands, made if need be: one of the container's own, beside those that its
// systemd makes.
func (m *Machine) commandGroup() (int, error) {
	memberships, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", m.leader))
	if err != nil {
		return -1, fmt.Errorf("cannot find the container's control group: %w", err)
	}
	for line := range strings.Lines(string(memberships)) {
		if unified, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			// systemd-nspawn puts the container into a group below ours, and systemd itself goes into init.scope there.
			_, below, _ := strings.Cut(unified, path.Base(m.group))
			folder := path.Join(m.group, strings.TrimSuffix(below, "/init.scope"), "commands")
			if err := os.Mkdir(folder, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
				return -1, fmt.Errorf("cannot make a control group: %w", err)
			}
			return unix.Open(folder, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		}
	}
	return -1, errors.New("cannot find the container's control group")
}

// PID is the process id on the host.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Stdout is what the process has written to standard output so far.
func (p *Process) Stdout() string { return p.stdout.String() }

// Stderr is what the process has written to standard error so far.
func (p *Process) Stderr() string { return p.stderr.String() }

// Signal sends a signal; a process that has ended is no error.
func (p *Process) Signal(signal syscall.Signal) {
	p.cmd.Process.Signal(signal)
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.ended }

// Wait waits until the process has ended and returns its exit status, 128 and the signal's number if it was killed.
func (p *Process) Wait() int {
	<-p.ended
	status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return p.cmd.ProcessState.ExitCode()
}

// Stop asks the process to end by SIGTERM, kills it if it has not ended within limit, and returns what Wait does.
func (p *Process) Stop(limit time.Duration) int {
	p.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(limit):
		p.Signal(syscall.SIGKILL)
	}
	return p.Wait()
}
