// SPDX-License-Identifier: Apache-2.0

package units

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
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
