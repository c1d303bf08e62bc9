// SPDX-License-Identifier: Apache-2.0

package units

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestStaticSinksComeAndGo adds, removes and adds again static sinks beside a broker that nobody touches.
func TestStaticSinksComeAndGo(t *testing.T) {
	onEachBed(t, func(t *testing.T, b *bed) {
		p := b.channel("")
		p.systemctl("start", "msgmux.target", p.service)
		broker := p.show("MainPID")["MainPID"]
		other := b.StartLoad("sink", "--bind", "@mm-other", "--register", "/run/msgmux/register", "--settle", "1s")
		source := b.StartLoad("send", "--to", "/run/msgmux/source", "--rate=500")
		state := func(name, want string) {
			t.Helper()
			b.Until("sink "+name+" is "+want, 10*time.Second, func() bool {
				s := p.account().sink(name).State
				return s == want || want == "ready" && s == "stalled" // for a moment it may be
			})
		}
		b.onDemand("archive")
		state("archive", "ready")
		b.Until("the consumer is started", 10*time.Second, func() bool { return active(t, b.Machine, "archive.service") == "active" })
		first := p.account().sink("archive")

		// Away for less than a minute it is the same sink, and misses nothing. What the socket holds when it is closed is
		// gone with it: so nothing is under way then.
		source.Signal(unix.SIGSTOP)
		b.Until("the consumer has what was sent", 20*time.Second, func() bool {
			_, missing := b.Run(t.Context(), "test", "-s", "/run/archive.log")
			return missing == 0 && b.replay("archive").Sources[1].Last == p.account().Status.Received
		})
		b.MustRun("systemctl", "stop", "msgmux-sink@archive.socket", "archive.service")
		source.Signal(unix.SIGCONT)
		state("archive", "absent")
		p.untilStatus("that a sink is absent", func(s statusLine) bool { return s.absent == 1 && s.static == 1 })
		time.Sleep(time.Second)
		b.MustRun("systemctl", "start", "msgmux-sink@archive.socket")
		state("archive", "ready")
		if now := p.account().sink("archive"); now.ID != first.ID || now.Lost != 0 {
			t.Errorf("the sink was %+v and is %+v", first, now)
		}

		// A link to a socket elsewhere, and its removal.
		elsewhere := b.StartLoad("sink", "--bind", "/tmp/mm-elsewhere", "--settle", "1s")
		b.MustRun("ln", "-s", "/tmp/mm-elsewhere", "/run/msgmux/sinks/agent")
		state("agent", "ready")
		b.MustRun("rm", "/run/msgmux/sinks/agent")
		state("agent", "absent")
		b.MustRun("ln", "-s", "/tmp/mm-elsewhere", "/run/msgmux/sinks/agent")
		state("agent", "ready")

		// Options, seen at a reload.
		b.WriteFile("/etc/msgmux/sinks/archive.conf", []byte("patience=7s\n"), 0o644)
		p.systemctl("reload", p.service)
		b.Until("the option is seen", 10*time.Second, func() bool { return p.account().sink("archive").Patience == "7s" })

		// A sink whose consumer fails for good is seen as gone, whoever had the socket.
		b.WriteFile("/etc/systemd/system/broken.service", []byte("[Service]\nExecStart=/usr/bin/false\nSockets=msgmux-sink@broken.socket\n"), 0o644)
		b.MustRun("systemctl", "daemon-reload")
		b.MustRun("systemctl", "start", "msgmux-sink@broken.socket")
		b.Until("the socket fails with its consumer", 20*time.Second, func() bool {
			return active(t, b.Machine, "msgmux-sink@broken.socket") == "failed"
		})
		state("broken", "absent")

		source.Signal(unix.SIGTERM)
		sent := source.Sender()
		b.Until("the sinks that are there have everything", 20*time.Second, func() bool {
			a := p.account()
			return a.sink("archive").Waiting+a.sink("agent").Waiting+a.sink("mm-other").Waiting == 0 &&
				b.replay("archive").Sources[1].Last == sent.Sent
		})
		// All of these paths are on file systems that answer: the broker has looked for itself.
		if out, exit := b.Run(t.Context(), "pgrep", "--full", "^msgmuxd-scout"); exit != 1 {
			t.Errorf("another process was asked where a path leads: %s", out)
		}
		other.Signal(unix.SIGTERM)
		elsewhere.Signal(unix.SIGTERM)
		archive := b.replay("archive")
		archive.Sources[1] = fromTheFirst(archive.Sources[1])
		for _, problem := range append(other.Sinks()[0].Problems(sent), archive.Problems(sent)...) {
			t.Error(problem)
		}
		if got := elsewhere.Sinks()[0]; got.Missing+got.Duplicates+got.Reordered > 0 || got.Sources[1].Last != sent.Sent {
			t.Errorf("the sink by a link got %+v of %d", got, sent.Sent)
		}
		if now := p.show("MainPID", "NRestarts"); now["MainPID"] != broker || now["NRestarts"] != "0" {
			t.Errorf("the broker was %s and is %+v", broker, now)
		}
	})
}
