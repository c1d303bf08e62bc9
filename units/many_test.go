// SPDX-License-Identifier: Apache-2.0

package units

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestManySinks registers as many sinks as are allowed, restarts and kills the broker, and counts what each of them gets. The one
// above the limit is told so, and systemd keeps exactly what there is.
func TestManySinks(t *testing.T) {
	const sinks, messages = 2000, 20
	onEachBed(t, func(t *testing.T, b *bed) {
		b.dropIn("msgmux.service", "limit", "[Service]\nExecStart=\nExecStart=/usr/bin/msgmuxd --max-sinks 2000\n")
		p := b.channel("")
		p.systemctl("start", "msgmux.target", p.service)
		began := time.Now()
		many := b.StartLoad("sink", "--bind", "@mm-many", "--number=2000", "--register", "/run/msgmux/register",
			"--option", "patience=forever", "--settle", "2s", "--largest=1000")
		t.Logf("%d sinks registered in %v", sinks, time.Since(began).Round(time.Millisecond))
		stored := func() string { return p.show("NFileDescriptorStore")["NFileDescriptorStore"] }
		all := func() {
			t.Helper()
			p.untilStatus("that all sinks are there", func(s statusLine) bool { return s.sinks == sinks && s.dynamic == sinks && s.lost == 0 })
			// And the ring, which is two, and two witnesses, one of which comes a little later.
			b.Until("systemd keeps the sinks and the ring", 20*time.Second, func() bool { return stored() == "2004" })
		}
		above := func() {
			t.Helper()
			out, exit := b.Run(t.Context(), "sh", "-c", "exec load sink --bind @mm-above --register /run/msgmux/register 2>&1")
			if exit == 0 || !strings.Contains(out, "there are 2000 sinks already, as many as --max-sinks allows") {
				t.Errorf("the one above the limit is told %q, exit status %d", out, exit)
			}
		}
		all()
		above()
		source := b.StartLoad("send", "--to", "/run/msgmux/source", "--count=20", "--rate=4", "--unconnected")
		began = time.Now()
		p.systemctl("restart", p.service)
		t.Logf("a restart with %d sinks: %v, of which %v", sinks, time.Since(began).Round(time.Millisecond), p.lastRestart())
		all()
		above()
		p.killAndWait("KILL")
		p.untilActive()
		all()
		sent := source.Sender()
		if sent.Sent != messages {
			t.Fatalf("the source is %+v", sent)
		}
		p.untilDelivered()
		many.Signal(unix.SIGTERM)
		reports := many.Sinks()
		for _, r := range reports {
			for _, problem := range r.Problems(sent) {
				t.Error(problem)
			}
		}
		if len(reports) != sinks {
			t.Errorf("%d sinks report", len(reports))
		}
		// Gone is gone, from the store too.
		b.Until("the store holds the ring alone", 60*time.Second, func() bool { return stored() == "4" })
	})
}
