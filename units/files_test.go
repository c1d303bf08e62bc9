// SPDX-License-Identifier: Apache-2.0

package units

// Rules of the unit files that need no systemd to be seen.

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// unit is a unit file: the values of each option, keyed "Section.Option".
type unit map[string][]string

// read parses a unit file.
func read(t *testing.T, name string) unit {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	u := unit{}
	section := ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		switch {
		case line == "", strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "["):
			section = strings.Trim(line, "[]") + "."
		default:
			option, value, ok := strings.Cut(line, "=")
			if !ok || section == "" {
				t.Fatalf("%s: not a line of a unit file: %q", name, line)
			}
			u[section+option] = append(u[section+option], value)
		}
	}
	return u
}

// one is the single value of an option, "" if it has none.
func (u unit) one(t *testing.T, option string) string {
	t.Helper()
	switch values := u[option]; len(values) {
	case 0:
		return ""
	case 1:
		return values[0]
	default:
		t.Fatalf("%s is given %d times", option, len(values))
		return ""
	}
}

// files lists the unit files that match pattern.
func files(t *testing.T, pattern string) []string {
	t.Helper()
	names, err := filepath.Glob(pattern)
	if err != nil || len(names) == 0 {
		t.Fatalf("no file is called %s: %v", pattern, err)
	}
	return names
}

// TestTemplatesAreLikeTheDefaultChannel compares each template with the unit of the default channel: but for the names they
// must say the same.
func TestTemplatesAreLikeTheDefaultChannel(t *testing.T) {
	asTemplate := strings.NewReplacer(
		"/run/msgmux ", "/run/msgmux.%i ", "/run/msgmux/", "/run/msgmux.%i/",
		"/usr/bin/msgmuxd", "/usr/bin/msgmuxd --channel %i", "/usr/bin/msgmux sub", "/usr/bin/msgmux -c %i sub",
		"msgmux.service", "msgmux@%i.service", "msgmux.target", "msgmux@%i.target",
		"-source.socket", "-source@%i.socket", "-publish.socket", "-publish@%i.socket", "-register.socket", "-register@%i.socket",
		"-subscribe.socket", "-subscribe@%i.socket", "-control.socket", "-control@%i.socket", "-metrics.socket", "-metrics@%i.socket")
	compared := 0
	for _, template := range files(t, "system/*@.*") {
		if template == "system/msgmux-sink@.socket" {
			continue // its instance is not a channel
		}
		compared++
		original := read(t, strings.Replace(template, "@", "", 1))
		want := unit{}
		for option, values := range original {
			for _, value := range values {
				want[option] = append(want[option], asTemplate.Replace(value))
			}
		}
		got := read(t, template)
		// A template's instances have names that may be wrong.
		got["Socket.ExecStartPre"] = slices.DeleteFunc(got["Socket.ExecStartPre"], func(command string) bool { return strings.HasSuffix(command, "' sh %i") })
		if len(got["Socket.ExecStartPre"]) == 0 {
			delete(got, "Socket.ExecStartPre")
		}
		delete(want, "Unit.Description")
		delete(got, "Unit.Description")
		for option := range maps.Keys(got) {
			if !slices.Equal(got[option], want[option]) {
				t.Errorf("%s: %s is %q; after the default channel's it would be %q", template, option, got[option], want[option])
			}
			delete(want, option)
		}
		for option, values := range want {
			t.Errorf("%s lacks %s=%q", template, option, values)
		}
	}
	if compared != 9 {
		t.Errorf("%d templates compared, want 9: two services, a target, six sockets", compared)
	}
}

// TestServicesSurviveWhatTheyMust looks for the options without which a restart or a failure would lose something.
func TestServicesSurviveWhatTheyMust(t *testing.T) {
	const sinks, clients = 4096, 1024 // the defaults of --max-sinks and --max-clients
	for _, name := range append(files(t, "system/*.service"), files(t, "user/*.service")...) {
		if strings.Contains(name, "-discard") {
			continue // no broker
		}
		u := read(t, name)
		for option, want := range map[string]string{
			"Unit.StartLimitIntervalSec": "0", "Service.Restart": "always", "Service.Type": "notify",
			"Service.FileDescriptorStorePreserve": "yes",
			// There from before the first service that sends until after the last one.
			"Unit.DefaultDependencies": "no", "Unit.Before": "basic.target shutdown.target", "Unit.Conflicts": "shutdown.target",
		} {
			if got := u.one(t, option); got != want {
				t.Errorf("%s: %s is %q, want %q", name, option, got, want)
			}
		}
		for option := range u {
			if strings.HasPrefix(option, "Unit.Condition") || strings.HasPrefix(option, "Unit.Assert") || option == "Service.RuntimeDirectory" {
				t.Errorf("%s must not have %s", name, option)
			}
		}
		// Stopping the target must not return before the broker has ended.
		if target := u.one(t, "Unit.PartOf"); target == "" || !slices.Contains(u["Unit.After"], target) {
			t.Errorf("%s: it is ordered after %q, and not after its target %q", name, u["Unit.After"], target)
		}
		if strings.HasPrefix(name, "system/") && u.one(t, "Service.MemoryHigh") == "" {
			t.Errorf("%s has no bound of its memory", name)
		}
		store, _ := strconv.Atoi(u.one(t, "Service.FileDescriptorStoreMax"))
		if store < sinks+clients+8 {
			t.Errorf("%s: the store takes %d descriptors, fewer than %d sinks, %d clients and 8", name, store, sinks, clients)
		}
		// Each has a name in LISTEN_FDNAMES: a letter, an id of up to 13 digits, a colon. Beyond 128 KiB nothing starts.
		if store*15 > 128<<10 {
			t.Errorf("%s: the names of %d descriptors may not fit into an environment variable", name, store)
		}
		if limit, _ := strconv.Atoi(u.one(t, "Service.LimitNOFILE")); limit < store+1024 {
			t.Errorf("%s: LimitNOFILE=%d is not 1024 above the store of %d", name, limit, store)
		}
	}
}

// TestSocketsSurviveWhatTheyMust does the same for the sockets of the channels.
func TestSocketsSurviveWhatTheyMust(t *testing.T) {
	for _, name := range append(files(t, "system/*.socket"), files(t, "user/*.socket")...) {
		u := read(t, name)
		if u.one(t, "Socket.RemoveOnStop") != "yes" {
			t.Errorf("%s leaves its name behind", name)
		}
		if u.one(t, "Unit.StartLimitIntervalSec") != "0" || u.one(t, "Socket.TriggerLimitIntervalSec") != "0" {
			t.Errorf("%s can fail by being started often, and lose what is queued in it", name)
		}
		if strings.Contains(name, "msgmux-sink@") {
			if service := u.one(t, "Socket.Service"); service != "%i.service" {
				t.Errorf("%s starts %q: the socket of a sink belongs to its consumer", name, service)
			}
			continue
		}
		// Without both, either the socket starts nothing or the service, started alone, gets no socket.
		service := u.one(t, "Socket.Service")
		serviceFile := filepath.Join(filepath.Dir(name), strings.Replace(service, "%i", "", 1))
		socket := strings.Replace(filepath.Base(name), "@", "@%i", 1)
		sockets := strings.Fields(read(t, serviceFile).one(t, "Service.Sockets"))
		optional := u["Install.WantedBy"] != nil
		if !slices.Contains(sockets, socket) && !optional {
			t.Errorf("%s names %s, whose Sockets= does not name it: %q", name, service, sockets)
		}
		if optional && !strings.Contains(u.one(t, "Install.WantedBy"), service) {
			t.Errorf("%s, once enabled, is not started with %s", name, service)
		}
		// Registrations are judged by who sent them, also those from before the broker ran.
		wantCredentials := ""
		if strings.Contains(name, "register") {
			wantCredentials = "yes"
		}
		if got := u.one(t, "Socket.PassCredentials"); got != wantCredentials {
			t.Errorf("%s: PassCredentials is %q, want %q", name, got, wantCredentials)
		}
	}
}

// TestSinkOfLastResort is one that nobody waits for and that nothing gives up, there from before the first service that sends until
// after the last one; and it has no rights that it does not need.
func TestSinkOfLastResort(t *testing.T) {
	u := read(t, "system/msgmux-discard.service")
	for option, want := range map[string]string{
		"Unit.StartLimitIntervalSec": "0", "Service.Restart": "always", "Unit.DefaultDependencies": "no", "Unit.Before": "basic.target shutdown.target",
		"Unit.Conflicts": "shutdown.target", "Service.DynamicUser": "yes", "Service.SupplementaryGroups": "msgmux", "Service.CapabilityBoundingSet": "",
	} {
		if got := u.one(t, option); got != want {
			t.Errorf("%s is %q, want %q", option, got, want)
		}
	}
	if command := u.one(t, "Service.ExecStart"); !strings.Contains(command, " --patience 0 ") || strings.Contains(command, "--tap") {
		t.Errorf("it is run as %q", command)
	}
	preset, err := os.ReadFile("../packaging/preset/90-msgmux.preset")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"msgmux-discard.service", "msgmux-discard@.service"} {
		if !strings.Contains(string(preset), "\ndisable "+name+"\n") {
			t.Errorf("%s may be enabled by itself", name)
		}
	}
}
