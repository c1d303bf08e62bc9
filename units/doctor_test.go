// SPDX-License-Identifier: Apache-2.0

package units

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// diagnosis is one thing that the doctor has looked at.
type diagnosis struct{ Verdict, Text, Advice string }

// diagnose asks the doctor about a channel: what was found, by name, and the exit status.
func (p *place) diagnose() (found map[string]diagnosis, exit int) {
	p.b.t.Helper()
	out, exit := p.b.Run(p.b.t.Context(), p.command("msgmux", "--runtime-dir", p.folder, "doctor", "--json")...)
	var list []struct {
		Name string
		diagnosis
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		p.b.t.Fatalf("%v in %q", err, out)
	}
	found = make(map[string]diagnosis)
	for _, d := range list {
		found[d.Name] = d.diagnosis
	}
	return found, exit
}

// TestDoctorLooksAtTheService: at the descriptor store and the limits that its systemd grants the broker, and at the units, as
// they are and as somebody has changed them.
func TestDoctorLooksAtTheService(t *testing.T) {
	onEachBed(t, func(t *testing.T, b *bed) {
		p := b.channel("")
		p.systemctl("start", "msgmux.target", p.service)
		sink := b.Start("msgmux", "sub", "--label", "seen")
		defer sink.Stop(5 * time.Second)
		b.Until("the sink is there", 10*time.Second, func() bool { return p.account().state("seen") != "" })
		expect := func(name, verdict string, exit int, words ...string) {
			t.Helper()
			found, status := p.diagnose()
			d := found[name]
			for _, word := range words {
				if d.Verdict != verdict || status != exit || !strings.Contains(d.Text+"\n"+d.Advice, word) {
					t.Errorf("%s is %+v, exit status %d; want %s, %q and %d", name, d, status, verdict, words, exit)
					return
				}
			}
		}
		kept, tooFew := "kept over restarts and stops", "the broker does not start"
		if b.SystemdVersion() < 254 {
			kept, tooFew = "this systemd keeps them over a restart, and not over a stop", "a restart loses the sinks that find no room"
		}
		// The ring's two, the sink's, and two witnesses, one of which comes a little later.
		b.Until("the store holds 5", 20*time.Second, func() bool { return p.show("NFileDescriptorStore")["NFileDescriptorStore"] == "5" })
		expect("fd store", "ok", 0, "5 of 8192; "+kept)
		expect("descriptors", "ok", 0, "of 16384 are open, 9216 may be needed")
		expect("units", "ok", 0, "msgmux.target, its sockets and its broker are active")

		// The broker that runs was started before: the next one would not start.
		need := 4096 + 1024 + 8
		for _, most := range []int{100, 4096 + 8, need - 1} {
			b.dropIn(p.service, "store", fmt.Sprintf("[Service]\nFileDescriptorStoreMax=%d\n", most))
			expect("fd store", "fail", 1, fmt.Sprintf("it takes %d descriptors", most), fmt.Sprint("may need ", need), tooFew,
				fmt.Sprintf("FileDescriptorStoreMax=%d", need+1024), "systemctl edit msgmux.service")
		}
		b.dropIn(p.service, "store", fmt.Sprintf("[Service]\nFileDescriptorStoreMax=%d\n", need))
		expect("fd store", "ok", 0, fmt.Sprintf("5 of %d; ", need))
		if b.SystemdVersion() >= 254 {
			b.dropIn(p.service, "store", "[Service]\nFileDescriptorStorePreserve=restart\n")
			expect("fd store", "warn", 0, "5 of 8192; a stop of msgmux.service gives up what it holds", "FileDescriptorStorePreserve=yes in a drop-in")
		}
		// It is as the doctor says, and the advice helps.
		b.dropIn(p.service, "store", "[Service]\nFileDescriptorStoreMax=100\n")
		b.Run(t.Context(), p.ctl("restart", p.service)...)
		if b.SystemdVersion() >= 254 {
			b.Until("the broker does not start", 20*time.Second, func() bool { return p.show("NRestarts")["NRestarts"] != "0" })
			expect("channel", "fail", 1, "no broker")
		}
		expect("fd store", "fail", 1, "it takes 100 descriptors", tooFew)
		b.dropIn(p.service, "store", fmt.Sprintf("[Service]\nFileDescriptorStoreMax=%d\n", need+1024))
		p.systemctl("restart", p.service)
		p.untilActive()
		expect("fd store", "ok", 0, fmt.Sprintf(" of %d; %s", need+1024, kept))

		// Too few descriptors for all that may come: seen as soon as the broker has them.
		b.dropIn(p.service, "limit", "[Service]\nLimitNOFILE=7000\n")
		p.systemctl("restart", p.service)
		p.untilActive()
		expect("descriptors", "fail", 1, "may open 7000", "LimitNOFILE=7176")
		b.MustRun("rm", "-r", "/etc/systemd/system/msgmux.service.d")
		b.MustRun("systemctl", "daemon-reload")
		p.systemctl("restart", p.service)
		p.untilActive()

		p.systemctl("stop", "msgmux.target")
		b.MustRun("mv", "/usr/lib/systemd/system/msgmux-publish.socket", "/root")
		b.MustRun("systemctl", "daemon-reload")
		expect("units", "fail", 1, "not there: msgmux-publish.socket", "install the package")
	})
}
