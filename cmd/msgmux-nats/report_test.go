// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/msgmux/msgmux/activation"
	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/cmd/msgmux-nats/stream"
)

// TestWatchdogIsSilentWhenSomethingHangs that has its time, and is not when nothing is under way, for however long.
func TestWatchdogIsSilentWhenSomethingHangs(t *testing.T) {
	folder, err := os.MkdirTemp("", "mm") // t.TempDir is too long for a socket's address
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	systemd, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(folder, "n"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer systemd.Close()
	t.Setenv("NOTIFY_SOCKET", filepath.Join(folder, "n"))
	t.Setenv("WATCHDOG_USEC", "60000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	notifier, err := activation.NewNotifier()
	if err != nil {
		t.Fatal(err)
	}
	defer notifier.Close()
	b := &bridge{direction: "in", report: &report{}}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	defer func() { cancel(); <-ended }()
	go func() { defer close(ended); b.tell(ctx, notifier) }()
	// pings counts what comes within a time that is enough for many.
	pings := func(enough int, within time.Duration) (n int) {
		systemd.SetReadDeadline(time.Now().Add(within))
		text := make([]byte, 4096)
		for n < enough {
			k, err := systemd.Read(text)
			if err != nil {
				return n
			}
			if strings.Contains(string(text[:k]), "WATCHDOG=1") {
				n++
			}
		}
		return n
	}
	if n := pings(5, 20*time.Second); n < 5 {
		t.Errorf("%d pings while nothing is under way", n)
	}
	done := b.report.work()
	if n := pings(5, 20*time.Second); n < 5 {
		t.Errorf("%d pings while something has just begun", n)
	}
	b.report.working.Store(time.Now().Add(-2 * longestWork).UnixNano())
	pings(2, 200*time.Millisecond) // those that were on their way
	if n := pings(1, time.Second); n > 0 {
		t.Error("it pings though something has hung for two minutes")
	}
	done()
	if n := pings(5, 20*time.Second); n < 5 {
		t.Errorf("%d pings after it", n)
	}
}

// TestForeignNotifySocket: NOTIFY_SOCKET is left over from a service that has ended, and leads nowhere or to nobody. The bridge works.
func TestForeignNotifySocket(t *testing.T) {
	folder, err := os.MkdirTemp("", "mm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	closed, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(folder, "closed"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	closed.Close() // its file stays
	for _, name := range []string{"nowhere", "closed"} {
		t.Setenv("NOTIFY_SOCKET", filepath.Join(folder, name))
		var said bytes.Buffer
		b := &bridge{direction: "in", report: &report{}, log: slog.New(slog.NewTextHandler(&said, nil))}
		ctx, stop := context.WithCancel(t.Context())
		attempts := 0
		if err := b.serve(ctx, func(context.Context) error { attempts++; stop(); return nil }, ""); err != nil || attempts != 1 {
			t.Errorf("%s: it ends with %v after %d attempts", name, err, attempts)
		}
		if !strings.Contains(said.String(), "service manager") {
			t.Errorf("%s: it says %q", name, said.String())
		}
	}
}

// TestThePageHasAllMetrics with what they mean.
func TestThePageHasAllMetrics(t *testing.T) {
	page, err := os.ReadFile("../../docs/admin/bridge.md")
	if err != nil {
		t.Fatal(err)
	}
	b := &bridge{report: &report{}}
	table := ""
	for _, m := range b.metrics() {
		name, kind := m.Name, "gauge"
		if m.Counter {
			name, kind = name+"_total", "counter"
		}
		table += "| `" + name + "` | " + kind + " | " + m.Help + " |\n"
	}
	if !strings.Contains(string(page), table) {
		t.Errorf("docs/admin/bridge.md lacks this table:\n%s", table)
	}
}

// TestWhatWasWrongBeforeIsNotWrongStill: what only a person can mend has to be so for a while, without a break, before the bridge ends.
func TestWhatWasWrongBeforeIsNotWrongStill(t *testing.T) {
	t.Parallel()
	b := &bridge{report: &report{}, log: slog.New(slog.DiscardHandler)}
	ctx, stop := context.WithCancel(t.Context())
	attempts := 0
	err := b.run(ctx, func(context.Context) error {
		if attempts++; attempts == 2 {
			b.report.enter("joined to a server")
			time.Sleep(confirmFor + 100*time.Millisecond)
		}
		if attempts == 4 {
			stop()
		}
		return msgmux.ErrInUse
	})
	if err != nil || attempts != 4 {
		t.Errorf("it ends with %v after %d attempts, of which the second went well", err, attempts)
	}
}

// TestWhatIsMissingIsCountedOnce however many attempts find it.
func TestWhatIsMissingIsCountedOnce(t *testing.T) {
	b := &bridge{report: &report{}, log: slog.New(slog.DiscardHandler)}
	for _, attempt := range []struct{ epoch, next, comes, lost uint64 }{
		{7, 10, 15, 5}, {7, 10, 15, 5}, // it was not stored
		{7, 10, 18, 8},                // nor then, and more is missing now
		{7, 30, 31, 9}, {8, 0, 3, 12}, // the channel has begun anew
	} {
		w := writing{bridge: b, next: stream.Position{Epoch: attempt.epoch, Seq: attempt.next}}
		if err := w.add(parcel{Packet: msgmux.Packet{Seq: attempt.comes, Count: 1, Records: []byte{1, 0, 0, 0, 'x', 0, 0, 0}}}); err != nil {
			t.Fatal(err)
		}
		if got, want := w.letters[0].Lost, attempt.comes-attempt.next; got != want {
			t.Errorf("%+v: the stream is told that %d are missing, want %d", attempt, got, want)
		}
		if got := b.report.lost.Load(); got != attempt.lost {
			t.Errorf("%+v: %d are counted as missing", attempt, got)
		}
	}
}
