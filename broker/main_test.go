// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/need"
)

func TestMain(m *testing.M) {
	if role := os.Getenv(silentRole); role != "" {
		os.Exit(beSilent(role))
	}
	if role := os.Getenv(strangerRole); role != "" {
		os.Exit(beStranger(role))
	}
	if dir := os.Getenv(hangingRole); dir != "" {
		os.Exit(beHanging(dir))
	}
	if os.Getenv(attackRole) != "" {
		os.Exit(beAttacker())
	}
	if role := os.Getenv(senderRole); role != "" {
		os.Exit(beSender(role))
	}
	if dir := os.Getenv(believerRole); dir != "" {
		os.Exit(beBeliever(dir))
	}
	os.Exit(runAndCount(m))
}

// runAndCount runs the tests and fails if they leave goroutines or descriptors behind: every broker has ended by then.
func runAndCount(m *testing.M) int {
	// Those that may run beside each other mostly wait.
	flag.Parse()
	if err := flag.Set("test.parallel", "8"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	// The runtime opens descriptors for its poller, and a goroutine for signals, when they are first needed.
	if r, w, err := os.Pipe(); err == nil {
		r.Close()
		w.Close()
	}
	descriptors, goroutines := openDescriptors(), runtime.NumGoroutine()
	code := m.Run()
	if program.path != "" {
		os.RemoveAll(filepath.Dir(program.path))
	}
	if code != 0 {
		return code
	}
	// Descriptors that are done with are closed by goroutines that nobody waits for.
	var left []string
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		left = slices.DeleteFunc(openDescriptors(), func(s string) bool { return slices.Contains(descriptors, s) })
		if len(left) == 0 && runtime.NumGoroutine() <= goroutines {
			return 0
		}
	}
	fmt.Fprintf(os.Stderr, "left open: %d descriptors %v; %d goroutines, %d before\n", len(left), left, runtime.NumGoroutine(), goroutines)
	pprof.Lookup("goroutine").WriteTo(os.Stderr, 1)
	return 1
}

// openDescriptors names what this process has open, each with its number.
func openDescriptors() (all []string) {
	dir, err := os.Open("/proc/self/fd")
	if err != nil {
		return nil
	}
	defer dir.Close()
	entries, _ := dir.Readdirnames(-1)
	for _, e := range entries {
		if e == fmt.Sprint(dir.Fd()) {
			continue
		}
		if to, err := os.Readlink("/proc/self/fd/" + e); err == nil {
			all = append(all, e+" "+to)
		}
	}
	return all
}

// openSockets counts the sockets that this process has open.
func openSockets() (n int) {
	for _, d := range openDescriptors() {
		if strings.Contains(d, " socket:") {
			n++
		}
	}
	return n
}

// program is msgmuxd, built once, when a test first needs it.
var program struct {
	sync.Once
	path string
	err  error
}

// programPath is where it is.
func programPath(t *testing.T) string {
	t.Helper()
	program.Do(func() {
		dir, err := os.MkdirTemp("", "mm")
		if err != nil {
			program.err = err
			return
		}
		program.path = filepath.Join(dir, "msgmuxd")
		if out, err := exec.Command("go", "build", "-o", program.path, "../cmd/msgmuxd").CombinedOutput(); err != nil {
			program.err = fmt.Errorf("cannot build msgmuxd: %w\n%s", err, out)
		}
	})
	if program.err != nil {
		t.Fatal(program.err)
	}
	return program.path
}

// needRoot skips what takes another user. To root these tests are never skipped.
func needRoot(t testing.TB) {
	t.Helper()
	need.Root(t, "unit")
}

// stranger is the uid of the other user in these tests: one that no account has.
const stranger = 65533

// asStranger runs f in a thread whose files and sockets are another user's.
func asStranger(f func()) { asUser(stranger, f) }

// asUser runs f in a thread whose files and sockets are that user's (setfsuid(2)).
func asUser(uid int, f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		unix.Setfsuid(uid)
		defer unix.Setfsuid(0)
		f()
	}()
	<-done
}

// programFolder is where msgmuxd is, and nothing else.
func programFolder(t *testing.T) string { return filepath.Dir(programPath(t)) }
