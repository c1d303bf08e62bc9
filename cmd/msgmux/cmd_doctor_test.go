// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/msgmux/msgmux/internal/test"
)

// diagnose runs the doctor and returns what it found, by name.
func diagnose(t *testing.T, p *program, status int) map[string]finding {
	t.Helper()
	p.want(status)
	var list []finding
	if err := json.Unmarshal([]byte(p.stdout.String()), &list); err != nil {
		t.Fatalf("%v in %q, %q", err, p.stdout.String(), p.stderr.String())
	}
	found := make(map[string]finding)
	for _, f := range list {
		if f.Verdict != good && f.Verdict != poor && f.Verdict != bad || f.Name == "" || f.Text == "" || (f.Advice == "") != (f.Verdict == good) {
			t.Errorf("a strange finding: %+v", f)
		}
		found[f.Name] = f
	}
	return found
}

// TestDoctorLooksAtAChannel that is well, and at one with trouble.
func TestDoctorLooksAtAChannel(t *testing.T) {
	_, dir := startBroker(t)
	startSub(t, dir, "--label", "fine")
	found := diagnose(t, prepare(t, dir, "doctor", "--json"), 0)
	for _, name := range []string{"net.core.wmem_max", "sock_diag", "groups", "units", "descriptors", "memory", "channel", "sources"} {
		if found[name].Verdict != good {
			t.Errorf("%s: %+v", name, found[name])
		}
	}
	text := prepare(t, dir, "doctor").want(0).stdout.String()
	if !strings.Contains(text, "ok    sock_diag ") || !strings.Contains(text, "by hand") {
		t.Errorf("it says\n%s", text)
	}

	hung := startSub(t, dir, "--label", "hung", "--patience", "50ms")
	hung.signal(syscall.SIGSTOP)
	defer hung.signal(syscall.SIGCONT)
	pub := prepare(t, dir, "pub", "-l")
	pub.cmd.Stdin = endless{}
	pub.start()
	test.Eventually(t, "the sink is left behind", func() bool { return sinksOf(t, dir)[1].State == "lagging" })
	found = diagnose(t, prepare(t, dir, "doctor", "--json"), 0)
	if f := found["sink hung"]; f.Verdict != poor || !strings.Contains(f.Text, "lost") || !strings.Contains(f.Advice, "sinks set 'hung'") {
		t.Errorf("the sink: %+v", f)
	}
}

// TestDoctorFindsNoChannel and fails; so does a kernel whose limits no message fits into.
func TestDoctorFindsNoChannel(t *testing.T) {
	found := diagnose(t, prepare(t, folder(t), "doctor", "--json"), exitFailure)
	if f := found["channel"]; f.Verdict != bad || !strings.Contains(f.Text, "no broker") {
		t.Errorf("the channel: %+v", f)
	}
	if found["descriptors"].Verdict != poor || found["memlock"].Verdict != poor {
		t.Errorf("got %+v", found)
	}
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		p := prepare(t, "", "doctor", "--json")
		p.cmd.Env = append(os.Environ(), "MSGMUX_RUNTIME_DIR=/run/msgmux")
		if f := diagnose(t, p, exitFailure)["units"]; f.Verdict != poor || !strings.Contains(f.Text, "/run/systemd/system") {
			t.Errorf("the units: %+v", f)
		}
	}
}

// TestDoctorReadsTheKernel of a network namespace of its own, in which the length of queues is the kernel's.
func TestDoctorReadsTheKernel(t *testing.T) {
	unshare, err := exec.LookPath("unshare")
	if err != nil || os.Geteuid() != 0 {
		t.Skip("needs root and unshare")
	}
	for value, want := range map[string]verdict{"10": poor, "512": poor, "4096": good} {
		p := prepare(t, folder(t))
		p.cmd = exec.Command(unshare, "--net", "sh", "-c", "echo "+value+" >/proc/sys/net/unix/max_dgram_qlen && exec "+binaries+"/msgmux doctor --json")
		p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
		f := diagnose(t, p, exitFailure)["net.unix.max_dgram_qlen"]
		if f.Verdict != want || !strings.Contains(f.Text, value+" datagrams") {
			t.Errorf("%s: %+v", value, f)
		}
	}
}
