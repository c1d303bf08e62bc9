// SPDX-License-Identifier: Apache-2.0

package units

import (
	"strings"
	"testing"
	"time"
)

// finds asks the doctor until what it says of a thing is as wanted: systemd and the broker are on their way there.
func (p *place) finds(name, verdict string, words ...string) {
	p.b.t.Helper()
	var d diagnosis
	defer func() {
		if p.b.t.Failed() {
			p.b.t.Logf("the doctor says of %s: %+v", name, d)
		}
	}()
	p.b.Until("the doctor says of "+name+": "+verdict+" "+strings.Join(words, ", "), 20*time.Second, func() bool {
		found, _ := p.diagnose()
		d = found[name]
		for _, word := range words {
			if !strings.Contains(d.Text+"\n"+d.Advice, word) {
				return false
			}
		}
		return d.Verdict == verdict
	})
}

// flows sends a message through the channel, to a sink that may have to take others first.
func (p *place) flows(text string) {
	p.b.t.Helper()
	sink := p.b.Start(p.command("msgmux", "--runtime-dir", p.folder, "sub", "--label=flows", "-o", "raw")...)
	defer sink.Stop(10 * time.Second)
	p.b.Until("the sink is there", 20*time.Second, func() bool { return p.account().state("flows") != "" })
	p.b.MustRun(p.command("sh", "-c", `echo "$2" | socat -u STDIN UNIX-SENDTO:"$1/source"`, "sh", p.folder, text)...)
	p.b.Until("the message "+text+" arrives", 20*time.Second, func() bool { return strings.HasSuffix(sink.Stdout(), text+"\n") })
}

// TestDoctorOnEditedSockets: a socket that was restarted alone is gone, one whose file somebody removed is out of reach, and one
// that was given another path is where nobody looks. What the doctor advises mends each and loses no message of the ring.
func TestDoctorOnEditedSockets(t *testing.T) {
	onEachBed(t, func(t *testing.T, b *bed) {
		p := b.channel("")
		b.MustRun("systemctl", "enable", "--now", "msgmux.target", p.service)
		hung := p.held()
		defer hung.Signal(9)
		kept := p.account().Status.Received

		if _, exit := b.Run(t.Context(), "systemctl", "restart", "msgmux-source.socket"); exit == 0 {
			t.Error("systemd restarts the socket of a service that runs")
		}
		p.finds("units", "fail", "msgmux-source.socket is inactive, beside a broker that runs", "systemctl restart msgmux.service, which starts them")
		b.MustRun("systemctl", "restart", p.service)
		p.finds("units", "ok", "active")
		p.flows("restarted")

		b.MustRun("rm", "/run/msgmux/source")
		p.finds("msgmux-source.socket", "fail", "somebody has removed its file", "systemctl stop msgmux-source.socket && systemctl restart msgmux.service")
		b.MustRun("sh", "-c", "systemctl stop msgmux-source.socket && systemctl restart msgmux.service")
		p.finds("units", "ok", "active")
		p.flows("renewed")

		b.dropIn("msgmux-source.socket", "path", "[Socket]\nListenDatagram=\nListenDatagram=/run/elsewhere/source\n")
		b.MustRun("sh", "-c", "systemctl stop msgmux-source.socket && systemctl restart msgmux.service")
		// As the page on channels says. If systemd removes it one day, the page may say so.
		if _, exit := b.Run(t.Context(), "test", "-S", "/run/msgmux/source"); exit != 0 {
			t.Error("the old file is gone")
		}
		p.finds("msgmux-source.socket", "fail", "listens at /run/elsewhere/source, where no client looks", "systemctl edit msgmux-source.socket")
		b.MustRun("rm", "-r", "/etc/systemd/system/msgmux-source.socket.d")
		b.MustRun("sh", "-c", "systemctl daemon-reload; systemctl stop msgmux-source.socket && systemctl restart msgmux.service")
		p.finds("units", "ok", "active")
		p.flows("moved back")
		if a := p.account(); a.Status.Received != kept+3 || a.Status.Lost != 0 {
			t.Errorf("of %d messages the channel has %+v", kept+3, a.Status)
		}

		// All sockets, while the target stands: enabling it would change nothing.
		b.MustRun("sh", "-c", "systemctl stop 'msgmux-*.socket' msgmux.service")
		p.finds("units", "fail", "msgmux-control.socket is inactive, msgmux.service is inactive", "systemctl start msgmux-source.socket")
		found, _ := p.diagnose()
		advice := found["units"].Advice
		b.MustRun("sh", "-c", advice)
		p.finds("units", "ok", "active")
	})
}

// TestDoctorOnABrokerThatCannotStart: the doctor says so, with the last words of the broker or what systemd has against the unit,
// and with the file to look into. Such a broker is not started as fast as systemd can, and one that was killed is.
func TestDoctorOnABrokerThatCannotStart(t *testing.T) {
	onEachBed(t, func(t *testing.T, b *bed) {
		p := b.channel("")
		b.MustRun("systemctl", "enable", "--now", "msgmux.target", p.service)
		const file = "/etc/systemd/system/msgmux.service.d/typo.conf"
		for _, c := range []struct {
			lines string
			words []string
			slow  bool
		}{
			{"[Service]\nExecStart=\nExecStart=/usr/bin/msgmuxd --bufer 64M\n", []string{"cannot start", "unknown flag: --bufer", file, "systemctl restart msgmux.service"}, true},
			{"[Service]\nLimitNOFILE=1100\n", []string{"cannot start", "raise LimitNOFILE", file}, true},
			{"[Service]\nExecStart=\nExecStart=/usr/bin/msgmux-daemon\n", []string{"cannot start", "msgmux-daemon", file}, false},
			{"[Service]\nExecStart=/usr/bin/msgmuxd --buffer 64M\n", []string{"cannot be loaded", "systemd-analyze verify msgmux.service", file}, false},
		} {
			b.dropIn(p.service, "typo", c.lines)
			b.Run(t.Context(), "systemctl", "restart", p.service)
			p.finds("units", "fail", c.words...)
			if c.slow {
				starts := func() int { return p.restarts() }
				before := starts()
				time.Sleep(5 * time.Second)
				if n := starts() - before; n < 1 || n > 6 {
					t.Errorf("%q: %d starts within five seconds", c.lines, n)
				}
			}
			if found, _ := p.diagnose(); strings.Contains(found["channel"].Advice+found["units"].Advice, "install the package") {
				t.Errorf("%q: %+v", c.lines, found)
			}
			b.MustRun("rm", file)
			b.MustRun("systemctl", "daemon-reload")
			b.MustRun("systemctl", "restart", p.service)
			p.untilActive()
			p.finds("units", "ok", "active")
		}

		b.MustRun("systemctl", "stop", p.service)
		b.MustRun("systemctl", "mask", "--runtime", p.service)
		p.finds("units", "fail", "msgmux.service is masked", "systemctl unmask msgmux.service")
		b.MustRun("systemctl", "unmask", "--runtime", p.service)
		b.MustRun("systemctl", "start", "msgmux.target", p.service)
		p.untilActive()

		// Thirteen crashes in a row: each successor is there at once, and the doctor tells.
		for range 13 {
			p.killAndWait("KILL")
			p.untilActive()
		}
		p.finds("restarts", "warn", "ended by itself 13 times", "journalctl --catalog --unit msgmux.service")

		b.MustRun("useradd", "--create-home", "alice")
		out, _ := b.Run(t.Context(), b.As("alice", "msgmux", "doctor")...)
		if strings.Contains(out, "install the package") || strings.Contains(out, "start the broker") || !strings.Contains(out, "be root, or in the group of /run/msgmux/control") {
			t.Errorf("somebody who may not look is told\n%s", out)
		}
	})
}

// TestDoctorOnConsumers: a consumer that would lose its queue, one that has, and the reasons for which a static sink is absent.
func TestDoctorOnConsumers(t *testing.T) {
	onEachBed(t, func(t *testing.T, b *bed) {
		p := b.channel("")
		b.MustRun("systemctl", "enable", "--now", "msgmux.target", p.service)
		b.WriteFile("/etc/systemd/system/frail.service", []byte("[Service]\nExecStart=/usr/bin/false\nSockets=msgmux-sink@frail.socket\n"), 0o644)
		b.MustRun("systemctl", "daemon-reload")
		b.MustRun("systemctl", "start", "msgmux-sink@frail.socket")
		p.finds("sink frail", "warn", "systemd gives frail.service up after 5 failures", "StartLimitIntervalSec=0", "systemctl edit frail.service")
		b.MustRun("msgmux", "pub", "x")
		p.finds("sink frail", "fail", "have failed: what was queued there is lost", "journalctl --unit frail.service", "systemctl reset-failed")
		b.dropIn("frail.service", "cure", "[Unit]\nStartLimitIntervalSec=0\n[Service]\nRestart=on-failure\nRestartSec=500ms\n")
		b.MustRun("systemctl", "reset-failed", "msgmux-sink@frail.socket", "frail.service")
		b.MustRun("systemctl", "start", "msgmux-sink@frail.socket")
		b.Until("the doctor has nothing against it", 20*time.Second, func() bool { found, _ := p.diagnose(); return found["sink frail"].Text == "" })

		// What everybody does who has edited a socket: systemd refuses, and leaves it stopped. The advice mends it.
		b.WriteFile("/etc/systemd/system/steady.service", []byte("[Unit]\nStartLimitIntervalSec=0\n[Service]\nExecStart=/usr/bin/sleep infinity\n"+
			"Restart=on-failure\nRestartSec=500ms\nSockets=msgmux-sink@steady.socket\n"), 0o644)
		b.MustRun("systemctl", "daemon-reload")
		b.MustRun("systemctl", "start", "msgmux-sink@steady.socket", "steady.service")
		b.Until("the sink is there", 20*time.Second, func() bool { s := p.account().state("steady"); return s != "" && s != "absent" })
		if _, exit := b.Run(t.Context(), "systemctl", "restart", "msgmux-sink@steady.socket"); exit == 0 {
			t.Error("systemd restarts the socket of a service that runs")
		}
		p.finds("sink steady", "fail", "msgmux-sink@steady.socket is inactive, beside steady.service", "systemctl stop steady.service && systemctl start msgmux-sink@steady.socket steady.service")
		found, _ := p.diagnose()
		b.MustRun("sh", "-c", found["sink steady"].Advice)
		b.Until("the sink is there again", 20*time.Second, func() bool {
			found, _ := p.diagnose()
			s := p.account().state("steady")
			return s != "" && s != "absent" && found["sink steady"].Text == ""
		})

		for name, c := range map[string]struct {
			script string
			words  []string
		}{
			"nowhere": {"ln -s /run/agent/socket /run/msgmux/sinks/nowhere", []string{"leads to /run/agent/socket, which is not there", "start what binds it"}},
			"file":    {"touch /run/msgmux/sinks/file", []string{"it is a file", "put a datagram socket"}},
			"mode":    {"socat -u UNIX-RECV:/run/msgmux/sinks/mode,mode=0600 STDOUT & sleep 0.5", []string{"with its mode -rw------- the broker may not write", "chown msgmux"}},
			"closed":  {"socat -u UNIX-RECV:/run/msgmux/sinks/closed,mode=0666 STDOUT & sleep 0.5; kill -9 $!", []string{"nobody receives from it", "start its program"}},
		} {
			running := b.Start("sh", "-c", c.script)
			p.finds("sink "+name, "warn", c.words...)
			running.Signal(9)
		}
		// A socket elsewhere, by a link.
		b.WriteFile("/etc/systemd/system/linked.socket", []byte("[Socket]\nListenDatagram=/run/linked/socket\nSocketMode=0666\n"), 0o644)
		b.WriteFile("/etc/systemd/system/linked.service", []byte("[Service]\nExecStart=/usr/bin/sleep infinity\n"), 0o644)
		b.MustRun("sh", "-c", "systemctl daemon-reload; systemctl start linked.socket; ln -s /run/linked/socket /run/msgmux/sinks/remote")
		p.finds("sink remote", "warn", "systemd gives linked.service up")
		// Enabled, and the restart forgotten.
		b.MustRun("systemctl", "enable", "msgmux-metrics.socket")
		p.finds("units", "fail", "msgmux-metrics.socket is inactive, beside a broker that runs", "systemctl restart msgmux.service")
		b.MustRun("systemctl", "restart", p.service)
		p.finds("units", "ok", "active")
		// Hints are for the channel that was asked about.
		b.MustRun("systemctl", "start", "msgmux@web.target", "msgmux@web.service")
		web := b.channel("web")
		web.finds("sources", "warn", "msgmux -c web sub")
		b.MustRun("systemctl", "stop", "msgmux@web.target")
		web.finds("units", "fail", "systemctl enable --now msgmux@web.target msgmux@web.service")
	})
}

// TestChannelNames: what is no name of a channel gets no sockets, and no broker that is started for ever.
func TestChannelNames(t *testing.T) {
	onEachBed(t, func(t *testing.T, b *bed) {
		const bad = "my-channel"
		b.Run(t.Context(), "systemctl", "start", "msgmux@"+bad+".target")
		for _, name := range append(channelSockets, "metrics") {
			b.Run(t.Context(), "systemctl", "start", "msgmux-"+name+"@"+bad+".socket")
			if state := active(t, b.Machine, "msgmux-"+name+"@"+bad+".socket"); state == "active" {
				t.Errorf("the socket %s of a channel with a dash listens", name)
			}
		}
		if _, exit := b.Run(t.Context(), "systemctl", "start", "msgmux@"+bad+".service"); exit == 0 {
			t.Error("its broker starts")
		}
		if left, _ := b.Run(t.Context(), "sh", "-c", "ls /run/msgmux."+bad+" 2>/dev/null | grep -v sinks"); left != "" {
			t.Errorf("there is %s", left)
		}
		if said := b.Journal("--unit=msgmux-source@" + bad + ".socket"); !strings.Contains(said, bad+": a channel is named by 1 to 32 of a-z, 0-9 and _") {
			t.Errorf("nobody says why: %s", said)
		}
		b.MustRun("systemctl", "stop", "msgmux@"+bad+".service")
		b.MustRun("systemctl", "start", "msgmux@my_channel.target")
		b.channel("my_channel").flows("named well")
	})
}

// TestPreset: at the first boot of an image every unit gets what its preset says, by default that it is enabled; what is for the
// administrator to ask for is not.
func TestPreset(t *testing.T) {
	onEachBed(t, func(t *testing.T, b *bed) {
		b.MustRun("systemctl", "preset-all", "--preset-mode=full")
		for unit, want := range map[string]string{"msgmux.target": "enabled", "msgmux.service": "enabled", "msgmux-metrics.socket": "disabled", "msgmux-mq.socket": "disabled", "msgmux-discard.service": "disabled"} {
			if state, _ := b.Run(t.Context(), "systemctl", "is-enabled", unit); strings.TrimSpace(state) != want {
				t.Errorf("%s is %s", unit, state)
			}
		}
	})
}
