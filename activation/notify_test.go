// SPDX-License-Identifier: Apache-2.0

package activation_test

import (
	"errors"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/activation"
	"github.com/msgmux/msgmux/activation/activationtest"
	"github.com/msgmux/msgmux/internal/test"
)

const patience = 10 * time.Second

func notifier(t *testing.T, m *activationtest.Manager) *activation.Notifier {
	t.Helper()
	t.Setenv("NOTIFY_SOCKET", m.Socket())
	n, err := activation.NewNotifier()
	if err != nil || n == nil {
		t.Fatalf("no notifier: %v", err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

// must fails the test on any of the errors.
func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func noFaults(t *testing.T, m *activationtest.Manager) {
	t.Helper()
	if f := m.Faults(); len(f) > 0 {
		t.Errorf("the service manager complains: %q", f)
	}
}

func TestNilNotifier(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	n, err := activation.NewNotifier()
	if n != nil || err != nil {
		t.Fatalf("%v, %v", n, err)
	}
	must(t, n.Ready("x"), n.Status("x"), n.Stopping(), n.Watchdog(), n.Store("x", 0), n.Remove("x"), n.Barrier(time.Second), n.Close())
}

// TestHandsBack: a process that systemd has not started itself gets nothing back from the store. Systemd before 248 does not tell.
func TestHandsBack(t *testing.T) {
	m, err := activationtest.New(test.Folder(t))
	must(t, err)
	defer m.Close()
	for pid, want := range map[string]bool{"": true, strconv.Itoa(os.Getpid()): true, strconv.Itoa(os.Getppid()): false} {
		t.Setenv("SYSTEMD_EXEC_PID", pid)
		if got := notifier(t, m).HandsBack(); got != want {
			t.Errorf("started as %q: %v", pid, got)
		}
	}
	var none *activation.Notifier
	if none.HandsBack() {
		t.Error("nobody hands something back")
	}
}

func TestNotifierAddress(t *testing.T) {
	dir := test.Folder(t)
	t.Chdir(dir)
	must(t, os.WriteFile("relative", nil, 0o600)) // exists, and is not looked at
	for _, bad := range []string{"vsock:2:1234", "vsock-stream:2:1", "relative", "@", "/", dir + "/nobody", "tcp:1.2.3.4:5"} {
		t.Setenv("NOTIFY_SOCKET", bad)
		if n, err := activation.NewNotifier(); err == nil || n != nil {
			t.Errorf("%q was taken", bad)
		} else if !strings.Contains(err.Error(), bad) || strings.Contains(err.Error(), "neither") != (bad != dir+"/nobody") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	name := "@mm-activation-" + strconv.Itoa(os.Getpid())
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	must(t, err)
	defer conn.Close()
	t.Setenv("NOTIFY_SOCKET", name)
	n, err := activation.NewNotifier()
	must(t, err)
	must(t, n.Ready(""), n.Close())
	got := make([]byte, 100)
	if k, err := conn.Read(got); err != nil || string(got[:k]) != "READY=1" {
		t.Errorf("got %q, %v", got[:k], err)
	}
}

func TestNotifications(t *testing.T) {
	m := manager(t)
	n := notifier(t, m)
	must(t, n.Ready("3 sinks"))
	must(t, n.Barrier(patience))
	if s := m.State(); s.Ready != 1 || s.Status != "3 sinks" {
		t.Errorf("after Ready: %+v", s)
	}
	must(t, n.Ready(""), n.Status("two\nREADY=1"), n.Stopping(), n.Watchdog(), n.Barrier(patience))
	s := m.State()
	if s.Ready != 2 || s.Status != "two READY=1" || s.Stopping != 1 || s.Watchdog != 1 || s.Barriers != 2 {
		t.Errorf("state: %+v", s)
	}
	// Whatever text there is, systemd must not refuse it.
	must(t, n.Status("sink \xff"+strings.Repeat("ü", 5000)), n.Barrier(patience))
	if s := m.State(); !strings.HasPrefix(s.Status, "sink ü") || len(s.Status) < 1000 {
		t.Errorf("status: %q", s.Status)
	}
	noFaults(t, m)
}

func TestStore(t *testing.T) {
	m := manager(t)
	n := notifier(t, m)
	a, b := pair(t, unix.SOCK_DGRAM)
	c, d := pair(t, unix.SOCK_SEQPACKET)
	check := func(when string, want ...string) {
		t.Helper()
		must(t, n.Barrier(patience))
		if got := m.Stored(); !slices.Equal(got, want) {
			t.Errorf("%s: store holds %q, want %q", when, got, want)
		}
	}
	must(t, n.Store("d1", a), n.Store("d2", b), n.Store("c3", c, d))
	check("stored", "c3", "c3", "d2", "d1")
	copied, err := unix.Dup(a)
	own(t, copied, err)
	must(t, n.Store("d1", a), n.Store("other", copied))
	check("stored again", "c3", "c3", "d2", "d1")
	must(t, n.Remove("c3"), n.Remove("nobody"))
	check("removed", "d2", "d1")
	must(t, n.Store("c4"))
	check("stored nothing", "d2", "d1")
	// What is in the store is the socket itself.
	kept, err := m.Copy("d2")
	own(t, kept, err)
	must(t, unix.Sendmsg(a, []byte("hello"), nil, nil, 0))
	got := make([]byte, 10)
	if k, _, err := unix.Recvfrom(kept, got, unix.MSG_DONTWAIT); err != nil || string(got[:k]) != "hello" {
		t.Errorf("through the store: %q, %v", got[:k], err)
	}
	noFaults(t, m)
	for _, bad := range []string{"", "a:b", "a\nb", "ü", strings.Repeat("x", 256)} {
		if n.Store(bad, a) == nil || n.Remove(bad) == nil {
			t.Errorf("name %q was taken", bad)
		}
	}
	if err := n.Store("d5", 1<<20); err == nil {
		t.Error("a descriptor that is not open was stored")
	}
}

// TestStoreHungUp: a client that has sent and gone while the broker is away must still be there.
func TestStoreHungUp(t *testing.T) {
	m := manager(t)
	n := notifier(t, m)
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	must(t, n.Store("c1", p[0]), n.Barrier(patience))
	must(t, unix.Sendmsg(p[1], []byte("last words"), nil, nil, 0), unix.Close(p[1]), unix.Close(p[0]))
	if got := m.Stored(); !slices.Equal(got, []string{"c1"}) {
		t.Errorf("store holds %q", got)
	}
}

// TestStoreMany needs more than one message.
func TestStoreMany(t *testing.T) {
	m := manager(t)
	n := notifier(t, m)
	var fds []int
	for range 600 {
		fds = append(fds, memfd(t, "x"))
	}
	must(t, n.Store("many", fds...), n.Barrier(patience))
	if got := len(m.Stored()); got != len(fds) {
		t.Errorf("store holds %d, want %d", got, len(fds))
	}
	must(t, n.Remove("many"), n.Barrier(patience))
	if got := m.Stored(); len(got) > 0 {
		t.Errorf("store holds %q", got)
	}
	noFaults(t, m)
}

func TestBarrierTimeout(t *testing.T) {
	m := manager(t)
	n := notifier(t, m)
	m.Pause()
	resume := sync.OnceFunc(m.Resume)
	defer resume()
	// First with room in the queue, in the end without: the patience is the same.
	for range 30 {
		start := time.Now()
		if err := n.Barrier(20 * time.Millisecond); !errors.Is(err, activation.ErrBarrierTimeout) {
			t.Fatalf("got %v", err)
		}
		if d := time.Since(start); d < 20*time.Millisecond || d > time.Second {
			t.Fatalf("waited %v", d)
		}
	}
	resume()
	must(t, n.Barrier(patience))
	noFaults(t, m)
}

// TestWatchdogDoesNotWait: the data thread must not hang because PID 1 does.
func TestWatchdogDoesNotWait(t *testing.T) {
	m := manager(t)
	n := notifier(t, m)
	m.Pause()
	resume := sync.OnceFunc(m.Resume)
	defer resume()
	start := time.Now()
	for range 2000 {
		must(t, n.Watchdog())
	}
	if d := time.Since(start); d > 2*time.Second {
		t.Errorf("2000 pings took %v", d)
	}
	// All others wait for room.
	done := make(chan error, 1)
	go func() { done <- n.Status("waited") }()
	select {
	case err := <-done:
		t.Fatalf("sent into a full queue: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	resume()
	must(t, <-done)
	must(t, n.Barrier(patience))
	if s := m.State(); s.Status != "waited" || s.Watchdog == 0 || s.Watchdog >= 2000 {
		t.Errorf("state: %+v", s)
	}
	if got := testing.AllocsPerRun(100, func() { n.Watchdog() }); got > 0 {
		t.Errorf("a ping allocates %v times", got)
	}
}

// TestManagerReplaced: a manager that comes back behind a new socket is found again, from any kind of message.
func TestManagerReplaced(t *testing.T) {
	dir := test.Folder(t)
	replace := func(old *activationtest.Manager) *activationtest.Manager {
		t.Helper()
		if old != nil {
			must(t, old.Close())
		}
		m, err := activationtest.New(dir)
		must(t, err)
		return m
	}
	m := replace(nil)
	n := notifier(t, m)
	must(t, n.Ready(""))
	m = replace(m)
	must(t, n.Status("back"), n.Barrier(patience))
	if s := m.State(); s.Status != "back" {
		t.Errorf("state: %+v", s)
	}
	m = replace(m)
	defer func() { m.Close() }()
	if err := n.Watchdog(); err == nil {
		t.Error("the ping to a closed socket was no error")
	}
	for end := time.Now().Add(patience); n.Watchdog() != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the watchdog never came back")
		}
	}
	must(t, m.Wait(patience, func(s activationtest.State) bool { return s.Watchdog > 0 }))
}

func TestManagerGone(t *testing.T) {
	m, err := activationtest.New(test.Folder(t))
	must(t, err)
	n := notifier(t, m)
	must(t, m.Close())
	for range 3 {
		if n.Status("x") == nil || n.Barrier(patience) == nil || n.Watchdog() == nil {
			t.Error("sent to nobody without an error")
		}
	}
}

func TestNotifierConcurrent(t *testing.T) {
	m := manager(t)
	n := notifier(t, m)
	var wg sync.WaitGroup
	for i := range 4 {
		name := activation.SinkName('d', uint64(i))
		fd := memfd(t, name)
		wg.Go(func() {
			for range 25 {
				if err := errors.Join(n.Store(name, fd), n.Barrier(patience), n.Remove(name), n.Watchdog()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	must(t, n.Barrier(patience))
	if got := m.Stored(); len(got) > 0 {
		t.Errorf("store holds %q", got)
	}
	noFaults(t, m)
}

func TestWatchdogInterval(t *testing.T) {
	me := strconv.Itoa(os.Getpid())
	for _, tt := range []struct {
		usec, pid string
		want      time.Duration
	}{
		{"", "", 0},
		{"", me, 0},
		{"3000000", me, 3 * time.Second},
		{"3000000", "", 3 * time.Second},
		{"3000000", "1", 0},
		{"3000000", "me", 0},
		{"0", me, 0},
		{"-1", me, 0},
		{"soon", me, 0},
		{"9223372036854775807", me, 0},
		{"18446744073709552", me, 0}, // wraps to a small positive number of nanoseconds
	} {
		t.Setenv("WATCHDOG_USEC", tt.usec)
		t.Setenv("WATCHDOG_PID", tt.pid)
		if got, on := activation.WatchdogInterval(); got != tt.want || on != (tt.want > 0) {
			t.Errorf("%q for %q: %v, %v; want %v", tt.usec, tt.pid, got, on, tt.want)
		}
	}
}

func TestStoreLimit(t *testing.T) {
	for text, want := range map[string]int{"": -1, "4096": 4096, "0": 0, "-3": -1, "many": -1} {
		t.Setenv("FDSTORE", text)
		if n, known := activation.StoreLimit(); known != (want >= 0) || n != max(want, 0) {
			t.Errorf("%q: %d, %v", text, n, known)
		}
	}
}
