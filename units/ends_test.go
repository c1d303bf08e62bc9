// SPDX-License-Identifier: Apache-2.0

package units

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// ends are the programs at both ends of a channel, each a service that systemd starts again: a file that grows and is rotated,
// who follows it, and sinks that keep their places.
type ends struct {
	*place
	services []string // that may be killed at any time
	kills    map[string]int
}

const (
	grown   = "/var/log/grown.log"
	writer  = "writer.service"
	follow  = "follow.service"
	exactly = "exactly.service" // stores its place with what it does
	viewing = "viewing.service" // does the same in view
	staging = "staging.service" // a marked source with a stage
	once    = "once.service"    // msgmux sub --keep: what was not acknowledged comes again
)

var workers = []string{"worker@1.service", "worker@2.service"} // of one share

// beginEnds starts all of them. The writer comes last.
func (b *bed) beginEnds() *ends {
	b.t.Helper()
	e := &ends{place: b.channel(""), services: append([]string{follow, exactly, viewing, once, staging}, workers...), kills: map[string]int{}}
	service := func(name, command string) {
		b.WriteFile("/etc/systemd/system/"+name, fmt.Appendf(nil,
			"[Unit]\nStartLimitIntervalSec=0\n[Service]\nExecStart=%s\nStandardError=append:/var/lib/%%p.told\nRestart=always\nRestartSec=10ms\n", command), 0o644)
	}
	service(follow, "/usr/bin/msgmux pub --follow "+grown+" --label grown --keep 1h")
	service(exactly, "/usr/bin/load keep --from /run/msgmux/subscribe --label exactly --log /var/lib/exactly")
	service(viewing, "/usr/bin/load keep --view --from /run/msgmux/subscribe --label viewing --log /var/lib/viewing")
	service(staging, "/usr/bin/load stage --to /run/msgmux/publish --label staging --until /run/enough --sent /run/staged")
	const sub = "/bin/sh -c 'exec /usr/bin/msgmux sub --keep 1h --patience forever --replace %s >>/var/lib/%s'"
	service(once, fmt.Sprintf(sub, "--label once", "once"))
	service("worker@.service", fmt.Sprintf(strings.Replace(sub, "--replace ", "", 1), "--share workers --batch 7", "worker-%i"))
	b.WriteFile("/usr/bin/writer", []byte(`#!/bin/sh
# Numbered lines, each of them written to whatever file is there.
i=0
while [ ! -e /run/enough ]; do
	i=$((i + 1))
	echo "line $i" >>`+grown+`
	[ $((i % 20)) -gt 0 ] || sleep 0.01
done
echo $i >/run/written
`), 0o755)
	b.WriteFile("/etc/systemd/system/"+writer, []byte("[Service]\nType=oneshot\nExecStart=/usr/bin/writer\n"), 0o644)
	for _, way := range []string{"create", "copytruncate"} {
		b.WriteFile("/etc/rotate-"+way, []byte(grown+" {\n\trotate 1000\n\tmissingok\n\tnotifempty\n\t"+way+"\n}\n"), 0o600)
	}
	b.MustRun("touch", grown)
	e.systemctl("daemon-reload")
	e.systemctl("start", "msgmux.target", e.service)
	sinks := slices.DeleteFunc(slices.Clone(e.services[1:]), func(s string) bool { return s == staging })
	e.systemctl(append([]string{"start"}, sinks...)...)
	b.Until("all sinks are there", 20*time.Second, func() bool { return e.account().Status.Sinks.Total == 5 })
	e.systemctl("start", follow, staging)
	e.systemctl("--no-block", "start", writer)
	return e
}

// kill kills some services at the same moment, often the broker with them.
func (e *ends) kill(random *rand.Rand) {
	var who []string
	for _, s := range e.services {
		if random.IntN(4) == 0 {
			who = append(who, s)
		}
	}
	if len(who) == 0 || random.IntN(2) == 0 {
		who = append(who, e.service)
	}
	// One that is not there at this moment is not killed; no harm.
	quiet := []string{"sh", "-c", `exec "$@" 2>/dev/null`, "sh", "systemctl", "kill", "--signal=KILL"}
	for _, s := range who {
		if _, exit := e.b.Run(e.b.t.Context(), append(quiet, s)...); exit == 0 {
			e.kills[s]++
		}
	}
}

// rotate has logrotate rotate the file, in one of its two ways. The second copies the file and truncates it: what is written in
// between is lost by logrotate itself, so nothing is.
func (e *ends) rotate(way string) {
	e.b.t.Helper()
	if way == "copytruncate" {
		// A signal waits for the end of a system call, which may be a write; or vfork(2), which ends when the child goes on, and that
		// has been stopped.
		pid := e.showUnit(writer, "MainPID")["MainPID"]
		e.b.Until("the writer has stopped", 20*time.Second, func() bool {
			e.systemctl("kill", "--signal=STOP", writer)
			_, exit := e.b.Run(e.b.t.Context(), "sh", "-c", "sleep 0.1; grep -q '^State:.T' /proc/"+pid+"/status")
			if exit != 0 {
				e.systemctl("kill", "--signal=CONT", writer)
			}
			return exit == 0
		})
		defer e.systemctl("kill", "--signal=CONT", writer)
	}
	e.b.MustRun("logrotate", "--force", "--state", "/run/rotated", "/etc/rotate-"+way)
}

// TestPromise10_EndsUnderSystemd kills everybody at random while systemd starts them again: who follows a growing file, the
// broker, kept sinks, one of them in view, and a source with a stage, which the store keeps as it keeps the sink's page. Meanwhile
// logrotate rotates the file. Who stores its place has each line once and in order, and each message from the stage, and nobody misses
// one.
func TestPromise10_EndsUnderSystemd(t *testing.T) {
	times := often(t, "MSGMUX_SOAK_KILLS", 40)
	onEachBed(t, func(t *testing.T, b *bed) {
		e := b.beginEnds()
		seed := rand.Uint64()
		t.Logf("the seed is %d", seed)
		random := rand.New(rand.NewPCG(seed, 0))
		rotations := 0
		for i := range times {
			time.Sleep(time.Duration(random.IntN(300)) * time.Millisecond)
			e.kill(random)
			if i%5 == 4 {
				e.rotate([]string{"create", "copytruncate"}[rotations%2])
				rotations++
			}
		}
		b.WriteFile("/run/enough", nil, 0o644)
		written, staged := b.untilNumber("/run/written"), b.untilNumber("/run/staged")
		e.untilActive()
		defer func() {
			if t.Failed() {
				e.tellGaps(written)
			}
		}()
		b.Until("all lines are in the channel", 60*time.Second, func() bool { return e.account().Status.Received >= uint64(written+staged) })
		e.untilDelivered()
		b.Until("all that was read is written", 20*time.Second, func() bool {
			return slices.Max(e.numbers("once")) == written && slices.Max(slices.Concat(e.numbers("worker-1"), e.numbers("worker-2"))) == written
		})
		if a := e.account(); a.Status.Received != uint64(written+staged) || a.Status.Lost != 0 {
			t.Errorf("%d lines were written, and %d messages staged; the channel has %+v", written, staged, a.Status)
		}
		for _, who := range []string{"exactly", "viewing"} {
			e.hasEach(who, "line ", written)
			e.hasEach(who, "staged ", staged)
		}
		for _, who := range []string{viewing, staging} {
			e.keptConnection(who)
		}
		e.missesNone("a kept sink", e.numbers("once"), written, e.kills[once]+e.kills[e.service])
		e.missesNone("a kept share", slices.Concat(e.numbers("worker-1"), e.numbers("worker-2")), written, -1)
		t.Logf("%d lines, %d messages staged, %d rotations, kills: %v", written, staged, rotations, e.kills)
	}, "logrotate")
}

// untilNumber waits for a file with a number in it.
func (b *bed) untilNumber(file string) (n int) {
	b.t.Helper()
	b.Until("there is "+file, 60*time.Second, func() bool { _, exit := b.Run(b.t.Context(), "test", "-s", file); return exit == 0 })
	n, err := strconv.Atoi(strings.TrimSpace(b.ReadFile(file)))
	if err != nil {
		b.t.Fatal(err)
	}
	return n
}

// hasEach wants a program that stores its place to have written each message of that beginning once, and in order.
func (e *ends) hasEach(who, beginning string, last int) {
	e.b.t.Helper()
	var got []int
	e.b.Until("all that was read is written: "+who, 20*time.Second, func() bool { got = e.numbersOf(who, beginning); return slices.Max(got) == last })
	for i, n := range got {
		if n != i+1 {
			e.b.t.Fatalf("%s, which stores its place, has %s%d where %d should be", who, beginning, n, i+1)
		}
	}
	if len(got) != last {
		e.b.t.Errorf("%s, which stores its place, has %d of %d that begin with %q", who, len(got), last, beginning)
	}
}

// keptConnection wants no kill of the broker to have ended the connection of a program: its page or stage was in the store with it.
func (e *ends) keptConnection(who string) {
	e.b.t.Helper()
	connections := strings.Count(e.b.ReadFile("/var/lib/"+strings.TrimSuffix(who, ".service")+".told"), "ready\n")
	restarts, err := strconv.Atoi(e.showUnit(who, "NRestarts")["NRestarts"])
	if err != nil || connections > restarts+1 {
		e.b.t.Errorf("%s was started %d times, and has connected %d times (%v)", who, restarts+1, connections, err)
	}
	e.b.t.Logf("%s: %d connections, %d starts", who, connections, restarts+1)
}

// numbers are those of the lines that a program has written, behind whatever it, or a kill in the middle of one, has put there.
func (e *ends) numbers(name string) (all []int) { e.b.t.Helper(); return e.numbersOf(name, "line ") }

// numbersOf is numbers for messages of another beginning.
func (e *ends) numbersOf(name, beginning string) (all []int) {
	e.b.t.Helper()
	for line := range strings.Lines(e.b.ReadFile("/var/lib/" + name)) {
		text := strings.TrimSuffix(line, "\n")
		i := strings.LastIndex(text, beginning)
		if i < 0 {
			continue
		}
		if n, err := strconv.Atoi(text[i+len(beginning):]); err == nil {
			all = append(all, n)
		}
	}
	if len(all) == 0 {
		all = []int{0}
	}
	return all
}

// tellGaps logs which lines of those written did not come to who stores its place.
func (e *ends) tellGaps(written int) {
	last := 0
	for _, n := range append(e.numbers("exactly"), written+1) {
		if n != last+1 {
			e.b.t.Logf("of %d lines, %d comes after %d; the files have: %s", written, n, last,
				e.b.MustRun("sh", "-c", fmt.Sprintf("cd /var/log; grep -x 'line %d' grown.log* || :", last+1)))
		}
		last = n
	}
	e.b.t.Logf("the files:\n%s", e.b.MustRun("sh", "-c", `cd /var/log; ls -lit --full-time grown.log*; head -qn 1 grown.log* | tr '\n' ' '`))
}

// missesNone wants all lines, whatever came twice. A sink of its own has them in order but for where it went back, at most so many
// times; -1 is any number.
func (e *ends) missesNone(who string, got []int, written, back int) {
	e.b.t.Helper()
	seen, went := make([]bool, written+1), 0
	for i, n := range got {
		if n < 1 || n > written {
			e.b.t.Fatalf("%s has a line %d", who, n)
		}
		if seen[n] = true; i > 0 && n <= got[i-1] {
			went++
		}
	}
	if i := slices.Index(seen[1:], false); i >= 0 {
		e.b.t.Errorf("%s misses line %d of %d", who, i+1, written)
	}
	if back >= 0 && went > back {
		e.b.t.Errorf("%s went back %d times, and there were %d kills", who, went, back)
	}
	e.b.t.Logf("%s: %d lines for %d, back %d times", who, len(got), written, went)
}
