// SPDX-License-Identifier: Apache-2.0

package units

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/msgmux/msgmux/units/rig"
)

// run runs a command as the one whose channel it is, and returns what it says on both outputs.
func (p *place) run(arguments ...string) (stdout, stderr string, exit int) {
	p.b.t.Helper()
	running := p.b.Start(p.command(arguments...)...)
	exit = running.Wait()
	return running.Stdout(), running.Stderr(), exit
}

// TestUserAddsASink to his own channel by one command, which tells what it has done: files, units, and the sink that the
// channel then has. In the second suite there is no bus for users: their systemd is reached without.
func TestUserAddsASink(t *testing.T) {
	onEachBed(t, func(t *testing.T, b *bed) {
		b.MustRun("useradd", "--create-home", "alice")
		if b.Suite() == rig.Debian13 {
			b.MustRun("systemctl", "--global", "mask", "dbus.socket", "dbus.service")
		}
		b.MustRun("loginctl", "enable-linger", "alice")
		waitForUser(t, b.Machine, "alice")
		id := strings.TrimSpace(b.MustRun("id", "-u", "alice"))
		p := &place{b: b, folder: "/run/user/" + id + "/msgmux", service: "msgmux.service", as: b.As("alice"), user: true}
		if _, exit := b.Run(t.Context(), "test", "-e", "/run/user/"+id+"/bus"); exit == 0 && b.Suite() == rig.Debian13 {
			t.Fatal("there is a bus for alice")
		}
		p.systemctl("enable", "--now", "msgmux.target")
		p.systemctl("start", p.service)
		p.untilActive()

		units := "/home/alice/.config/systemd/user/"
		for _, name := range []string{"keeper", "other"} {
			b.WriteFile(units+name+".service", fmt.Appendf(nil, "[Service]\nExecStart=/usr/bin/socat -u FD:3 OPEN:%%t/%s,creat,append\n", name), 0o644)
		}
		b.MustRun("chown", "-R", "alice:", "/home/alice/.config")
		unit, socket := units+"msgmux-sink@kept.socket", p.folder+"/sinks/kept"
		add := []string{"msgmux", "--user", "sinks", "add", "kept", "--service", "keeper"}
		var first string
		for i := range 2 { // the second time changes nothing
			stdout, stderr, exit := p.run(add...)
			file := b.MustRun("cat", unit)
			lines := units + "keeper.service.d/msgmux-sink@kept.conf"
			if exit != 0 || stdout != "# "+unit+"\n"+file+"\n# "+lines+"\n"+b.MustRun("cat", lines) || !strings.Contains(file, "\nService=keeper.service\n") {
				t.Fatalf("exit status %d, it says\n%s%s", exit, stdout, stderr)
			}
			s := p.account().sink("kept")
			for _, said := range []string{
				"msgmux: msgmux-sink@kept.socket is enabled and listens at " + socket + "\n",
				fmt.Sprintf("msgmux: the channel has the sink kept, number %d: ready\n", s.ID),
			} {
				if !strings.Contains(stderr, said) {
					t.Errorf("it does not say %q but\n%s", said, stderr)
				}
			}
			if s.Kind != "static" || s.State != "ready" {
				t.Errorf("the channel has %+v", s)
			}
			if got := b.MustRun("stat", "-c", "%U %a %F", unit, socket); got != "alice 644 regular file\nalice 600 socket\n" {
				t.Errorf("there is\n%s", got)
			}
			state := p.showUnit("msgmux-sink@kept.socket", "UnitFileState", "ActiveState", "SubState", "FragmentPath", "Triggers")
			for name, want := range map[string]string{"UnitFileState": "enabled", "ActiveState": "active", "SubState": "listening",
				"FragmentPath": unit, "Triggers": "keeper.service"} {
				if state[name] != want {
					t.Errorf("%s of the unit is %q, want %q", name, state[name], want)
				}
			}
			if now := b.MustRun("stat", "-c", "%i %y", unit, socket); i > 0 && now != first {
				t.Errorf("the second time made of\n%s\n%s", first, now)
			} else {
				first = now
			}
		}
		// It works, and nothing of it is of the system's.
		pub := append([]string{"msgmux", "--user", "pub"}, "kept for alice")
		b.MustRun(p.command(pub...)...)
		kept := func(file, want string) {
			t.Helper()
			b.Until("the service has "+want, 20*time.Second, func() bool {
				out, _ := b.Run(t.Context(), "cat", "/run/user/"+id+"/"+file)
				return out == want
			})
		}
		kept("keeper", "kept for alice")
		if out, _ := b.Run(t.Context(), "sh", "-c", "ls /etc/systemd/system /etc/msgmux/sinks | grep kept"); out != "" {
			t.Errorf("the system has %s", out)
		}
		found, exit := p.diagnose()
		if exit != 0 || found["units"].Verdict != "ok" || !strings.Contains(found["fd store"].Text, " of 8192; ") {
			t.Errorf("the doctor finds %+v, exit status %d", found, exit)
		}

		// What cannot be is refused before, or undone.
		nothing := func(name string) {
			t.Helper()
			if out, _ := b.Run(t.Context(), "sh", "-c", "find /home/alice/.config "+p.folder+" | grep -w "+name); out != "" {
				t.Errorf("left behind: %s", out)
			}
		}
		if stdout, stderr, exit := p.run("msgmux", "--user", "sinks", "add", "eager", "--service", "keeper", "--patience", "5s"); exit != 2 ||
			stdout != "" || !strings.Contains(stderr, "no files of options") {
			t.Errorf("exit status %d, it says\n%s%s", exit, stdout, stderr)
		}
		nothing("eager")
		if _, stderr, exit := p.run("msgmux", "--user", "sinks", "add", "lone", "--service", "nowhere"); exit != 1 ||
			!strings.Contains(stderr, "there is no service nowhere.service") {
			t.Errorf("exit status %d, it says\n%s", exit, stderr)
		}
		nothing("lone")
		// A folder in the socket's place: the job fails.
		b.MustRun(p.command("mkdir", "-p", p.folder+"/sinks/taken/x")...)
		if _, stderr, exit := p.run("msgmux", "--user", "sinks", "add", "taken", "--service", "other"); exit != 1 ||
			!strings.Contains(stderr, "cannot start msgmux-sink@taken.socket") || strings.Contains(stderr, "is enabled") {
			t.Errorf("exit status %d, it says\n%s", exit, stderr)
		}
		b.MustRun("rm", "-r", p.folder+"/sinks/taken")
		nothing("taken")

		// Another service for the sink that is there: only if that is meant, and then it is so.
		change := append(add[:len(add)-1:len(add)-1], "other")
		if _, stderr, exit := p.run(change...); exit != 1 || !strings.Contains(stderr, "it is there already") ||
			p.showUnit("msgmux-sink@kept.socket", "Triggers")["Triggers"] != "keeper.service" || !strings.Contains(b.MustRun("cat", unit), "keeper") {
			t.Errorf("exit status %d, it says\n%s", exit, stderr)
		}
		if _, stderr, exit := p.run(append(change, "--force")...); exit != 1 || !strings.Contains(stderr, "systemctl --user stop keeper.service") ||
			!strings.Contains(b.MustRun("cat", unit), "keeper") {
			t.Errorf("while it is read: exit status %d, it says\n%s", exit, stderr)
		}
		p.systemctl("stop", "keeper.service")
		if _, stderr, exit := p.run(append(change, "--force")...); exit != 0 {
			t.Errorf("exit status %d, it says\n%s", exit, stderr)
		}
		b.MustRun(p.command("msgmux", "--user", "pub", "for the other")...)
		kept("other", "for the other")
		kept("keeper", "kept for alice")
		if _, exit := b.Run(t.Context(), "test", "-e", units+"keeper.service.d"); exit == 0 {
			t.Error("the service that lost the sink is still told of it")
		}

		// All of it is undone, but for the service, which still runs.
		if _, stderr, exit := p.run("msgmux", "--user", "sinks", "remove", "kept"); exit != 0 ||
			!strings.Contains(stderr, "other.service runs on") || !strings.Contains(stderr, "systemctl --user stop other.service") {
			t.Errorf("exit status %d, it says\n%s", exit, stderr)
		}
		nothing("kept")
		if s := p.account().state("kept"); s != "" {
			t.Errorf("the channel has the sink still: %s", s)
		}

		// What the doctor says is for the user's own systemd, and done as it says.
		p.systemctl("stop", "msgmux.target", p.service)
		const advice = "systemctl --user enable --now msgmux.target msgmux.service"
		stdout, _, exit := p.run("msgmux", "--user", "doctor")
		if exit != 1 || !strings.Contains(stdout, advice) || strings.Contains(strings.ReplaceAll(stdout, "systemctl --user", ""), "systemctl ") {
			t.Errorf("exit status %d, the doctor says\n%s", exit, stdout)
		}
		b.MustRun(p.command(strings.Fields(advice)...)...)
		p.untilActive()
	})
}
