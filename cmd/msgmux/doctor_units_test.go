// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io/fs"
	"strings"
	"testing"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/internal/wire"
)

// TestDoctorJudgesUnits by what systemd may say of them, in the words of the channel that was asked about.
func TestDoctorJudgesUnits(t *testing.T) {
	well := func(change func(map[string]*unitState)) []unitState {
		all := []unitState{{name: "msgmux@web.target"}, {name: "msgmux-source@web.socket"}, {name: "msgmux-control@web.socket"}, {name: "msgmux@web.service"}}
		by := make(map[string]*unitState)
		for i := range all {
			all[i].load, all[i].active, all[i].fragment = "loaded", "active", "/usr/lib/systemd/system/"+all[i].name
			by[strings.TrimSuffix(strings.TrimPrefix(all[i].name, "msgmux"), "@web.socket")] = &all[i]
		}
		by["service"], by["target"] = &all[3], &all[0]
		change(by)
		return all
	}
	for _, test := range []struct {
		change func(map[string]*unitState)
		user   bool
		want   verdict
		words  []string
	}{
		{func(map[string]*unitState) {}, false, good, []string{"msgmux@web.target, its sockets and its broker are active"}},
		{func(u map[string]*unitState) { u["-source"].denied, u["-source"].load = true, "" }, false, poor, []string{"be root", "does not let you look"}},
		{func(u map[string]*unitState) { u["-source"].load = "not-found" }, false, bad, []string{"install the package", "not there: msgmux-source@web.socket"}},
		{func(u map[string]*unitState) { u["service"].load = "masked" }, true, bad, []string{"systemctl --user unmask msgmux@web.service"}},
		{func(u map[string]*unitState) {
			u["service"].load, u["service"].problem, u["service"].dropIns = "bad-setting", "it has a bad unit file setting", []string{"/etc/a.conf", "/etc/b.conf"}
		}, false, bad, []string{"has a bad unit file setting", "mend /etc/b.conf, /etc/a.conf, /usr/lib/systemd/system/msgmux@web.service"}},
		{func(u map[string]*unitState) { u["-source"].load = "bad-setting" }, false, bad,
			[]string{"systemctl stop msgmux-source@web.socket && systemctl restart msgmux@web.service; what is queued in this socket is lost"}},
		{func(u map[string]*unitState) { u["target"].load = "bad-setting" }, false, bad, []string{"daemon-reload, systemctl start msgmux@web.target"}},
		{func(u map[string]*unitState) {
			u["service"].active, u["service"].restarts, u["service"].result = "activating", 4, "exit-code"
		}, true, bad, []string{"msgmux@web.service cannot start, after 5 attempts", "systemctl --user restart msgmux@web.service"}},
		{func(u map[string]*unitState) { u["-source"].active = "failed" }, false, bad, []string{"msgmux-source@web.socket is failed, beside a broker that runs", "systemctl restart msgmux@web.service"}},
		{func(u map[string]*unitState) { u["-source"].active, u["service"].active = "inactive", "inactive" }, false, bad,
			[]string{"systemctl start msgmux-source@web.socket msgmux@web.service"}},
		{func(u map[string]*unitState) {
			for _, s := range u {
				s.active = "inactive"
			}
		}, true, bad, []string{"msgmux@web.target is inactive", "systemctl --user enable --now msgmux@web.target msgmux@web.service"}},
		{func(u map[string]*unitState) { u["service"].active = "inactive" }, false, poor, []string{"the sockets listen", "systemctl enable --now msgmux@web.service"}},
	} {
		p := &patient{channel: msgmux.Channel{RuntimeDir: "/run/msgmux.web"}, units: channelUnits{instance: "web", user: test.user}}
		findings := p.judgeUnits(well(test.change))
		if len(findings) != 1 || findings[0].Verdict != test.want {
			t.Errorf("%q: got %+v", test.words, findings)
			continue
		}
		for _, word := range test.words {
			if f := findings[0]; !strings.Contains(f.Text+"\n"+f.Advice, word) {
				t.Errorf("no %q in %+v", word, f)
			}
		}
	}
}

// TestDoctorSpeaksOfTheChannel that it was asked about, and tells whoever may not look what that takes.
func TestDoctorSpeaksOfTheChannel(t *testing.T) {
	for folder, want := range map[string]string{"/run/msgmux": "msgmux", "/run/msgmux.web": "msgmux -c web", "/somewhere": "msgmux --runtime-dir /somewhere",
		"/run/msgmux.my-chan": "msgmux --runtime-dir /run/msgmux.my-chan"} {
		c := msgmux.Channel{RuntimeDir: folder}
		p := &patient{channel: c, units: unitsOf(c)}
		if got := p.msgmux(); got != want {
			t.Errorf("%s: %q, want %q", folder, got, want)
		}
		p.silence = fs.ErrPermission
		for _, f := range []finding{p.descriptors(), p.lockedMemory(), p.examineChannel()[0]} {
			if want := "be root, or in the group of " + folder + "/control"; f.Advice != want {
				t.Errorf("%s: %+v, want %q", folder, f, want)
			}
		}
	}
	p := &patient{sinks: []wire.Sink{{Label: "a"}, {Label: "tap", Tap: true}, {Label: "gone", State: "absent"}}}
	if p.hasOther("a") || !p.hasOther("b") {
		t.Error("taps and absent sinks count, or others do not")
	}
}
