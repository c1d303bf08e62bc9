// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/units/rig/load/tally"
)

// versions is what each suite must bring: the tests of the units speak of these.
var versions = map[string]int{Debian12: 252, Debian13: 257}

// TestBoot boots each suite and uses everything that a test can ask of it.
func TestBoot(t *testing.T) {
	for _, suite := range Suites {
		t.Run(suite, func(t *testing.T) {
			m := Boot(t, suite)
			if m.SystemdVersion() != versions[suite] {
				t.Errorf("%s has systemd %d, want %d", suite, m.SystemdVersion(), versions[suite])
			}

			stdout, exit := m.Run(t.Context(), "sh", "-c", "echo out; echo err >&2; exit 7")
			if stdout != "out\n" || exit != 7 {
				t.Errorf("Run gave %q and exit status %d, want \"out\\n\" and 7", stdout, exit)
			}
			if _, exit := m.Run(t.Context(), "no-such-program"); exit != 127 {
				t.Errorf("a program that is not there gave exit status %d, want 127", exit)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			if _, exit := m.Run(ctx, "sleep", "60"); exit != 128+int(unix.SIGKILL) {
				t.Errorf("a command that outlived its context gave exit status %d, want 137", exit)
			}

			// A process inside is systemd's neighbour, and a signal reaches it and no one else.
			p := m.Start("sh", "-c", "trap 'echo bye; exit 3' TERM; echo pid $$; while :; do sleep 0.05; done")
			m.Until("the process speaks", 5*time.Second, func() bool { return strings.HasPrefix(p.Stdout(), "pid ") })
			if inside := strings.Fields(p.Stdout())[1]; !strings.Contains(m.MustRun("cat", "/proc/"+inside+"/cmdline"), "trap") {
				t.Errorf("process %s is not visible in the container", inside)
			}
			if exit := p.Stop(5 * time.Second); exit != 3 || !strings.HasSuffix(p.Stdout(), "bye\n") {
				t.Errorf("Stop gave exit status %d and %q, want 3 and a farewell", exit, p.Stdout())
			}

			hostFile := filepath.Join(t.TempDir(), "file")
			if err := os.WriteFile(hostFile, []byte("#!/bin/sh\necho installed\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			m.Install(hostFile, "/opt/new/folder/program", 0o755)
			if got := m.MustRun("/opt/new/folder/program"); got != "installed\n" {
				t.Errorf("the installed program says %q", got)
			}
			m.WriteFile("/etc/some.conf", []byte("key=value\n"), 0o640)
			if got := m.ReadFile("/etc/some.conf") + m.MustRun("stat", "-c", "%U:%G %a", "/etc/some.conf"); got != "key=value\nroot:root 640\n" {
				t.Errorf("the written file is %q", got)
			}

			m.MustRun("systemd-run", "--wait", "--unit=speaker", "echo", "heard in the journal")
			if journal := m.Journal("--unit=speaker"); !strings.Contains(journal, "heard in the journal") {
				t.Errorf("the journal lacks the line: %s", journal)
			}

			// Its own network namespace, in which systemd raises the queue length (the kernel's default is 10).
			if got := m.MustRun("cat", "/proc/sys/net/unix/max_dgram_qlen"); got != "512\n" {
				t.Errorf("max_dgram_qlen is %q, want 512", got)
			}
			if out := m.MustRun("ls", "/sys/class/net"); out != "lo\n" {
				t.Errorf("the container's network interfaces are %q, want lo alone", out)
			}

			m.MustRun("useradd", "--create-home", "alice")
			m.MustRun("loginctl", "enable-linger", "alice")
			m.Until("alice's systemd runs", 10*time.Second, func() bool {
				_, exit := m.Run(t.Context(), m.As("alice", "systemctl", "--user", "is-system-running")...)
				return exit == 0
			})

			// Each has systemd tell the container's keeper anew that it is ready, which somebody must read.
			for range 6 {
				m.MustRun("systemctl", "daemon-reexec")
			}

			leader := m.Leader()
			began := time.Now()
			m.Close()
			if took := time.Since(began); took > powerOffTimeout {
				t.Errorf("the container took %v to power off", took)
			}
			if err := syscall.Kill(leader, 0); err == nil {
				t.Errorf("process %d of the container has outlived it", leader)
			}
			if left := leftovers(t, path.Base(m.group)); left != "" {
				t.Errorf("the container left behind: %s", left)
			}
		})
	}
}

// TestEveryBootIsFresh changes a file and looks for it after another boot.
func TestEveryBootIsFresh(t *testing.T) {
	first := Boot(t, Debian12)
	second := Boot(t, Debian12)
	first.WriteFile("/etc/changed", nil, 0o644)
	third := Boot(t, Debian12)
	for _, m := range []*Machine{second, third} {
		if _, exit := m.Run(t.Context(), "test", "-e", "/etc/changed"); exit != 1 {
			t.Errorf("a file written in one container is seen in another")
		}
	}
}

// TestKilledTestLeavesNothing kills a test process that has booted a container, and looks for what is left.
func TestKilledTestLeavesNothing(t *testing.T) {
	const variable = "MSGMUX_RIG_VICTIM"
	if file := os.Getenv(variable); file != "" {
		m := Boot(t, Debian12)
		os.WriteFile(file+".new", fmt.Appendf(nil, "%d %s", m.Leader(), path.Base(m.group)), 0o600)
		os.Rename(file+".new", file)
		select {} // until killed
	}
	Require(t, "systemd")
	file := filepath.Join(t.TempDir(), "leader")
	victim := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	victim.Env = append(os.Environ(), variable+"="+file)
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	var leader int
	var name string
	for began := time.Now(); leader == 0; time.Sleep(50 * time.Millisecond) {
		if time.Since(began) > 5*time.Minute { // the root may have to be prepared
			victim.Process.Kill()
			t.Fatal("the victim has not booted")
		}
		text, _ := os.ReadFile(file)
		fmt.Sscan(string(text), &leader, &name)
	}
	if err := victim.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	victim.Wait()
	for began := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		alive := syscall.Kill(leader, 0) == nil
		left := leftovers(t, name)
		if !alive && left == "" {
			return
		}
		if time.Since(began) > 10*time.Second {
			t.Fatalf("a killed test left behind: systemd alive %t, %s", alive, left)
		}
	}
}

// leftovers names the control groups that are there of a container. Its mounts are in namespaces of its own, which end with
// its processes.
func leftovers(t *testing.T, name string) string {
	t.Helper()
	folders, err := cgroups()
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, folder := range folders {
		group := filepath.Join(folder, name)
		if _, err := os.Stat(group); err == nil {
			left = append(left, group)
		}
	}
	return strings.Join(left, " ")
}

// TestBootWithPackages boots a root with one more package in it.
func TestBootWithPackages(t *testing.T) {
	m := Boot(t, Debian13, "jq")
	if got := m.MustRun("jq", "--null-input", "1+1"); got != "2\n" {
		t.Errorf("the program of the package says %q, want 2", got)
	}
}

// TestLoad sends numbered messages from three senders to a socket and from one to a message queue, all inside.
func TestLoad(t *testing.T) {
	Require(t, "systemd")
	load := Build(t, "./units/rig/load")
	m := Boot(t, Debian12)
	m.Install(load, "/usr/bin/load", 0o755)
	m.MustRun("touch", "/dev/mqueue/sink")
	sinks := []*Process{
		m.StartLoad("sink", "--bind", "/tmp/sink"),
		m.StartLoad("queue", "--from", "/dev/mqueue/sink"),
	}
	var toSocket []tally.Sender
	for i, flags := range [][]string{{}, {"--unconnected"}, {"--nonblocking"}} {
		p := m.StartLoad(append([]string{"send", "--to=/tmp/sink", "--count=2000", "--spread=1000", "--source", fmt.Sprint(i + 1)}, flags...)...)
		toSocket = append(toSocket, p.Sender())
	}
	toQueue := m.StartLoad("send", "--to", "/dev/mqueue/sink", "--count=2000").Sender()
	if toQueue.Again == 0 {
		t.Errorf("a queue of ten messages was never full: %+v", toQueue)
	}
	for i, senders := range [][]tally.Sender{toSocket, {toQueue}} {
		sinks[i].Signal(unix.SIGTERM)
		for _, problem := range sinks[i].Sinks()[0].Problems(senders...) {
			t.Error(problem)
		}
	}
}
