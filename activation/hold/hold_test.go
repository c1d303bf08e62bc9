// SPDX-License-Identifier: Apache-2.0

package hold_test

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/activation"
	"github.com/msgmux/msgmux/activation/hold"
	"github.com/msgmux/msgmux/internal/test"
)

// The tests run a holder as a process of its own, which starts this program again as its broker. That one says in a file what it
// is given and what happens to it, and does what its argument says.

// The variables that make this program a holder: the folder, and how long its brokers may be silent.
const (
	dirVariable      = "HOLD_TEST_DIR"
	watchdogVariable = "HOLD_TEST_WATCHDOG"
)

// most is how many descriptors the holder keeps.
const most = 4

func TestMain(m *testing.M) {
	dir, isHolder := os.LookupEnv(dirVariable)
	switch {
	case hold.Handed():
		must(nil, broker(dir, os.Args[1]))
	case isHolder:
		must(nil, holder(dir))
	default:
		os.Exit(m.Run())
	}
}

func must(t *testing.T, err error) {
	switch {
	case err == nil:
	case t != nil:
		t.Helper()
		t.Fatal(err)
	default:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func holder(dir string) error {
	sockets, err := activation.Bind(dir, 0o600)
	if err != nil {
		return err
	}
	watchdog, _ := time.ParseDuration(os.Getenv(watchdogVariable))
	return hold.Run(hold.Config{Dir: dir, Sockets: sockets.All(), Unlink: sockets.Unlink, Most: most, Watchdog: watchdog, Args: os.Args,
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
}

// tell adds a line to what brokers say.
func tell(dir, format string, args ...any) error {
	f, err := os.OpenFile(dir+"/told", os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, format+"\n", args...)
	return errors.Join(err, f.Close())
}

// broker is one life of a broker.
func broker(dir, how string) error {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	given, err := activation.Inherited()
	if err != nil {
		return err
	}
	n, err := activation.NewNotifier()
	if err != nil {
		return err
	}
	var kept []string
	for _, d := range given {
		if strings.HasPrefix(d.Name, "mux-") {
			kept = append(kept, d.Name)
		}
	}
	slices.Sort(kept)
	watchdog, _ := activation.WatchdogInterval()
	limit, _ := activation.StoreLimit()
	if err := tell(dir, "begin pid=%d sockets=%d kept=%q limit=%d watchdog=%v back=%v", os.Getpid(), len(given)-len(kept), kept, limit, watchdog, n.HandsBack()); err != nil {
		return err
	}
	store := func(name string) {
		fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
		if err == nil {
			err = errors.Join(n.Store(name, fd), n.Store(name, fd), n.Store(name+"-again", fd))
		}
		must(nil, err)
	}
	switch how {
	case "fails":
		return errors.New("no")
	case "fails later":
		if len(kept) > 0 {
			return errors.New("no")
		}
		store("mux-a")
	case "keeps":
		if len(kept) == 0 {
			for i := range most + 1 {
				store("mux-" + strconv.Itoa(i)) // one more than there is room for
			}
		} else {
			must(nil, n.Remove(kept[0]))
		}
		n.Watchdog()
	}
	if err := n.Barrier(5 * time.Second); err != nil {
		return err
	}
	if how == "is killed before it is ready" {
		signal.Reset()
		must(nil, tell(dir, "not ready"))
		time.Sleep(time.Minute)
	}
	if err := n.Ready("well"); err != nil {
		return err
	}
	must(nil, tell(dir, "ready"))
	for {
		select {
		case s := <-signals:
			must(nil, tell(dir, "%v", s))
			if s != syscall.SIGHUP {
				return nil
			}
		case <-time.After(watchdog/4 + time.Millisecond):
			if watchdog > 0 && how != "hangs" {
				n.Watchdog()
			}
		}
	}
}

// held is a holder that a test has started.
type held struct {
	t    *testing.T
	dir  string
	cmd  *exec.Cmd
	done chan struct{}
}

func start(t *testing.T, how string, env ...string) *held {
	t.Helper()
	dir := test.Folder(t)
	h := &held{t: t, dir: dir, cmd: exec.Command(os.Args[0], how), done: make(chan struct{})}
	h.cmd.Env = append(append(os.Environ(), dirVariable+"="+dir), env...)
	said, err := os.Create(dir + "/said") // and no pipe, which a broker that outlives it keeps open
	must(t, err)
	defer said.Close()
	h.cmd.Stderr = said
	must(t, h.cmd.Start())
	go func() { defer close(h.done); h.cmd.Wait() }()
	t.Cleanup(func() {
		h.cmd.Process.Kill()
		<-h.done
		if pid := h.broker(); pid > 0 {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	return h
}

// said is what the holder and its brokers have logged.
func (h *held) said() string {
	text, err := os.ReadFile(h.dir + "/said")
	must(h.t, err)
	return string(text)
}

// told is what brokers have said, a line each.
func (h *held) told() []string {
	text, _ := os.ReadFile(h.dir + "/told")
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
}

// count is how many lines begin so.
func (h *held) count(prefix string) (n int) {
	for _, line := range h.told() {
		if strings.HasPrefix(line, prefix) {
			n++
		}
	}
	return n
}

// until waits until so many lines begin so.
func (h *held) until(prefix string, n int) {
	h.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); h.count(prefix) < n; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			h.t.Fatalf("not %d times %q: %q", n, prefix, h.told())
		}
	}
}

// broker is the process that began last; 0 if there was none.
func (h *held) broker() (pid int) {
	for _, line := range h.told() {
		fmt.Sscanf(line, "begin pid=%d", &pid)
	}
	return pid
}

// ends waits for the holder's end, and wants this exit status, and no socket left behind.
func (h *held) ends(status int) {
	h.t.Helper()
	select {
	case <-h.done:
	case <-time.After(20 * time.Second):
		h.t.Fatalf("it does not end: %q", h.told())
	}
	if got := h.cmd.ProcessState.ExitCode(); got != status {
		h.t.Errorf("exit status %d, want %d: %s", got, status, h.said())
	}
	entries, _ := os.ReadDir(h.dir)
	for _, e := range entries {
		if e.Type()&os.ModeSocket != 0 && status == 0 {
			h.t.Errorf("%s is left behind", e.Name())
		}
	}
}

// TestKeeps: what a broker stores the next one gets, under its name, once, as long as there is room and until it is removed; with
// the sockets, and nothing of the service manager above.
func TestKeeps(t *testing.T) {
	h := start(t, "keeps", "SYSTEMD_EXEC_PID=1", "LISTEN_PID=1", "LISTEN_FDS=7", "FDSTORE=9", "WATCHDOG_USEC=1")
	for n, want := range []string{`[]`, `["mux-0" "mux-1" "mux-2" "mux-3"]`, `["mux-1" "mux-2" "mux-3"]`, `["mux-2" "mux-3"]`} {
		h.until("ready", n+1)
		lines := slices.DeleteFunc(h.told(), func(line string) bool { return !strings.HasPrefix(line, "begin") })
		if rest := fmt.Sprintf(" sockets=5 kept=%s limit=4 watchdog=0s back=true", want); !strings.HasSuffix(lines[n], rest) {
			t.Errorf("the broker's life %d: %q, want %q", n, lines[n], rest)
		}
		syscall.Kill(h.broker(), syscall.SIGKILL)
	}
	h.until("ready", 5)
	h.cmd.Process.Signal(syscall.SIGTERM)
	h.ends(0)
}

// TestSignals: SIGHUP is the broker's; a broker that ends has a successor, also in good order; the end is told it alone, once, and
// when it can hear.
func TestSignals(t *testing.T) {
	h := start(t, "keeps")
	h.until("ready", 1)
	h.cmd.Process.Signal(syscall.SIGHUP)
	h.until("hangup", 1)
	syscall.Kill(h.broker(), syscall.SIGTERM)
	h.until("terminated", 1)
	h.until("ready", 2)
	h.cmd.Process.Signal(syscall.SIGINT)
	h.cmd.Process.Signal(syscall.SIGTERM)
	h.ends(0)
	if h.count("interrupt") != 1 || h.count("terminated") != 1 || h.count("begin") != 2 {
		t.Errorf("it went %q", h.told())
	}
	if strings.Contains(h.said(), "level=WARN") {
		t.Errorf("it says %s", h.said())
	}
}

// TestLastOneIsStarted if there is none when the end comes: what is held is to be delivered.
func TestLastOneIsStarted(t *testing.T) {
	for round := range 10 {
		h := start(t, "keeps")
		h.until("ready", 1)
		syscall.Kill(h.broker(), syscall.SIGKILL)
		time.Sleep(time.Duration(round) * 10 * time.Millisecond) // before the next one, while it begins, and after
		h.cmd.Process.Signal(syscall.SIGTERM)
		h.ends(0)
		if h.count("ready") != 2 || h.count("interrupt") != 1 {
			t.Errorf("%d: it went %q", round, h.told())
		}
	}
}

// TestNeverStarted: a broker that ends by itself before any was ready is the holder's end; a kill is not, nor what fails later,
// which is tried again after longer and longer pauses.
func TestNeverStarted(t *testing.T) {
	h := start(t, "fails")
	h.ends(1)
	if !strings.Contains(h.said(), "the broker cannot start: exit status 1") || h.count("begin") != 1 {
		t.Errorf("it says %q", h.said())
	}
	h = start(t, "is killed before it is ready")
	for n := range 3 {
		h.until("not ready", n+1)
		syscall.Kill(h.broker(), syscall.SIGKILL)
	}
	h.until("not ready", 4)
	h.cmd.Process.Signal(syscall.SIGTERM) // nobody can be told, and nothing is held
	h.ends(0)

	h = start(t, "fails later")
	h.until("ready", 1)
	syscall.Kill(h.broker(), syscall.SIGTERM)
	h.until("begin", 5)
	h.cmd.Process.Kill()
	<-h.done
	var pauses []time.Duration
	for line := range strings.Lines(h.said()) {
		if _, text, ok := strings.Cut(line, "status=1 in="); ok {
			d, err := time.ParseDuration(strings.TrimSpace(text))
			must(t, err)
			pauses = append(pauses, d)
		}
	}
	if len(pauses) < 3 {
		t.Fatalf("it says %q", h.said())
	}
	for i, d := range pauses[1:] {
		if d != 2*pauses[i] {
			t.Errorf("the pauses are %v", pauses)
		}
	}
}

// TestWatchdog: a broker that gives no sign of life is killed, one that does is not, and one that cannot be ended in order neither
// keeps its successor waiting.
func TestWatchdog(t *testing.T) {
	h := start(t, "hangs", watchdogVariable+"=100ms")
	h.until("begin", 2)
	if !strings.Contains(h.said(), "the broker hangs") {
		t.Errorf("it says %q", h.said())
	}
	well := start(t, "keeps", watchdogVariable+"=2s")
	well.until("ready", 1)
	pid := well.broker()
	time.Sleep(5 * time.Second)
	if well.broker() != pid {
		t.Errorf("it went %q: %s", well.told(), well.said())
	}
	syscall.Kill(pid, syscall.SIGSTOP)
	well.until("begin", 2)
}

// TestHolderIsKilled: its broker goes on, and another holder finds out.
func TestHolderIsKilled(t *testing.T) {
	h := start(t, "keeps")
	h.until("ready", 1)
	h.cmd.Process.Kill()
	<-h.done
	if err := syscall.Kill(h.broker(), 0); err != nil {
		t.Errorf("the broker is gone: %v", err)
	}
	if _, err := activation.Bind(h.dir, 0o600); !errors.Is(err, activation.ErrServed) {
		t.Errorf("the folder is not in use: %v", err)
	}
}

// TestNotHanded: a mark that is another process's is none.
func TestNotHanded(t *testing.T) {
	for _, mark := range []string{"", "1x", "0", strconv.Itoa(os.Getpid())} {
		t.Setenv("MSGMUXD_HOLDER", mark)
		t.Setenv("LISTEN_PID", "")
		if hold.Handed() || os.Getenv("LISTEN_PID") != "" || os.Getenv("MSGMUXD_HOLDER") != "" {
			t.Errorf("%q is taken for a holder", mark)
		}
	}
}
