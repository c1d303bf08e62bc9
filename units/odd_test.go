// SPDX-License-Identifier: Apache-2.0

package units

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestOddDescriptors hands the broker what is of no use to it, and tells it lies about what it was handed.
func TestOddDescriptors(t *testing.T) {
	onEachBed(t, func(t *testing.T, b *bed) {
		p := b.channel("")
		// Another name, another kind, and a name that is taken.
		for name, lines := range map[string]string{
			"nobody":   "ListenDatagram=/run/odd/nobody\nFileDescriptorName=nobody-knows\n",
			"stream":   "ListenStream=127.0.0.1:7777\nFileDescriptorName=sink-stream\n",
			"datagram": "ListenDatagram=/run/odd/publish\nFileDescriptorName=metrics\n",
			"second":   "ListenDatagram=/run/odd/source\nFileDescriptorName=source\n",
		} {
			b.WriteFile("/etc/systemd/system/odd-"+name+".socket", []byte("[Socket]\n"+lines+"Service=msgmux.service\n"), 0o644)
		}
		b.dropIn("msgmux.service", "odd", "[Service]\nSockets=odd-nobody.socket odd-stream.socket odd-datagram.socket odd-second.socket\n")
		p.systemctl("start", "msgmux.target", p.service)
		p.untilActive()
		b.Until("every one is named in the journal", 10*time.Second, func() bool {
			journal := b.Journal("--unit="+p.service, "--output=cat")
			return strings.Contains(journal, `"nobody-knows" (datagram socket): unknown name`) &&
				strings.Contains(journal, `"sink-stream" (listening stream socket): wrong kind`) &&
				strings.Contains(journal, `"metrics" (datagram socket): wrong kind`) &&
				strings.Contains(journal, `"source" (datagram socket): descriptor`)
		})
		if n := p.show("NRestarts")["NRestarts"]; n != "0" {
			t.Errorf("the broker was restarted %s times", n)
		}
		// Which of the two sources it took depends on systemd; one of them works.
		sink := b.StartLoad("sink", "--bind", "@mm-sink", "--register", "/run/msgmux/register")
		b.MustRun("sh", "-c", "echo to one | socat -u STDIN UNIX-SENDTO:/run/msgmux/source; echo to the other | socat -u STDIN UNIX-SENDTO:/run/odd/source")
		b.Until("one of two sources is read", 10*time.Second, func() bool { return p.account().Status.Received == 1 })
		sink.Signal(unix.SIGTERM)
		sink.Wait()

		// Lies end it at once, with the reason. The shell's id is the broker's.
		for environment, want := range map[string]string{
			"LISTEN_PID=$$ LISTEN_FDS=many":                             `cannot parse LISTEN_FDS: "many"`,
			"LISTEN_PID=me LISTEN_FDS=1":                                `cannot parse LISTEN_PID: "me"`,
			"LISTEN_PID=$$ LISTEN_FDS=5":                                "LISTEN_FDS announces 5, descriptor",
			"LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=source:register": "2 names for 1 descriptors",
			"LISTEN_PID=1 LISTEN_FDS=1":                                 "no sockets were handed over",
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
