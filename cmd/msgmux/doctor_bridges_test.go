// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
)

// TestDoctorJudgesBridges by what systemd may say of them.
func TestDoctorJudgesBridges(t *testing.T) {
	for _, test := range []struct {
		state bridgeState
		want  verdict
		words []string
	}{
		{bridgeState{active: "active", says: "joined to nats://a:4222 for 3s; 7 messages carried, 0/s, lag 0"}, good, []string{"joined to nats://a:4222"}},
		{bridgeState{active: "active", says: "cannot connect to nats://a:4222"}, poor, []string{"not joined: cannot connect", "it waits for them"}},
		{bridgeState{active: "inactive"}, poor, []string{"does not run", "systemctl start msgmux-nats-out@site.service"}},
		{bridgeState{active: "activating", status: 4, restarts: 3}, bad, []string{"status 4: the last line", "make room in the stream"}},
		{bridgeState{active: "failed", status: 2}, bad, []string{"status 2", "mend its settings"}},
		{bridgeState{active: "activating", status: 1, restarts: 9}, bad, []string{"9 restarts", "the last line"}},
	} {
		test.state.unit = "msgmux-nats-out@site.service"
		f := judgeBridge(test.state, "the last line")
		if f.Verdict != test.want {
			t.Errorf("%+v: %+v", test.state, f)
		}
		for _, word := range test.words {
			if !strings.Contains(f.Text+"\n"+f.Advice, word) {
				t.Errorf("no %q in %+v", word, f)
			}
		}
	}
}
