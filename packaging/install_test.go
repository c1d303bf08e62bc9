// SPDX-License-Identifier: Apache-2.0

package packaging

// Installs and removes the packages under a real systemd, and in roots without one.

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/msgmux/msgmux/units/rig"
)

// tool is a way to bring a package into a system and out of it again. rpm is Debian's own tool, with a database of its
// own, in which nothing is installed that others depend on.
type tool struct {
	name     string
	packages []string // of Debian, that it needs
	folders  []string // that are the system's where it is at home
	install  []string // a new package, or another version
	remove   []string // all but what an administrator has made
	purge    []string
	enables  bool // installing enables and starts the default channel
}

// rpmHere is rpm with what makes Debian 12's do its work without its advice.
const rpmHere = `if rpm --force-debian --version >/dev/null 2>&1; then set -- --force-debian "$@"; fi; exec rpm "$@"`

var tools = []tool{
	{
		name: "deb", enables: true,
		// Without a terminal, and so without a session of its own, for which what is said at before would not hold.
		install: []string{"apt-get", "--option=Dpkg::Use-Pty=0", "install", "--yes", "--allow-downgrades", "--reinstall"},
		remove:  []string{"apt-get", "--option=Dpkg::Use-Pty=0", "remove", "--yes", "msgmux"},
		purge:   []string{"apt-get", "--option=Dpkg::Use-Pty=0", "purge", "--yes", "msgmux"},
	},
	{
		name: "rpm", packages: []string{"rpm"},
		folders: []string{"/usr/share/licenses", "/usr/share/zsh/site-functions", "/usr/share/fish/vendor_completions.d"},
		install: []string{"sh", "-c", rpmHere, "rpm", "--upgrade", "--nodeps", "--oldpackage", "--replacepkgs"},
		remove:  []string{"sh", "-c", rpmHere, "rpm", "--erase", "msgmux"},
		purge:   []string{"sh", "-c", rpmHere, "rpm", "--erase", "msgmux"},
	},
}

// onEach runs a test in a container of each suite, with each kind of package.
func onEach(t *testing.T, test func(t *testing.T, m *rig.Machine, by tool)) {
	rig.Require(t, part)
	for _, suite := range rig.Suites {
		for _, by := range tools {
			t.Run(suite+"/"+by.name, func(t *testing.T) {
				m := rig.Boot(t, suite, by.packages...)
				for _, folder := range by.folders {
					m.MustRun("mkdir", "-p", folder)
				}
				test(t, m, by)
			})
		}
	}
}

// before runs a command before others: sched(7) has one niceness for a process in its session, and one for the session.
const before = `if [ -e /proc/self/autogroup ]; then echo -15 >/proc/self/autogroup; fi
DEBIAN_FRONTEND=noninteractive exec nice --adjustment=-15 "$@"`

// do runs the tool, before others: where there is load, that should not be a test of how long it waits for the processor. A
// loaded machine may need longer for it than for other commands.
func do(t *testing.T, m *rig.Machine, argv ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	argv = append([]string{"setsid", "--wait", "sh", "-c", before, "sh"}, argv...)
	if out, exit := m.Run(ctx, argv...); exit != 0 {
		t.Fatalf("%s: %s: exit status %d\n%s", m.Suite(), strings.Join(argv, " "), exit, out)
	}
}

// install installs a version, and brings the channel up where installing alone does not.
func install(t *testing.T, m *rig.Machine, by tool, version string) {
	t.Helper()
	file := packageFile(t, version, by.name)
	guest := "/tmp/" + filepath.Base(file)
	m.Install(file, guest, 0o644)
	do(t, m, append(slices.Clone(by.install), guest)...)
	m.MustRun("rm", guest)
	if got := m.MustRun("msgmuxd", "--version"); !strings.HasPrefix(got, "msgmuxd "+version+" ") {
		t.Fatalf("%s: %s is installed instead of %s", m.Suite(), got, version)
	}
}

// everything is what a system is made of, as far as a package could change it: files and folders with their owners, modes
// and links, users and groups, sockets, what systemd knows and holds.
const everything = `
find / /run /dev/mqueue -xdev \( -path /proc -o -path /sys -o -path /tmp -o -path '*/.rpmdb' -o -path /var/log -o -path /var/cache \
	-o -path /var/lib/dpkg -o -path /var/lib/apt -o -path /var/lib/rpm -o -path /run/systemd -o -path /run/log -o -path /run/user \
	-o -path /var/lib/systemd/catalog -o -path /var/lib/systemd/timers -o -path '/etc/*-' \) -prune \
	-o -printf 'file %p %y %m %u:%g %l\n'
for file in passwd group shadow gshadow; do sed "s/^/$file /" /etc/$file; done
systemctl list-unit-files --no-legend --plain | sed 's/^/unit file /'
systemctl list-units --all --no-legend --plain 'msgmux*' | sed 's/^/unit /'
systemctl --failed --no-legend --plain | sed 's/^/failed /'
find /proc/1/fd -lname '*msgmux*' -printf 'held by systemd %l\n'
sed -n 's|^.* \(/run/msgmux.*\)$|socket \1|p' /proc/net/unix
pgrep -l msgmux | sed 's/^/process /'
true`

// snapshot lists everything. The order is not systemd's.
func snapshot(m *rig.Machine) []string {
	return slices.Sorted(strings.Lines(m.MustRun("sh", "-c", everything)))
}

// checkSame says what is in one snapshot and not in the other.
func checkSame(t *testing.T, before, after []string) {
	t.Helper()
	for _, line := range after {
		if !slices.Contains(before, line) {
			t.Errorf("left behind, or changed into: %s", line)
		}
	}
	for _, line := range before {
		if !slices.Contains(after, line) {
			t.Errorf("gone, or changed: %s", line)
		}
	}
}

// says runs a command that ends by itself, and returns its exit status and what it says on standard error.
func says(t *testing.T, m *rig.Machine, argv ...string) (exit int, stderr string) {
	t.Helper()
	p := m.Start(argv...)
	return p.Wait(), p.Stderr()
}

// passes sends one message as one user and receives it as another: for root both is "".
func passes(t *testing.T, m *rig.Machine, sender, receiver, text string) {
	t.Helper()
	as := func(user, script string) []string {
		argv := []string{"sh", "-c", script, "sh", text}
		if user == "" {
			return argv
		}
		return m.As(user, argv...)
	}
	sub := m.Start(as(receiver, "exec msgmux sub -C 1 -W 20s")...)
	m.MustRun(as(sender, `echo "$1" | msgmux pub -W 20s`)...)
	if exit := sub.Wait(); exit != 0 || sub.Stdout() != text+"\n" {
		t.Errorf("%s: from %q to %q came %q, exit status %d: %s", m.Suite(), sender, receiver, sub.Stdout(), exit, sub.Stderr())
	}
}

// mayWarn are the warnings that are no fault: systemd 252 does not know an option; a static sink's socket is there for a
// moment before systemd gives it to its group; a broker that ends says what it leaves to the next; under load, a message
// queue is slow, and a full ring keeps its shape.
var mayWarn = regexp.MustCompile(`Unknown key 'FileDescriptorStorePreserve'|static sink cannot be reached \(sink=archive, error=access:|` +
	`a restart keeps them, a stop does not|sources wait for a sink \(sink=mq\)|the ring keeps its old shape until the next start`)

// checkJournal wants no other warning in the journal of a unit.
func checkJournal(t *testing.T, m *rig.Machine, unit string) {
	t.Helper()
	for line := range strings.Lines(m.Journal("--unit="+unit, "--priority=warning")) {
		if !mayWarn.MatchString(line) {
			t.Errorf("%s: %s warns: %s", m.Suite(), unit, line)
		}
	}
}

// TestInstallingLengthensQueues of sockets where they are shorter: a higher value stays, and so does what an administrator's own
// file says.
func TestInstallingLengthensQueues(t *testing.T) {
	onEach(t, func(t *testing.T, m *rig.Machine, by tool) {
		const qlen = "/proc/sys/net/unix/max_dgram_qlen"
		for _, c := range []struct{ before, own, want string }{{"512", "", "4096"}, {"8192", "", "8192"}, {"512", "700", "700"}} {
			if c.before == "8192" && m.Suite() == rig.Debian13 && by.name == "deb" {
				continue // there systemd itself applies each file of sysctl.d that a package brings
			}
			m.MustRun("sh", "-c", "echo "+c.before+" >"+qlen)
			if c.own != "" {
				m.WriteFile("/etc/sysctl.d/60-msgmux.conf", []byte("net.unix.max_dgram_qlen = "+c.own+"\n"), 0o644)
			}
			install(t, m, by, first)
			var got string
			defer func() {
				if t.Failed() {
					t.Logf("installed beside %q with %s, the queues are %s", c.own, c.before, got)
				}
			}()
			m.Until("the queues are "+c.want, 10*time.Second, func() bool { got = strings.TrimSpace(m.ReadFile(qlen)); return got == c.want })
			do(t, m, by.purge...)
		}
	})
}

// TestInstalledWorksAtOnce with no file edited, for root and members of the groups, and tells others what they lack.
func TestInstalledWorksAtOnce(t *testing.T) {
	onEach(t, func(t *testing.T, m *rig.Machine, by tool) {
		install(t, m, by, first)
		state := "enabled\nenabled\n"
		if !by.enables {
			m.MustRun("systemctl", "start", "msgmux.target")
		}
		if got := m.MustRun("systemctl", "is-enabled", "msgmux.target", "msgmux.service"); got != state {
			t.Errorf("%s: target and service are %q", m.Suite(), got)
		}
		for _, unit := range []string{"msgmux-mq.socket", "msgmux-sink@x.socket", "msgmux@x.target"} {
			if out, _ := m.Run(t.Context(), "systemctl", "is-enabled", unit); out != "disabled\n" {
				t.Errorf("%s: %s is %s", m.Suite(), unit, out)
			}
		}
		m.MustRun("useradd", "--groups=msgmux-send", "sender")
		m.MustRun("useradd", "--groups=msgmux", "reader")
		m.MustRun("useradd", "stranger")
		passes(t, m, "", "", "hi")
		passes(t, m, "sender", "reader", "hello")

		for _, refused := range []struct{ user, command, group string }{
			{"sender", "sub -C 1 -W 5s", "msgmux"},
			{"sender", "status", "msgmux"},
			{"reader", "pub x", "msgmux-send"},
			{"stranger", "pub x", "msgmux-send"},
			{"stranger", "sub -C 1 -W 5s", "msgmux"},
		} {
			exit, said := says(t, m, m.As(refused.user, append([]string{"msgmux"}, strings.Fields(refused.command)...)...)...)
			if exit != 5 || !regexp.MustCompile(`\b`+refused.group+`(\s|[,;.]|$)`).MatchString(said) {
				t.Errorf("%s: %s of %s: exit status %d, which should be 5 with the group %s: %s",
					m.Suite(), refused.command, refused.user, exit, refused.group, said)
			}
		}
		m.MustRun("msgmux", "status")
		checkJournal(t, m, "msgmux.service")
		if out := m.MustRun("busctl", "--system", "--list", "--no-legend"); !strings.Contains(out, "io.github.msgmux.Channel1") {
			t.Errorf("%s: the channel is not on the bus:\n%s", m.Suite(), out)
		}
		if out := m.MustRun("systemctl", "--failed", "--no-legend", "--plain"); out != "" {
			t.Errorf("%s: failed: %s", m.Suite(), out)
		}
	})
}

// framedSink connects to a channel in the container as a sink, and returns when it is one.
func framedSink(t *testing.T, m *rig.Machine, channel string) net.Conn {
	t.Helper()
	conn, err := net.Dial("unixpacket", fmt.Sprintf("/proc/%d/root/run/%s/subscribe", m.Leader(), channel))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	answer := make([]byte, 1024)
	if _, err := conn.Write([]byte("msgmux/1\n")); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(answer); err != nil || !strings.HasPrefix(string(answer[:n]), "ok") {
		t.Fatalf("the broker answers %q, %v", answer[:n], err)
	}
	return conn
}

// TestPurgeLeavesNothing of the package, with two channels running and sinks of every kind, and everything of the
// administrator's. Sinks see the end within 5 s.
func TestPurgeLeavesNothing(t *testing.T) {
	onEach(t, func(t *testing.T, m *rig.Machine, by tool) {
		load := rig.Build(t, "./units/rig/load")
		m.Install(load, "/usr/bin/load", 0o755)
		m.WriteFile("/etc/systemd/system/archive.service", []byte("[Service]\nExecStart=/usr/bin/load sink --inherit\nSockets=msgmux-sink@archive.socket\n"), 0o644)
		m.WriteFile("/etc/systemd/system/msgmux.service.d/mine.conf", []byte("[Service]\nEnvironment=MINE=yes\n"), 0o644)
		m.WriteFile("/etc/msgmux/sinks/archive.conf", []byte("patience=2s\n"), 0o644)
		m.MustRun("useradd", "--create-home", "alice")
		m.MustRun("systemctl", "daemon-reload")
		before := snapshot(m)

		install(t, m, by, first)
		m.MustRun("usermod", "--append", "--groups=msgmux,msgmux-send", "alice")
		m.MustRun("systemctl", "enable", "--now", "msgmux.target", "msgmux@audit.target", "msgmux-sink@archive.socket")
		m.MustRun("systemctl", "enable", "msgmux@audit.service", "msgmux-mq.socket")
		m.MustRun("systemctl", "start", "msgmux.service", "msgmux@audit.service")
		one, other := framedSink(t, m, "msgmux"), framedSink(t, m, "msgmux.audit")
		sinks := []*rig.Process{
			m.StartLoadAs(m.As("alice"), "sink", "--bind=@tap", "--register=/run/msgmux/register"),
			m.StartLoad("sink", "--bind=/run/reader", "--register=/run/msgmux.audit/register"),
		}
		m.MustRun("msgmux", "pub", "first", "second")
		m.Until("the archive is started", 10*time.Second, func() bool {
			out, _ := m.Run(t.Context(), "systemctl", "is-active", "archive.service")
			return out == "active\n"
		})

		stopped := make(chan time.Time, 2)
		for _, sink := range []net.Conn{one, other} {
			go func() {
				packet := make([]byte, 1<<20)
				sink.SetDeadline(time.Now().Add(time.Minute))
				for {
					if n, err := sink.Read(packet); n == 0 || err != nil {
						stopped <- time.Now()
						return
					}
				}
			}()
		}
		began := time.Now()
		do(t, m, by.purge...)
		ended := time.Now()
		for range 2 {
			at := <-stopped
			t.Logf("%s: a sink saw the end %v after the removal began, which took %v", m.Suite(), at.Sub(began), ended.Sub(began))
			if at.After(began.Add(5*time.Second)) && at.After(ended.Add(time.Second)) {
				t.Errorf("%s: a sink saw the end too late", m.Suite())
			}
		}
		for _, sink := range sinks {
			sink.Stop(10 * time.Second)
		}
		m.MustRun("systemctl", "stop", "archive.service") // the administrator's, which lost its socket
		m.MustRun("rm", "-f", "/run/reader")
		m.MustRun("systemctl", "reset-failed")
		checkSame(t, before, snapshot(m))
		checkJournal(t, m, "msgmux.service")
		checkJournal(t, m, "msgmux@audit.service")
	})
}

// TestUpgradeStartsNothing that the administrator has stopped, and an installation after a removal starts what was enabled.
func TestUpgradeStartsNothing(t *testing.T) {
	onEach(t, func(t *testing.T, m *rig.Machine, by tool) {
		active := func() string {
			out, _ := m.Run(t.Context(), "systemctl", "is-active", "msgmux.target", "msgmux.service", "msgmux-source.socket")
			return out
		}
		const all, none = "active\nactive\nactive\n", "inactive\ninactive\ninactive\n"
		install(t, m, by, first)
		m.MustRun("systemctl", "start", "msgmux.target", "msgmux.service")
		inode := m.MustRun("stat", "-c", "%i", "/run/msgmux/source")
		pid := m.MustRun("systemctl", "show", "-P", "MainPID", "msgmux.service")
		install(t, m, by, second)
		if got := active(); got != all {
			t.Errorf("%s: after an upgrade: %q", m.Suite(), got)
		}
		if m.MustRun("systemctl", "show", "-P", "MainPID", "msgmux.service") == pid {
			t.Errorf("%s: the broker is the old one after an upgrade", m.Suite())
		}
		if m.MustRun("stat", "-c", "%i", "/run/msgmux/source") != inode {
			t.Errorf("%s: a socket is another one after an upgrade", m.Suite())
		}
		m.MustRun("systemctl", "stop", "msgmux.target")
		m.MustRun("systemctl", "disable", "msgmux.target", "msgmux.service")
		install(t, m, by, first)
		if got := active(); got != none {
			t.Errorf("%s: after an upgrade of what was stopped: %q", m.Suite(), got)
		}
		if out, _ := m.Run(t.Context(), "systemctl", "is-enabled", "msgmux.target", "msgmux.service"); out != "disabled\ndisabled\n" {
			t.Errorf("%s: after an upgrade of what was disabled: %q", m.Suite(), out)
		}
		m.MustRun("systemctl", "enable", "msgmux.target", "msgmux.service")
		do(t, m, by.remove...)
		if out, _ := m.Run(t.Context(), "systemctl", "is-active", "msgmux.target"); out != "inactive\n" {
			t.Errorf("%s: after a removal: %q", m.Suite(), out)
		}
		install(t, m, by, second)
		if got := active(); by.enables && got != all {
			t.Errorf("%s: installed again after a removal: %q", m.Suite(), got)
		}
		// An administrator's choice outlives a removal.
		m.MustRun("systemctl", "disable", "--now", "msgmux.target", "msgmux.service")
		do(t, m, by.remove...)
		install(t, m, by, second)
		if got := active(); by.enables && got != none {
			t.Errorf("%s: disabled, removed, installed again: %q", m.Suite(), got)
		}
	})
}

// offline runs a script where systemd does not run, as in a chroot in which an image is built.
func offline(m *rig.Machine, script string, arguments ...string) string {
	return m.MustRun(append([]string{"unshare", "--mount", "sh", "-ec",
		"mount -t tmpfs tmpfs /run\nexport DEBIAN_FRONTEND=noninteractive\n" + script, "sh"}, arguments...)...)
}

// TestWithoutSystemd installs, upgrades, removes and purges where systemd does not run: in an image. Nothing is started, and
// what is enabled is there at the next boot.
func TestWithoutSystemd(t *testing.T) {
	onEach(t, func(t *testing.T, m *rig.Machine, by tool) {
		before := snapshot(m)
		put := func(version string) {
			t.Helper()
			file := packageFile(t, version, by.name)
			guest := "/opt/" + filepath.Base(file)
			m.Install(file, guest, 0o644)
			offline(m, `"$@"; test ! -e /run/msgmux-install`, append(slices.Clone(by.install), guest)...)
			m.MustRun("rm", guest)
			if got := m.MustRun("msgmuxd", "--version"); !strings.HasPrefix(got, "msgmuxd "+version+" ") {
				t.Errorf("%s: %s is installed instead of %s", m.Suite(), got, version)
			}
			if got := m.MustRun("readlink", "/etc/systemd/system/sockets.target.wants/msgmux.target"); !strings.HasSuffix(got, "/lib/systemd/system/msgmux.target\n") {
				t.Errorf("%s: the target is not enabled: %s", m.Suite(), got)
			}
			if got := m.MustRun("id", "-un", "msgmux") + m.MustRun("getent", "group", "msgmux-send"); !strings.HasPrefix(got, "msgmux\nmsgmux-send:") {
				t.Errorf("%s: users and groups are %s", m.Suite(), got)
			}
		}
		put(first)
		put(second)
		put(second)
		offline(m, `"$@"`, by.remove...)
		if out, exit := m.Run(t.Context(), "sh", "-c", "command -v msgmux msgmuxd"); exit == 0 {
			t.Errorf("%s: after the removal there is %s", m.Suite(), out)
		}
		put(first)
		if out := m.MustRun("sh", "-c", "pgrep -l msgmux || true"); out != "" {
			t.Errorf("%s: started: %s", m.Suite(), out)
		}
		offline(m, `"$@"`, by.purge...)
		m.MustRun("systemctl", "daemon-reload")
		checkSame(t, before, snapshot(m))
	})
}

// TestAnotherRoot installs and purges the deb in a root that is only a folder, from outside, as image builders do. The
// scripts find it in DPKG_ROOT, and leave the system that they run on as it is.
func TestAnotherRoot(t *testing.T) {
	rig.Require(t, part)
	for _, suite := range rig.Suites {
		t.Run(suite, func(t *testing.T) {
			m := rig.Boot(t, suite)
			const folder = "/opt/root"
			m.MustRun("sh", "-ec", `mkdir -p "$1/etc/systemd/system" "$1/run" "$1/var/lib/dpkg/info" "$1/var/lib/dpkg/updates" "$1/var/log"
cd "$1"; touch etc/.pwd.lock var/lib/dpkg/status; chmod 600 etc/.pwd.lock
for file in passwd group shadow gshadow; do grep '^root:' "/etc/$file" >"etc/$file"; done`, "sh", folder)
			install(t, m, tools[0], first) // here, too: who is outside must not be taken for who is inside
			outside := snapshot(m)
			inside := func() []string {
				return slices.Sorted(strings.Lines(m.MustRun("sh", "-ec", `cd "$1"
find . \( -path ./var -o -name '*-' \) -prune -o -printf 'file %p %y %m %u:%g %l\n'
for file in passwd group shadow gshadow; do sed "s/^/$file /" "etc/$file"; done`, "sh", folder)))
			}
			empty := inside()
			dpkg := []string{"dpkg", "--root=" + folder, "--force-script-chrootless", "--force-depends"}
			guest := "/opt/msgmux.deb"
			m.Install(packageFile(t, second, "deb"), guest, 0o644)
			do(t, m, append(slices.Clone(dpkg), "--install", guest)...)
			m.MustRun("rm", guest)
			full := strings.Join(inside(), "")
			for _, want := range []string{"passwd msgmux:", "group msgmux:", "group msgmux-send:", "file ./usr/bin/msgmuxd f 755 root:root",
				"file ./etc/systemd/system/sockets.target.wants/msgmux.target l "} {
				if !strings.Contains(full, "\n"+want) {
					t.Errorf("%s: in the other root there is no %s:\n%s", m.Suite(), want, full)
				}
			}
			do(t, m, append(slices.Clone(dpkg), "--purge", "msgmux")...)
			checkSame(t, empty, inside())
			m.MustRun("rm", "-r", folder)
			checkSame(t, slices.DeleteFunc(outside, func(line string) bool { return strings.HasPrefix(line, "file "+folder) }), snapshot(m))
		})
	}
}

// TestScriptsMayRunTwice runs each maintainer script of the deb once more than dpkg does.
func TestScriptsMayRunTwice(t *testing.T) {
	rig.Require(t, part)
	for _, suite := range rig.Suites {
		t.Run(suite, func(t *testing.T) {
			m := rig.Boot(t, suite)
			by := tools[0]
			before := snapshot(m)
			install(t, m, by, first)
			info := "/var/lib/dpkg/info/msgmux."
			m.MustRun(info+"postinst", "configure", "")
			m.MustRun(info+"postinst", "configure", "1.0.0")
			m.MustRun(info+"postinst", "abort-remove")
			m.MustRun(info+"prerm", "upgrade", "1.1.0")
			m.MustRun(info+"prerm", "deconfigure", "in-favour", "x", "1")
			passes(t, m, "", "", "still there")
			framedSink(t, m, "msgmux")
			m.MustRun(info+"prerm", "remove")
			m.MustRun(info+"prerm", "remove")
			// By now, and not only when its unit is gone, systemd has let go of what it held.
			if out := m.MustRun("find", "/proc/1/fd", "-lname", "*msgmux*", "-printf", "%l "); out != "" {
				t.Errorf("%s: systemd still holds %s", m.Suite(), out)
			}
			m.MustRun("cp", info+"postrm", "/opt/postrm")
			do(t, m, by.purge...)
			for _, action := range []string{"remove", "purge", "purge", "abort-install", "disappear"} {
				m.MustRun("/opt/postrm", action)
			}
			m.MustRun("rm", "/opt/postrm")
			checkSame(t, before, snapshot(m))
		})
	}
}
