// SPDX-License-Identifier: Apache-2.0

package units

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/units/rig/load/tally"
)

// holder is a service that registers a socket which root has made.
type holder struct {
	name, label string
	lines       string // of its unit
	socket      bool   // systemd makes it; otherwise the program itself does, before it drops its privileges
}

// begin writes its units and starts it.
func (h holder) begin(b *bed, command string) {
	b.t.Helper()
	if h.socket {
		b.WriteFile("/etc/systemd/system/"+h.name+".socket", fmt.Appendf(nil,
			"[Socket]\nListenDatagram=/run/%s/in\nSocketUser=msgmux\nSocketMode=0600\n", h.name), 0o644)
	}
	b.WriteFile("/etc/systemd/system/"+h.name+".service", fmt.Appendf(nil,
		"[Unit]\nStartLimitIntervalSec=0\n[Service]\nSupplementaryGroups=msgmux\n%sExecStart=/usr/bin/load sink --settle 1s "+
			"--register /run/msgmux/register --option label=%s %s\n", h.lines, h.label, command), 0o644)
	b.MustRun("systemctl", "daemon-reload")
	if h.socket {
		b.MustRun("systemctl", "start", h.name+".socket")
	}
	b.MustRun("systemctl", "start", h.name+".service")
}

// TestHeldSockets: services that run as ordinary users register sockets which root has made: systemd, or they themselves before they
// dropped their privileges. They get everything, over kills of theirs and of the broker; whoever only knows the address does not; and
// one that does not ask to prove anything is told why it is refused, and what to do.
func TestHeldSockets(t *testing.T) {
	onEachBed(t, func(t *testing.T, b *bed) {
		p := b.channel("")
		for _, user := range []string{"db", "mallory"} {
			b.MustRun("useradd", "--groups=msgmux,msgmux-send", user)
		}
		uid := strings.TrimSpace(b.MustRun("id", "-u", "db"))
		p.systemctl("start", "msgmux.target", p.service)
		broker := func(text string) {
			t.Helper()
			b.Until("the broker's journal says "+text, 20*time.Second, func() bool {
				return strings.Contains(b.Journal("--unit="+p.service), text)
			})
		}
		refused := func() (n uint64) {
			t.Helper()
			var status struct {
				Status struct{ Registrations map[string]uint64 }
			}
			if err := json.Unmarshal([]byte(b.MustRun("msgmux", "status", "--json")), &status); err != nil {
				t.Fatal(err)
			}
			return status.Status.Registrations["not-owner"]
		}

		// Without the option: no sink, and the service's own journal says why and what to do. One that asks for no answer finds the
		// same in the broker's, under its user and process.
		plain := holder{name: "plain", label: "plain", lines: "User=db\nSockets=plain.socket\n", socket: true}
		plain.begin(b, "--inherit")
		b.Until("the service has failed", 20*time.Second, func() bool { return active(t, b.Machine, "plain.service") == "failed" })
		for _, says := range []string{"not-owner", "/run/plain/in", "belongs to uid 0 and not to uid " + uid, "who holds it proves that (prove=yes)"} {
			if journal := b.Journal("--unit=plain.service"); !strings.Contains(journal, says) {
				t.Errorf("its journal does not say %q:\n%s", says, journal)
			}
		}
		if n := refused(); n != 1 {
			t.Errorf("%d registrations are counted as refused", n)
		}
		b.MustRun(b.As("db", "sh", "-c", "echo /run/plain/in | socat -u STDIN UNIX-SENDTO:/run/msgmux/register")...)
		b.Until("that is counted", 20*time.Second, func() bool { return refused() == 2 })
		broker("uid=" + uid)
		broker("or who holds it proves that (prove=yes)")

		// With it.
		holders := []holder{
			{name: "user", label: "user", lines: "User=db\nStateDirectory=user\nSockets=user.socket\nRestart=always\nRestartSec=50ms\n", socket: true},
			{name: "dynamic", label: "dynamic", socket: true,
				lines: "DynamicUser=yes\nStateDirectory=dynamic\nPrivateUsers=yes\nPrivateTmp=yes\nProtectHome=yes\nNoNewPrivileges=yes\nSockets=dynamic.socket\nRestart=always\nRestartSec=50ms\n"},
			{name: "dropped", label: "dropped", lines: "RuntimeDirectory=dropped\n"},
		}
		log := func(h holder) string { return "/var/lib/" + h.name + "/log" }
		holders[0].begin(b, "--inherit --prove --log "+log(holders[0]))
		holders[1].begin(b, "--inherit --prove --log "+log(holders[1]))
		b.MustRun("install", "-d", "-o", "db", "/var/lib/dropped")
		holders[2].begin(b, "--bind /run/dropped/in --user db --prove --log "+log(holders[2]))
		first := map[string]accountSink{}
		for _, h := range holders {
			b.Until(h.label+" is a sink", 20*time.Second, func() bool { return p.account().state(h.label) == "ready" })
			s := p.account().sink(h.label)
			first[h.label] = s
			if s.Kind != "dynamic" || s.UID == 0 || h.name != "dynamic" && fmt.Sprint(s.UID) != uid {
				t.Errorf("%s: %+v, its user is %s", h.label, s, uid)
			}
			owner := "root\n"
			if h.socket { // which systemd has made as root, and given to who may write to it
				owner = "msgmux\n"
			}
			if got := b.MustRun("stat", "-c", "%U", "/run/"+h.name+"/in"); got != owner {
				t.Errorf("%s: the socket is %s's", h.label, got)
			}
		}

		// Who holds none of them gets his number, and nothing by that, also when he sets a socket of his own to it.
		mallory := b.As("mallory")
		claim := func(own string) string {
			t.Helper()
			out, exit := b.Run(t.Context(), append(mallory, "sh", "-c",
				`umask 0; rm -f /tmp/mallory; printf '%s\nlabel=mallory\nprove=yes\nreply=yes\n' "$1" | timeout 10 socat -t 2 - UNIX-SENDTO:/run/msgmux/register,bind=/tmp/mallory"$2"`,
				"sh", "/run/user/in", own)...)
			if exit != 0 {
				t.Fatalf("exit status %d: %q", exit, out)
			}
			return out
		}
		answer := claim("")
		number, ok := strings.CutPrefix(answer, "error prove ")
		if number, _, _ = strings.Cut(number, ":"); !ok || number == "" {
			t.Fatalf("who does not hold it is told %q", answer)
		}
		if again := claim(",rcvbuf=" + number); !strings.HasPrefix(again, "error prove "+number+":") {
			t.Errorf("with a socket of his own set to the number he is told %q", again)
		}
		if a := p.account(); a.sink("mallory") != (accountSink{}) || a.Status.Sinks.Total != len(holders) || a.sink("user").ID != first["user"].ID {
			t.Errorf("%+v", a)
		}

		// Everything, whoever is killed. The sockets are systemd's, and so their sinks stay the same.
		source := b.StartLoad("send", "--to", "/run/msgmux/source", "--rate=500")
		for i := range 9 {
			time.Sleep(200 * time.Millisecond)
			if unit := []string{"user.service", "dynamic.service", p.service}[i%3]; unit == p.service {
				p.killAndWait("KILL")
			} else {
				b.MustRun("systemctl", "kill", "--signal=KILL", unit)
				b.Until(unit+" is back", 20*time.Second, func() bool { return active(t, b.Machine, unit) == "active" })
			}
		}
		source.Signal(unix.SIGTERM)
		sent := source.Sender()
		b.Until("the broker has received everything", 20*time.Second, func() bool { return p.account().Status.Received == sent.Sent })
		p.untilDelivered()
		for _, h := range holders {
			var got []tally.Sink
			b.Until(h.label+" has the last message", 20*time.Second, func() bool {
				got = nil
				if err := json.Unmarshal([]byte(b.MustRun("load", "replay", "--log", log(h))), &got); err != nil {
					t.Fatal(err)
				}
				return got[0].Sources[1].Last == sent.Sent
			})
			for _, problem := range got[0].Problems(sent) {
				t.Errorf("%s: %s", h.label, problem)
			}
			if s := p.account().sink(h.label); s.ID != first[h.label].ID || s.Lost != 0 {
				t.Errorf("%s was %+v and is %+v", h.label, first[h.label], s)
			}
		}

		if journal := b.Journal("--unit=" + p.service); strings.Contains(journal, "code=prove") {
			t.Errorf("the broker's journal takes those that prove what they hold for refused:\n%s", journal)
		}

		// One that systemd would give up, with what is queued for it.
		careless := holder{name: "careless", label: "careless", lines: "User=db\nSockets=careless.socket\n", socket: true}
		careless.begin(b, "--inherit --prove")
		b.Until("careless is a sink", 20*time.Second, func() bool { return p.account().state("careless") == "ready" })
		b.dropIn("careless.service", "limit", "[Unit]\nStartLimitIntervalSec=10s\n")
		out, _ := b.Run(t.Context(), "msgmux", "doctor")
		if !strings.Contains(out, "sink careless") || !strings.Contains(out, "systemd gives careless.service up after") || strings.Contains(out, "user.service up after") {
			t.Errorf("the doctor says\n%s", out)
		}

		// With its socket the sink goes.
		b.MustRun("systemctl", "stop", "user.socket", "user.service")
		b.Until("the sink is gone", 20*time.Second, func() bool { return p.account().sink("user") == accountSink{} })
	})
}
