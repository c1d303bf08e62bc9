// SPDX-License-Identifier: Apache-2.0

package units

import (
	"encoding/json"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestClientOutlivesItsChannel has one program of the Go client use a channel that is restarted, killed, and stopped and
// started again: it notices nothing of the first two, and finds the channel again after the third.
func TestClientOutlivesItsChannel(t *testing.T) {
	onEachBed(t, func(t *testing.T, b *bed) {
		p := b.channel("")
		p.systemctl("start", "msgmux.target", p.service)
		client := b.Start("/usr/bin/client", p.folder)
		says := func(what string) {
			t.Helper()
			b.Until("the client says "+what, 30*time.Second, func() bool { return strings.Contains(client.Stderr(), what+"\n") })
		}
		says("ready")
		flows := func() {
			t.Helper()
			before := p.account().sink("client").Accepted
			b.Until("messages flow", 30*time.Second, func() bool { return p.account().sink("client").Accepted > before+20 })
		}
		flows()
		for range 3 {
			p.systemctl("restart", p.service)
			flows()
			if !p.kill("SIGKILL") {
				t.Fatal("no broker to kill")
			}
			p.untilActive()
			flows()
		}
		if heard := client.Stderr(); heard != "ready\n" {
			t.Errorf("through restarts and kills the client noticed %q", heard)
		}
		p.systemctl("stop", "msgmux.target")
		says("absent")
		p.systemctl("start", "msgmux.target")
		says("anew")
		flows()

		client.Signal(syscall.SIGTERM)
		if status := client.Wait(); status != 0 {
			t.Fatalf("the client ended with status %d: %s", status, client.Stderr())
		}
		var r struct {
			Sent, Absent, Received, Disorder, Missing, Lost, Anew uint64
			Errors                                                []string
		}
		if err := json.Unmarshal([]byte(client.Stdout()), &r); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %+v", b.Suite(), r)
		// What Send had taken when the channel was stopped, and nobody had received, a stop gives up.
		if r.Sent != r.Received+r.Missing || r.Missing > 20 || r.Disorder+r.Lost != 0 || r.Absent == 0 || r.Anew != 1 || len(r.Errors) > 0 {
			t.Errorf("the client saw %+v", r)
		}
	})
}
