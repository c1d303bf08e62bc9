// SPDX-License-Identifier: Apache-2.0

package units

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/units/rig"
)

// held has a channel hold messages: of 2,000, a sink that is there and reads nothing takes some, and the rest is in the ring.
// It returns the sink.
func (p *place) held() (hung interface{ Signal(unix.Signal) }) {
	p.b.t.Helper()
	sink := p.b.StartLoadAs(p.as, "sink", "--bind", "@mm-held", "--register", p.folder+"/register")
	sink.Signal(unix.SIGSTOP)
	p.b.StartLoadAs(p.as, "send", "--to", p.folder+"/source", "--count=2000").Sender()
	p.b.Until("the broker has received all", 20*time.Second, func() bool { return p.account().Status.Received == 2000 })
	return sink
}

// TestRestartOfTheTarget renews the sockets of a channel, which costs what is in them: who is connected sees an error. To the
// broker it is a restart: the ring and its sinks survive.
func TestRestartOfTheTarget(t *testing.T) {
	onEachBed(t, func(t *testing.T, b *bed) {
		p := b.channel("")
		p.systemctl("start", "msgmux.target", p.service)
		hung := p.held()
		defer hung.Signal(unix.SIGKILL)
		connected := b.StartLoad("send", "--to", "/run/msgmux/source", "--source=2", "--rate=100")
		inode := func() string { return b.MustRun("stat", "-c", "%i", "/run/msgmux/source") }
		old := inode()
		p.systemctl("restart", "msgmux.target")
		p.systemctl("start", p.service)
		p.untilActive()
		if inode() == old {
			t.Error("the source socket is the old one")
		}
		if a := p.account(); a.Status.Sinks.Dynamic != 1 || a.Status.Received < 2000 || a.Status.Lost != 0 {
			t.Errorf("after the sockets were renewed there is %+v", a.Status)
		}
		connected.Signal(unix.SIGTERM)
		if r := connected.Sender(); r.Errors["ECONNREFUSED"] == 0 {
			t.Errorf("the connected source saw %+v", r)
		}
		b.StartLoad("send", "--to", "/run/msgmux/source", "--source=3", "--count=1", "--unconnected").Sender()
	})
}

// TestLogout ends the systemd of a user, as the last logout does: nothing is left, in the store or of the sockets.
func TestLogout(t *testing.T) {
	onEachBed(t, func(t *testing.T, b *bed) {
		b.MustRun("useradd", "--create-home", "alice")
		b.MustRun("loginctl", "enable-linger", "alice")
		waitForUser(t, b.Machine, "alice")
		id := strings.TrimSpace(b.MustRun("id", "-u", "alice"))
		p := &place{b: b, folder: "/run/user/" + id + "/msgmux", service: "msgmux.service", as: b.As("alice"), user: true}
		p.systemctl("enable", "--now", "msgmux.target")
		p.systemctl("start", p.service)
		hung := p.held()
		defer hung.Signal(unix.SIGKILL)
		// What logind does by itself some seconds after the last session has ended, unless the user lingers.
		b.MustRun("loginctl", "disable-linger", "alice")
		b.MustRun("loginctl", "terminate-user", "alice")
		b.Until("the user's folder is gone", 30*time.Second, func() bool {
			_, exit := b.Run(t.Context(), "test", "-e", p.folder)
			return exit != 0
		})
		b.MustRun("loginctl", "enable-linger", "alice")
		waitForUser(t, b.Machine, "alice")
		p.systemctl("start", p.service)
		p.untilActive()
		if a := p.account(); a.Status.Received != 0 || a.Status.Sinks.Total != 0 {
			t.Errorf("after a logout the channel has %+v", a.Status)
		}
	})
}

// TestWhatTheHostDoes: the ring through what an administrator does with the whole host. What it holds is for a static sink whose
// program is away, and is counted when that is back.
func TestWhatTheHostDoes(t *testing.T) {
	onEachBed(t, func(t *testing.T, b *bed) {
		p := b.channel("")
		keeps := b.SystemdVersion() >= 254 // a stopped broker's memory
		b.MustRun("systemctl", "enable", "--now", "msgmux.target", p.service)
		b.WriteFile("/etc/msgmux/sinks/away.conf", []byte("patience=forever\n"), 0o644)
		b.MustRun("ln", "-s", "/run/away", "/run/msgmux/sinks/away")
		b.Until("the sink is known", 20*time.Second, func() bool { return p.account().state("away") == "absent" })
		back := func() bool {
			_, exit := b.Run(t.Context(), "sh", "-c", "systemctl is-active --quiet msgmux.service && msgmux status >/dev/null 2>&1")
			return exit == 0
		}
		for i, c := range []struct {
			what, script string
			kept         bool
			from         int // version of systemd
		}{
			{"frozen for three seconds", "systemctl freeze msgmux.service; sleep 3; systemctl thaw msgmux.service", true, 0},
			{"isolate of the target that the broker is enabled for", "systemctl isolate multi-user.target", true, 0},
			{"rescue, and back", "systemctl isolate rescue.target; sleep 1; systemctl isolate default.target", keeps, 0},
			{"soft-reboot", "systemctl --no-block soft-reboot", true, 254},
		} {
			if b.SystemdVersion() < c.from {
				continue
			}
			const count = 2000
			before := p.account().Status.Received
			// Somebody has to take messages, or the channel takes none.
			reader := b.StartLoad("sink", "--bind", "@mm-reader", "--register", "/run/msgmux/register")
			b.StartLoad("send", "--to", "/run/msgmux/source", "--count=2000", "--source", fmt.Sprint(i+1)).Sender()
			b.Until("the broker has received all", 20*time.Second, func() bool { return p.account().Status.Received == before+count })
			reader.Stop(10 * time.Second)
			began := b.MustRun("systemctl", "show", "--property=UserspaceTimestampMonotonic")
			b.Run(t.Context(), "sh", "-c", c.script)
			if c.from > 0 {
				b.Until("userspace is another one", time.Minute, func() bool {
					now, exit := b.Run(t.Context(), "systemctl", "show", "--property=UserspaceTimestampMonotonic")
					return exit == 0 && now != began
				})
			}
			b.Until("the broker is back after "+c.what, time.Minute, back)
			var a account
			b.Until("the sink is known after "+c.what, 20*time.Second, func() bool { a = p.account(); return a.state("away") == "absent" })
			if waiting := a.sink("away").Waiting; c.kept && waiting != count || !c.kept && waiting != 0 || a.Status.Lost != 0 {
				t.Errorf("%s: of %d messages %d wait: %+v", c.what, count, waiting, a.Status)
			}
			b.MustRun("rm", "-f", "/run/away")
			sink := b.StartLoad("sink", "--bind", "/run/away", "--settle=300ms")
			p.untilDelivered()
			sink.Signal(unix.SIGTERM)
			if got := sink.Sinks()[0]; c.kept && got.Received != count {
				t.Errorf("%s: of %d messages the sink got %d", c.what, count, got.Received)
			}
			b.Until("the sink is away", 20*time.Second, func() bool { return p.account().state("away") == "absent" })
		}
	})
}

// TestBootGoesOnWithoutABroker: the broker is ordered before all ordinary services, and one that hangs in its start holds them up no
// longer than TimeoutStartSec= says. Only a soft reboot boots a machine of the rig with what it has.
func TestBootGoesOnWithoutABroker(t *testing.T) {
	rig.Require(t, "systemd")
	b := newBed(t, rig.Debian13)
	b.MustRun("systemctl", "enable", "--now", "msgmux.target", "msgmux.service")
	b.WriteFile("/etc/systemd/system/ordinary.service", []byte("[Service]\nExecStart=/usr/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n"), 0o644)
	b.MustRun("systemctl", "enable", "ordinary.service")
	b.dropIn("msgmux.service", "hang", "[Service]\nExecStart=\nExecStart=/usr/bin/sleep infinity\n")
	b.Run(t.Context(), "systemctl", "--no-block", "soft-reboot")
	quietly := func(script string) bool {
		_, exit := b.Run(t.Context(), "sh", "-c", "exec 2>/dev/null; "+script)
		return exit == 0
	}
	b.Until("an ordinary service runs", 75*time.Second, func() bool { return quietly("systemctl is-active --quiet ordinary.service multi-user.target") })
	p := b.channel("")
	if b.Until("the broker has been tried", 20*time.Second, func() bool { return p.restarts() > 0 }); active(t, b.Machine, p.service) == "active" {
		t.Error("the broker runs")
	}
	for line := range strings.Lines(b.Journal("--identifier=systemd")) {
		if strings.Contains(line, "ordering cycle") {
			t.Errorf("systemd says: %s", line)
		}
	}
}
