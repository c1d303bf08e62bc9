// SPDX-License-Identifier: Apache-2.0

package packaging

// Upgrades while sources send as fast as they can: every sink gets everything once and in order, and nobody sees an error.

import (
	"encoding/binary"
	"encoding/json"
	"os"
	"regexp"
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
	tap     *rig.Process
	team    []*rig.Process // the members of a share; what each gets it writes into a file, see teamLog
	watcher *rig.Process   // the sink of the channel audit
}

// labels are the sinks of the default channel as the broker calls them, in the order of the alphabet.
var labels = []string{"archive", "framed", "left", "mq", "one", "right", "tap", "three", "two"}

// members are those of the share.
var members = []string{"left", "right"}

// teamLog is where a member of the share writes down what it gets.
func teamLog(member string) string { return "/run/" + member + ".log" }

// begin has sinks and sources of every kind join. All sinks but the tap are waited for: nothing may get lost.
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

	sink := func(folder, name string, more ...string) *rig.Process {
		return m.StartLoad(append([]string{"sink", "--bind", name, "--register", folder + "/register", "--settle", "500ms"}, more...)...)
	}
	x.sinks = []*rig.Process{
		m.StartLoad("queue", "--from", queueSink, "--settle", "500ms"),
		sink("/run/msgmux", "@one", "--option", patient), sink("/run/msgmux", "@two", "--option", patient),
		sink("/run/msgmux", "/tmp/three", "--option", patient),
		m.StartLoad("subscribe", "--from", "/run/msgmux/subscribe", "--option", patient, "--option", "label=framed", "--settle", "500ms"),
	}
	x.tap = sink("/run/msgmux", "@tap", "--option", "tap=yes")
	for _, member := range members {
		x.team = append(x.team, sink("/run/msgmux", "@"+member, "--option", patient, "--option", "share=team", "--log", teamLog(member)))
	}
	x.watcher = sink("/run/msgmux.audit", "@watcher", "--option", patient)
	x.untilAllAreThere(t)
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

// untilAllAreThere waits until the broker knows every sink, and each has somebody who reads.
func (x *traffic) untilAllAreThere(t *testing.T) {
	t.Helper()
	var found []string
	defer func() {
		if t.Failed() {
			t.Logf("%s: the sinks are %v", x.m.Suite(), found)
		}
	}()
	x.m.Until("all sinks are there", 20*time.Second, func() bool {
		found = nil
		for _, s := range list(t, x.m) {
			if s.State != "absent" {
				found = append(found, s.Label)
			}
		}
		slices.Sort(found)
		return slices.Equal(found, labels)
	})
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

// stopSources ends the sources and returns what they have sent to the default channel and to the channel audit. None of them
// may have seen an error.
func (x *traffic) stopSources(t *testing.T) (sent, audited []tally.Sender) {
	t.Helper()
	all := append(slices.Clone(x.sources), x.audit)
	for _, p := range all {
		p.Signal(syscall.SIGTERM)
	}
	for _, p := range all {
		s := p.Sender()
		if s.Sent == 0 || s.Blocked || len(s.Errors) > 0 {
			t.Errorf("%s: a source saw something: %+v", x.m.Suite(), s)
		}
		sent = append(sent, s)
	}
	return sent[:len(x.sources)], sent[len(x.sources):]
}

// untilAllHaveEverything waits until nothing is in the ring that some sink has not had, and returns the sinks.
func (x *traffic) untilAllHaveEverything(t *testing.T) (sinks []sinkState) {
	t.Helper()
	x.m.Until("every sink has everything", 30*time.Second, func() bool {
		sinks = list(t, x.m)
		return !slices.ContainsFunc(sinks, func(s sinkState) bool { return s.Waiting > 0 })
	})
	return sinks
}

// reports are what the sinks have got, once they are stopped.
type reports struct {
	each    []tally.Sink // those that get everything, the first of them the message queue
	tap     tally.Sink
	team    []tally.Sink
	watcher tally.Sink
}

// stopSinks ends all sinks, which take what is in their sockets first.
func (x *traffic) stopSinks(t *testing.T) (r reports) {
	t.Helper()
	for _, p := range slices.Concat(x.sinks, x.team, []*rig.Process{x.tap, x.watcher}) {
		p.Signal(syscall.SIGTERM)
	}
	for _, p := range x.sinks {
		r.each = append(r.each, p.Sinks()...)
	}
	for _, p := range x.team {
		r.team = append(r.team, p.Sinks()...)
	}
	r.tap, r.watcher = x.tap.Sinks()[0], x.watcher.Sinks()[0]
	x.m.MustRun("systemctl", "stop", "msgmux-sink@archive.socket", "archive.service")
	var archive []tally.Sink
	if err := json.Unmarshal([]byte(x.m.ReadFile("/run/archive.json")), &archive); err != nil {
		t.Fatalf("cannot read the report of the static sink: %v", err)
	}
	r.each = append(r.each, archive...)
	if len(r.each) != 6 || len(r.team) != len(members) {
		t.Fatalf("%d sinks and %d members of the share have reported", len(r.each), len(r.team))
	}
	return r
}

// checkTeam wants the members of the share to have got, together, every message of the senders once, each in order.
func (x *traffic) checkTeam(t *testing.T, r reports, senders ...tally.Sender) {
	t.Helper()
	type message struct {
		source uint32
		number uint64
	}
	got := map[message]int{}
	for i, member := range members {
		if s := r.team[i]; s.Received == 0 || s.Corrupt+s.Duplicates+s.Reordered > 0 {
			t.Errorf("%s: the member %s of the share got %d, %d not whole, %d twice, %d too late",
				x.m.Suite(), member, s.Received, s.Corrupt, s.Duplicates, s.Reordered)
		}
		// As load writes it: source and number, little-endian.
		for log := []byte(x.m.ReadFile(teamLog(member))); len(log) >= 12; log = log[12:] {
			got[message{binary.LittleEndian.Uint32(log), binary.LittleEndian.Uint64(log[4:])}]++
		}
	}
	for _, s := range senders {
		var never, again int
		for number := uint64(1); number <= s.Sent; number++ {
			switch n := got[message{s.Source, number}]; {
			case n == 0:
				never++
			case n > 1:
				again++
			}
		}
		if never+again > 0 {
			t.Errorf("%s: the share got %d of %d messages of source %d never, %d more than once", x.m.Suite(), never, s.Sent, s.Source, again)
		}
	}
}

// end stops the sources, waits until every sink has everything, stops the sinks, and compares what they got with what was
// sent. It returns the longest that a source waited.
func (x *traffic) end(t *testing.T) (longest time.Duration) {
	t.Helper()
	sent, audited := x.stopSources(t)
	var total uint64
	for _, s := range sent {
		total += s.Sent
		longest = max(longest, time.Duration(s.LongestWait*float64(time.Second)))
	}
	var tap sinkState
	for _, s := range x.untilAllHaveEverything(t) {
		if s.Label == "tap" {
			tap = s
		} else if s.Lost > 0 {
			t.Errorf("%s: the broker counts %d lost at %s", x.m.Suite(), s.Lost, s.Label)
		}
	}
	r := x.stopSinks(t)
	order := r.each[1].Order
	for i, s := range r.each {
		for _, problem := range s.Problems(sent...) {
			t.Errorf("%s: %s", x.m.Suite(), problem)
		}
		if s.Order != order || s.Told > 0 {
			t.Errorf("%s: sink %d, %s, got another order than others, or was told of loss: %d", x.m.Suite(), i, s.Name, s.Told)
		}
	}
	// Nobody waits for a tap: it may have lost some, and every one of them is counted.
	if s := r.tap; s.Corrupt+s.Duplicates+s.Reordered > 0 || s.Received != tap.Accepted || s.Received+tap.Lost != total {
		t.Errorf("%s: of %d messages the tap got %d, %d not whole, %d twice, %d too late; the broker counts %d accepted, %d lost",
			x.m.Suite(), total, s.Received, s.Corrupt, s.Duplicates, s.Reordered, tap.Accepted, tap.Lost)
	}
	x.checkTeam(t, r, sent...)
	for _, problem := range r.watcher.Problems(audited...) {
		t.Errorf("%s: audit: %s", x.m.Suite(), problem)
	}
	t.Logf("%s: %d messages to each of %d sinks, and %d on the other channel; the tap lost %d; the longest that a source waited: %v",
		x.m.Suite(), total, len(labels), audited[0].Sent, tap.Lost, longest.Round(time.Millisecond))
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

// TestUpgradeUnderLoad goes up from a version with the layout of the ring before this one, up and down between two versions, and
// installs one again.
func TestUpgradeUnderLoad(t *testing.T) {
	onEach(t, func(t *testing.T, m *rig.Machine, by tool) {
		m.Install(rig.Build(t, "./units/rig/load"), "/usr/bin/load", 0o755)
		for _, version := range []string{earlier, first, second} {
			packageFile(t, version, by.name) // built before there is load
		}
		install(t, m, by, earlier)
		x := begin(t, m)
		was, _ := starts(t, m, "audit")
		steps := append([]string{first}, slices.Repeat([]string{second, first}, upgrades(t)/2+1)[:upgrades(t)]...)
		steps = append(steps, steps[len(steps)-1])
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

// givenUp is what the journal says of a ring that was set aside: messages that no sink has, and those that wait for each.
var givenUp = regexp.MustCompile(`its sinks are kept, the messages in it are given up \(.*messages=\d+, waiting=(\d+)`)

// checkMissing wants what the journal says was waiting for all sinks together, taps left out, to be what they have not got.
func (x *traffic) checkMissing(t *testing.T, waiting string, r reports, sent []tally.Sender) {
	t.Helper()
	said, err := strconv.Atoi(waiting)
	if err != nil {
		t.Fatal(err)
	}
	total, missing := 0, 0
	for _, s := range sent {
		total += int(s.Sent)
	}
	for _, s := range r.each {
		missing += total - int(s.Received)
		if s.Name == "/run/msgmux/subscribe" {
			missing += int(s.Corrupt) // the numbers that begin anew, which it takes for a message that is not whole
		}
	}
	missing += total
	for _, s := range r.team {
		missing -= int(s.Received)
	}
	t.Logf("%s: of %d messages, %d were given up, counted for each sink; the journal says %d", x.m.Suite(), total, missing, said)
	// A packet of many messages that has not entered the ring counts as one.
	if inPacket := 20 * (len(r.each) + 1); missing < said || missing > said+inPacket {
		t.Errorf("%s: the sinks miss %d messages, and the journal says %d", x.m.Suite(), missing, said)
	}
}

// TestDowngradeAcrossLayouts goes to a version that cannot read the ring, under load. It keeps the sinks, and says in the
// journal how much of what was pending is given up. No client sees an error, nothing comes twice, and from then on all is as
// it was.
func TestDowngradeAcrossLayouts(t *testing.T) {
	onEach(t, func(t *testing.T, m *rig.Machine, by tool) {
		m.Install(rig.Build(t, "./units/rig/load"), "/usr/bin/load", 0o755)
		packageFile(t, first, by.name) // built before there is load
		install(t, m, by, third)
		x := begin(t, m)
		time.Sleep(500 * time.Millisecond)
		install(t, m, by, first)
		x.untilAllAreThere(t)
		time.Sleep(500 * time.Millisecond)
		sent, _ := x.stopSources(t)
		x.untilAllHaveEverything(t)
		after := m.StartLoad("send", "--source=9", "--to=/run/msgmux/source", "--count=1000").Sender()
		if len(after.Errors) > 0 {
			t.Errorf("%s: a source sees an error after the downgrade: %+v", m.Suite(), after)
		}
		x.untilAllHaveEverything(t)
		r := x.stopSinks(t)
		for _, s := range append(r.each, r.tap, r.watcher) {
			if s.Name == "/run/msgmux/subscribe" && s.Corrupt == 1 {
				s.Corrupt = 0 // in a new ring the numbers begin anew, which is what is counted here
			}
			if s.Corrupt+s.Duplicates+s.Reordered > 0 {
				t.Errorf("%s: %s got %d messages that are not whole, %d twice, %d too late", m.Suite(), s.Name, s.Corrupt, s.Duplicates, s.Reordered)
			}
			if s.Name != r.watcher.Name && s.Sources[after.Source].Count != after.Sent {
				t.Errorf("%s: of %d messages after the downgrade %s got %d", m.Suite(), after.Sent, s.Name, s.Sources[after.Source].Count)
			}
		}
		x.checkTeam(t, r, after)
		for _, unit := range []string{"msgmux.service", "msgmux@audit.service"} {
			log := m.Journal("--unit=" + unit)
			said := givenUp.FindAllStringSubmatch(log, -1)
			if len(said) != 1 {
				t.Errorf("%s: the journal of %s does not say, once, what was given up:\n%s", m.Suite(), unit, log)
			} else if unit == "msgmux.service" {
				x.checkMissing(t, said[0][1], r, append(sent, after))
			}
		}
	})
}
