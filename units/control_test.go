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
			b.MustRun("useradd", "--create-home", "alice")
			if out := b.MustRun("sh", "-c", "ps -e -o comm= | grep dbus"); !strings.Contains(out, bus) {
				t.Fatalf("the bus is not %s: %s", bus, out)
			}
			for _, name := range []string{"", "web"} {
				p := b.channel(name)
				p.systemctl("start", p.service)
				b.steerByBus(p, name)
			}
			b.scrapeByUnit()
			b.restartBus(bus)
			if said := b.Journal("_COMM=msgmuxd", "--priority=info", "--output=cat"); said != "" {
				t.Errorf("healthy brokers logged:\n%s", said)
			}
			b.readJournal()
		})
	}
}

// busctl calls a method of a channel, as a user; "" is root.
func (b *bed) busctl(user, name, iface, method string, arguments ...string) (stdout string, exit int) {
	b.t.Helper()
	argv := append([]string{"busctl", "--system", "call", name, busPath, iface, method}, arguments...)
	if user != "" {
		argv = append([]string{"setpriv", "--reuid=" + user, "--regid=" + user, "--clear-groups", "--"}, argv...)
	}
	return b.Run(b.t.Context(), argv...)
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
	for _, change := range [][]string{{"SetPatience", "ss", "seen", "3s"}, {"DropSink", "s", "seen"}} {
		if _, exit := b.busctl("alice", name, busName, change[0], change[1:]...); exit == 0 {
			b.t.Errorf("alice may %s", change[0])
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
	p.systemctl("stop", p.service, "msgmux-metrics.socket")
	p.systemctl("start", p.service)
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
