// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

//go:embed supervise.sh
var superviseScript string

const (
	bootTimeout     = 90 * time.Second // half a second is usual; two cores may be busy with other tests
	powerOffTimeout = 20 * time.Second
	// powerOff is what systemd(1) takes for "power off", SIGRTMIN+4; the C library keeps two signals below SIGRTMIN.
	powerOff = syscall.Signal(34 + 4)
)

// Machine is one booted container. Its methods may be called from several goroutines.
type Machine struct {
	suite      string
	t          testing.TB
	root       root
	supervisor *exec.Cmd
	life       io.Closer     // the supervisor's standard input: closing it kills the container
	ended      chan struct{} // closed when the supervisor has ended and everything is removed
	console    *os.File      // what systemd-nspawn and the supervisor print: a file without a name
	group      string        // the container's control group, in the unified hierarchy
	leader     int           // process id, on the host, of the container's systemd
	version    int
	closing    sync.Once
}

// Boot boots a suite, [Debian12] or [Debian13], with the named Debian packages installed beside the basic ones, and waits
// until systemd has finished starting. The container is powered off when the test ends; if the test failed, the end of its
// journal goes to the test's log.
//
// Without root and the like it ends the test as [Require] says. The first boot of a suite takes a minute, later ones
// a second.
func Boot(t testing.TB, suite string, packages ...string) *Machine {
	t.Helper()
	Require(t, "systemd")
	r, err := prepare(t.Context(), suite, packages)
	if errors.Is(err, errNoArchive) {
		absent(t, err.Error(), booting...)
	}
	if err != nil {
		t.Fatal(err)
	}
	m := &Machine{suite: suite, t: t, root: r, ended: make(chan struct{})}
	// Before anything is started: Close also ends what is half started.
	t.Cleanup(m.Close)
	if err = m.start(); err == nil {
		err = m.settle(t.Context())
	}
	if err != nil {
		t.Fatalf("cannot boot %s: %v\n%s", suite, err, m.lastConsole())
	}
	return m
}

// start starts the container and waits for the process id of its systemd.
func (m *Machine) start() error {
	folders, err := cgroups()
	if err != nil {
		return err
	}
	sweep(folders)
	// By chance: process ids are not unique where several process namespaces share the control groups.
	name := fmt.Sprintf("%s%08x", cgroupPrefix, rand.Uint32())
	arguments := []string{"-c", superviseScript, "supervise.sh", m.root.dir, name}
	m.group = folders[0] + "/" + name
	for _, folder := range folders {
		arguments = append(arguments, folder+"/"+name)
	}

	// An abstract address: the supervisor hides the folders in which a socket could lie.
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: "@" + name, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("cannot make notification socket: %w", err)
	}

	// Not a pipe: the supervisor must be able to write, and so to clean up, when this process is dead.
	if m.console, err = os.CreateTemp("", cgroupPrefix); err != nil {
		return fmt.Errorf("cannot make console: %w", err)
	}
	os.Remove(m.console.Name())

	cmd := exec.Command("sh", arguments...)
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET=@"+name)
	cmd.Stdout, cmd.Stderr = m.console, m.console
	// Out of reach of an interrupt from the terminal: the supervisor is what cleans up after it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if m.life, err = cmd.StdinPipe(); err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	m.supervisor = cmd
	go func() {
		cmd.Wait()
		close(m.ended)
		notify.Close() // not before: systemd-nspawn has more to say, and complains if nobody listens
	}()

	notify.SetReadDeadline(time.Now().Add(bootTimeout))
	message := make([]byte, 4096)
	for {
		n, err := notify.Read(message)
		if err != nil {
			return fmt.Errorf("cannot learn the process id of the container's systemd: %w", err)
		}
		// systemd-nspawn(1), under --notify-ready=: its leader's process id, as seen from here.
		for line := range bytes.Lines(message[:n]) {
			if value, ok := bytes.CutPrefix(bytes.TrimSpace(line), []byte("X_NSPAWN_LEADER_PID=")); ok {
				if m.leader, err = strconv.Atoi(string(value)); err != nil {
					return err
				}
				// There is more to come: what systemd says of its state, at every re-execution and at the end. It waits
				// until that is read.
				notify.SetReadDeadline(time.Time{})
				go io.Copy(io.Discard, notify)
				return nil
			}
		}
	}
}

// settle waits until systemd says that it runs, whatever may have failed to start, and asks for its version.
func (m *Machine) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, bootTimeout)
	defer cancel()
	var state string
	for state != "running" && state != "degraded" {
		p, err := m.launch(ctx, nil, []string{"systemctl", "is-system-running", "--wait"})
		if err != nil {
			return err
		}
		p.Wait()
		state = strings.TrimSpace(p.Stdout())
		select {
		case <-ctx.Done():
			return fmt.Errorf("systemd is %q after %v", state, bootTimeout)
		case <-m.ended:
			return errors.New("the container has ended")
		case <-time.After(50 * time.Millisecond): // systemctl gives up at once while there is nobody to ask
		}
	}
	p, err := m.launch(ctx, nil, []string{"systemctl", "--version"})
	if err != nil {
		return err
	}
	p.Wait()
	if _, err := fmt.Sscanf(p.Stdout(), "systemd %d", &m.version); err != nil {
		return fmt.Errorf("cannot read the version of systemd from %q: %w", p.Stdout(), err)
	}
	return nil
}

// Suite is the name of the suite that was booted.
func (m *Machine) Suite() string { return m.suite }

// SystemdVersion is the major version of the systemd that runs in the container, 252 or 257.
func (m *Machine) SystemdVersion() int { return m.version }

// Leader is the process id, on the host, of the container's systemd; /proc/PID/root is the container's file system.
func (m *Machine) Leader() int { return m.leader }

// Close powers the container off and removes it, however that goes. Boot arranges for it; to call it earlier does no harm.
func (m *Machine) Close() {
	m.closing.Do(func() {
		defer m.root.release()
		if m.supervisor == nil {
			return
		}
		if m.leader > 0 {
			if m.t.Failed() {
				m.t.Logf("the journal of %s ends:\n%s", m.suite, m.lastJournal())
			}
			unix.Kill(m.leader, powerOff)
			select {
			case <-m.ended:
			case <-time.After(powerOffTimeout):
				m.t.Logf("%s did not power off within %v: killed", m.suite, powerOffTimeout)
			}
		}
		m.life.Close()
		<-m.ended
		m.console.Close()
	})
}

// lastJournal reads the end of the journal of a container that may be in any state.
func (m *Machine) lastJournal() string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	p, err := m.launch(ctx, nil, []string{"journalctl", "--boot", "--no-pager", "--lines=150", "--output=short-monotonic"})
	if err != nil {
		return err.Error()
	}
	p.Wait()
	return p.Stdout() + p.Stderr()
}

// lastConsole is the end of what the container's console showed.
func (m *Machine) lastConsole() string {
	if m.console == nil {
		return ""
	}
	text, _ := io.ReadAll(io.NewSectionReader(m.console, 0, 1<<20))
	return lastLines(string(text), 30)
}

// lastLines returns at most the n last lines of text.
func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
