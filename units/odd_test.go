// SPDX-License-Identifier: Apache-2.0

package units

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestOddDescriptors hands the broker what is of no use to it, and tells it lies about what it was handed. Where somebody may send
// to what nobody would read, it does not start, and says which; what only a broker can have left is closed, and said.
func TestOddDescriptors(t *testing.T) {
	onEachBed(t, func(t *testing.T, b *bed) {
		p := b.channel("")
		odd := func(name, lines string) {
			b.WriteFile("/etc/systemd/system/odd-"+name+".socket", []byte("[Socket]\n"+lines+"Service=msgmux.service\n"), 0o644)
		}
		says := func(what string) {
			t.Helper()
			b.Until("the journal says "+what, 10*time.Second, func() bool {
				return strings.Contains(b.Journal("--unit="+p.service, "--output=cat"), what)
			})
		}
		for _, o := range []struct{ name, lines, says string }{
			{"nobody", "ListenDatagram=/run/odd/nobody\nFileDescriptorName=nobody-knows\n", `"nobody-knows" (datagram socket): unknown name`},
			{"stream", "ListenStream=127.0.0.1:7777\nFileDescriptorName=sink-stream\n", `"sink-stream" (listening stream socket): wrong kind`},
			{"datagram", "ListenDatagram=/run/odd/publish\nFileDescriptorName=metrics\n", `"metrics" (datagram socket): wrong kind`},
		} {
			odd(o.name, o.lines)
			b.dropIn("msgmux.service", "odd", "[Service]\nSockets=odd-"+o.name+".socket\n")
			if _, exit := b.Run(t.Context(), "sh", "-c", "systemctl start msgmux.target "+p.service+" 2>/dev/null"); exit == 0 {
				t.Errorf("the broker starts with the socket %s", o.name)
			}
			says(o.says)
			says("nobody would read what comes there, so the broker does not start")
			p.systemctl("stop", "msgmux.target", p.service, "odd-"+o.name+".socket")
		}

		odd("second", "ListenDatagram=/run/odd/source\nFileDescriptorName=source\n")
		odd("old", "ListenDatagram=/run/odd/old\nFileDescriptorName=mux-of-old\n")
		b.dropIn("msgmux.service", "odd", "[Service]\nSockets=odd-second.socket odd-old.socket\n")
		p.systemctl("start", "msgmux.target", p.service)
		p.untilActive()
		says(`"mux-of-old" (datagram socket): unknown name`)
		sink := b.StartLoad("sink", "--bind", "@mm-sink", "--register", "/run/msgmux/register")
		b.MustRun("sh", "-c", "echo to one | socat -u STDIN UNIX-SENDTO:/run/msgmux/source; echo to the other | socat -u STDIN UNIX-SENDTO:/run/odd/source")
		b.Until("both sources are read", 10*time.Second, func() bool { return p.account().Status.Received == 2 })
		if n := p.show("NRestarts")["NRestarts"]; n != "0" {
			t.Errorf("the broker was restarted %s times", n)
		}
		sink.Signal(unix.SIGTERM)
		sink.Wait()

		// Lies end it at once, with the reason. The shell's id is the broker's.
		for environment, want := range map[string]string{
			"LISTEN_PID=$$ LISTEN_FDS=many":                             `cannot parse LISTEN_FDS: "many"`,
			"LISTEN_PID=me LISTEN_FDS=1":                                `cannot parse LISTEN_PID: "me"`,
			"LISTEN_PID=$$ LISTEN_FDS=5":                                "LISTEN_FDS announces 5, descriptor",
			"LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=source:register": "2 names for 1 descriptors",
			"LISTEN_PID=1 LISTEN_FDS=1":                                 "handed over to process 1",
		} {
			out, exit := b.Run(t.Context(), "sh", "-c", environment+" exec msgmuxd 2>&1 3</dev/null")
			if (exit != 1 && exit != 2) || !strings.Contains(out, want) || strings.Contains(out, "goroutine") {
				t.Errorf("%s: exit status %d: %q, want %q", environment, exit, out, want)
			}
		}
	})
}

// TestOrdinaryUser registers sinks as an ordinary user, whose umask keeps the broker out of a socket in /tmp: the answer says
// what to do, and both of what it says works. Sinks in the user's home are within reach too.
func TestOrdinaryUser(t *testing.T) {
	onEachBed(t, func(t *testing.T, b *bed) {
		b.MustRun("useradd", "--create-home", "--groups=msgmux,msgmux-send", "alice")
		b.MustRun("chmod", "711", "/home/alice")
		p := b.channel("")
		p.systemctl("start", "msgmux.target", p.service)
		alice := b.As("alice")
		sink := func(script string) (string, int) {
			return b.Run(t.Context(), append(alice, "sh", "-c", "umask 022; cd; exec timeout -s TERM 2 load sink --settle 100ms "+script+" --register /run/msgmux/register 2>&1")...)
		}
		out, exit := sink("--umask --bind /tmp/alice")
		if exit != 1 || !strings.Contains(out, "access") || !strings.Contains(out, "give group msgmux write access") || !strings.Contains(out, "or use an abstract name") {
			t.Errorf("with umask 022 a socket in /tmp is answered %q, exit status %d", out, exit)
		}
		for _, script := range []string{"--bind @alice", "--bind /tmp/alice-open", "--bind /home/alice/sink"} {
			if out, _ := sink(script); !strings.Contains(out, "ready") {
				t.Errorf("%s is answered %q", script, out)
			}
		}
		// Exactly as advised: the group, and write access for it.
		out, _ = b.Run(t.Context(), append(alice, "sh", "-c",
			"umask 022; socat -u UNIX-RECV:/tmp/alice-group STDOUT & sleep 0.5; chgrp msgmux /tmp/alice-group; chmod 660 /tmp/alice-group; "+
				"msgmux status >/dev/null; echo /tmp/alice-group | socat -u STDIN UNIX-SENDTO:/run/msgmux/register; sleep 0.5; "+
				"echo by the group | socat -u STDIN UNIX-SENDTO:/run/msgmux/source; sleep 0.5; kill $!")...)
		if out != "by the group\n" {
			t.Errorf("a socket that group msgmux may write to gets %q", out)
		}
	})
}
