// SPDX-License-Identifier: Apache-2.0

package units

// What the tests of a running channel ask of it, and how.

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// place is where a channel is: its folder, its service, and whose systemd it belongs to.
type place struct {
	b       *bed
	folder  string
	service string
	as      []string // a command's beginning, for the channel of a user; nil for root
	user    bool
}

// channel is the place of a channel of the system, "" for the default one.
func (b *bed) channel(name string) *place {
	if name == "" {
		return &place{b: b, folder: "/run/msgmux", service: "msgmux.service"}
	}
	return &place{b: b, folder: "/run/msgmux." + name, service: "msgmux@" + name + ".service"}
}

// command is a command line that runs as the one whose channel it is.
func (p *place) command(arguments ...string) []string {
	return append(append([]string{}, p.as...), arguments...)
}

// systemctl runs systemctl for this channel's service manager, which must succeed.
func (p *place) systemctl(arguments ...string) string {
	p.b.t.Helper()
	return p.b.MustRun(p.ctl(arguments...)...)
}

// ctl is the command line of systemctl.
func (p *place) ctl(arguments ...string) []string {
	command := []string{"systemctl"}
	if p.user {
		command = append(command, "--user")
	}
	return p.command(append(command, arguments...)...)
}

// show asks for properties of the service.
func (p *place) show(properties ...string) map[string]string {
	p.b.t.Helper()
	return p.showUnit(p.service, properties...)
}

// showUnit asks for properties of any unit.
func (p *place) showUnit(unit string, properties ...string) map[string]string {
	p.b.t.Helper()
	out := p.systemctl("show", "--property="+strings.Join(properties, ","), unit)
	got := map[string]string{}
	for line := range strings.Lines(out) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		got[name] = value
	}
	return got
}

// kill sends the broker a signal; false if there is none at this moment.
func (p *place) kill(signal string) bool {
	p.b.t.Helper()
	quiet := []string{"sh", "-c", `exec "$@" 2>/dev/null`, "sh"}
	_, exit := p.b.Run(p.b.t.Context(), append(quiet, p.ctl("kill", "--signal="+signal, p.service)...)...)
	return exit == 0
}

// account is what the control socket tells of a channel, as far as tests look at it.
type account struct {
	Status struct {
		Starts, Received, Delivered, Accepted, Lost, Abandoned, Uncertain uint64
		AsOwn                                                             uint64 `json:"as_own"`
		Sinks                                                             struct{ Total, Static, Dynamic, Lagging, Absent int }
	}
	Sinks []accountSink
}

type accountSink struct {
	ID                             uint64
	UID                            uint32
	Label, Kind, State, Patience   string
	Start, Accepted, Lost, Waiting uint64
}

// account asks the broker for its counts.
func (p *place) account() (a account) {
	p.b.t.Helper()
	out := p.b.MustRun(p.command("msgmux", "--runtime-dir", p.folder, "status", "--json")...)
	if err := json.Unmarshal([]byte(out), &a); err != nil {
		p.b.t.Fatalf("cannot read the account of %s: %v\n%s", p.folder, err, out)
	}
	return a
}

// sink is what the account says of the sink with a label; all zero if there is none.
func (a account) sink(label string) accountSink {
	for _, s := range a.Sinks {
		if s.Label == label {
			return s
		}
	}
	return accountSink{}
}

// state is what a sink is doing, "" if there is none of that label.
func (a account) state(label string) string { return a.sink(label).State }

// untilDelivered waits until no sink has anything to come any more.
func (p *place) untilDelivered() {
	p.b.t.Helper()
	var a account
	defer func() {
		if p.b.t.Failed() {
			p.b.t.Logf("the sinks of %s: %+v", p.folder, a.Sinks)
		}
	}()
	p.b.Until("every sink has everything", 60*time.Second, func() bool {
		a = p.account()
		return !slices.ContainsFunc(a.Sinks, func(s accountSink) bool { return s.Waiting > 0 })
	})
}

// statusLine is what systemctl status shows, taken apart.
type statusLine struct {
	text                              string
	sinks, static, dynamic            int
	lagging, absent                   int
	received, accepted, lost, blocked uint64
}

var (
	statusPattern = regexp.MustCompile(`^([\d,]+) sinks? \((\d+) static, (\d+) dynamic(?:; (?:(\d+) lagging)?(?:, )?(?:(\d+) absent)?)?\), ` +
		`([\d,]+) in, ([\d,]+) out, ([\d,]+) lost(?:; sources blocked (\d+) s: .+)?$`)
	digits = strings.NewReplacer(",", "")
)

// status reads the status line of the service.
func (p *place) status() (s statusLine) {
	p.b.t.Helper()
	s.text = p.show("StatusText")["StatusText"]
	found := statusPattern.FindStringSubmatch(s.text)
	if found == nil {
		return s
	}
	number := func(i int) uint64 {
		n, _ := strconv.ParseUint(digits.Replace(found[i]), 10, 64)
		return n
	}
	s.sinks, s.static, s.dynamic, s.lagging, s.absent = int(number(1)), int(number(2)), int(number(3)), int(number(4)), int(number(5))
	s.received, s.accepted, s.lost, s.blocked = number(6), number(7), number(8), number(9)
	return s
}

// untilStatus waits until the status line says what done wants.
func (p *place) untilStatus(what string, done func(statusLine) bool) {
	p.b.t.Helper()
	var last statusLine
	defer func() {
		if p.b.t.Failed() {
			p.b.t.Logf("the status of %s is %q", p.service, last.text)
		}
	}()
	p.b.Until("the status says "+what, 20*time.Second, func() bool {
		last = p.status()
		return done(last)
	})
}

// dropIn adds lines to a unit of the system.
func (b *bed) dropIn(unit, name, lines string) {
	b.t.Helper()
	b.WriteFile(fmt.Sprintf("/etc/systemd/system/%s.d/%s.conf", unit, name), []byte(lines), 0o644)
	b.MustRun("systemctl", "daemon-reload")
}

// countLines counts the lines with a text in them.
func countLines(journal, text string) (n int) {
	for line := range strings.Lines(journal) {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

// same tells whether two answers of systemctl show are alike.
func same(a, b map[string]string) bool {
	for name, value := range a {
		if b[name] != value {
			return false
		}
	}
	return len(a) == len(b)
}
