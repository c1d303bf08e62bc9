// SPDX-License-Identifier: Apache-2.0

package units

// What a real systemd makes of the units. The broker's place is taken by testdata/standin, which says what it was given.

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/msgmux/msgmux/units/rig"
)

// mostExposed is the highest exposure, as systemd-analyze counts it, that the broker may have. What keeps it from being
// lower has its reason in the unit.
const mostExposed = 1.4

// onEachSuite runs a test in a container of each suite, with the units installed and the stand-in for the broker.
func onEachSuite(t *testing.T, test func(t *testing.T, m *rig.Machine)) {
	rig.Require(t, "systemd")
	standin := rig.Build(t, "./units/testdata/standin")
	for _, suite := range rig.Suites {
		t.Run(suite, func(t *testing.T) {
			m := rig.Boot(t, suite)
			m.Install(standin, "/usr/bin/msgmuxd", 0o755)
			m.InstallUnits()
			test(t, m)
		})
	}
}

// TestSystemdUnderstandsTheUnits has systemd check every unit, enabled as an administrator would.
func TestSystemdUnderstandsTheUnits(t *testing.T) {
	onEachSuite(t, func(t *testing.T, m *rig.Machine) {
		m.WriteFile("/etc/systemd/system/consumer.service", []byte("[Service]\nExecStart=/usr/bin/cat\nSockets=msgmux-sink@consumer.socket\n"), 0o644)
		// systemd-analyze wants to see the program.
		m.WriteFile("/usr/bin/msgmux", []byte("#!/bin/sh\n"), 0o755)
		m.WriteFile("/etc/systemd/system/audit.service", []byte("[Service]\nExecStart=/usr/bin/cat\n"), 0o644)
		m.WriteFile("/etc/systemd/system/audit-sink.socket", []byte("[Socket]\nListenDatagram=/run/audit/input\nService=audit.service\n"), 0o644)
		m.Install("examples/hand-over.conf", "/etc/systemd/system/msgmux.service.d/audit.conf", 0o644)
		units := []string{"msgmux.service", "msgmux-mq.socket", "msgmux@alpha.service", "msgmux-sink@consumer.socket", "msgmux-discard.service", "msgmux-discard@alpha.service"}
		m.MustRun(append([]string{"systemctl", "enable"}, units...)...)
		m.MustRun("systemctl", "daemon-reload")

		// The default target pulls in what was enabled; with it go cycles of order.
		all := []string{"systemd-analyze", "verify", "--man=no", "default.target"}
		all = append(all, units...)
		for _, channel := range []string{"", "@alpha"} {
			all = append(all, "msgmux"+channel+".target")
			for _, kind := range channelSockets {
				all = append(all, "msgmux-"+kind+channel+".socket")
			}
		}
		checkComplaints(t, m, all)

		m.MustRun("useradd", "--create-home", "alice")
		m.MustRun("loginctl", "enable-linger", "alice")
		waitForUser(t, m, "alice")
		checkComplaints(t, m, m.As("alice", "systemd-analyze", "--user", "verify", "--man=no", "msgmux.service", "msgmux.target"))

		for _, name := range []string{"msgmux.target", "msgmux@alpha.target"} {
			if state := strings.TrimSpace(m.MustRun("systemctl", "is-enabled", name)); state != "enabled" {
				t.Errorf("%s is %s after its service was enabled", name, state)
			}
		}
		checkExposure(t, m, "msgmux.service")
		checkExposure(t, m, "msgmux@alpha.service")
	})
}

// checkComplaints runs systemd-analyze, which must say nothing but what is known and meant.
func checkComplaints(t *testing.T, m *rig.Machine, verify []string) {
	t.Helper()
	out, exit := m.Run(t.Context(), append([]string{"sh", "-c", `exec "$@" 2>&1`, "sh"}, verify...)...)
	for line := range strings.Lines(out) {
		if !known(m, line) {
			t.Errorf("systemd says: %s", line)
		}
	}
	if exit != 0 {
		t.Errorf("%v: exit status %d", verify, exit)
	}
}

// checkExposure reads the result of systemd-analyze security.
func checkExposure(t *testing.T, m *rig.Machine, unit string) {
	t.Helper()
	out, _ := m.Run(t.Context(), "systemd-analyze", "security", "--no-pager", unit)
	found := regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+)`).FindStringSubmatch(out)
	if found == nil {
		t.Fatalf("systemd-analyze does not say how exposed %s is:\n%s", unit, out)
	}
	if level, err := strconv.ParseFloat(found[1], 64); err != nil || level > mostExposed {
		t.Errorf("%s is exposed %s, more than %.1f:\n%s", unit, found[1], mostExposed, out)
	}
}

// waitForUser waits for the service manager of a user who lingers.
func waitForUser(t *testing.T, m *rig.Machine, user string) {
	t.Helper()
	m.Until("the user's systemd runs", 20*time.Second, func() bool {
		_, exit := m.Run(t.Context(), m.As(user, "sh", "-c", "systemctl --user is-system-running 2>/dev/null")...)
		return exit == 0
	})
}

// sockets are the sockets of a channel as they must be: mode, owner, group, type of file and name.
const sockets = `660 root msgmux socket control
660 root msgmux-send socket publish
660 root msgmux socket register
755 root root directory sinks
660 root msgmux-send socket source
660 root msgmux socket subscribe
`

// TestChannelsComeUp starts two channels and looks at what a client would find.
func TestChannelsComeUp(t *testing.T) {
	onEachSuite(t, func(t *testing.T, m *rig.Machine) {
		for channel, folder := range map[string]string{"msgmux": "/run/msgmux", "msgmux@alpha": "/run/msgmux.alpha"} {
			m.MustRun("systemctl", "start", channel+".target")
			got := m.MustRun("sh", "-c", `cd "$1" && stat -c "%a %U %G %F %n" *`, "sh", folder)
			if got != sockets {
				t.Errorf("%s holds\n%s\nwant\n%s", folder, got, sockets)
			}
			if got := m.MustRun("stat", "-c", "%a %U %G", folder); got != "755 root root\n" {
				t.Errorf("%s is %s", folder, got)
			}
			if got := active(t, m, channel+".service"); got != "inactive" {
				t.Errorf("%s.service is %s before the first message", channel, got)
			}
		}

		m.MustRun("useradd", "--groups=msgmux-send", "sender")
		m.MustRun("useradd", "--groups=msgmux", "reader")
		m.MustRun("useradd", "stranger")
		for user, want := range map[string]string{"sender": "source publish", "reader": "register subscribe control", "stranger": ""} {
			var may []string
			for _, socket := range channelSockets {
				if _, exit := m.Run(t.Context(), m.As(user, "test", "-w", "/run/msgmux/"+socket)...); exit == 0 {
					may = append(may, socket)
				}
			}
			if got := strings.Join(may, " "); got != want {
				t.Errorf("%s may write to %q, want %q", user, got, want)
			}
		}

		// The first message starts the broker, which gets everything and the name of its channel.
		send(t, m, m.As("sender"), "/run/msgmux/source", "one")
		waitForStatus(t, m, "msgmux.service", "args []; got control publish register source subscribe; start 1 ")
		m.Until("the message arrives", 5*time.Second, func() bool {
			return strings.Contains(m.Journal("--unit=msgmux.service"), `source: "one"`)
		})
		// A registration says who sent it, though nobody had yet asked for that on the socket but systemd.
		send(t, m, m.As("reader"), "/run/msgmux.alpha/register", "@tap")
		waitForStatus(t, m, "msgmux@alpha.service", "args [--channel alpha]; got control publish register source subscribe; start 1 ")
		id := strings.TrimSpace(m.MustRun("id", "-u", "reader"))
		m.Until("the registration arrives", 5*time.Second, func() bool {
			return strings.Contains(m.Journal("--unit=msgmux@alpha.service"), `register: "@tap" from user `+id)
		})

		// Stopping one channel for good leaves nothing of it, and the other one alone.
		m.MustRun("systemctl", "stop", "msgmux.target")
		// The order is only given when the command returns.
		m.Until("the sockets are gone", 5*time.Second, func() bool { return m.MustRun("ls", "/run/msgmux") == "sinks\n" })
		if here, there := active(t, m, "msgmux.service"), active(t, m, "msgmux@alpha.service"); here != "inactive" || there != "active" {
			t.Errorf("after msgmux.target was stopped its broker is %s and that of alpha %s", here, there)
		}
		m.MustRun("systemctl", "start", "msgmux.service")
		waitForStatus(t, m, "msgmux.service", "got control publish register source subscribe;")
		checkJournal(t, m)
	})
}

// TestDescriptorStore restarts, kills and stops the stand-in, which keeps a count in the store.
func TestDescriptorStore(t *testing.T) {
	onEachSuite(t, func(t *testing.T, m *rig.Machine) {
		const service = "msgmux.service"
		m.MustRun("systemctl", "start", "msgmux.target", service)
		waitForStatus(t, m, service, "start 1 ")
		m.MustRun("systemctl", "restart", service)
		waitForStatus(t, m, service, "got control mux-data publish register source subscribe; start 2 ")
		m.MustRun("systemctl", "kill", "--signal=KILL", service)
		waitForStatus(t, m, service, "start 3 ")
		m.MustRun("systemctl", "daemon-reexec")
		m.MustRun("systemctl", "kill", "--signal=STOP", service) // until the watchdog sees it
		waitForStatus(t, m, service, "start 4 ")
		// More often than any start limit would allow.
		for start := 5; start < 15; start++ {
			m.MustRun("systemctl", "kill", "--signal=KILL", service)
			waitForStatus(t, m, service, fmt.Sprintf("start %d ", start))
		}

		// It stays stopped until there is a message, and systemd 254 and later then still have the store.
		m.MustRun("systemctl", "stop", service)
		time.Sleep(300 * time.Millisecond)
		if got := active(t, m, service); got != "inactive" {
			t.Errorf("a stopped broker is %s", got)
		}
		send(t, m, nil, "/run/msgmux/source", "wake up")
		after := "start 15 "
		if m.SystemdVersion() < 254 {
			after = "start 1 "
		}
		waitForStatus(t, m, service, after)
		if m.SystemdVersion() >= 254 {
			m.MustRun("systemctl", "stop", "msgmux.target")
			m.MustRun("systemctl", "clean", "--what=fdstore", service)
			m.MustRun("systemctl", "start", service)
			waitForStatus(t, m, service, "start 1 ")
		}
	})
}

// TestSourceQueue enables the message queue beside a running broker.
func TestSourceQueue(t *testing.T) {
	onEachSuite(t, func(t *testing.T, m *rig.Machine) {
		m.MustRun("systemctl", "start", "msgmux.target", "msgmux.service")
		m.MustRun("systemctl", "enable", "msgmux-mq.socket")
		// Somebody made a queue of that name before, to read what is written to it.
		m.MustRun("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--", "sh", "-c", "umask 0; : > /dev/mqueue/msgmux")
		m.MustRun("systemctl", "restart", "msgmux.service")
		waitForStatus(t, m, "msgmux.service", "got control mux-data publish register source source-mq subscribe; start 2 ")
		if got := m.MustRun("stat", "-c", "%a %U %G", "/dev/mqueue/msgmux"); got != "620 root msgmux-send\n" {
			t.Errorf("the queue is %s", got)
		}
		// A static sink's queue, which must outlive the broker.
		m.MustRun("sh", "-c", "touch /dev/mqueue/sink && chgrp msgmux /dev/mqueue/sink && chmod 660 /dev/mqueue/sink")
		m.MustRun("systemctl", "stop", "msgmux.target")
		m.Until("only the sink's queue is left", 5*time.Second, func() bool { return m.MustRun("ls", "/dev/mqueue") == "sink\n" })
	})
}

// TestStaticSink enables a sink by one command and sends to it as the broker would.
func TestStaticSink(t *testing.T) {
	onEachSuite(t, func(t *testing.T, m *rig.Machine) {
		m.WriteFile("/etc/systemd/system/archive.service",
			[]byte("[Service]\nExecStart=/usr/bin/socat -u FD:3 STDOUT\nSuccessExitStatus=143\nSockets=msgmux-sink@archive.socket\n"), 0o644)
		m.MustRun("systemctl", "daemon-reload")
		m.MustRun("systemctl", "enable", "--now", "msgmux-sink@archive.socket")
		const path = "/run/msgmux/sinks/archive"
		if got := m.MustRun("stat", "-c", "%a %U %G %F", path); got != "600 msgmux msgmux socket\n" {
			t.Errorf("the sink is %s", got)
		}
		got := func(line string) func() bool {
			return func() bool { return strings.Contains(m.Journal("--unit=archive.service"), line) }
		}
		broker := []string{"setpriv", "--reuid=msgmux", "--regid=msgmux", "--clear-groups"}
		send(t, m, broker, path, "first\n")
		m.Until("the consumer is started by the message", 5*time.Second, got("first"))
		m.MustRun("systemctl", "stop", "archive.service")
		if got := active(t, m, "archive.service"); got != "inactive" {
			t.Errorf("the stopped consumer is %s", got)
		}
		send(t, m, broker, path, "second\n")
		m.Until("the consumer is started again", 5*time.Second, got("second"))
		m.MustRun("systemctl", "stop", "msgmux-sink@archive.socket")
		if _, exit := m.Run(t.Context(), "test", "-e", path); exit == 0 {
			t.Errorf("%s is there after its unit was stopped", path)
		}
	})
}

// TestUserUnits does for a user's own channel what the tests above do for the system's.
func TestUserUnits(t *testing.T) {
	onEachSuite(t, func(t *testing.T, m *rig.Machine) {
		m.MustRun("useradd", "--create-home", "alice")
		m.MustRun("loginctl", "enable-linger", "alice")
		waitForUser(t, m, "alice")
		systemctl := func(arguments ...string) string {
			return m.MustRun(m.As("alice", append([]string{"systemctl", "--user"}, arguments...)...)...)
		}
		status := func(want string) {
			t.Helper()
			m.Until("the status says "+want, 15*time.Second, func() bool {
				return strings.Contains(systemctl("show", "--property=StatusText", "msgmux.service"), want)
			})
		}
		systemctl("enable", "--now", "msgmux.target")
		folder := "/run/user/" + strings.TrimSpace(m.MustRun("id", "-u", "alice")) + "/msgmux"
		got := m.MustRun("sh", "-c", `cd "$1" && stat -c "%a %U %F %n" *`, "sh", folder)
		want := "600 alice socket control\n600 alice socket publish\n600 alice socket register\n755 alice directory sinks\n" +
			"600 alice socket source\n600 alice socket subscribe\n"
		if got != want {
			t.Errorf("%s holds\n%s\nwant\n%s", folder, got, want)
		}
		send(t, m, m.As("alice"), folder+"/source", "hello")
		status("args [--runtime-dir " + folder + "]; got control publish register source subscribe; start 1 ")
		systemctl("restart", "msgmux.service")
		status("start 2 ")
		systemctl("kill", "--signal=KILL", "msgmux.service")
		status("start 3 ")
		if got := systemctl("show", "--property=LimitNOFILE", "msgmux.service"); got != "LimitNOFILE=16384\n" {
			t.Errorf("the user's broker has %s", got)
		}
		systemctl("stop", "msgmux.target")
		m.Until("the sockets are gone", 5*time.Second, func() bool { return m.MustRun("ls", folder) == "sinks\n" })
	})
}

// active is the state of a unit: "active", "inactive", "failed".
func active(t *testing.T, m *rig.Machine, name string) string {
	t.Helper()
	out, _ := m.Run(t.Context(), "systemctl", "is-active", name)
	return strings.TrimSpace(out)
}

// send sends one datagram, with a prefix that says as whom.
func send(t *testing.T, m *rig.Machine, as []string, path, message string) {
	t.Helper()
	m.MustRun(append(slices.Clone(as), "sh", "-c", `printf %s "$2" | socat -u STDIN UNIX-SENDTO:"$1"`, "sh", path, message)...)
}

// waitForStatus waits until a service says something in its status.
func waitForStatus(t *testing.T, m *rig.Machine, name, want string) {
	t.Helper()
	var got string
	defer func() {
		if t.Failed() {
			t.Logf("the status of %s is %s", name, got)
		}
	}()
	m.Until("the status of "+name+" says "+want, 20*time.Second, func() bool {
		got = m.MustRun("systemctl", "show", "--property=StatusText", name)
		return strings.Contains(got, want)
	})
}

// checkJournal looks for what systemd complains about in units that are in order.
func checkJournal(t *testing.T, m *rig.Machine) {
	t.Helper()
	for line := range strings.Lines(m.Journal("--identifier=systemd", "--priority=warning")) {
		if strings.Contains(line, "msgmux") && !known(m, line) {
			t.Errorf("systemd says: %s", line)
		}
	}
}

// known tells a complaint that is meant: systemd 252 says that it does not know an option which later ones need.
func known(m *rig.Machine, line string) bool {
	return m.SystemdVersion() < 254 && strings.Contains(line, "FileDescriptorStorePreserve")
}
