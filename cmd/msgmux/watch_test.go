// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/broker/brokertest"
	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/internal/need"
	"github.com/msgmux/msgmux/internal/test"
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
						if n := textWidth(plain); n > columns || strings.Contains(plain, "\x1b") {
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
		"SOURCES WAIT 12.0 s: sink archive", "in     1,000/s █", "out    3,000/s █", "lost 693, 7/s", "lag    320 KiB ▃", "31% of the ring: sink-number-5",
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
	v.fail(fmt.Errorf("no \x1b[2Jbroker"), time.Now())
	if gone := strings.Join(picture(v, 80, 24, plain), "\n"); !strings.Contains(gone, `: no \x1b[2Jbroker`) || strings.Contains(gone, "SINK ") {
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
	test.Eventually(t, "three intervals", func() bool { return strings.Count(p.stdout.String(), " channel in=") >= 3 })
	line := regexp.MustCompile(`(?m)^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z sink=archive state=ready rate=0/s waiting=0 lag_bytes=0 left=1.0s accepted=0 lost=0$`)
	if !line.MatchString(p.stdout.String()) || strings.Contains(p.stdout.String(), "\x1b") {
		t.Errorf("got %q", p.stdout.String())
	}
	broker.signal(syscall.SIGTERM)
	test.Eventually(t, "a word about it", func() bool { return strings.Contains(p.stderr.String(), "control") })
	again := prepare(t, dir)
	again.cmd = exec.Command(broker.cmd.Path, broker.cmd.Args[1:]...)
	again.start()
	before := strings.Count(p.stdout.String(), "\n")
	test.Eventually(t, "it goes on", func() bool { return strings.Count(p.stdout.String(), "\n") > before })
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
			Status channelJSON
			Sinks  []sinkJSON
		}
		if err := json.Unmarshal([]byte(line), &got); err != nil || got.Status.PID == 0 || got.Sinks == nil || time.Since(got.Time) > time.Minute {
			t.Errorf("%v in %s", err, line)
		}
	}
	p = prepare(t, dir, "status", "--watch", "--interval", "100ms").start()
	test.Eventually(t, "an interval", func() bool { return p.stdout.String() != "" })
	p.signal(syscall.SIGTERM)
	p.want(exitTerminated)
	prepare(t, dir, "status", "--interval", "1s").want(exitUsage).says("goes with --watch")
	prepare(t, dir+"/nowhere", "status", "--watch").want(exitNoBroker)
}

// TestWatchGivesTheTerminalBack as it was.
func TestWatchGivesTheTerminalBack(t *testing.T) {
	_, dir := startBroker(t)
	queueOne(t, dir)
	screen, slave := terminal(t)
	shown := watch(screen)
	p := prepare(t, dir, "status", "--watch", "--interval", "100ms")
	p.cmd.Env = append(p.cmd.Env, "TERM=xterm", "COLUMNS=80", "LINES=24")
	p.cmd.Stdout, p.cmd.Stdin = slave, slave
	p.start()
	test.Eventually(t, "a picture", func() bool { return strings.Contains(shown.String(), "SOURCES WAIT") })
	p.signal(syscall.SIGINT)
	p.want(0)
	test.Eventually(t, "the end", func() bool { return strings.HasSuffix(shown.String(), "\x1b[?25h\x1b[?1049l") })
	if !strings.HasPrefix(shown.String(), "\x1b[?1049h\x1b[?25l\x1b[H") {
		t.Errorf("it began with %.40q", shown.String())
	}
	// On a terminal that can do nothing it writes lines.
	p = prepare(t, dir, "status", "--watch", "--interval", "100ms", "--count", "1")
	p.cmd.Env = append(p.cmd.Env, "TERM=dumb")
	p.cmd.Stdout = slave
	p.want(0)
	test.Eventually(t, "a line", func() bool { return strings.Contains(shown.String(), " channel in=") })
}

// pane is a terminal of tmux, with a server of its own that ends with the test.
type pane struct {
	t    *testing.T
	tmux string
	name string
	env  []string
}

var panes atomic.Int32

// openPane has a command run in a terminal of that size.
func openPane(t *testing.T, dir string, columns, rows int, command string) *pane {
	t.Helper()
	tmux := need.Program(t, "unit", "tmux", "tmux")
	p := &pane{t: t, tmux: tmux, name: fmt.Sprintf("mm-%d-%d", os.Getpid(), panes.Add(1)),
		env: append(os.Environ(), "LC_ALL=C.UTF-8", "TERM=xterm-256color", msgmux.EnvRuntimeDir+"="+dir)}
	p.run("new-session", "-d", "-x", fmt.Sprint(columns), "-y", fmt.Sprint(rows), "-s", "s", command)
	t.Cleanup(func() { p.run("kill-server") })
	return p
}

// run runs a command of tmux.
func (p *pane) run(args ...string) string {
	p.t.Helper()
	cmd := exec.Command(p.tmux, append([]string{"-u", "-L", p.name, "-f", "/dev/null"}, args...)...)
	cmd.Env = p.env
	out, err := cmd.CombinedOutput()
	if err != nil {
		p.t.Fatalf("tmux %v: %v: %s", args, err, out)
	}
	return string(out)
}

// shows is what can be read in it.
func (p *pane) shows() string { p.t.Helper(); return p.run("capture-pane", "-p", "-t", "s") }

// untilShows waits until all texts can be read in it at once.
func (p *pane) untilShows(texts ...string) string {
	p.t.Helper()
	var shown string
	defer func() {
		if p.t.Failed() {
			p.t.Logf("it shows\n%s", shown)
		}
	}()
	test.Eventually(p.t, fmt.Sprintf("it shows %q", texts), func() bool {
		shown = p.shows()
		for _, text := range texts {
			if !strings.Contains(shown, text) {
				return false
			}
		}
		return true
	})
	return shown
}

// press presses keys; C-c is Ctrl-C.
func (p *pane) press(keys ...string) {
	p.t.Helper()
	p.run(append([]string{"send-keys", "-t", "s"}, keys...)...)
}

// isWhole wants the terminal as a shell wants it: its first screen, a cursor, what is typed shown, and line by line.
func (p *pane) isWhole() {
	p.t.Helper()
	var state string
	test.Eventually(p.t, "the terminal is whole", func() bool {
		state = strings.TrimSpace(p.run("display-message", "-p", "-t", "s", "#{alternate_on} #{cursor_flag} #{pane_tty}"))
		fields := strings.Fields(state)
		if len(fields) != 3 || fields[0] != "0" || fields[1] != "1" {
			return false
		}
		tty, err := os.OpenFile(fields[2], os.O_RDWR|unix.O_NOCTTY, 0)
		if err != nil {
			return false
		}
		defer tty.Close()
		settings, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
		state = fmt.Sprintf("%s %+v", state, settings)
		return err == nil && settings.Lflag&(unix.ICANON|unix.ECHO|unix.ISIG) == unix.ICANON|unix.ECHO|unix.ISIG
	})
}

// TestWatchInTmux: in real terminals of several sizes, one of which becomes another, and under load. That is followed at once,
// however long the interval is.
func TestWatchInTmux(t *testing.T) {
	_, dir := startBroker(t)
	startSub(t, dir, "--label", "archive")
	hung := startSub(t, dir, "--label", "hung", "--patience", "100ms")
	hung.signal(syscall.SIGSTOP)
	defer hung.signal(syscall.SIGCONT)
	pub := prepare(t, dir, "pub", "-l")
	pub.cmd.Stdin = endless{}
	pub.start()
	test.Eventually(t, "the sink is left behind", func() bool { return sinksOf(t, dir)[1].State == "lagging" })
	for _, size := range []struct {
		columns, rows int
		interval      string
		shows         []string
	}{
		{80, 24, "100ms", []string{"lagging", "archive", "of the ring: hung", "█"}}, {80, 24, "1h", []string{"lagging"}},
		{200, 50, "100ms", []string{"ADDRESS", "LAG ", "lagging"}}, {10, 10, "100ms", []string{"!hung"}},
		{30, 6, "100ms", []string{"in  ", "out ", "SINK", "!hung", "archive"}}, {30, 4, "100ms", []string{"in  ", "SINK", "!hung"}},
	} {
		t.Run(fmt.Sprintf("%dx%d every %s", size.columns, size.rows, size.interval), func(t *testing.T) {
			// No program but the one: the size has to be known without a tool.
			p := openPane(t, dir, size.columns, size.rows,
				"echo before; PATH=/nowhere "+binaries+"/msgmux status --watch --interval "+size.interval+"; exec sleep 60")
			shown := p.untilShows(size.shows...)
			if strings.Contains(shown, "before") {
				t.Errorf("what was there before is still there:\n%s", shown)
			}
			if size.columns == 80 {
				p.run("resize-window", "-t", "s", "-x", "40", "-y", "12")
				test.Eventually(t, "it fits the smaller window", func() bool {
					shown = p.shows()
					for line := range strings.Lines(shown) {
						if textWidth(strings.TrimRight(line, " \n")) > 40 {
							return false
						}
					}
					return strings.Contains(shown, "!hung") && strings.Contains(shown, "…")
				})
			}
			p.press("C-c")
			p.untilShows("before")
			p.isWhole()
		})
	}
}

// TestWatchHasKeys that do what its page of help says, and no other key is shown.
func TestWatchHasKeys(t *testing.T) {
	_, dir := startBroker(t)
	for i := range 9 {
		startSub(t, dir, "--label", fmt.Sprintf("sink%d", i), "--tap")
	}
	p := openPane(t, dir, 80, 10, "echo before; "+binaries+"/msgmux status --watch --interval 100ms; echo it was $?; exec sleep 60")
	p.untilShows("sink0", "sink2", "more")
	for range 7 {
		p.press("j")
	}
	p.untilShows("sink8")
	p.press("Home")
	p.untilShows("sink0")
	p.press("Down", "Down", "Down", "Down", "Down", "Down", "x", "y", "Enter", "F5")
	if shown := p.untilShows("sink8"); strings.Contains(shown, "xy") || strings.Contains(shown, "~") {
		t.Errorf("keys are shown:\n%s", shown)
	}
	p.press("?")
	p.untilShows("Ctrl-Z", "sort by")
	p.press("?", "Space")
	p.untilShows("STANDS STILL", "SINK")
	p.press("Space", "q")
	if shown := p.untilShows("before", "it was 0"); strings.Contains(shown, "SINK") {
		t.Errorf("the picture is still there:\n%s", shown)
	}
	p.isWhole()
}

// TestWatchOfAHungBroker: signals and keys are heard while the broker does not answer. Who interrupts twice kills, and what he leaves then is
// a terminal without a cursor.
func TestWatchOfAHungBroker(t *testing.T) {
	broker, dir := startBroker(t)
	p := openPane(t, dir, 80, 10, "trap : INT; "+binaries+"/msgmux status --watch --interval 100ms; echo it was $?; sleep 60; sleep 60")
	p.untilShows("sinks none")
	broker.signal(syscall.SIGSTOP)
	defer broker.signal(syscall.SIGCONT)
	time.Sleep(300 * time.Millisecond) // it has been asked
	p.press("?")
	p.untilShows("Ctrl-Z")
	p.press("C-c")
	time.Sleep(300 * time.Millisecond)
	p.press("C-c")
	p.untilShows("it was 0")
	p.isWhole()
}

// TestSortingOfTheWatch goes through the orders.
func TestSortingOfTheWatch(t *testing.T) {
	v := aView(4)
	first := func() string { return v.ordered()[0].Label }
	for i, want := range []string{"sink-number-2", "sink-number-0", "sink-number-0", "sink-number-3", "sink-number-3", "sink-number-2"} {
		if got := first(); got != want {
			t.Errorf("by %s: %s stands first, want %s", orders[i%len(orders)].name, got, want)
		}
		v.press("s")
	}
}

// TestKeysAreTakenApart as terminals send them.
func TestKeysAreTakenApart(t *testing.T) {
	for text, want := range map[string][]string{
		"q": {"q"}, "jk": {"j", "k"}, "\x1b[A\x1b[B": {"up", "down"}, "\x1bOA": {"up"}, "\x1b[5~\x1b[6~": {"page up", "page down"},
		"\x1b": nil, "\x1b[15~q": {"q"}, "\x1b[1;5A": nil, "\x1b[": nil, "\x1bq": {"q"}, " ": {" "},
	} {
		if got := splitKeys(text); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// TestWatchUnderAShell that stops it, goes on with it, and quits it: the terminal is whole whenever the shell has it.
func TestWatchUnderAShell(t *testing.T) {
	dash, err := exec.LookPath("dash") // does nothing for the terminal by itself, as bash does
	if err != nil {
		t.Skip("there is no dash")
	}
	_, dir := startBroker(t)
	startSub(t, dir, "--label", "archive")
	p := openPane(t, dir, 80, 20, dash+" -i")
	p.press(`PS1=prom""pt:`, "Enter")
	p.untilShows("prompt:")
	watch := binaries + "/msgmux status --watch --interval 100ms; echo it was $?"
	for range 2 {
		p.press(watch, "Enter")
		p.untilShows("archive", "SINK")
		for range 2 {
			p.press("C-z")
			p.untilShows("Stopped")
			p.isWhole()
			p.press(`clear; echo ty""ped`, "Enter")
			p.untilShows("typed")
			p.press("fg", "Enter")
			p.untilShows("archive", "SINK")
		}
		p.press("q")
		p.untilShows("prompt:")
		p.isWhole()
		p.press("clear", "Enter")
	}
	p.press(watch, "Enter")
	p.untilShows("archive", "SINK")
	p.press(`C-\`)
	if shown := p.untilShows("it was 131"); strings.Contains(shown, "goroutine") {
		t.Errorf("it dumps:\n%s", shown)
	}
	p.isWhole()
	// A signal that cannot be caught stops it with the picture; after SIGCONT that is there again.
	p.press("clear; "+watch, "Enter")
	p.untilShows("archive", "SINK")
	pid := strings.TrimSpace(p.run("display-message", "-p", "-t", "s", "#{pane_pid}"))
	children, err := os.ReadFile("/proc/" + pid + "/task/" + pid + "/children")
	if err != nil {
		t.Skipf("this kernel does not tell children: %v", err)
	}
	var child int
	if _, err := fmt.Sscan(string(children), &child); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(child, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	p.untilShows("Stopped")
	p.press("fg", "Enter")
	p.untilShows("archive", "SINK")
	if err := syscall.Kill(child, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.untilShows("prompt:")
	p.isWhole()
}

// TestWideCharactersTakeTwoColumns in the picture and in tables, and those that stand over others none.
func TestWideCharactersTakeTwoColumns(t *testing.T) {
	for text, want := range map[string]int{
		"": 0, "abc": 3, "日本": 4, "ｆｕ": 4, "e\u0301": 1, "한글": 4, "\u1112\u1161\u11ab": 2, "🙂": 2, "wörld": 5, "\x1b[31mred\x1b[0m": 3, "▁█…": 3, "\x1b[2J": 4, "\x1b[": 2,
	} {
		if got := textWidth(text); got != want {
			t.Errorf("%q takes %d columns, want %d", text, got, want)
		}
	}
	s := style{bars: asciiBars, more: "…"}
	for columns, want := range map[int]string{1: "…", 2: "…", 3: "日…", 4: "日…", 5: "日本…", 6: "日本語", 7: "日本語"} {
		if got := cut("日本語", columns, s); got != want {
			t.Errorf("%d columns of it: %q, want %q", columns, got, want)
		}
	}
	v := aView(4)
	for _, w := range v.sinks {
		w.Address = "@" + strings.Repeat("漢字", 100)
	}
	for columns := 20; columns < 300; columns += 7 {
		for _, line := range picture(v, columns, 24, s) {
			if n := textWidth(line); n > columns {
				t.Errorf("a line of %d columns where there are %d: %q", n, columns, line)
			}
		}
	}
}

// TestAddressesOfAllScripts do not push the last line out of a real terminal.
func TestAddressesOfAllScripts(t *testing.T) {
	_, dir := startBroker(t)
	wide := brokertest.NewSocket(t, fmt.Sprintf("@%s-%d", strings.Repeat("漢字", 12), os.Getpid()))
	if r := brokertest.Register(t, dir, wide.Name, "label=wide"); r.Err != nil {
		t.Fatal(r.Err)
	}
	startSub(t, dir, "--label", "other")
	p := openPane(t, dir, 220, 8, binaries+"/msgmux status --watch --interval 100ms")
	shown := p.untilShows("漢字", "other", "in  ")
	if !strings.Contains(shown, "(q: leave") {
		t.Errorf("the first line was pushed out:\n%s", shown)
	}
}

// endless is lines without an end.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	return copy(p, strings.Repeat("a line of some length that says nothing\n", len(p)/40+1)), nil
}
