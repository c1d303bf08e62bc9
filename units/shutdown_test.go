// SPDX-License-Identifier: Apache-2.0

package units

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestLastWordsArrive powers a machine off on which nine services say something when they are stopped: the consumer of the page
// on the order of units gets every word, and nobody waits.
func TestLastWordsArrive(t *testing.T) {
	onEachBed(t, func(t *testing.T, b *bed) {
		p := b.channel("")
		b.MustRun("systemctl", "enable", "--now", "msgmux.target", p.service)
		b.install("docs/admin/order.md", "archive", "[Unit]\nDescription=as on the page\n")
		b.MustRun("systemctl", "enable", "--now", "archive.service")
		const services = 9
		for i := range services {
			// Some say it late, when what is in no order has long been stopped.
			b.WriteFile(fmt.Sprintf("/etc/systemd/system/speaker-%d.service", i), fmt.Appendf(nil, "[Unit]\nDescription=speaker\n"+
				"[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/usr/bin/true\nTimeoutStopSec=15\n"+
				"ExecStop=/bin/sh -c 'sleep %d; msgmux pub \"bye from %d,\"'\n[Install]\nWantedBy=multi-user.target\n", i%3, i), 0o644)
			b.MustRun("systemctl", "enable", "--now", fmt.Sprintf("speaker-%d.service", i))
		}
		checkJournal(t, b.Machine)
		for line := range strings.Lines(b.MustRun("sh", "-c", "systemd-analyze verify --man=no default.target shutdown.target 2>&1 || :")) {
			if strings.Contains(line, "cycle") {
				t.Errorf("systemd says: %s", line)
			}
		}
		// It is no unit's, and so lives until systemd kills what is left. It looks often: an overlay tells nobody of changes.
		seen := b.Start("tail", "--lines=+1", "--follow=name", "--retry", "--sleep-interval=0.01", "/var/log/archive")
		began := time.Now()
		b.Run(t.Context(), "systemctl", "--no-block", "poweroff")
		select {
		case <-seen.Done():
		case <-time.After(90 * time.Second):
			t.Fatal("the machine is still there")
		}
		took := time.Since(began)
		if took > 12*time.Second {
			t.Errorf("the end took %v", took)
		}
		for i := range services {
			if !strings.Contains(seen.Stdout(), fmt.Sprintf("bye from %d,", i)) {
				t.Errorf("the word of speaker %d is lost", i)
			}
		}
		t.Logf("%s in %v: %s", b.Suite(), took.Round(time.Millisecond), seen.Stdout())
	})
}
