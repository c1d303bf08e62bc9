// SPDX-License-Identifier: Apache-2.0

package packaging

// Upgrades while sources send as fast as they can: every sink gets everything once and in order, and nobody sees an error.

import (
	"encoding/json"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/msgmux/msgmux/units/rig"
	"github.com/msgmux/msgmux/units/rig/load/tally"
)

// queueSink is the message queue that is a sink.
const queueSink = "/dev/mqueue/mq"

// traffic is running load on the default channel and on the channel audit.
type traffic struct {
	m       *rig.Machine
	sources []*rig.Process
	audit   *rig.Process // the source of the channel audit
	sinks   []*rig.Process
	watcher *rig.Process // the sink of the channel audit
}

// begin has sinks and sources of every kind join. All sinks are waited for: nothing may get lost.
func begin(t *testing.T, m *rig.Machine) *traffic {
	t.Helper()
	x := &traffic{m: m}
	patient := "patience=forever"
	for _, name := range []string{"archive", "mq"} {
		m.WriteFile("/etc/msgmux/sinks/"+name+".conf", []byte(patient+"\n"), 0o644)
	}
	m.WriteFile("/etc/systemd/system/archive.service", []byte("[Service]\nExecStart=/usr/bin/load sink --inherit --settle 500ms\n"+
		"Sockets=msgmux-sink@archive.socket\nStandardOutput=truncate:/run/archive.json\nStandardError=journal\n"), 0o644)
	m.MustRun("systemctl", "daemon-reload")
	m.MustRun("systemctl", "enable", "msgmux-mq.socket")
	m.MustRun("systemctl", "start", "msgmux.target")
	m.MustRun("systemctl", "restart", "msgmux.service") // with the queue now
	m.MustRun("systemctl", "start", "msgmux@audit.target", "msgmux@audit.service", "msgmux-sink@archive.socket")
	m.MustRun("sh", "-c", `touch "$1" && chgrp msgmux "$1" && chmod 660 "$1" && ln -s "$1" /run/msgmux/sinks/mq`, "sh", queueSink)

	sink := func(folder, name string) *rig.Process {
		return m.StartLoad("sink", "--bind", name, "--register", folder+"/register", "--option", patient, "--settle", "500ms")
	}
	x.sinks = []*rig.Process{
		m.StartLoad("queue", "--from", queueSink, "--settle", "500ms"),
		sink("/run/msgmux", "@one"), sink("/run/msgmux", "@two"), sink("/run/msgmux", "/tmp/three"),
		m.StartLoad("subscribe", "--from", "/run/msgmux/subscribe", "--option", patient, "--settle", "500ms"),
	}
	x.watcher = sink("/run/msgmux.audit", "@watcher")
	m.Until("all sinks are there", 20*time.Second, func() bool {
		sinks := list(t, m)
		return len(sinks) == 6 && !slices.ContainsFunc(sinks, func(s sinkState) bool { return s.State == "absent" })
	})
	for _, flags := range [][]string{
		{"--source=1", "--to=/run/msgmux/source", "--spread=400"},
		{"--source=2", "--to=/run/msgmux/source", "--nonblocking", "--spread=2000"},
		{"--source=3", "--to=/run/msgmux/source", "--unconnected"},
		{"--source=4", "--to=/run/msgmux/publish", "--records=20", "--spread=200"},
		{"--source=5", "--to=/dev/mqueue/msgmux"},
	} {
		x.sources = append(x.sources, m.StartLoad(append([]string{"send"}, flags...)...))
	}
	x.audit = m.StartLoad("send", "--source=6", "--to=/run/msgmux.audit/source")
	return x
}

// sinkState is a sink as `msgmux sinks list --json` shows it.
type sinkState struct {
	Label, State            string
	Accepted, Lost, Waiting uint64
}

// list lists the sinks of the default channel.
func list(t *testing.T, m *rig.Machine) (sinks []sinkState) {
	t.Helper()
	out := m.MustRun("msgmux", "sinks", "list", "--json")
	if err := json.Unmarshal([]byte(out), &sinks); err != nil {
		t.Fatalf("cannot read the list of sinks: %v\n%s", err, out)
	}
	return sinks
}

// end stops the sources, waits until every sink has everything, stops the sinks, and compares what they got with what was
// sent. It returns the longest that a source waited.
func (x *traffic) end(t *testing.T) (longest time.Duration) {
	t.Helper()
	senders := func(processes ...*rig.Process) (reports []tally.Sender) {
		for _, p := range processes {
			p.Signal(syscall.SIGTERM)
		}
		for _, p := range processes {
			s := p.Sender()
			reports = append(reports, s)
			longest = max(longest, time.Duration(s.LongestWait*float64(time.Second)))
			if s.Sent == 0 || s.Blocked || len(s.Errors) > 0 {
				t.Errorf("%s: a source saw something: %+v", x.m.Suite(), s)
			}
		}
		return reports
	}
	sent, audited := senders(x.sources...), senders(x.audit)
	x.m.Until("every sink has everything", 30*time.Second, func() bool {
		return !slices.ContainsFunc(list(t, x.m), func(s sinkState) bool { return s.Waiting > 0 })
	})
	for _, s := range list(t, x.m) {
		if s.Lost > 0 {
			t.Errorf("%s: the broker counts %d lost at %s", x.m.Suite(), s.Lost, s.Label)
		}
	}
	var received, seen []tally.Sink
	for _, p := range append(slices.Clone(x.sinks), x.watcher) {
		p.Signal(syscall.SIGTERM)
	}
	for _, p := range x.sinks {
		received = append(received, p.Sinks()...)
	}
	seen = x.watcher.Sinks()
	x.m.MustRun("systemctl", "stop", "msgmux-sink@archive.socket", "archive.service")
	var archive []tally.Sink
	if err := json.Unmarshal([]byte(x.m.ReadFile("/run/archive.json")), &archive); err != nil {
		t.Fatalf("cannot read the report of the static sink: %v", err)
	}
	received = append(received, archive...)
	if len(received) != 6 || len(seen) != 1 {
		t.Fatalf("%d and %d sinks have reported", len(received), len(seen))
	}
	order := received[1].Order
	for i, s := range received {
		for _, problem := range s.Problems(sent...) {
			t.Errorf("%s: %s", x.m.Suite(), problem)
		}
		if s.Order != order || s.Told > 0 {
			t.Errorf("%s: sink %d, %s, got another order than others, or was told of loss: %d", x.m.Suite(), i, s.Name, s.Told)
		}
	}
	for _, problem := range seen[0].Problems(audited...) {
		t.Errorf("%s: audit: %s", x.m.Suite(), problem)
	}
	var total uint64
	for _, s := range sent {
		total += s.Sent
	}
	t.Logf("%s: %d messages to 6 sinks, and %d on the other channel; the longest that a source waited: %v",
		x.m.Suite(), total, audited[0].Sent, longest.Round(time.Millisecond))
	return longest
}

// upgrades is how many upgrades are made under load: 2, or what a soak says.
func upgrades(t *testing.T) int {
	t.Helper()
	text := os.Getenv("MSGMUX_SOAK_UPGRADES")
	if text == "" {
		return 2
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("MSGMUX_SOAK_UPGRADES=%q is no number of times", text)
	}
	return n
}

// starts asks the broker how many brokers its ring has seen, and which ring it is.
func starts(t *testing.T, m *rig.Machine, channel string) (brokers, generation uint64) {
	t.Helper()
	var answer struct {
		Status struct{ Starts, Generation uint64 }
	}
	out := m.MustRun("msgmux", "--channel="+channel, "status", "--json")
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		t.Fatalf("cannot read the status: %v\n%s", err, out)
	}
	return answer.Status.Starts, answer.Status.Generation
}

// TestUpgradeUnderLoad goes up and down between two versions, installs one again, and at last goes up to one with another
// layout of the ring.
func TestUpgradeUnderLoad(t *testing.T) {
	onEach(t, func(t *testing.T, m *rig.Machine, by tool) {
		m.Install(rig.Build(t, "./units/rig/load"), "/usr/bin/load", 0o755)
		install(t, m, by, first)
		x := begin(t, m)
		was, _ := starts(t, m, "audit")
		steps := slices.Repeat([]string{second, first}, upgrades(t)/2+1)[:upgrades(t)]
		steps = append(steps, steps[len(steps)-1], third)
		for _, version := range steps {
			time.Sleep(500 * time.Millisecond)
			install(t, m, by, version)
			for _, channel := range []string{"", "audit"} {
				m.Until("the new broker runs", 10*time.Second, func() bool {
					out := m.MustRun("msgmux", "--channel="+channel, "status", "--json")
					return strings.Contains(out, `"version":`) && strings.Contains(out, version)
				})
			}
		}
		time.Sleep(500 * time.Millisecond)
		if now, _ := starts(t, m, "audit"); now < was+uint64(len(steps)) {
			t.Errorf("%s: after %d upgrades the ring has seen %d brokers, %d before", m.Suite(), len(steps), now, was)
		}
		x.end(t)
		// A ring that is full cannot be copied into another shape: then that is done at the next start.
		m.MustRun("systemctl", "restart", "msgmux.service", "msgmux@audit.service")
		for _, channel := range []string{"", "audit"} {
			if _, generation := starts(t, m, channel); generation < 2 {
				t.Errorf("%s: the ring of channel %q has its old layout", m.Suite(), channel)
			}
		}
		for _, unit := range []string{"msgmux.service", "msgmux@audit.service"} {
			checkJournal(t, m, unit)
		}
	})
}

// TestDowngradeAcrossLayouts keeps the sinks, and says in the journal that it gave up what was pending.
func TestDowngradeAcrossLayouts(t *testing.T) {
	onEach(t, func(t *testing.T, m *rig.Machine, by tool) {
		m.Install(rig.Build(t, "./units/rig/load"), "/usr/bin/load", 0o755)
		install(t, m, by, third)
		m.MustRun("systemctl", "start", "msgmux.target", "msgmux.service")
		sinks := []*rig.Process{
			m.StartLoad("sink", "--bind=@one", "--register=/run/msgmux/register"),
			m.StartLoad("subscribe", "--from=/run/msgmux/subscribe"),
		}
		before := m.StartLoad("send", "--source=1", "--to=/run/msgmux/source", "--count=100").Sender()
		m.Until("the sinks have it", 10*time.Second, func() bool {
			return !slices.ContainsFunc(list(t, m), func(s sinkState) bool { return s.Accepted != 100 })
		})
		install(t, m, by, first)
		m.Until("the sinks are there again", 10*time.Second, func() bool { return len(list(t, m)) == len(sinks) })
		after := m.StartLoad("send", "--source=2", "--to=/run/msgmux/source", "--count=100").Sender()
		for _, p := range sinks {
			p.Signal(syscall.SIGTERM)
			report := p.Sinks()[0]
			if report.Name == "/run/msgmux/subscribe" && report.Corrupt == 1 {
				report.Corrupt = 0 // in a new ring the numbers begin anew, which is what is counted here
			}
			for _, problem := range report.Problems(before, after) {
				t.Errorf("%s: %s", m.Suite(), problem)
			}
		}
		if log := m.Journal("--unit=msgmux.service"); !strings.Contains(log, "given up") {
			t.Errorf("%s: the journal does not say what was given up:\n%s", m.Suite(), log)
		}
	})
}
