// SPDX-License-Identifier: Apache-2.0

package units

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/msgmux/msgmux/units/rig/load/tally"
)

// often is how many times a test does what it is about: n, or what the environment says for a soak.
func often(t *testing.T, variable string, n int) int {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return n
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q is no number of times", variable, text)
	}
	return n
}

// TestRestartIsInvisible restarts the broker again and again under load: every sink gets everything once and in order, and
// nobody sees an error. The longest that a source was kept waiting is printed.
func TestRestartIsInvisible(t *testing.T) {
	times := often(t, "MSGMUX_SOAK_RESTARTS", 10)
	onEachBed(t, func(t *testing.T, b *bed) {
		x := b.begin()
		p := x.place
		var restarts []restart
		seen := statusLine{}
		for range times {
			time.Sleep(500 * time.Millisecond)
			p.systemctl("restart", p.service)
			restarts = append(restarts, p.lastRestart())
			now := p.status()
			if now.static != 2 || now.dynamic != 5 || now.received < seen.received || now.accepted < seen.accepted || now.lost != 0 {
				t.Errorf("the status was %q and is %q", seen.text, now.text)
			}
			seen = now
		}
		time.Sleep(500 * time.Millisecond)
		r := x.end()
		x.check(r, 0)
		if got := r.account.Status.Starts - x.before.Status.Starts; got != uint64(times) {
			t.Errorf("the ring has seen %d brokers more, want %d", got, times)
		}
		tellPauses(t, restarts, r.sources)
	})
}

// restart is one restart as systemd saw it, in seconds of CLOCK_MONOTONIC; handoff is 0 where systemd does not tell.
type restart struct{ stop, stopped, start, exec, handoff, ready float64 }

// lastRestart asks systemd when the steps of the restart that is just over were taken.
func (p *place) lastRestart() restart {
	p.b.t.Helper()
	got := p.show("ActiveExitTimestampMonotonic", "InactiveEnterTimestampMonotonic", "InactiveExitTimestampMonotonic",
		"ExecMainStartTimestampMonotonic", "ExecMainHandoffTimestampMonotonic", "ActiveEnterTimestampMonotonic")
	at := func(name string) float64 {
		us, _ := strconv.ParseUint(got[name+"TimestampMonotonic"], 10, 64)
		return float64(us) / 1e6
	}
	return restart{at("ActiveExit"), at("InactiveEnter"), at("InactiveExit"), at("ExecMainStart"), at("ExecMainHandoff"), at("ActiveEnter")}
}

func (r restart) String() string {
	ms := func(from, to float64) string { return fmt.Sprintf("%.0f ms", (to-from)*1000) }
	run := "from fork to ready " + ms(r.exec, r.ready)
	if r.handoff > 0 {
		run = "from fork to exec " + ms(r.exec, r.handoff) + ", from exec to ready " + ms(r.handoff, r.ready)
	}
	return fmt.Sprintf("%s: from SIGTERM to the end of the broker %s, from there to fork %s, %s",
		ms(r.stop, r.ready), ms(r.stop, r.stopped), ms(r.stopped, r.exec), run)
}

// tellPauses prints the longest wait of a source, what the restart in it consisted of, and the same of the median restart.
func tellPauses(t *testing.T, restarts []restart, sources []tally.Sender) {
	longest := slices.MaxFunc(sources, func(a, b tally.Sender) int { return int(1e6 * (a.LongestWait - b.LongestWait)) })
	var text strings.Builder
	fmt.Fprintf(&text, "the longest that a source waited: %.0f ms", longest.LongestWait*1000)
	for _, r := range restarts {
		if r.stop <= longest.LongestAt+longest.LongestWait && longest.LongestAt <= r.ready {
			fmt.Fprintf(&text, "\nin it, a restart of %v", r)
		}
	}
	slices.SortFunc(restarts, func(a, b restart) int { return int(1e6 * ((a.ready - a.stop) - (b.ready - b.stop))) })
	fmt.Fprintf(&text, "\nthe median restart: %v", restarts[len(restarts)/2])
	t.Log(text.String())
}
