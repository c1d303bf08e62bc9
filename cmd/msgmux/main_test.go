// SPDX-License-Identifier: Apache-2.0

package main

// The tests of the commands run the real program, mostly beside a real broker, as a shell would: arguments, pipes,
// terminals, signals, exit statuses.

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/internal/need"
	"github.com/msgmux/msgmux/internal/test"
	"github.com/msgmux/msgmux/internal/wire"
)

// binaries is the folder with the two programs; anybody may run them.
var binaries string

func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "mm")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	build := exec.Command("go", "build", "-ldflags", "-X main.version=1.2.3 -X main.commit=abc -X main.date=2026-01-02",
		"-o", dir+"/", ".", "../msgmuxd")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "cannot build the programs: %v\n%s", err, out)
		return 1
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	binaries = dir
	// A channel of the host must not be found by mistake.
	for _, name := range []string{msgmux.EnvChannel, "XDG_RUNTIME_DIR"} {
		os.Unsetenv(name)
	}
	os.Setenv(msgmux.EnvRuntimeDir, filepath.Join(dir, "no-channel"))
	// Those that may run beside each other mostly wait.
	flag.Parse()
	if err := flag.Set("test.parallel", "8"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// within is how long anything may take that is to end by itself; only waited for when it does not.
const within = 20 * time.Second

// program is one run of msgmux or msgmuxd.
type program struct {
	t              testing.TB
	cmd            *exec.Cmd
	stdout, stderr test.Output
	ended          chan struct{}
}

// prepare makes a run of msgmux in a channel; change may alter it before it starts.
func prepare(t testing.TB, dir string, args ...string) *program {
	t.Helper()
	p := &program{t: t, cmd: exec.Command(filepath.Join(binaries, "msgmux"), args...), ended: make(chan struct{})}
	if dir != "" {
		p.cmd.Env = append(os.Environ(), msgmux.EnvRuntimeDir+"="+dir)
	}
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	p.cmd.WaitDelay = time.Second
	return p
}

// start lets it run in the background until the test ends.
func (p *program) start() *program {
	p.t.Helper()
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		_ = p.cmd.Wait() // the state says it
	}()
	p.t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.ended
	})
	return p
}

// status waits for the end and returns the exit status; -1 is death by a signal.
func (p *program) status() int {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(within):
		p.t.Fatalf("%v does not end; it says %q", p.cmd.Args[1:], p.stderr.String())
	}
	return p.cmd.ProcessState.ExitCode()
}

// signal sends a signal.
func (p *program) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// want runs it to the end and compares the status.
func (p *program) want(status int) *program {
	p.t.Helper()
	if p.cmd.Process == nil {
		p.start()
	}
	if got := p.status(); got != status {
		p.t.Errorf("%q: exit status %d, want %d; stdout %.200q, stderr %q", p.cmd.Args[1:], got, status, p.stdout.String(), p.stderr.String())
	}
	return p
}

// says wants every text in what the program says to people.
func (p *program) says(texts ...string) *program {
	p.t.Helper()
	for _, text := range texts {
		if !strings.Contains(p.stderr.String(), text) {
			p.t.Errorf("%q does not say %q but %q", p.cmd.Args[1:], text, p.stderr.String())
		}
	}
	return p
}

// prints wants exactly this on standard output.
func (p *program) prints(text string) *program {
	p.t.Helper()
	if got := p.stdout.String(); got != text {
		p.t.Errorf("%q has printed %.200q, want %.200q", p.cmd.Args[1:], got, text)
	}
	return p
}

// input gives it a standard input.
func (p *program) input(r io.Reader) *program {
	p.cmd.Stdin = r
	return p
}

// folder makes an empty runtime folder, with a path short enough for sockets, that anybody can look into.
func folder(t testing.TB) string {
	t.Helper()
	dir := test.Folder(t)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// startBroker starts a broker with the smallest ring, and returns it and its folder.
func startBroker(t testing.TB, flags ...string) (*program, string) {
	t.Helper()
	dir := folder(t)
	return startBrokerIn(t, dir, flags...), dir
}

// startBrokerIn does so in a folder that is there.
func startBrokerIn(t testing.TB, dir string, flags ...string) *program {
	t.Helper()
	p := &program{t: t, ended: make(chan struct{})}
	p.cmd = exec.Command(filepath.Join(binaries, "msgmuxd"), append([]string{"--runtime-dir", dir, "--buffer", "1M"}, flags...)...)
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	p.start()
	channel := msgmux.Channel{RuntimeDir: dir}
	test.Eventually(t, "the broker's start", func() bool {
		select {
		case <-p.ended:
			t.Fatalf("the broker has ended: %s", p.stderr.String())
		default:
		}
		_, err := channel.Status(context.Background())
		return err == nil
	})
	return p
}

// queueOne sends a message to a channel without a sink, where it stays in the queue of the socket.
func queueOne(t *testing.T, dir string) {
	t.Helper()
	conn, err := net.Dial("unixgram", filepath.Join(dir, "source"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("queued")); err != nil {
		t.Fatal(err)
	}
}

// untilBlocked waits until the broker has seen that its sources are blocked.
func untilBlocked(t *testing.T, dir string) {
	t.Helper()
	test.Eventually(t, "blocked sources", func() bool {
		st, err := msgmux.Channel{RuntimeDir: dir}.Status(context.Background())
		return err == nil && st.Sources.Blocked
	})
}

// matches wants a text to match a pattern.
func matches(t *testing.T, text, pattern string) {
	t.Helper()
	if !regexp.MustCompile(pattern).MatchString(text) {
		t.Errorf("no %s in\n%s", pattern, text)
	}
}

// decode reads JSON that has no other fields than the value.
func decode(t *testing.T, text string, value any) {
	t.Helper()
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(value); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
}

// sinksOf asks the broker for its sinks.
func sinksOf(t testing.TB, dir string) []wire.Sink {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	_, sinks, err := look(ctx, msgmux.Channel{RuntimeDir: dir}, wire.OpList)
	if err != nil {
		t.Fatal(err)
	}
	return sinks
}

// startSub starts a sub and waits until the broker knows it.
func startSub(t *testing.T, dir string, args ...string) *program {
	t.Helper()
	before := newestSink(t, dir)
	p := prepare(t, dir, append([]string{"sub"}, args...)...).start()
	p.registered(dir, before)
	return p
}

// newestSink is the highest number of a sink that is there; 0 if none is. How many there are says less: one of them may
// be about to leave.
func newestSink(t testing.TB, dir string) (id uint64) {
	t.Helper()
	for _, s := range sinksOf(t, dir) {
		id = max(id, s.ID)
	}
	return id
}

// registered waits until the broker has a newer sink than the one numbered before.
func (p *program) registered(dir string, before uint64) {
	p.t.Helper()
	test.Eventually(p.t, "the registration of the sink", func() bool {
		select {
		case <-p.ended:
			p.t.Fatalf("%q has ended: %s", p.cmd.Args[1:], p.stderr.String())
		default:
		}
		return newestSink(p.t, dir) > before
	})
}

// asNobody makes it run as the user nobody, which only root can.
func (p *program) asNobody() *program {
	p.t.Helper()
	need.Root(p.t, "unit")
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	return p
}

// TestVersionIsStamped wants what the linker was told.
func TestVersionIsStamped(t *testing.T) {
	prepare(t, "", "--version").want(0).prints("msgmux 1.2.3 (commit abc, 2026-01-02)\n")
}

// TestVersionWithoutALinker is that of the go command: the version of an install, or the commit of a checkout, never "unknown"
// alone.
func TestVersionWithoutALinker(t *testing.T) {
	bin := folder(t)
	build := exec.Command("go", "build", "-buildvcs=false", "-o", bin+"/", ".", "../msgmuxd")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("cannot build the programs: %v\n%s", err, out)
	}
	for _, name := range []string{"msgmux", "msgmuxd"} {
		out, err := exec.Command(filepath.Join(bin, name), "--version").Output()
		if err != nil || !regexp.MustCompile(`^`+name+` (devel|v[0-9]\S*) \(commit \S+, \S+\)\n$`).Match(out) {
			t.Errorf("%s says %q: %v", name, out, err)
		}
	}
}

// TestWrongCommandLines end with status 2, one line that says what is wrong, one that says where to read, and no output.
func TestWrongCommandLines(t *testing.T) {
	for _, test := range []struct{ args, says string }{
		{"", "a command is missing"},
		{"publish", `no command "publish"`},
		{"stauts", `there is no command "stauts"; did you mean status?`},
		{"sinks drpo", `did you mean drop?`},
		{"help nothing", `no command "nothing"`},
		{"help sinks nothing", `no command "nothing"`},
		{"channels x", `there is "x"`},
		{"-c web channels", "lists all"},
		{"status --json=maybe", `--json "maybe": want true or false`},
		{"status --watch --count -1", `--count "-1": want a whole number, 0 or more`},
		{"--frobnicate", "unknown flag"},
		{"-c UPPER status", "a-z, 0-9 and _"},
		{"--user status", "XDG_RUNTIME_DIR"},
		{"-c x --runtime-dir /tmp status", "by itself"},
		{"pub -z", "unknown shorthand"},
		{"pub -i raw", "line, nul, json, hex or frames"},
		{"pub -l --frames", "exclude each other"},
		{"pub --chunk 0", "from 1 to"},
		{"pub --chunk 1G", "from 1 to"},
		{"pub --chunk 5M", "from 1 to"},
		{"pub --chunk K", "from 1 to"},
		{"pub --rate -1 x", "0 to"},
		{"pub --rate many x", `--rate "many": want a number`},
		{"pub --rate NaN x", "0 to"},
		{"pub --nonblock --retry x", "exclude each other"},
		{"pub -l -0", "exclude each other"},
		{"pub -s text", "exclude each other"},
		{"pub --empty text", "exclude each other"},
		{"pub -f /etc/hostname text", "does not go with"},
		{"pub --keep-empty text", "--keep-empty goes with"},
		{"pub -W 0 text", "above 0"},
		{"pub -W -1s text", "above 0"},
		{"pub -W NaN text", "above 0"},
		{"pub -W soon text", "above 0"},
		{"pub -W 1s --nonblock text", "exclude each other"},
		{"sub topic", `there is "topic"`},
		{"sub -C -1", `--count "-1": want a whole number, 0 or more`},
		{"sub -C many", `--count "many": want a whole number, 0 or more`},
		{"sub -o xml", "raw, line, nul, json, hex or frames"},
		{"sub --start yesterday", "now, oldest, or the number"},
		{"sub --start -3", "now, oldest, or the number"},
		{"sub --start oldest -n 3", "exclude each other"},
		{"sub -n -1", "0 or more"},
		{"sub --patience -1s", "or forever"},
		{"sub --patience never", "or forever"},
		{"sub --label a/b", "cannot use"},
		{"sub --share a/b", "cannot use"},
		{"sub --tap --share x", "tap"},
		{"sub --idle", "needs an argument"},
		{"status all", `there is "all"`},
		{"sinks frob x", `no command "frob"`},
		{"sinks list x", `there is "x"`},
		{"sinks drop", "which SINK"},
		{"sinks set x", "give --patience"},
		{"sinks set --patience 1s", "which SINK"},
		{"bench --sinks 0", "1 to 1024"},
		{"bench --size 1", "24 to"},
		{"bench --sinks x", `--sinks "x": want a whole number`},
		{"bench --rate -1", "0 to"},
		{"bench --rate NaN", "0 to"},
		{"bench --duration 0s", "above 0"},
		{"completion", "bash, fish or zsh"},
		{"completion tcsh", "bash, fish or zsh"},
		{"completion bash x", "bash, fish or zsh"},
	} {
		p := prepare(t, "", strings.Fields(test.args)...).want(exitUsage).says(test.says).prints("")
		lines := strings.Split(strings.TrimSpace(p.stderr.String()), "\n")
		if len(lines) != 2 || !strings.HasPrefix(lines[0], "msgmux: ") || !strings.HasPrefix(lines[1], "Try 'msgmux") {
			t.Errorf("%q says %q, not one line and a hint", test.args, p.stderr.String())
		}
	}
}

// TestWithoutABroker every command that needs one ends with status 3 and says what to look at.
func TestWithoutABroker(t *testing.T) {
	for _, args := range []string{
		"pub x", "pub --nonblock x", "sub", "sub -C 1", "status", "status --json", "sinks", "sinks list", "sinks drop x",
		"sinks set x --patience 0", "bench", "sub -W 10s",
	} {
		prepare(t, folder(t), strings.Fields(args)...).want(exitNoBroker).says("no broker is listening", "is it running?").prints("")
	}
	// Flags win over the environment, which says where nothing is.
	_, dir := startBroker(t)
	prepare(t, "", "--runtime-dir", dir, "status").want(exitDone)
}

// TestRefusedByMode ends with status 5 and names the group that would help.
func TestRefusedByMode(t *testing.T) {
	_, dir := startBroker(t)
	for _, args := range []string{"pub x", "sub", "status"} {
		p := prepare(t, dir, strings.Fields(args)...)
		if os.Getuid() == 0 {
			p.asNobody()
			for _, name := range wire.Sockets {
				if err := os.Chown(filepath.Join(dir, name), 0, 1); err != nil {
					t.Fatal(err)
				}
			}
			p.want(exitRefused).says("permission denied", "members of the group daemon").prints("")
		} else {
			for _, name := range wire.Sockets {
				if err := os.Chmod(filepath.Join(dir, name), 0); err != nil {
					t.Fatal(err)
				}
			}
			p.want(exitRefused).says("permission denied").prints("")
		}
	}
}

// TestEveryClassHasItsStatus keeps the table of statuses from losing a line.
func TestEveryClassHasItsStatus(t *testing.T) {
	for _, test := range []struct {
		err    error
		status int
	}{
		{errors.New("anything"), 1},
		{usagef("wrong"), 2},
		{msgmux.ErrBadOption, 2},
		{msgmux.ErrNoBroker, 3},
		{context.DeadlineExceeded, 4},
		{msgmux.ErrRefused, 5},
		{msgmux.ErrTooLarge, 6},
		{msgmux.ErrNotFound, 8},
		{exitError{exitGap, nil}, 7},
		{msgmux.ErrWouldBlock, 75},
		{exitError{stopped{syscall.SIGINT}.status(), nil}, 130},
		{exitError{stopped{syscall.SIGTERM}.status(), nil}, 143},
	} {
		if got := exitStatus(fmt.Errorf("with words around: %w", test.err)); got != test.status {
			t.Errorf("%v: status %d, want %d", test.err, got, test.status)
		}
	}
}
