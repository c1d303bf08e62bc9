// SPDX-License-Identifier: Apache-2.0

package units

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The namespaces of containers, as unshare(1) calls them: one that shares the host's network, and one that does not.
var (
	hostNetwork = []string{"--mount", "--ipc", "--uts", "--pid", "--fork", "--kill-child"}
	ownNetwork  = append([]string{"--net"}, hostNetwork...)
)

// inContainer is a command in what a container has: a file system and processes of its own, and of the host nothing but
// /run/msgmux, and a folder that both share.
func inContainer(namespaces []string, arguments ...string) []string {
	return append(append(append([]string{"unshare"}, namespaces...), "sh", "-c",
		`mount -t tmpfs tmpfs /tmp && mount -t tmpfs -o mode=755 tmpfs /home && exec "$@"`, "sh"), arguments...)
}

// TestContainer runs clients in containers. A path that only the container sees is refused with advice, which works; with a
// network of its own no answer can reach the container, and the host's journal has the advice.
func TestContainer(t *testing.T) {
	onEachBed(t, func(t *testing.T, b *bed) {
		p := b.channel("")
		p.systemctl("start", "msgmux.target", p.service)
		b.MustRun("mkdir", "-p", "/run/shared")

		register := []string{"--register", "/run/msgmux/register", "--settle", "500ms"}
		out, exit := b.Run(t.Context(), inContainer(hostNetwork, append([]string{"sh", "-c", `exec "$@" 2>&1`, "sh", "load", "sink", "--bind", "/tmp/alone"}, register...)...)...)
		for _, word := range []string{"error no-peer", "finds no file", "container", "connect to the subscribe socket instead"} {
			if exit != 1 || !strings.Contains(out, word) {
				t.Errorf("a path that only the container sees is answered %q, exit status %d; want %q", out, exit, word)
			}
		}
		abstract := b.Start(inContainer(hostNetwork, append([]string{"load", "sink", "--bind", "@mm-contained"}, register...)...)...)
		b.Until("an abstract name of the host's network works", 20*time.Second, func() bool { return p.account().Status.Sinks.Dynamic == 1 })

		b.MustRun(inContainer(ownNetwork, "sh", "-c", "socat -u UNIX-RECV:/run/shared/sink STDOUT & sleep 0.5; chmod 666 /run/shared/sink; "+
			"echo /run/shared/sink | socat -u STDIN UNIX-SENDTO:/run/msgmux/register; sleep 0.5; kill $!")...)
		b.Until("the journal tells what to do about another network", 10*time.Second, func() bool {
			journal := b.Journal("--unit="+p.service, "--output=cat")
			return strings.Contains(journal, "namespace") && strings.Contains(journal, "connect to the subscribe socket instead")
		})

		framed := b.Start(inContainer(ownNetwork, "load", "subscribe", "--from", "/run/msgmux/subscribe", "--settle", "500ms")...)
		b.Until("a framed sink of another network works", 20*time.Second, func() bool { return p.account().Status.Sinks.Dynamic == 2 })
		for i, to := range []string{"source", "publish"} {
			send := []string{"load", "send", "--to", "/run/msgmux/" + to, "--count=1000", "--source", string(rune('1' + i))}
			if to == "publish" {
				send = append(send, "--records=10")
			}
			if out, exit := b.Run(t.Context(), inContainer(ownNetwork, send...)...); exit != 0 || !strings.Contains(out, `"sent":1000`) {
				t.Errorf("a source in a container, to %s: %q, exit status %d", to, out, exit)
			}
		}
		p.untilDelivered()
		if a := p.account().Status; a.Received != 2000 || a.Accepted != 4000 || a.Lost != 0 {
			t.Errorf("the broker counts %+v", a)
		}
		abstract.Signal(unix.SIGKILL)
		framed.Signal(unix.SIGKILL)
	})
}

// TestPathOfAnotherKind: what only a file system could say that may never answer, such as procfs, is asked by a process of its own,
// which the sandbox lets the broker start. It ends with the broker.
func TestPathOfAnotherKind(t *testing.T) {
	onEachBed(t, func(t *testing.T, b *bed) {
		p := b.channel("")
		p.systemctl("start", "msgmux.target", p.service)
		b.MustRun("mkdir", "-p", "/run/shared")
		agent := b.StartLoad("sink", "--bind", "/run/shared/agent")
		b.Until("the agent is there", 10*time.Second, func() bool {
			_, exit := b.Run(t.Context(), "chmod", "666", "/run/shared/agent")
			return exit == 0
		})
		b.MustRun("ln", "-s", "/proc/self/root/run/shared/agent", "/run/msgmux/sinks/agent")
		b.Until("the sink is ready", 20*time.Second, func() bool {
			s := p.account().Status.Sinks
			return s.Static == 1 && s.Absent == 0
		})
		if out, exit := b.Run(t.Context(), "pgrep", "--full", "^msgmuxd-scout"); exit != 0 {
			t.Errorf("no process looks where paths lead: %q", out)
		}
		agent.Signal(unix.SIGKILL)
		b.MustRun("rm", "/run/msgmux/sinks/agent")
		p.systemctl("stop", "msgmux.target", p.service)
		b.Until("it ends with the broker", 10*time.Second, func() bool {
			_, exit := b.Run(t.Context(), "pgrep", "--full", "^msgmuxd-scout")
			return exit == 1
		})
	})
}
