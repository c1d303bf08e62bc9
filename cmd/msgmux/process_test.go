// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"testing"
	"time"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/internal/test"
)

// TestSenderIsLookedUp while it is there, and is not taken for another that has its number later.
func TestSenderIsLookedUp(t *testing.T) {
	// A name with what usually ends it.
	name := t.TempDir() + "/a) (b"
	if err := os.Symlink("/bin/sleep", name); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	cmd := exec.Command(name, "100")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	pid := cmd.Process.Pid
	test.Eventually(t, "its own name", func() bool { s, err := readStat(pid); return err == nil && s.command == "a) (b" })
	ask := func(p *processes, o msgmux.Origin) string { return p.of(o, time.Now()).command }
	var p processes
	for _, test := range []struct {
		is   string
		o    msgmux.Origin
		want string
	}{
		{"known", msgmux.Origin{Known: true, PID: pid, Received: time.Now()}, "a) (b"},
		{"known, but for its time", msgmux.Origin{Known: true, PID: pid}, "a) (b"},
		{"not known", msgmux.Origin{PID: pid, Received: time.Now()}, ""},
		{"not to be seen by the broker", msgmux.Origin{Known: true, Received: time.Now()}, ""},
		{"gone", msgmux.Origin{Known: true, PID: 1 << 23, Received: time.Now()}, ""},
	} {
		if got := ask(&processes{}, test.o); got != test.want {
			t.Errorf("%s: %q, want %q", test.is, got, test.want)
		}
	}
	if got := ask(&processes{}, msgmux.Origin{Known: true, PID: pid, Received: began.Add(-time.Second)}); got != "" {
		t.Errorf("a message that is older than the process came from %q", got)
	}
	// What was found stays known for a moment.
	o := msgmux.Origin{Known: true, PID: pid, Received: time.Now()}
	now := time.Now()
	p.of(o, now)
	cmd.Process.Kill()
	cmd.Wait()
	if got := p.of(o, now.Add(rememberFor)).command; got != "a) (b" {
		t.Errorf("it is forgotten at once: %q", got)
	}
	if got := p.of(o, now.Add(2*rememberFor)).command; got != "" {
		t.Errorf("it is remembered as %q", got)
	}
}

// TestInnermostUnit of control groups as they are.
func TestInnermostUnit(t *testing.T) {
	for groups, want := range map[string]string{
		"0::/system.slice/cron.service\n":                                              "cron.service",
		"0::/user.slice/user-1000.slice/user@1000.service/app.slice/web.service\n":     "web.service",
		"0::/user.slice/user-1000.slice/session-3.scope\n":                             "session-3.scope",
		"0::/system.slice/systemd-udevd.service/udev\n":                                "systemd-udevd.service",
		"0::/system.slice/system-getty.slice/getty@tty1.service\n":                     "getty@tty1.service",
		"0::/../../system.slice/x.service\n":                                           "x.service",
		"12:pids:/a.service\n1:name=systemd:/system.slice/b.service\n0::/init.scope\n": "init.scope",
		"12:pids:/a.service\n":                                                         "",
		"0::/docker/0123abcd\n":                                                        "",
		"0::/system.slice/evil\x1b.service\n":                                          "",
		"0::/\n":                                                                       "",
		"":                                                                             "",
		"0::/system.slice/a:b.service\n":                                               "a:b.service",
		"0::/system.slice/dev-a\\x2db.swap/sub\n":                                      `dev-a\x2db.swap`,
	} {
		if got := innermostUnit(groups); got != want {
			t.Errorf("%q is %q, want %q", groups, got, want)
		}
	}
}

// TestFilter wants what it is told, and of what is not known nothing that it is asked for.
func TestFilter(t *testing.T) {
	root := "root"
	for _, test := range []struct {
		match       string
		users       []string
		units       []string
		known, none bool // whether it wants the one of which all is known, and the other
		origin      bool
	}{
		{"", nil, nil, true, true, false},
		{"^hi$", nil, nil, true, true, false},
		{"^ho$", nil, nil, false, false, false},
		{"", []string{"1000"}, nil, true, false, true},
		{"", []string{root, "1000"}, nil, true, false, true},
		{"", []string{root}, nil, false, false, true}, // also not one whose user is not known, and so 0
		{"", nil, []string{"cron"}, true, false, true},
		{"", nil, []string{"cron.socket", "cron.service"}, true, false, true},
		{"", nil, []string{"cro"}, false, false, true},
		{"hi", []string{"1000"}, []string{"cron"}, true, false, true},
		{"hi", []string{root}, []string{"cron"}, false, false, true},
		{"ho", []string{"1000"}, []string{"cron"}, false, false, true},
	} {
		f, err := newFilter(test.match, test.users, test.units)
		if err != nil {
			t.Fatal(err)
		}
		if f.wants(aMessageFrom("hi", 1, "cron", "cron.service")) != test.known || f.wants(aMessage("hi", 1)) != test.none || f.origin() != test.origin {
			t.Errorf("%+v: %v, %v, %v", test, !test.known, !test.none, f.origin())
		}
	}
}
