// SPDX-License-Identifier: Apache-2.0

package units

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/units/rig/load/tally"
)

// join has a smaller load use a channel that runs: a connected, an unconnected and a framed source, whose numbers begin with
// first, and four sinks: one with an abstract name, one with a path, one framed, and one in the folder of static sinks.
func (p *place) join(first int) *traffic {
	p.b.t.Helper()
	x := &traffic{place: p, before: p.account()}
	sink := []string{"--option", "patience=forever", "--settle", "500ms"}
	register := append([]string{"--register", p.folder + "/register"}, sink...)
	for _, arguments := range [][]string{
		append([]string{"sink", "--bind", fmt.Sprintf("@mm-joined-%d", first)}, register...),
		append([]string{"sink", "--bind", fmt.Sprintf("/tmp/mm-joined-%d", first)}, register...),
		append([]string{"subscribe", "--from", p.folder + "/subscribe"}, sink...),
		{"sink", "--bind", p.folder + "/sinks/joined", "--settle", "500ms"},
	} {
		x.sinks = append(x.sinks, p.b.StartLoadAs(p.as, arguments...))
	}
	p.untilStatus("that all sinks are there", func(s statusLine) bool { return s.static == 1 && s.dynamic == 3 && s.absent == 0 })
	for i, flags := range [][]string{{"--to", p.folder + "/source", "--spread=400"}, {"--to", p.folder + "/source", "--unconnected"},
		{"--to", p.folder + "/publish", "--records=20", "--spread=200"}} {
		x.sources = append(x.sources, p.b.StartLoadAs(p.as, append([]string{"send", "--source", fmt.Sprint(first + i)}, flags...)...))
	}
	return x
}

// disturb restarts and kills the broker, so many times each.
func (x *traffic) disturb(times int) {
	x.b.t.Helper()
	for range times {
		x.untilActive()
		time.Sleep(200 * time.Millisecond)
		x.systemctl("restart", x.service)
	}
	for range times {
		x.untilActive()
		time.Sleep(200 * time.Millisecond)
		x.killAndWait("KILL")
	}
	x.untilActive()
	time.Sleep(200 * time.Millisecond)
}

// TestChannelsAreIndependent has two channels under load, of which one is restarted, killed and stopped. The other one's
// broker is not touched, and each delivers what its own sources sent and nothing else.
func TestChannelsAreIndependent(t *testing.T) {
	onEachBed(t, func(t *testing.T, b *bed) {
		channels := []*place{b.channel("left"), b.channel("right")}
		var loads []*traffic
		for i, p := range channels {
			name := []string{"left", "right"}[i]
			b.WriteFile("/etc/msgmux."+name+"/sinks/joined.conf", []byte("patience=forever\n"), 0o644)
			p.systemctl("start", "msgmux@"+name+".target", p.service)
			loads = append(loads, p.join(1+10*i))
		}
		left, right := loads[0], loads[1]
		before := right.show("MainPID", "NRestarts")
		left.disturb(5)
		if now := right.show("MainPID", "NRestarts"); !same(now, before) {
			t.Errorf("the other channel's broker was %v and is %v", before, now)
		}
		for _, x := range loads {
			// This also compares the counts of the broker with those of the clients.
			x.check(x.end(), 0)
		}

		// One channel is stopped for good, sockets and all, and the other works.
		left.systemctl("stop", "msgmux@left.target")
		sink := b.StartLoad("sink", "--bind", "@mm-after", "--register", "/run/msgmux.right/register", "--settle", "1s")
		sent := b.StartLoad("send", "--to", "/run/msgmux.right/source", "--source=30", "--count=100").Sender()
		b.Until("the sink has everything", 20*time.Second, func() bool {
			return slices.ContainsFunc(right.account().Sinks, func(s accountSink) bool { return s.Kind == "dynamic" && s.Accepted == 100 })
		})
		sink.Signal(unix.SIGTERM)
		for _, problem := range sink.Sinks()[0].Problems(sent) {
			t.Error(problem)
		}
		if now := right.show("MainPID", "NRestarts"); !same(now, before) {
			t.Errorf("the other channel's broker was %v and is %v", before, now)
		}
	})
}

// TestUserChannelSurvives does the same to the channel of a user's own systemd: restarts, kills, and the re-execution of that
// systemd, under load.
func TestUserChannelSurvives(t *testing.T) {
	onEachBed(t, func(t *testing.T, b *bed) {
		b.MustRun("useradd", "--create-home", "alice")
		b.MustRun("loginctl", "enable-linger", "alice")
		waitForUser(t, b.Machine, "alice")
		id := strings.TrimSpace(b.MustRun("id", "-u", "alice"))
		p := &place{b: b, folder: "/run/user/" + id + "/msgmux", service: "msgmux.service", as: b.As("alice"), user: true}
		// A user's channel has no folder of options: the static sink is to be waited for as well.
		b.WriteFile("/home/alice/.config/systemd/user/msgmux.service.d/patience.conf",
			[]byte("[Service]\nExecStart=\nExecStart=/usr/bin/msgmuxd --runtime-dir %t/msgmux --patience forever\n"), 0o644)
		b.MustRun("chown", "-R", "alice:", "/home/alice/.config")
		p.systemctl("daemon-reload")
		p.systemctl("start", "msgmux.target", p.service)
		x := p.join(1)
		x.disturb(5)
		p.systemctl("daemon-reexec")
		p.systemctl("daemon-reload")
		x.disturb(1)
		r := x.end()
		x.check(r, 0)
		if n := r.account.Status.Starts - x.before.Status.Starts; n < 7 || n > 12 {
			t.Errorf("of 12 brokers the ring has seen %d", n)
		}
		if slices.ContainsFunc(r.sinks, func(s tally.Sink) bool { return s.Received == 0 }) {
			t.Errorf("a sink got nothing: %+v", r.sinks)
		}
		p.systemctl("stop", "msgmux.target")
		b.Until("the sockets are gone", 10*time.Second, func() bool {
			return b.MustRun("sh", "-c", "ls "+p.folder+" | grep -v sinks || :") == ""
		})
	})
}
