// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/msgmux/msgmux/internal/test"
	"github.com/msgmux/msgmux/internal/wire"
)

// TestPromise10_FollowedOnce: pub --follow and the sub that prints are killed again and again while the file grows and is rotated in
// both ways: each line of it is printed at least once and in order by the latter, and is in the channel once.
func TestPromise10_FollowedOnce(t *testing.T) {
	kills := 8
	if n, err := strconv.Atoi(os.Getenv("MSGMUX_SOAK_KILLS")); err == nil {
		kills = min(n, 200)
	}
	_, dir := startBroker(t)
	counter := startSub(t, dir, "-q", "-o", "line") // sees what is in the channel
	prepare(t, dir, "sub", "-q", "--keep", "10m", "--label", "db", "-C", "0").start().want(exitDone)
	path := filepath.Join(t.TempDir(), "log")
	log, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { log.Close() }()
	lines := 0
	grow := func(n int) {
		w := bufio.NewWriter(log)
		for range n {
			fmt.Fprintf(w, "line %d of the log\n", lines)
			lines++
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	var printed strings.Builder
	for k := range kills {
		pub := prepare(t, dir, "pub", "-q", "--follow", path, "--label", "log").start()
		sub := prepare(t, dir, "sub", "-q", "--keep", "10m", "--label", "db").start()
		before := len(counter.stdout.String())
		grow(1)
		if k%3 == 0 { // else it may be killed before it has done anything
			test.Eventually(t, "something is sent", func() bool { return len(counter.stdout.String()) > before })
		}
		for range 10 {
			grow(200)
			time.Sleep(time.Duration(k%4) * 3 * time.Millisecond)
		}
		switch k % 4 {
		case 1: // by rename; the writer goes on in a new file
			rename(t, path, fmt.Sprint(path, ".", k))
			log.Close()
			if log, err = os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644); err != nil {
				t.Fatal(err)
			}
		case 3: // by copy; nothing is written between copying and truncating, as logrotate(8) would have it
			text, err := os.ReadFile(path)
			if err == nil {
				err = os.WriteFile(fmt.Sprint(path, ".", k), text, 0o644)
			}
			if err == nil {
				err = log.Truncate(0)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		grow(50)
		sub.signal(os.Kill)
		sub.status()
		pub.signal(os.Kill)
		pub.status()
		printed.WriteString(sub.stdout.String())
	}
	pub := prepare(t, dir, "pub", "-q", "--follow", path, "--label", "log").start()
	last := fmt.Sprintf("line %d of the log\n", lines-1)
	test.Eventually(t, "the last line", func() bool { return strings.HasSuffix(counter.stdout.String(), last) })
	pub.signal(os.Interrupt)
	pub.want(exitInterrupted)
	at := 0
	for line := range strings.Lines(counter.stdout.String()) {
		if want := fmt.Sprintf("line %d of the log\n", at); line != want {
			t.Fatalf("in the channel: %q instead of %q", line, want)
		}
		at++
	}
	if at != lines {
		t.Errorf("%d lines are in the channel, of %d", at, lines)
	}
	rest := prepare(t, dir, "sub", "-q", "--keep", "10m", "--label", "db", "--idle", "500ms").start()
	rest.status()
	printed.WriteString(rest.stdout.String())
	at, repeats := 0, 0
	for line := range strings.Lines(printed.String()) {
		var n int
		if c, err := fmt.Sscanf(line, "line %d of the log", &n); c != 1 || err != nil {
			t.Fatalf("printed %q", line)
		}
		if n > at {
			t.Fatalf("line %d is printed behind line %d", n, at-1)
		}
		if n < at {
			repeats++
		}
		at = max(at, n+1)
	}
	if at != lines {
		t.Errorf("%d lines were printed, of %d", at, lines)
	}
	t.Logf("%d lines, %d kills of each, %d printed twice", lines, kills, repeats)
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

// TestPubFollowsWhenThereIsABroker: --retry waits for one, says so, and a signal ends the waiting as any other.
func TestPubFollowsWhenThereIsABroker(t *testing.T) {
	t.Parallel() // it mostly waits
	dir := folder(t)
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, []byte("one\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	var waiting []*program
	for _, label := range []string{"log", "other"} {
		p := prepare(t, dir, "pub", "--follow", path, "--label", label, "--retry").start()
		test.Eventually(t, "the notice", func() bool {
			select {
			case <-p.ended:
				t.Fatalf("it has ended: %s", p.stderr.String())
			default:
			}
			return strings.Contains(p.stderr.String(), "waiting: no broker is running")
		})
		waiting = append(waiting, p)
	}
	waiting[1].signal(syscall.SIGTERM)
	waiting[1].want(exitTerminated).says("terminated")
	startBrokerIn(t, dir)
	prepare(t, dir, "sub", "-C", "1").want(exitDone).prints("one\n")
}

// TestPubStopsBeforeItFollows: a signal while a broker that is there does not let it in is a signal, not an error.
func TestPubStopsBeforeItFollows(t *testing.T) {
	dir := folder(t)
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: filepath.Join(dir, wire.SocketPublish), Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p := prepare(t, dir, "pub", "--follow", "/dev/null", "--label", "log").start()
	conn, err := l.Accept() // and no answer
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	p.signal(syscall.SIGTERM)
	p.want(exitTerminated).says("terminated")
}
