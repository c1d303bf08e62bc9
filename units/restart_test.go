// SPDX-License-Identifier: Apache-2.0

package units

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strconv"
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
// nobody sees an error. The longest pauses of the sources are printed.
func TestRestartIsInvisible(t *testing.T) { restartUnderLoad(t, often(t, "MSGMUX_SOAK_RESTARTS", 10)) }

// TestPauseOfRestart does so with sources that leave the broker time to spare, so that they wait for nothing but restarts.
func TestPauseOfRestart(t *testing.T) { restartUnderLoad(t, 10, "--rate=300") }

// restartUnderLoad restarts the broker so many times, with sources of the given pace.
func restartUnderLoad(t *testing.T, times int, pace ...string) {
	onEachBed(t, func(t *testing.T, b *bed) {
		x := b.begin(pace...)
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

// tellPauses prints how long the sources were kept waiting: by each restart, at the longest, and while there was none. Under
// full load a source waits all the time, so the one is only to be read beside the other.
func tellPauses(t *testing.T, restarts []restart, sources []tally.Sender) {
	t.Helper()
	pauses := make([]float64, len(restarts))
	var between float64
	for _, source := range sources {
		for _, wait := range source.Waits {
			hit := false
			for i, r := range restarts {
				// After READY the first to be served is another one.
				if wait.At < r.ready+0.05 && r.stop < wait.At+wait.For {
					pauses[i], hit = max(pauses[i], wait.For), true
				}
			}
			if !hit {
				between = max(between, wait.For)
			}
		}
	}
	slices.Sort(pauses)
	ms := func(s float64) string { return fmt.Sprintf("%.0f ms", s*1000) }
	slices.SortFunc(restarts, func(a, b restart) int { return cmp.Compare(a.ready-a.stop, b.ready-b.stop) })
	t.Logf("the longest pause of a source by %d restarts: least %s, median %s, most %s; between them, most %s\nthe median restart: %v\nthe longest: %v",
		len(restarts), ms(pauses[0]), ms(pauses[len(pauses)/2]), ms(pauses[len(pauses)-1]), ms(between),
		restarts[len(restarts)/2], restarts[len(restarts)-1])
}
