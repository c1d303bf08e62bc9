// SPDX-License-Identifier: Apache-2.0

package units

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// journalEntry is what journald has written down of a message, as far as the test looks at it.
type journalEntry struct {
	Message string `json:"MESSAGE"`
	PID     string `json:"_PID"`
	UID     string `json:"_UID"`
	Unit    string `json:"_SYSTEMD_UNIT"`
}

// tagged are the entries of that syslog identifier, in their order.
func (b *bed) tagged(tag string) (all []journalEntry) {
	b.t.Helper()
	for line := range strings.Lines(b.MustRun("journalctl", "--quiet", "--output=json", "--identifier="+tag)) {
		var e journalEntry
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			b.t.Fatalf("cannot read %q: %v", line, err)
		}
		all = append(all, e)
	}
	return all
}

// TestSendersCredentials has journald as a sink. As installed its option is refused, and everything is msgmuxd's; with the drop-in of
// examples/credentials.conf each message is its sender's, also over kills of the broker; and without it again, msgmuxd's.
func TestSendersCredentials(t *testing.T) {
	const dropIn = "/etc/systemd/system/msgmux.service.d/credentials.conf"
	onEachBed(t, func(t *testing.T, b *bed) {
		p := b.channel("")
		b.WriteFile("/etc/msgmux/sinks/journal.conf", []byte("credentials=pass\npatience=forever\n"), 0o644)
		p.systemctl("start", "msgmux.target", p.service)
		b.MustRun("ln", "-s", "/run/systemd/journal/dev-log", "/run/msgmux/sinks/journal")
		b.Until("the sink is there", 20*time.Second, func() bool { return p.account().state("journal") == "ready" })
		// A service that sends a line each time its file grows, and stays.
		b.WriteFile("/etc/systemd/system/shop.service", []byte("[Service]\nUser=nobody\nSupplementaryGroups=msgmux-send\n"+
			"ExecStart=/bin/sh -c 'exec tail -n +1 -f /run/orders | exec msgmux pub'\n"), 0o644)
		b.WriteFile("/run/orders", nil, 0o644)
		p.systemctl("start", "shop.service")
		say := func(tag string, n int) {
			t.Helper()
			b.MustRun("sh", "-c", fmt.Sprintf(`for i in $(seq %d); do echo "<13>%s: order $i"; done >>/run/orders`, n, tag))
			b.Until("the journal has them", 20*time.Second, func() bool { return len(b.tagged(tag)) >= n })
		}
		each := func(tag string, n int, want func(journalEntry) bool) {
			t.Helper()
			got := b.tagged(tag)
			if len(got) != n {
				t.Errorf("%s: %d entries instead of %d", tag, len(got), n)
			}
			for i, e := range got {
				if e.Message != fmt.Sprintf("order %d", i+1) || !want(e) {
					t.Fatalf("%s: entry %d is %+v", tag, i, e)
				}
			}
		}
		nobodys := strings.TrimSpace(b.MustRun("id", "-u", "nobody"))
		brokers := strings.TrimSpace(b.MustRun("id", "-u", "msgmux"))
		byTheBroker := func(e journalEntry) bool { return e.Unit == p.service && e.UID == brokers }
		byTheShop := func(e journalEntry) bool { return e.Unit == "shop.service" && e.UID == nobodys && e.PID != "" }

		say("refused", 5)
		each("refused", 5, byTheBroker)
		if journal := b.MustRun("journalctl", "--quiet", "--unit="+p.service); !strings.Contains(journal, "CAP_SYS_ADMIN, CAP_SETUID, CAP_SETGID") {
			t.Errorf("the journal does not say why the option is not used:\n%s", journal)
		}

		b.Install("examples/credentials.conf", dropIn, 0o644)
		b.MustRun("systemctl", "daemon-reload")
		p.systemctl("restart", p.service)
		b.Until("the option is used", 20*time.Second, func() bool {
			return strings.Contains(b.MustRun("msgmux", "sinks", "list", "--json"), `"credentials": "pass"`)
		})
		say("passed", 5)
		each("passed", 5, byTheShop)
		for i := range 10 {
			p.untilActive()
			p.killAndWait("KILL")
			say(fmt.Sprint("killed-", i), 50)
			each(fmt.Sprint("killed-", i), 50, byTheShop)
		}
		if a := p.account(); a.Status.AsOwn != 0 {
			t.Errorf("%d messages are counted as the broker's own", a.Status.AsOwn)
		}

		// One that has ended when its message goes on: it waits while the broker is stopped.
		p.systemctl("stop", p.service)
		b.MustRun("sh", "-c", `echo "<13>gone: order 1" | socat -u - UNIX-SENDTO:/run/msgmux/source`)
		b.Until("the journal has it", 20*time.Second, func() bool { return len(b.tagged("gone")) == 1 })
		each("gone", 1, byTheBroker)
		if a := p.account(); a.Status.AsOwn != 1 {
			t.Errorf("%d messages are counted as the broker's own", a.Status.AsOwn)
		}

		b.MustRun("rm", dropIn)
		b.MustRun("systemctl", "daemon-reload")
		p.systemctl("restart", p.service)
		b.Until("the option is not used", 20*time.Second, func() bool {
			return !strings.Contains(b.MustRun("msgmux", "sinks", "list", "--json"), `"credentials"`)
		})
		say("again", 5)
		each("again", 5, byTheBroker)
		if a := p.account(); a.sink("journal").Lost != 0 || a.Status.Abandoned != 0 || a.Status.AsOwn != 1 {
			t.Errorf("%+v", a)
		}
	})
}
