// SPDX-License-Identifier: Apache-2.0

package units

import (
	"strings"
	"testing"
	"time"
)

// TestStoreEmptiedByReload: a unit that is masked has no descriptor store, and systemd closes what it keeps at that
// daemon-reload. The broker stores everything again, as soon as it is told to stop, or by itself; until then the doctor says
// what a restart would lose.
func TestStoreEmptiedByReload(t *testing.T) {
	onEachBed(t, func(t *testing.T, b *bed) {
		p := b.channel("")
		p.systemctl("start", "msgmux.target", p.service)
		sink := b.Start("msgmux", "sub", "--label", "seen")
		defer sink.Stop(5 * time.Second)
		b.Until("the sink is there", 10*time.Second, func() bool { return p.account().state("seen") != "" })
		held := func() string { return p.show("NFileDescriptorStore")["NFileDescriptorStore"] }
		b.Until("systemd keeps the ring, the sink and both witnesses", 10*time.Second, func() bool { return held() == "5" })
		id := p.account().sink("seen").ID

		// All in one go, as somebody does who has second thoughts.
		b.MustRun("sh", "-c", "systemctl mask msgmux.service && systemctl unmask msgmux.service && systemctl restart msgmux.service")
		p.untilActive()
		if a := p.account(); a.Status.Starts != 2 || a.sink("seen").ID != id {
			t.Errorf("%d brokers have opened the ring, and the sink is %+v", a.Status.Starts, a.sink("seen"))
		}

		b.Until("systemd keeps all of it", 20*time.Second, func() bool { return held() == "5" })
		p.systemctl("mask", p.service)
		b.Until("the journal says that nothing is kept", 20*time.Second, func() bool {
			return strings.Contains(b.Journal("MSGMUX_EVENT=descriptor-store"), "keeps no descriptors any more")
		})
		if held() != "0" {
			t.Errorf("of a masked unit systemd keeps %s descriptors", held())
		}
		p.systemctl("unmask", p.service)
		switch found, exit := p.diagnose(); {
		case held() != "0":
			t.Log("the broker was faster than the doctor")
		case found["fd store"].Verdict != "fail" || exit != 1 || !strings.Contains(found["fd store"].Text, "0 of 8192, and the ring and the sinks are 3"):
			t.Errorf("the doctor says %+v", found["fd store"])
		}
		b.Until("systemd keeps all of it again", 2*time.Minute, func() bool { return held() == "5" })
		p.killAndWait("KILL")
		p.untilActive()
		if a := p.account(); a.Status.Starts != 3 || a.sink("seen").ID != id {
			t.Errorf("%d brokers have opened the ring, and the sink is %+v", a.Status.Starts, a.sink("seen"))
		}
		if found, _ := p.diagnose(); found["fd store"].Verdict != "ok" {
			t.Errorf("the doctor says %+v", found["fd store"])
		}
	})
}
