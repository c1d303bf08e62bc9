// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/internal/wire"
)

// aView is a channel with so many sinks, of all states, and some past.
func aView(sinks int) *view {
	at := time.Unix(1_800_000_000, 0)
	var v view
	for i := range 100 {
		l := listing{Status: wire.Status{RuntimeDir: "/run/msgmux", SinceUnix: at.Unix() - 7000, Buffer: 1 << 20, Used: 1 << 19,
			Received: uint64(1000 * i), Accepted: uint64(3000 * i), Lost: uint64(7 * i), Sinks: wire.SinkCounts{Total: sinks, Dynamic: sinks, Lagging: 1},
			Sources: wire.Sources{Blocked: true, Why: "sink archive", Sink: "archive", ForSeconds: 12}}}
		for n := range sinks {
			s := wire.Sink{ID: uint64(n + 1), Label: fmt.Sprintf("sink-number-%d", n), Kind: "dynamic", Address: "@some/where",
				State: []string{"ready", "stalled", "lagging", "absent"}[n%4], Accepted: uint64(i * 1000 / (n + 1)), Lost: uint64(n),
				LagBytes: uint64(n) << 16, Patience: "1s", PatienceLeft: 0.5, SinceUnix: at.Unix() - 100}
			if s.State == "lagging" {
				s.LaggingSince = at.Unix() - 42
			}
			l.Sinks = append(l.Sinks, s)
		}
		v.take(l, at.Add(time.Duration(i)*time.Second))
	}
	return &v
}

// TestPictureFits into every terminal, with and without colours, and with no sink, some and very many.
func TestPictureFits(t *testing.T) {
	escape := regexp.MustCompile("\x1b\\[[0-9]*m")
	for _, sinks := range []int{0, 1, 7, 500} {
		v := aView(sinks)
		for _, s := range []style{{false, asciiBars, "~"}, {true, unicodeBars, "…"}} {
			for _, columns := range []int{1, 2, 5, 10, 40, 79, 80, 81, 132, 200, 500} {
				for _, rows := range []int{1, 3, 6, 24, 50} {
					lines := picture(v, columns, rows, s)
					if len(lines) > rows || len(lines) == 0 {
						t.Errorf("%d sinks, %dx%d: %d lines", sinks, columns, rows, len(lines))
					}
					for _, line := range lines {
						plain := escape.ReplaceAllString(line, "")
						if n := utf8.RuneCountInString(plain); n > columns || strings.Contains(plain, "\x1b") {
							t.Errorf("%d sinks, %dx%d: %d characters: %q", sinks, columns, rows, n, line)
						}
						if strings.Contains(line, "\x1b") && !strings.HasSuffix(strings.TrimRight(line, s.more), "\x1b[0m") &&
							strings.LastIndex(line, "\x1b[0m") < strings.LastIndex(line, "\x1b[3") {
							t.Errorf("a colour goes on behind %q", line)
						}
					}
				}
			}
		}
	}
}

// TestPictureTellsWhatMatters in the size that terminals usually have, and more in a larger one.
func TestPictureTellsWhatMatters(t *testing.T) {
	v := aView(6)
	plain := style{false, unicodeBars, "…"}
	small := strings.Join(picture(v, 80, 24, plain), "\n")
	for _, want := range []string{
		"SOURCES WAIT 12.0 s: sink archive", "in     1,000/s █", "out    3,000/s █", "lost 693, 7/s", "50% of 1.00 MiB",
		`(?m)^!sink-number-2 +lagging 2 min 21 s +334 +128 KiB +2 `, `(?m)^ sink-number-0 +ready +1,000 +0 B +0 `, "\\*sink-number-1", "\\?sink-number-3",
	} {
		if !regexp.MustCompile(want).MatchString(small) {
			t.Errorf("no %q in\n%s", want, small)
		}
	}
	// The worst stand first, whatever they are called.
	if i, j := strings.Index(small, "!sink-number-2"), strings.Index(small, "sink-number-0"); i < 0 || j < i {
		t.Errorf("the lagging sink does not stand first:\n%s", small)
	}
	// And who is further behind stands before who is not.
	if i, j := strings.Index(small, "sink-number-5"), strings.Index(small, "sink-number-0"); i < 0 || j < i {
		t.Errorf("the sink that is behind does not stand before one that is not:\n%s", small)
	}
	large := strings.Join(picture(v, 200, 50, plain), "\n")
	for _, want := range []string{"RATE ", "LAG ", "waiting", "left", "accepted", "USER", "KIND", "ADDRESS", "@some/where"} {
		if !strings.Contains(large, want) {
			t.Errorf("no %q in\n%s", want, large)
		}
	}
	many := picture(aView(500), 80, 24, plain)
	if last := many[len(many)-1]; !strings.Contains(last, "… and 483 sinks more") || len(many) != 24 {
		t.Errorf("%d lines, the last is %q", len(many), last)
	}
	v.fail(fmt.Errorf("no broker"), time.Now())
	if gone := strings.Join(picture(v, 80, 24, plain), "\n"); !strings.Contains(gone, "no answer for") || strings.Contains(gone, "sink-number") {
		t.Errorf("without an answer:\n%s", gone)
	}
}

// TestSparkLines grow from the right, and show the highest of what is there.
func TestSparkLines(t *testing.T) {
	s := style{bars: unicodeBars}
	for _, test := range []struct {
		h    history
		most float64
		want string
	}{
		{nil, 0, "    "}, {history{0, 0}, 0, "  ▁▁"}, {history{5}, 0, "   █"}, {history{1, 2, 3, 4, 0}, 0, "▅▇█▁"},
		{history{1, 2}, 8, "  ▂▃"}, {history{9, 1}, 4, "  █▃"},
	} {
		if got := spark(test.h, 4, test.most, s); got != test.want {
			t.Errorf("%v to %v is %q, want %q", test.h, test.most, got, test.want)
		}
	}
	var h history
	for i := range 1000 {
		h.add(float64(i))
	}
	if len(h) != historyLength || h.last() != 999 || history(nil).last() != 0 {
		t.Errorf("%d are kept, the last is %v", len(h), h.last())
	}
}

// TestStyleFollowsTheEnvironment of the terminal.
func TestStyleFollowsTheEnvironment(t *testing.T) {
	for _, test := range []struct {
		env     map[string]string
		colour  bool
		unicode bool
	}{
		{nil, true, false}, {map[string]string{"LANG": "de_DE.UTF-8"}, true, true}, {map[string]string{"LANG": "C.utf8", "NO_COLOR": "1"}, false, true},
		{map[string]string{"LANG": "de_DE.UTF-8", "LC_ALL": "C"}, true, false}, {map[string]string{"LC_CTYPE": "en_US.UTF-8"}, true, true},
	} {
		s := styleOf(func(name string) string { return test.env[name] })
		if s.colour != test.colour || (s.bars[0] == unicodeBars[0]) != test.unicode {
			t.Errorf("%v: %+v", test.env, s)
		}
	}
}

// TestWatchIntoAPipe writes lines, or objects of JSON, goes on while the broker is restarted, and ends when it is told.
func TestWatchIntoAPipe(t *testing.T) {
	broker, dir := startBroker(t)
	startSub(t, dir, "--label", "archive")
	p := prepare(t, dir, "status", "--watch", "--interval", "100ms").start()
	until(t, "three intervals", func() bool { return strings.Count(p.stdout.String(), " channel in=") >= 3 })
	line := regexp.MustCompile(`(?m)^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z sink=archive state=ready rate=0/s waiting=0 lag_bytes=0 left=1.0s accepted=0 lost=0$`)
	if !line.MatchString(p.stdout.String()) || strings.Contains(p.stdout.String(), "\x1b") {
		t.Errorf("got %q", p.stdout.String())
	}
	broker.signal(syscall.SIGTERM)
	until(t, "a word about it", func() bool { return strings.Contains(p.stderr.String(), "control") })
	again := prepare(t, dir)
	again.cmd = exec.Command(broker.cmd.Path, broker.cmd.Args[1:]...)
	again.start()
	before := strings.Count(p.stdout.String(), "\n")
	until(t, "it goes on", func() bool { return strings.Count(p.stdout.String(), "\n") > before })
	p.signal(syscall.SIGINT)
	p.want(0)

	p = prepare(t, dir, "status", "--watch", "--interval", "100ms", "--json", "--count", "3").want(0)
	lines := strings.Split(strings.TrimSpace(p.stdout.String()), "\n")
	if len(lines) != 3 {
		t.Errorf("%d lines of JSON", len(lines))
	}
	for _, line := range lines {
		var got struct {
			Time   time.Time
			Status wire.Status
			Sinks  []wire.Sink
		}
		if err := json.Unmarshal([]byte(line), &got); err != nil || got.Status.PID == 0 || got.Sinks == nil || time.Since(got.Time) > time.Minute {
			t.Errorf("%v in %s", err, line)
		}
	}
	p = prepare(t, dir, "status", "--watch", "--interval", "100ms").start()
	until(t, "an interval", func() bool { return p.stdout.String() != "" })
	p.signal(syscall.SIGTERM)
	p.want(exitTerminated)
	prepare(t, dir, "status", "--interval", "1s").want(exitUsage).says("goes with --watch")
	prepare(t, dir+"/nowhere", "status", "--watch").want(exitNoBroker)
}

// TestWatchGivesTheTerminalBack as it was.
func TestWatchGivesTheTerminalBack(t *testing.T) {
	_, dir := startBroker(t)
	screen, slave := terminal(t)
	shown := watch(screen)
	p := prepare(t, dir, "status", "--watch", "--interval", "100ms")
	p.cmd.Env = append(p.cmd.Env, "TERM=xterm", "COLUMNS=80", "LINES=24")
	p.cmd.Stdout, p.cmd.Stdin = slave, slave
	p.start()
	until(t, "a picture", func() bool { return strings.Contains(shown.String(), "SOURCES WAIT") })
	p.signal(syscall.SIGINT)
	p.want(0)
	until(t, "the end", func() bool { return strings.HasSuffix(shown.String(), "\x1b[?25h\x1b[?1049l") })
	if !strings.HasPrefix(shown.String(), "\x1b[?1049h\x1b[?25l\x1b[H") {
		t.Errorf("it began with %.40q", shown.String())
	}
	// On a terminal that can do nothing it writes lines.
	p = prepare(t, dir, "status", "--watch", "--interval", "100ms", "--count", "1")
	p.cmd.Env = append(p.cmd.Env, "TERM=dumb")
	p.cmd.Stdout = slave
	p.want(0)
	until(t, "a line", func() bool { return strings.Contains(shown.String(), " channel in=") })
}

// TestWatchInTmux: in real terminals of several sizes, one of which becomes another, and under load. That is followed at once,
// however long the interval is.
func TestWatchInTmux(t *testing.T) {
	tmux, err := exec.LookPath("tmux")
	if err != nil {
		if strings.Contains(os.Getenv("MSGMUX_REQUIRE"), "unit") {
			t.Fatal("MSGMUX_REQUIRE names unit, and there is no tmux")
		}
		t.Skip("there is no tmux (Debian: apt-get install tmux)")
	}
	_, dir := startBroker(t)
	startSub(t, dir, "--label", "archive")
	hung := startSub(t, dir, "--label", "hung", "--patience", "100ms")
	hung.signal(syscall.SIGSTOP)
	defer hung.signal(syscall.SIGCONT)
	pub := prepare(t, dir, "pub", "-l")
	pub.cmd.Stdin = endless{}
	pub.start()
	until(t, "the sink is left behind", func() bool { return sinksOf(t, dir)[1].State == "lagging" })
	for _, size := range []struct {
		columns, rows int
		interval      string
	}{{80, 24, "100ms"}, {80, 24, "1h"}, {200, 50, "100ms"}, {10, 10, "100ms"}} {
		t.Run(fmt.Sprintf("%dx%d every %s", size.columns, size.rows, size.interval), func(t *testing.T) {
			// Each has a server of its own, which ends with it.
			run := func(args ...string) string {
				t.Helper()
				cmd := exec.Command(tmux, append([]string{"-u", "-L", fmt.Sprintf("mm-%d-%d-%s", os.Getpid(), size.columns, size.interval), "-f", "/dev/null"}, args...)...)
				cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "TERM=xterm-256color", msgmux.EnvRuntimeDir+"="+dir)
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Fatalf("tmux %v: %v: %s", args, err, out)
				}
				return string(out)
			}
			run("new-session", "-d", "-x", fmt.Sprint(size.columns), "-y", fmt.Sprint(size.rows), "-s", "s",
				"echo before; "+binaries+"/msgmux status --watch --interval "+size.interval+"; sleep 60")
			defer run("kill-server")
			want := "!hung"
			if size.columns >= 80 {
				want = "lagging"
			}
			var shown string
			until(t, "the picture", func() bool {
				shown = run("capture-pane", "-p", "-t", "s")
				bars := size.columns >= 80 && size.interval == "100ms" // of more than one interval
				return strings.Contains(shown, want) && (!bars || strings.Contains(shown, "▇") || strings.Contains(shown, "█"))
			})
			if size.columns == 200 && (!strings.Contains(shown, "ADDRESS") || !strings.Contains(shown, "LAG ")) {
				t.Errorf("it shows\n%s", shown)
			}
			if strings.Contains(shown, "before") {
				t.Errorf("what was there before is still there:\n%s", shown)
			}
			if size.columns == 80 {
				run("resize-window", "-t", "s", "-x", "40", "-y", "12")
				until(t, "it fits the smaller window", func() bool {
					shown = run("capture-pane", "-p", "-t", "s")
					for line := range strings.Lines(shown) {
						if utf8.RuneCountInString(strings.TrimRight(line, " \n")) > 40 {
							return false
						}
					}
					return strings.Contains(shown, "!hung") && strings.Contains(shown, "…")
				})
			}
			run("send-keys", "-t", "s", "C-c")
			until(t, "the terminal as it was", func() bool { return strings.Contains(run("capture-pane", "-p", "-t", "s"), "before") })
		})
	}
}

// endless is lines without an end.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	return copy(p, strings.Repeat("a line of some length that says nothing\n", len(p)/40+1)), nil
}
