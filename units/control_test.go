// SPDX-License-Identifier: Apache-2.0

package units

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/msgmux/msgmux/units/rig"
)

// The channel's name on the bus, and what is called there.
const (
	busName = "io.github.msgmux.Channel1"
	busPath = "/io/github/msgmux/Channel1"
)

// TestChannelsAreSeenAndSteered by everything there is beside the command line: the bus, in both implementations and with
// the policy that is installed; metrics, by the socket unit; the journal, with its catalog. A healthy broker logs nothing.
func TestChannelsAreSeenAndSteered(t *testing.T) {
	rig.Require(t, "systemd")
	dir := build(t)
	for suite, bus := range map[string]string{rig.Debian12: "dbus-broker", rig.Debian13: "dbus-daemon"} {
		t.Run(suite+" with "+bus, func(t *testing.T) {
			b := &bed{rig.Boot(t, suite, bus), t}
			for _, program := range programs {
				name := filepath.Base(program)
				b.Install(filepath.Join(dir, name), "/usr/bin/"+name, 0o755)
			}
			b.Install(filepath.Join(rig.Top(t), "packaging/catalog/msgmux.catalog"), "/usr/lib/systemd/catalog/msgmux.catalog", 0o644)
			b.MustRun("journalctl", "--update-catalog")
			b.InstallUnits()
			b.MustRun("useradd", "--create-home", "--groups", "msgmux", "alice")
			b.MustRun("useradd", "--create-home", "eve")
			if out := b.MustRun("sh", "-c", "ps -e -o comm= | grep dbus"); !strings.Contains(out, bus) {
				t.Fatalf("the bus is not %s: %s", bus, out)
			}
			for _, name := range []string{"", "web"} {
				p := b.channel(name)
				p.systemctl("start", strings.Replace(p.service, ".service", ".target", 1), p.service)
				b.steerByBus(p, name)
			}
			b.knowRates()
			b.addSink()
			b.askTheDoctor()
			b.removeSink()
			b.scrapeByUnit()
			b.restartBus(bus)
			if said := b.Journal("_COMM=msgmuxd", "--priority=notice", "--output=cat"); said != "" {
				t.Errorf("healthy brokers logged:\n%s", said)
			}
			b.readJournal()
		})
	}
}

// busctl calls a method of a channel, as a user; "" is root. What it says is the answer, or why there is none.
func (b *bed) busctl(user, name, iface, method string, arguments ...string) (said string, exit int) {
	b.t.Helper()
	argv := append([]string{"busctl", "--system", "call", name, busPath, iface, method}, arguments...)
	if user != "" {
		argv = append([]string{"setpriv", "--reuid=" + user, "--regid=" + user, "--init-groups", "--"}, argv...)
	}
	return b.Run(b.t.Context(), append([]string{"sh", "-c", `exec "$@" 2>&1`, "sh"}, argv...)...)
}

// steerByBus looks at a channel as anybody, and changes a sink as root only.
func (b *bed) steerByBus(p *place, channel string) {
	b.t.Helper()
	name := busName
	if channel != "" {
		name += "._" + channel
	}
	b.Until(name+" is on the bus", 20*time.Second, func() bool {
		_, exit := b.busctl("", name, "org.freedesktop.DBus.Peer", "Ping")
		return exit == 0
	})
	sink := b.Start("msgmux", "--runtime-dir", p.folder, "sub", "--label", "seen")
	defer sink.Stop(5 * time.Second)
	b.Until("the sink is there", 10*time.Second, func() bool { return p.account().state("seen") != "" })
	for _, user := range []string{"", "alice"} {
		if out, exit := b.busctl(user, name, busName, "ListSinks"); exit != 0 || !strings.Contains(out, `"seen"`) {
			b.t.Errorf("%q lists %q, exit status %d", user, out, exit)
		}
		if out, exit := b.busctl(user, name, "org.freedesktop.DBus.Properties", "Get", "ss", busName, "SinkCount"); exit != 0 || out != "v u 1\n" {
			b.t.Errorf("%q gets %q, exit status %d", user, out, exit)
		}
		if _, exit := b.busctl(user, name, "org.freedesktop.DBus.Introspectable", "Introspect"); exit != 0 {
			b.t.Errorf("%q cannot introspect", user)
		}
	}
	// The bus tells nobody what the control socket would not.
	for _, look := range [][]string{{busName, "ListSinks"}, {"org.freedesktop.DBus.Properties", "Get", "ss", busName, "SinkCount"},
		{"org.freedesktop.DBus.Properties", "GetAll", "s", busName}} {
		if said, exit := b.busctl("eve", name, look[0], look[1], look[2:]...); exit == 0 {
			b.t.Errorf("the bus tells eve %s: %s", look[1], said)
		}
	}
	for _, change := range [][]string{{"SetPatience", "ss", "seen", "3s"}, {"DropSink", "s", "seen"}} {
		// By the policy already: the broker, which knows whose a sink is, is not asked.
		if said, exit := b.busctl("alice", name, busName, change[0], change[1:]...); exit == 0 || strings.Contains(said, "belongs to user") {
			b.t.Errorf("the bus lets alice %s: %s", change[0], said)
		}
		if p.account().state("seen") == "" {
			b.t.Errorf("alice did %s", change[0])
		}
		if _, exit := b.busctl("", name, busName, change[0], change[1:]...); exit != 0 {
			b.t.Errorf("root may not %s", change[0])
		}
	}
	if p.account().state("seen") != "" {
		b.t.Errorf("the sink was not dropped")
	}
	// Nobody but the broker may have the name.
	if _, exit := b.busctl("alice", "org.freedesktop.DBus", "org.freedesktop.DBus", "RequestName", "su", name, "4"); exit == 0 {
		b.t.Errorf("alice may have the name %s", name)
	}
}

// knowRates has the broker know the rates of the last seconds although nobody has looked for longer: its status line has.
func (b *bed) knowRates() {
	b.t.Helper()
	var st struct {
		Status struct {
			RateSeconds float64 `json:"rate_seconds"`
		}
	}
	const unseen = 4
	b.Until("the rates are those of the last seconds", time.Minute, func() bool {
		time.Sleep(unseen * time.Second)
		out := b.MustRun("msgmux", "status", "--json")
		return json.Unmarshal([]byte(out), &st) == nil && st.Status.RateSeconds > 0.5 && st.Status.RateSeconds < unseen-0.5
	})
}

// addSink adds a static sink by one command: the service that reads it is started by the first message.
func (b *bed) addSink() {
	b.t.Helper()
	b.WriteFile("/etc/systemd/system/keeper.service", []byte("[Service]\nExecStart=/usr/bin/socat -u FD:3 OPEN:/run/kept,creat,append\n"), 0o644)
	add := []string{"msgmux", "sinks", "add", "kept", "--service", "keeper", "--patience", "5s"}
	for range 2 { // the second time changes nothing
		out := b.MustRun(add...)
		for _, want := range []string{"# /etc/systemd/system/msgmux-sink@kept.socket\n", "Service=keeper.service\n", "# /etc/msgmux/sinks/kept.conf\n", "\npatience=5s\n"} {
			if !strings.Contains(out, want) {
				b.t.Errorf("it does not print %q but\n%s", want, out)
			}
		}
	}
	if out := b.MustRun("msgmux", "sinks", "list", "--json"); !strings.Contains(out, `"label": "kept"`) || !strings.Contains(out, `"patience": "5s"`) {
		b.t.Errorf("the channel has\n%s", out)
	}
	if out := b.MustRun("systemctl", "is-enabled", "msgmux-sink@kept.socket"); out != "enabled\n" {
		b.t.Errorf("the socket is %s", out)
	}
	b.MustRun("msgmux", "pub", "kept for good")
	b.Until("the service has the message", 10*time.Second, func() bool {
		out, _ := b.Run(b.t.Context(), "cat", "/run/kept")
		return out == "kept for good"
	})
	// systemd starts no socket of a service that runs.
	running := b.Start("msgmux", "sinks", "add", "more", "--service", "keeper")
	if exit := running.Wait(); exit != 1 || !strings.Contains(running.Stderr(), "systemctl stop keeper.service") || running.Stdout() != "" {
		b.t.Errorf("for a service that runs: exit status %d, it says\n%s%s", exit, running.Stdout(), running.Stderr())
	}
	// A service that is not there: nothing is left of the attempt.
	if _, exit := b.Run(b.t.Context(), "msgmux", "sinks", "add", "other", "--service", "nowhere", "--tap"); exit != 1 {
		b.t.Errorf("without its service: exit status %d", exit)
	}
	if out, _ := b.Run(b.t.Context(), "sh", "-c", "ls /etc/systemd/system /etc/systemd/system/sockets.target.wants /etc/msgmux/sinks | grep other"); out != "" {
		b.t.Errorf("left behind: %s", out)
	}
	if _, exit := b.Run(b.t.Context(), "setpriv", "--reuid=alice", "--regid=alice", "--clear-groups", "--", "msgmux", "sinks", "add", "mine", "--service", "keeper"); exit == 0 {
		b.t.Error("alice may add a sink")
	}
}

// removeSink undoes what addSink has done: nothing is left of it, and the channel knows at once.
func (b *bed) removeSink() {
	b.t.Helper()
	b.MustRun("msgmux", "sinks", "remove", "kept")
	if out := b.MustRun("sh", "-c", "find /etc/systemd /etc/msgmux /run/msgmux/sinks -name '*kept*' -o -name 'keeper.service.d'"); out != "" {
		b.t.Errorf("removed, it left %s", out)
	}
	if out := b.MustRun("msgmux", "sinks", "list", "--json"); strings.Contains(out, `"kept"`) {
		b.t.Errorf("the channel has\n%s", out)
	}
	if out := b.MustRun("systemctl", "list-units", "--all", "--plain", "--no-legend", "msgmux-sink@kept*"); out != "" {
		b.t.Errorf("systemd has %s", out)
	}
}

// askTheDoctor who finds nothing wrong, but for memory that this host may let nobody lock; and, with the sockets stopped, does.
func (b *bed) askTheDoctor() {
	b.t.Helper()
	out, exit := b.Run(b.t.Context(), "msgmux", "doctor")
	if exit != 0 || strings.Contains(out, "fail ") || strings.Contains(strings.ReplaceAll(out, "warn  memlock", ""), "warn ") {
		b.t.Errorf("exit status %d\n%s", exit, out)
	}
	b.MustRun("systemctl", "stop", "msgmux@web.target")
	if out, exit := b.Run(b.t.Context(), "msgmux", "-c", "web", "doctor"); exit != 1 || !strings.Contains(out, "msgmux@web.target is inactive") {
		b.t.Errorf("exit status %d\n%s", exit, out)
	}
}

// scrapeByUnit has the broker take the metrics socket by a restart, on a path and then on TCP.
func (b *bed) scrapeByUnit() {
	b.t.Helper()
	p := b.channel("")
	scrape := func(address string) {
		b.t.Helper()
		script := `printf 'GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: application/openmetrics-text\r\n\r\n' | socat -t 5 - ` + address
		out := b.MustRun("sh", "-c", script)
		if !strings.Contains(out, "200 OK") || !strings.Contains(out, "\nmsgmux_restarts_total ") || !strings.HasSuffix(out, "# EOF\n") {
			b.t.Errorf("%s gives %q", address, out)
		}
	}
	b.MustRun("systemctl", "enable", "msgmux-metrics.socket")
	p.systemctl("restart", p.service)
	scrape("UNIX-CONNECT:/run/msgmux/metrics")
	b.WriteFile("/etc/systemd/system/msgmux-metrics.socket.d/tcp.conf", []byte("[Socket]\nListenStream=\nListenStream=127.0.0.1:9649\n"), 0o644)
	b.MustRun("systemctl", "daemon-reload")
	p.systemctl("stop", "msgmux-metrics.socket")
	p.systemctl("restart", p.service)
	scrape("TCP:127.0.0.1:9649")
}

// restartBus takes the bus away and gives it back: the broker does not notice, and is there again.
func (b *bed) restartBus(bus string) {
	b.t.Helper()
	p := b.channel("")
	before := p.show("MainPID")["MainPID"]
	service := "dbus.service"
	if bus == "dbus-broker" {
		service = "dbus-broker.service"
	}
	b.MustRun("systemctl", "restart", service)
	b.Until("the channel is on the new bus", 40*time.Second, func() bool {
		_, exit := b.busctl("alice", busName, busName, "ListSinks")
		return exit == 0
	})
	if after := p.show("MainPID")["MainPID"]; after != before {
		b.t.Errorf("the broker was %s and is %s", before, after)
	}
}

// readJournal makes the broker complain, and reads that.
func (b *bed) readJournal() {
	b.t.Helper()
	b.MustRun("sh", "-c", "printf '@nobody-has-this\\n' | socat -u - UNIX-SENDTO:/run/msgmux/register")
	var entry map[string]any
	b.Until("the refusal is in the journal", 10*time.Second, func() bool {
		out := b.Journal("MSGMUX_EVENT=registration-refused", "--output=json")
		return json.Unmarshal([]byte(out), &entry) == nil
	})
	for field, want := range map[string]string{"MSGMUX_CODE": "no-peer", "MSGMUX_UID": "0", "PRIORITY": "4", "SYSLOG_IDENTIFIER": "msgmuxd",
		"MESSAGE_ID": "69d85547df43e0c847787d0d52383370", "_SYSTEMD_UNIT": "msgmux.service", "_TRANSPORT": "journal"} {
		if got := fmt.Sprint(entry[field]); got != want {
			b.t.Errorf("the field %s is %q, want %q", field, got, want)
		}
	}
	if out := b.Journal("MSGMUX_EVENT=registration-refused", "--catalog"); !strings.Contains(out, "Subject: A registration was refused") ||
		!strings.Contains(out, "The code is no-peer") {
		b.t.Errorf("journalctl -x shows\n%s", out)
	}
}
