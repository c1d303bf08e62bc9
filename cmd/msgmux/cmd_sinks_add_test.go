// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"strings"
	"testing"

	bus "github.com/godbus/dbus/v5"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/internal/wire"
)

// at runs msgmux with a channel of the system.
func at(t *testing.T, folder string, args ...string) *program {
	t.Helper()
	p := prepare(t, "", args...)
	p.cmd.Env = append(os.Environ(), msgmux.EnvRuntimeDir+"="+folder, "XDG_RUNTIME_DIR=/run/user/1000", "HOME=/srv/alice")
	return p
}

// TestSinksAddShowsItsPlan: the files for the default channel, for another one, and for a user's own.
func TestSinksAddShowsItsPlan(t *testing.T) {
	got := at(t, "/run/msgmux", "sinks", "add", "archive", "--service", "arch", "--patience", "forever", "--tap=false", "--credentials", "pass",
		"--dry-run").want(0).stdout.String()
	want := `# /etc/systemd/system/msgmux-sink@archive.socket
# Made by: msgmux sinks add archive --service arch.service --credentials pass --patience forever
[Unit]
Description=Sink archive of a message channel
Documentation=man:msgmux(7)
StartLimitIntervalSec=0

[Socket]
ListenDatagram=/run/msgmux/sinks/archive
SocketUser=msgmux
SocketMode=0600
RemoveOnStop=yes
TriggerLimitIntervalSec=0
Service=arch.service

[Install]
WantedBy=sockets.target

# /etc/systemd/system/arch.service.d/msgmux-sink@archive.conf
# Made by: msgmux sinks add archive --service arch.service --credentials pass --patience forever
# A service that systemd gives up takes its socket along, and what is queued in it is lost.
[Unit]
StartLimitIntervalSec=0

[Service]
Sockets=msgmux-sink@archive.socket
Restart=on-failure
RestartSec=500ms

# /etc/msgmux/sinks/archive.conf
# Made by: msgmux sinks add archive --service arch.service --credentials pass --patience forever
patience=forever
credentials=pass
`
	if got != want {
		t.Errorf("got\n%s", got)
	}
	_, lines, _ := strings.Cut(got, "/sinks/archive.conf\n")
	if o, err := wire.ParseOptionLines([]byte(lines)); err != nil || o.Patience != wire.Forever {
		t.Errorf("the broker reads %+v, %v", o, err)
	}
	for _, test := range []struct {
		folder string
		want   []string
	}{
		{"/run/msgmux.web", []string{"# /etc/systemd/system/msgmux.web-sink@archive.socket\n", "ListenDatagram=/run/msgmux.web/sinks/archive\n", "# /etc/msgmux.web/sinks/archive.conf\n", "\ntap=yes\n", "--service arch@x.service -c web --tap\n",
			"# /etc/systemd/system/arch@x.service.d/msgmux.web-sink@archive.conf\n", "\nSockets=msgmux.web-sink@archive.socket\n"}},
		{"/run/user/1000/msgmux", []string{"# /srv/alice/.config/systemd/user/msgmux-sink@archive.socket\n", "ListenDatagram=%t/msgmux/sinks/archive\n", "SocketMode=0600\n", "--service arch@x.service --user\n"}},
	} {
		args := []string{"sinks", "add", "archive", "--service", "arch@x.service", "--dry-run"}
		if strings.Contains(test.folder, "web") {
			args = append(args, "--tap")
		}
		got := at(t, test.folder, args...).want(0).stdout.String()
		for _, want := range test.want {
			if !strings.Contains(got, want) {
				t.Errorf("%s: no %q in\n%s", test.folder, want, got)
			}
		}
	}
}

// TestSinksServiceNameIsVerbatim: systemd takes no backslash of a Service= away, so an escaped name stands there as it is, and sinks remove
// finds the same service.
func TestSinksServiceNameIsVerbatim(t *testing.T) {
	const service = `my\x2dapp@a\x2fb.service`
	dir := folder(t)
	t.Setenv("XDG_RUNTIME_DIR", dir)
	t.Setenv("XDG_CONFIG_HOME", dir)
	channel := msgmux.Channel{RuntimeDir: dir + "/msgmux"}
	a, err := planSink(channel, "archive", &addOptions{service: service})
	if err != nil {
		t.Fatal(err)
	}
	if unit := string(a.files[0].text); !strings.Contains(unit, "\nService="+service+"\n") {
		t.Errorf("the socket is of another service than %s:\n%s", service, unit)
	}
	if _, err := writeFiles(a.files, false); err != nil {
		t.Fatal(err)
	}
	r, err := planRemoval(channel, "archive")
	if err != nil {
		t.Fatal(err)
	}
	if r.service != service || len(r.files) != 2 {
		t.Errorf("to be removed: %q of %s", r.files, r.service)
	}
}

// TestSinksAddOnlyLooksForAPlan: with --dry-run systemd is asked, and told nothing.
func TestSinksAddOnlyLooksForAPlan(t *testing.T) {
	systemd := startSystemd(t)
	systemd.unit = map[string]bus.Variant{"LoadState": bus.MakeVariant("loaded"), "ActiveState": bus.MakeVariant("inactive"),
		"Restart": bus.MakeVariant("always"), "NeedDaemonReload": bus.MakeVariant(true)}
	o := addOptions{service: "archive", dry: true}
	a, err := planSink(systemd.channel(), "archive", &o)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.carryOut(&o); err != nil {
		t.Fatal(err)
	}
	if told := systemd.heard(); told != "" {
		t.Errorf("systemd was told: %s", told)
	}
	if strings.Contains(string(a.files[1].text), restartLines) {
		t.Error("the service was not looked at")
	}
	if _, err := os.Stat(a.files[0].path); err == nil {
		t.Error("something was written")
	}
}

// TestSinksAddByForce: a sink that another service reads is left to it, and what was replaced is put back when systemd cannot do it.
func TestSinksAddByForce(t *testing.T) {
	const old = "old.service"
	for _, test := range []struct{ triggers, fails, want string }{
		{old, "", "systemctl --user stop " + old},
		{"new.service", "StartUnit", "cannot start"},
		{"new.service", "EnableUnitFiles", "cannot enable"},
	} {
		systemd := startSystemd(t)
		systemd.unit = map[string]bus.Variant{"LoadState": bus.MakeVariant("loaded"), "ActiveState": bus.MakeVariant("active"), "Triggers": bus.MakeVariant([]string{test.triggers})}
		systemd.fails = test.fails
		first, err := planSink(systemd.channel(), "archive", &addOptions{service: old})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := writeFiles(first.files, false); err != nil {
			t.Fatal(err)
		}
		o := addOptions{service: "new", force: true}
		a, err := planSink(systemd.channel(), "archive", &o)
		if err != nil {
			t.Fatal(err)
		}
		if err := a.carryOut(&o); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: it fails with %v", test, err)
		}
		for _, f := range first.files {
			if now, err := os.ReadFile(f.path); err != nil || !bytes.Equal(now, f.text) {
				t.Errorf("%+v: %s is now %q, %v", test, f.path, now, err)
			}
		}
		if _, err := os.Stat(a.files[1].path); err == nil {
			t.Errorf("%+v: the other service is still told", test)
		}
	}
}

// TestSinksAddRefuses what cannot be, before anything is written.
func TestSinksAddRefuses(t *testing.T) {
	for _, test := range []struct {
		folder string
		args   []string
		want   string
	}{
		{"/run/msgmux", []string{"a/b", "--service", "x"}, "the name"},
		{"/run/msgmux", []string{".a", "--service", "x"}, "the name"},
		{"/run/msgmux", []string{"a"}, "--service"},
		{"/run/msgmux", []string{"--service", "x"}, "NAME"},
		{"/run/msgmux", []string{"a", "--service", "x.timer"}, "not the name of a service"},
		{"/run/msgmux", []string{"a", "--service", "x\nExecStart=y"}, "not the name of a service"},
		{"/run/msgmux", []string{"a", "--service", "x", "--share", "not good"}, "share"},
		{"/run/msgmux", []string{"a", "--service", "x", "--start", "later"}, "start"},
		{"/run/msgmux", []string{"a", "--service", "x", "--credentials", "root"}, "credentials"},
		{"/run/msgmux", []string{"a", "--service", "x", "--credentials", "pass", "--frames"}, "credentials"},
		{"/run/user/1000/msgmux", []string{"a", "--service", "x", "--tap"}, "no files of options"},
		{"/run/msgmux", []string{"a", "--service", "x", "--share", "good\ntap=yes"}, "share"},
		{"/run/msgmux", []string{"a", "--service", "x", "--start", "now\npatience=forever"}, "start"},
		{"/run/msgmux", []string{"a", "--service", "x", "--share", "%H"}, "share"},
		{"/run/msgmux.a\nExecStartPre=touch evil\n#", []string{"a", "--service", "x"}, "no channel of systemd's"},
		{"/run/msgmux.%H", []string{"a", "--service", "x"}, "no channel of systemd's"},
		{"/run/msgmux.UPPER", []string{"a", "--service", "x"}, "no channel of systemd's"},
		{"/somewhere/else", []string{"a", "--service", "x"}, "no channel of systemd's"},
		{"/run/msgmux.my-chan", []string{"a", "--service", "x"}, "no channel of systemd's"},
		{"/run/msgmux.a\nb", []string{"a", "--service", "x"}, "no channel of systemd's"},
	} {
		p := at(t, test.folder, append([]string{"sinks", "add", "--dry-run"}, test.args...)...).want(exitUsage).says(test.want)
		if p.stdout.String() != "" {
			t.Errorf("%q prints %q", test.args, p.stdout.String())
		}
	}
}

// TestSinksRemoveRefuses what sinks add has not made, before anything is touched.
func TestSinksRemoveRefuses(t *testing.T) {
	for _, test := range []struct {
		folder, sink, want string
		status             int
	}{
		{"/run/msgmux", "a/b", "the name", exitUsage},
		{"/run/msgmux", "nobody", "there is no /etc/systemd/system/msgmux-sink@nobody.socket", exitFailure},
		{"/run/user/1000/msgmux", "nobody", "systemctl --user disable --now UNIT", exitFailure},
		{"/somewhere/else", "nobody", "remove the entry /somewhere/else/sinks/nobody", exitUsage},
	} {
		at(t, test.folder, "sinks", "remove", test.sink).want(test.status).says(test.want)
	}
}

// TestSinksAddNeedsSystemd and says so.
func TestSinksAddNeedsSystemd(t *testing.T) {
	if _, err := os.Stat("/run/systemd/system"); err == nil {
		t.Skip("this host has a systemd, which is not to get a sink")
	}
	p := at(t, "/run/msgmux", "sinks", "add", "archive", "--service", "archive").want(exitFailure).says("systemd does not run this host")
	if _, err := os.Stat("/etc/systemd/system/msgmux-sink@archive.socket"); err == nil || p.stdout.String() != "" {
		t.Error("something was written all the same")
	}
}
