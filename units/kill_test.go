// SPDX-License-Identifier: Apache-2.0

package units

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"
)

// TestKillIsInvisible kills the broker at random moments under load, with systemd reloaded and re-executed in between, and
// has the watchdog kill it: every socket gets everything once and in order. A message queue may repeat one message for each
// kill (as a sink) or lose one (as a source), because its system calls leave no record.
func TestKillIsInvisible(t *testing.T) {
	times := often(t, "MSGMUX_SOAK_KILLS", 30)
	onEachBed(t, func(t *testing.T, b *bed) {
		// Time enough for a broker on a busy machine, and less than the ten seconds that it has otherwise.
		b.dropIn("msgmux.service", "watchdog", "[Service]\nWatchdogSec=2s\n")
		x := b.begin()
		p := x.place
		seed := rand.Uint64()
		t.Logf("the seed is %d", seed)
		random := rand.New(rand.NewPCG(seed, 0))
		for i := range times {
			switch i {
			case times / 3:
				p.systemctl("daemon-reexec")
			case times * 2 / 3:
				p.systemctl("daemon-reload")
			}
			// Every third hits a broker that is starting, the others one at work.
			pause := time.Duration(random.IntN(300)) * time.Millisecond
			if i%3 == 0 {
				pause /= 5
			} else {
				p.untilActive()
			}
			time.Sleep(pause)
			p.killAndWait("KILL")
		}
		for range 3 {
			p.untilActive()
			time.Sleep(200 * time.Millisecond)
			p.killAndWait("STOP")
		}
		p.untilActive()
		if n := countLines(b.Journal("--unit="+p.service), "Watchdog timeout"); n != 3 {
			t.Errorf("the watchdog had the broker killed %d times, want 3", n)
		}
		// Each that came to work says what of the last one it has.
		sinks := p.account().Status.Sinks.Total
		if n := countLines(b.Journal("--unit="+p.service), fmt.Sprintf("went on with the ring of the last broker (sinks=%d", sinks)); n < 3 {
			t.Errorf("%d times a broker says that it went on with %d sinks", n, sinks)
		}
		p.systemctl("daemon-reexec")
		p.systemctl("restart", p.service)
		time.Sleep(200 * time.Millisecond)
		r := x.end()
		x.check(r, uint64(times)+3)
		t.Logf("of %d brokers, %d came to open the ring", times+4, r.account.Status.Starts-x.before.Status.Starts)
	})
}

// restarts is how often systemd has restarted the service of its own accord.
func (p *place) restarts() int {
	p.b.t.Helper()
	n, _ := strconv.Atoi(p.show("NRestarts")["NRestarts"])
	return n
}

// killAndWait sends the broker a signal that ends it sooner or later, and waits until systemd goes to start the next one.
func (p *place) killAndWait(signal string) {
	p.b.t.Helper()
	before := p.restarts()
	p.b.Until("there is a broker to kill", 20*time.Second, func() bool { return p.kill(signal) })
	p.b.Until("systemd starts another broker", 20*time.Second, func() bool { return p.restarts() > before })
}

// untilActive waits until the service is ready.
func (p *place) untilActive() {
	p.b.t.Helper()
	p.b.Until(p.service+" is active", 20*time.Second, func() bool { return p.show("ActiveState")["ActiveState"] == "active" })
}
