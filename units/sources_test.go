// SPDX-License-Identifier: Apache-2.0

package units

import (
	"strings"
	"testing"
	"time"
)

// TestSeveralSources: a second address of the socket unit is a source like the first, also over restarts and kills of the broker;
// and what nobody would read is refused by the broker, which does not start, and said by the doctor.
func TestSeveralSources(t *testing.T) {
	onEachBed(t, func(t *testing.T, b *bed) {
		p := b.channel("")
		b.MustRun("systemctl", "enable", "--now", "msgmux.target", p.service)
		renew := func(socket string) {
			t.Helper()
			b.Run(t.Context(), "sh", "-c", "systemctl stop "+socket+" && systemctl restart msgmux.service")
		}
		const second = "/srv/chroot/dev/log"
		b.dropIn("msgmux-source.socket", "chroot", "[Socket]\nListenDatagram="+second+"\n")
		p.finds("msgmux-source.socket", "fail", second+" as well", "systemctl stop msgmux-source.socket && systemctl restart msgmux.service")
		renew("msgmux-source.socket")
		p.finds("units", "ok", "active")

		hung := p.held()
		defer hung.Signal(9)
		received := p.account().Status.Received
		say := func(path, text string) {
			t.Helper()
			b.MustRun("sh", "-c", `echo "$2" | socat -u STDIN UNIX-SENDTO:"$1"`, "sh", path, text)
		}
		for i, end := range []func(){func() {}, func() { b.MustRun("systemctl", "restart", p.service) }, func() { p.kill("SIGKILL") }} {
			end()
			say(second, "there")
			say("/run/msgmux/source", "here")
			b.Until("both messages are received", 20*time.Second, func() bool { return p.account().Status.Received == received+2*uint64(i+1) })
			out := b.MustRun("msgmux", "status")
			if !strings.Contains(out, " 1 /run/msgmux/source: ") || !strings.Contains(out, " 2 "+second+": ") {
				t.Errorf("the status does not show both sources: %s", out)
			}
		}

		// Every other one there is one of, and a name says what a socket is for.
		for _, c := range []struct{ socket, lines, says string }{
			{"msgmux-register.socket", "ListenDatagram=/run/msgmux/register-2", "has the same name"},
			{"msgmux-publish.socket", "ListenSequentialPacket=/run/msgmux/publish-2", "has the same name"},
			{"msgmux-control.socket", "FileDescriptorName=steering", "unknown name"},
			{"msgmux-source.socket", "ListenStream=/run/msgmux/stream", "wrong kind"},
		} {
			b.dropIn(c.socket, "wrong", "[Socket]\n"+c.lines+"\n")
			renew(c.socket)
			p.finds("units", "fail", "cannot start", c.says, "the broker does not start")
			b.MustRun("rm", "/etc/systemd/system/"+c.socket+".d/wrong.conf")
			b.MustRun("systemctl", "daemon-reload")
			b.MustRun("sh", "-c", "systemctl stop "+c.socket+" && systemctl restart msgmux.service")
			p.finds("units", "ok", "active")
		}
		p.flows("in the end")
		if a := p.account(); a.Status.Received < received+7 || a.Status.Lost != 0 {
			t.Errorf("of %d messages the channel has %+v", received+7, a.Status)
		}
	})
}
