// SPDX-License-Identifier: Apache-2.0

package units

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/msgmux/msgmux/units/rig"
)

// TestAdopt takes over the path of an agent whose programs are not told, and gives it back, by what it says is left to do.
func TestAdopt(t *testing.T) {
	onEachBed(t, func(t *testing.T, b *bed) {
		p := b.channel("")
		b.MustRun("systemctl", "enable", "--now", "msgmux.target", p.service)
		const path, behind = "/run/agent/dsd.socket", "/run/agent/dsd.socket.behind"
		agent := func(at string) {
			b.WriteFile("/etc/systemd/system/agent.service", fmt.Appendf(nil,
				"[Service]\nRuntimeDirectory=agent\nExecStart=/usr/bin/socat -u -b 65536 UNIX-RECV:%s,mode=0722 OPEN:/run/out,creat,append\nSuccessExitStatus=143\n", at), 0o644)
			b.MustRun("systemctl", "daemon-reload")
			b.MustRun("systemctl", "restart", "agent.service")
		}
		// Anybody may write there, as the mode says.
		send := func(text string) {
			t.Helper()
			if out, exit := b.Run(t.Context(), "setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--",
				"sh", "-c", "printf '"+text+"\\n' | socat -u STDIN UNIX-SENDTO:"+path+" 2>&1"); exit != 0 {
				t.Fatalf("cannot send %s: %s%s", text, out, b.MustRun("ls", "-la", "/run/agent"))
			}
		}
		written := func(want string) {
			t.Helper()
			b.Until("the agent has "+want, 20*time.Second, func() bool {
				out, _ := b.Run(t.Context(), "tail", "-n", "1", "/run/out")
				return out == want+"\n"
			})
		}
		agent(path)
		b.Until("the agent receives", 10*time.Second, func() bool { _, exit := b.Run(t.Context(), "test", "-S", path); return exit == 0 })
		send("one")
		written("one")

		for _, own := range []string{"/dev/log", "/run/systemd/journal/socket"} {
			refused := b.Start("msgmux", "adopt", own)
			if exit := refused.Wait(); exit != 1 || !strings.Contains(refused.Stderr(), "sink of last resort") || refused.Stdout() != "" {
				t.Errorf("%s: exit status %d, it says %s", own, exit, refused.Stderr())
			}
		}
		mode := b.MustRun("stat", "--format=%a %u %g", path)
		adopt := b.Start("msgmux", "adopt", path)
		if exit := adopt.Wait(); exit != 0 {
			t.Fatalf("exit status %d: %s%s", exit, adopt.Stderr(), b.Journal("--unit="+p.service))
		}
		for _, text := range []string{"of agent.service has to receive at " + behind, "agent.service removes /run/agent when it stops", "RuntimeDirectoryPreserve=yes", "'msgmux adopt " + path + "' once more"} {
			if !strings.Contains(adopt.Stderr(), text) {
				t.Errorf("it does not say %q but %s", text, adopt.Stderr())
			}
		}
		if now := b.MustRun("stat", "--format=%a %u %g", path); now != mode {
			t.Errorf("the socket was %s and is %s", mode, now)
		}
		// What comes before the agent is told waits for it, and others get it at once.
		other := b.Start("msgmux", "sub", "--count", "2", "--trim", "--quiet")
		b.Until("another sink is there", 10*time.Second, func() bool { return p.account().Status.Sinks.Dynamic == 1 })
		send("two")
		b.dropIn("agent.service", "kept", "[Service]\nRuntimeDirectoryPreserve=yes\n")
		agent(behind)
		written("two")
		// socat has removed the file when it ended, as many programs do.
		if _, exit := b.Run(t.Context(), "test", "-e", path); exit == 0 {
			t.Error("the old reader has left the file alone")
		}
		b.MustRun("msgmux", "adopt", path)
		send("three")
		written("three")
		if exit := other.Wait(); exit != 0 || other.Stdout() != "two\nthree\n" {
			t.Errorf("the other sink: exit status %d, %q", exit, other.Stdout())
		}
		if s := p.account().sink("dsd"); s.Lost != 0 || s.State != "ready" {
			t.Errorf("the sink is %+v", s)
		}
		// It lasts: the socket starts with the host, and the link is made again.
		if out := b.MustRun("systemctl", "is-enabled", "msgmux-adopted@dsd.socket"); out != "enabled\n" {
			t.Errorf("the socket is %s", out)
		}
		b.MustRun("rm", "/run/msgmux/sinks/dsd")
		b.MustRun("systemd-tmpfiles", "--create", "/etc/tmpfiles.d/msgmux-adopted-dsd.conf")
		if out := b.MustRun("readlink", "/run/msgmux/sinks/dsd"); out != behind+"\n" {
			t.Errorf("the link leads to %s", out)
		}
		b.MustRun("systemctl", "restart", "msgmux.target")
		b.Until("the path is back", 10*time.Second, func() bool { _, exit := b.Run(t.Context(), "test", "-S", path); return exit == 0 })
		send("four")
		written("four")
		b.MustRun("msgmux", "adopt", path, "--to", behind) // again, it changes nothing
		if _, exit := b.Run(t.Context(), "msgmux", "adopt", path, "--to", "/run/elsewhere"); exit != 1 {
			t.Errorf("adopted to elsewhere as well: exit status %d", exit)
		}

		// Taken back, nothing is lost of what was sent, and nothing is left.
		for i := range 50 {
			send(fmt.Sprintf("last %d", i))
		}
		undo := b.Start("msgmux", "adopt", path, "--undo")
		if exit := undo.Wait(); exit != 0 || !strings.Contains(undo.Stderr(), "what receives at "+behind+" has to receive at "+path+" again") {
			t.Fatalf("exit status %d: %s", exit, undo.Stderr())
		}
		written("last 49")
		if out := b.MustRun("grep", "-c", "last", "/run/out"); out != "50\n" {
			t.Errorf("the agent has %s of 50", out)
		}
		if out := b.MustRun("sh", "-c", "find /etc/systemd /etc/tmpfiles.d /run/msgmux/sinks -name '*dsd*' -o -name 'msgmux.service.d'"); out != "" {
			t.Errorf("left behind: %s", out)
		}
		agent(path)
		b.Until("the agent receives again", 10*time.Second, func() bool { _, exit := b.Run(t.Context(), "test", "-S", path); return exit == 0 })
		send("five")
		written("five")
		if out, exit := b.Run(t.Context(), "msgmux", "adopt", path, "--undo"); exit != 1 || out != "" {
			t.Errorf("taken back again: exit status %d, %q", exit, out)
		}
	})
}

// TestAdoptAgain: what was adopted before anybody received there is adopted again without a change, and stays when that fails.
func TestAdoptAgain(t *testing.T) {
	onEachBed(t, func(t *testing.T, b *bed) {
		p := b.channel("")
		b.MustRun("systemctl", "enable", "--now", "msgmux.target", p.service)
		const path, unit = "/run/early.socket", "msgmux-adopted@early.socket"
		b.MustRun("msgmux", "adopt", path)
		file := b.MustRun("cat", "/etc/systemd/system/"+unit)
		if out := b.MustRun("stat", "--format=%a %G", path); out != "660 msgmux-send\n" {
			t.Errorf("the socket is %s", out)
		}
		sink := b.Start("msgmux", "sub", "--trim", "--quiet")
		b.Until("a sink is there", 10*time.Second, func() bool { return p.account().Status.Sinks.Dynamic == 1 })
		sender := b.Start("sh", "-c", "(echo one; until [ -e /run/go ]; do sleep 0.1; done; echo two; sleep 3600) | socat -u STDIN UNIX-CONNECT:"+path+",type=2")
		b.Until("one is there", 10*time.Second, func() bool { return sink.Stdout() == "one\n" })
		again := b.Start("msgmux", "adopt", path)
		if exit := again.Wait(); exit != 0 {
			t.Errorf("again: exit status %d: %s", exit, again.Stderr())
		}
		if now, _ := b.Run(t.Context(), "cat", "/etc/systemd/system/"+unit); now != file {
			t.Errorf("the unit was\n%s and is\n%s", file, now)
		}
		b.MustRun("touch", "/run/go")
		b.Until("the one that is connected can send on", 10*time.Second, func() bool { return sink.Stdout() == "one\ntwo\n" })
		// Another reader has bound a socket of another mode there.
		reader := b.Start("socat", "-u", "UNIX-RECV:"+path+",unlink-early,mode=0722", "STDOUT")
		b.Until("it receives", 10*time.Second, func() bool { out, _ := b.Run(t.Context(), "stat", "--format=%a", path); return out == "722\n" })
		again = b.Start("msgmux", "adopt", path)
		if exit := again.Wait(); exit != 0 {
			t.Errorf("beside another reader: exit status %d: %s", exit, again.Stderr())
		}
		if out, _ := b.Run(t.Context(), "stat", "--format=%a %G", path); out != "660 msgmux-send\n" {
			t.Errorf("the socket is %s", out)
		}
		for _, p := range []*rig.Process{reader, sender, sink} {
			p.Signal(syscall.SIGKILL)
		}

		// It fails: what an earlier one made stays as it is.
		b.dropIn(p.service, "broken", "[Service]\nExecStartPre=/bin/false\n")
		again = b.Start("msgmux", "adopt", path)
		if exit := again.Wait(); exit != 1 {
			t.Errorf("without a broker: exit status %d: %s", exit, again.Stderr())
		}
		if out, _ := b.Run(t.Context(), "systemctl", "is-enabled", unit); out != "enabled\n" {
			t.Errorf("the unit is %s", out)
		}
		if out, _ := b.Run(t.Context(), "stat", "--format=%a %G", path); out != "660 msgmux-send\n" {
			t.Errorf("the socket is %s", out)
		}
		// Of a first attempt nothing is left, and it says what that has done to the reader.
		const other = "/run/other.socket"
		reader = b.Start("socat", "-u", "UNIX-RECV:"+other, "STDOUT")
		isThere := func(path string) bool { _, exit := b.Run(t.Context(), "test", "-S", path); return exit == 0 }
		b.Until("it receives", 10*time.Second, func() bool { return isThere(other) })
		first := b.Start("msgmux", "adopt", other)
		if exit := first.Wait(); exit != 1 || !strings.Contains(first.Stderr(), "has to be restarted, to receive at "+other+" again") {
			t.Errorf("without a broker: exit status %d: %s", exit, first.Stderr())
		}
		if out := b.MustRun("sh", "-c", "find /etc/systemd /etc/tmpfiles.d /run/msgmux/sinks "+other+" -name '*other*' 2>/dev/null || :"); out != "" {
			t.Errorf("left behind: %s", out)
		}
		reader.Signal(syscall.SIGKILL)

		// It goes and comes with the channel, before anybody sends.
		b.MustRun("rm", "/etc/systemd/system/"+p.service+".d/broken.conf")
		b.MustRun("systemctl", "daemon-reload")
		b.MustRun("systemctl", "stop", "msgmux.target")
		if isThere(path) {
			t.Errorf("without a channel there is still %s", path)
		}
		b.MustRun("systemctl", "start", "msgmux.target")
		if !isThere(path) {
			t.Errorf("the channel is back, and %s is not", path)
		}
		// Taken back from a broker that is stopped, which is asked all the same, and from a channel that is.
		taken := func(state string) {
			t.Helper()
			undo := b.Start("msgmux", "adopt", path, "--undo")
			if exit := undo.Wait(); exit != 0 || strings.Contains(undo.Stderr(), "lost") {
				t.Errorf("exit status %d: %s", exit, undo.Stderr())
			}
			if isThere(path) {
				t.Errorf("%s is still there", path)
			}
			if is, _ := b.Run(t.Context(), "systemctl", "is-active", p.service); is != state {
				t.Errorf("the broker is %s", is)
			}
		}
		b.MustRun("systemctl", "stop", p.service)
		taken("active\n")
		b.MustRun("msgmux", "adopt", path)
		b.MustRun("systemctl", "stop", "msgmux.target", p.service)
		taken("inactive\n")
	})
}

// TestAdoptDevLog takes over where the whole host logs: only with a sink of last resort, and then the host goes on logging when the journal
// is no sink any more, when it hangs, and when there is no channel.
func TestAdoptDevLog(t *testing.T) {
	onEachBed(t, func(t *testing.T, b *bed) {
		p := b.channel("")
		b.MustRun("systemctl", "enable", "--now", "msgmux.target", p.service)
		const path, journals = "/dev/log", "/run/systemd/journal/dev-log"
		count := 0
		// It is what any service does, so it must not take long.
		log := func(n int) {
			t.Helper()
			count += n
			began := time.Now()
			if out, exit := b.Run(t.Context(), "timeout", "60", "setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--",
				"sh", "-c", fmt.Sprintf("seq %d %d | logger --tag shop --socket-errors=on 2>&1", count-n+1, count)); exit != 0 {
				t.Fatalf("logging ends with %d after %v: %s", exit, time.Since(began), out)
			}
		}
		logged := func() {
			t.Helper()
			b.Until(fmt.Sprintf("%d is in the journal", count), 30*time.Second, func() bool {
				out, _ := b.Run(t.Context(), "journalctl", "--quiet", "--output=cat", "--identifier=shop", "--lines=1")
				return out == fmt.Sprintf("%d\n", count)
			})
		}
		sink := func() {
			t.Helper()
			b.Until("the journal is a sink", 20*time.Second, func() bool { return p.account().state("log") == "ready" })
		}
		isLink := func() {
			t.Helper()
			b.Until(path+" leads to the journal", 10*time.Second, func() bool {
				out, _ := b.Run(t.Context(), "readlink", path)
				return out == journals+"\n"
			})
		}
		// The journal would take all of it for one program's, and leave out what is too much for one.
		b.MustRun("mkdir", "-p", "/etc/systemd/journald.conf.d")
		b.WriteFile("/etc/systemd/journald.conf.d/all.conf", []byte("[Journal]\nRateLimitIntervalSec=0\n"), 0o644)
		b.MustRun("systemctl", "restart", "systemd-journald.service")
		log(1)
		logged()
		refused := func(says string) {
			t.Helper()
			adopt := b.Start("msgmux", "adopt", path)
			if exit := adopt.Wait(); exit != 1 || !strings.Contains(adopt.Stderr(), says) || !strings.Contains(adopt.Stderr(), "systemctl enable --now msgmux-discard.service") {
				t.Errorf("exit status %d, it says %s", exit, adopt.Stderr())
			}
			isLink()
		}
		refused("inactive and disabled")
		b.MustRun("systemctl", "start", "msgmux-discard.service")
		refused("active and disabled")
		b.MustRun("systemctl", "enable", "msgmux-discard.service")

		adopt := b.Start("msgmux", "adopt", path)
		if exit := adopt.Wait(); exit != 0 || !strings.Contains(adopt.Stderr(), "credentials=pass") {
			t.Fatalf("exit status %d: %s%s", exit, adopt.Stderr(), b.Journal("--unit="+p.service))
		}
		if out := b.MustRun("stat", "--format=%F %a", path); out != "socket 666\n" {
			t.Errorf("%s is now: %s", path, out)
		}
		b.MustRun("msgmux", "adopt", path) // again, it changes nothing
		sink()
		log(1000)
		logged()
		if s := p.account(); s.Status.Received < 1000 || s.sink("log").Lost != 0 {
			t.Errorf("the channel has %+v", s)
		}

		// The journal hangs: it is left behind.
		pid := strings.TrimSpace(b.MustRun("systemctl", "show", "--property=MainPID", "--value", "systemd-journald.service"))
		b.MustRun("kill", "-STOP", pid)
		log(100_000)
		b.MustRun("kill", "-CONT", pid)
		// It is no sink any more.
		b.MustRun("rm", "/run/msgmux/sinks/log")
		log(10_000)
		b.MustRun("systemd-tmpfiles", "--create", "/etc/tmpfiles.d/msgmux-adopted-log.conf")
		sink()
		log(1)
		logged()
		// The broker dies.
		p.kill("KILL")
		log(1000)
		logged()
		// There is no channel.
		b.MustRun("systemctl", "stop", "msgmux.target")
		isLink()
		log(1000)
		logged()
		b.MustRun("systemctl", "start", "msgmux.target")
		before := p.account().Status.Received
		log(10)
		logged()
		if now := p.account().Status.Received; now < before+10 {
			t.Errorf("of 10 messages the channel has %d", now-before)
		}

		undo := b.Start("msgmux", "adopt", path, "--undo")
		if exit := undo.Wait(); exit != 0 || !strings.Contains(undo.Stderr(), "/dev/log leads to the journal again") {
			t.Fatalf("exit status %d: %s", exit, undo.Stderr())
		}
		isLink()
		log(10)
		logged()
		if out := b.MustRun("sh", "-c", "find /etc/systemd /etc/tmpfiles.d /run/msgmux/sinks -name '*adopted*' -o -name 'msgmux.service.d' -o -path '*/sinks/log'"); out != "" {
			t.Errorf("left behind: %s", out)
		}
	})
}
