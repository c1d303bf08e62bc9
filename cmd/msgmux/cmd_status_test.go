// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/internal/test"
	"github.com/msgmux/msgmux/internal/wire"
)

// TestStatusShowsTheChannel as a table and as JSON, without and with sinks.
func TestStatusShowsTheChannel(t *testing.T) {
	broker, dir := startBroker(t)
	for _, want := range []string{dir, fmt.Sprint("pid ", broker.cmd.Process.Pid), "0 received", "1.00 MiB", "sinks     none"} {
		if got := prepare(t, dir, "status").want(0).stdout.String(); !strings.Contains(got, want) {
			t.Errorf("no %q in %q", want, got)
		}
	}
	var l statusJSON
	if err := json.Unmarshal([]byte(prepare(t, dir, "status", "--json").want(0).stdout.String()), &l); err != nil {
		t.Fatal(err)
	}
	if l.Status.PID != broker.cmd.Process.Pid || l.Sinks == nil || len(l.Sinks) != 0 {
		t.Errorf("got %+v", l)
	}

	startSub(t, dir, "--label", "archive", "--patience", "forever")
	startSub(t, dir, "--tap", "--label", "eye")
	prepare(t, dir, "pub", "one", "two").want(0)
	test.Eventually(t, "the deliveries", func() bool {
		s := sinksOf(t, dir)
		return s[0].Accepted == 2 && s[1].Accepted == 2
	})
	got := prepare(t, dir, "status").want(0).stdout.String()
	for _, want := range []string{
		`(?m)^messages  2 received, 4 accepted, 0 lost$`,
		`(?m)^sinks     2 \(2 dynamic, 2 framed, 1 tap\)$`,
		`(?m)^ *\d+  archive  framed +\S+ +ready +\d+ +0 +0 B +forever +- +2 +0 `,
		`(?m)^ *\d+  eye      framed,tap `,
	} {
		if !regexp.MustCompile(want).MatchString(got) {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
	var sinks []sinkJSON
	if err := json.Unmarshal([]byte(prepare(t, dir, "sinks", "list", "--json").want(0).stdout.String()), &sinks); err != nil || len(sinks) != 2 {
		t.Errorf("got %+v and %v", sinks, err)
	}
	if got := prepare(t, dir, "sinks", "list").want(0).stdout.String(); strings.Count(got, "\n") != 3 {
		t.Errorf("got\n%s", got)
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skipf("this host has no /dev/full: %v", err)
	}
	defer full.Close()
	p := prepare(t, dir, "status")
	p.cmd.Stdout = full
	p.want(exitFailure).says("no space left")
}

// TestStatusTellsRatesAndSenders: how fast each sink reads, and on request who is connected, whoever asks.
func TestStatusTellsRatesAndSenders(t *testing.T) {
	_, dir := startBroker(t)
	if got := prepare(t, dir, "status", "--senders").want(0).stdout.String(); !strings.Contains(got, "\nsenders   none is connected\n") {
		t.Errorf("with nobody:\n%s", got)
	}
	startSub(t, dir, "--label", "archive")
	pub := prepare(t, dir, "pub", "-l")
	pub.cmd.Stdin = endless{}
	pub.start()
	conn, err := net.Dial("unixgram", filepath.Join(dir, "source"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	test.Eventually(t, "messages", func() bool { return sinksOf(t, dir)[0].Accepted > 0 })
	want := []string{
		`(?m)^sources   .*; [1-9][0-9,]* a second$`, `(?m)^ *\d+  archive  framed +\S+ +\S+ +[1-9][0-9,]* `,
		fmt.Sprintf(`(?m)^source +%s +1  \S+\[%d\]$`, regexp.QuoteMeta(userName(uint32(os.Getuid()))), os.Getpid()),
		fmt.Sprintf(`(?m)^publish +%s +1  msgmux\[%d\]$`, regexp.QuoteMeta(userName(uint32(os.Getuid()))), pub.cmd.Process.Pid),
	}
	var got string
	test.Eventually(t, "rates and senders", func() bool {
		got = prepare(t, dir, "status", "--senders").want(0).stdout.String()
		for _, w := range want {
			if !regexp.MustCompile(w).MatchString(got) {
				t.Logf("not yet: %s", w)
				return false
			}
		}
		return true
	})
	t.Log("\n" + got)
	var l statusJSON
	if err := json.Unmarshal([]byte(prepare(t, dir, "status", "--senders", "--json").want(0).stdout.String()), &l); err != nil || len(l.Senders) != 2 {
		t.Errorf("%v, %+v", err, l.Senders)
	}
	prepare(t, dir, "status", "--senders", "--watch").want(exitUsage)
}

// TestStatusKnowsRatesAtOnce: the table does, of a broker that nobody has looked at for long. JSON says that there are none.
func TestStatusKnowsRatesAtOnce(t *testing.T) {
	t.Parallel()
	const forgotten = 10100 * time.Millisecond // then an earlier look at a broker is of no use
	_, one := startBroker(t)
	_, other := startBroker(t)
	time.Sleep(forgotten)
	if got := prepare(t, one, "status").want(0).stdout.String(); !strings.Contains(got, "; 0 a second\n") {
		t.Errorf("the table:\n%s", got)
	}
	for _, known := range []bool{false, true} {
		var l statusJSON
		if err := json.Unmarshal([]byte(prepare(t, other, "status", "--json").want(0).stdout.String()), &l); err != nil {
			t.Fatal(err)
		}
		if l.Status.RateSeconds > 0 != known {
			t.Errorf("JSON has rates of %v s", l.Status.RateSeconds)
		}
		time.Sleep(ratesAfter)
	}
}

// startBrokerFor starts a broker that takes very many sinks.
func startBrokerFor(t testing.TB) (dir string) {
	_, dir = startBroker(t, "--max-sinks", "4096", "--max-sinks-per-user", "4096")
	return dir
}

// manySinks adds the sinks with the numbers from one on that are below the other.
func manySinks(t testing.TB, dir string, from, below int) {
	for i := from; i < below; i++ {
		brokertest.NewSink(t, dir, fmt.Sprintf("label=sink-%04d", i), "patience=0")
	}
}

// TestStatusTellsReaders: on request, which processes hold the sockets of sinks, also a child that has inherited one.
func TestStatusTellsReaders(t *testing.T) {
	_, dir := startBroker(t)
	if got := prepare(t, dir, "status", "--readers").want(0).stdout.String(); !strings.Contains(got, "\nreaders   none is there\n") {
		t.Errorf("with nobody:\n%s", got)
	}
	sub := startSub(t, dir, "--label", "archive")
	heir := exec.Command("sleep", "100")
	socket := brokertest.NewSink(t, dir, "label=agent")
	file, err := socket.Conn.File()
	if err != nil {
		t.Fatal(err)
	}
	heir.ExtraFiles = []*os.File{file}
	if err := heir.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { heir.Process.Kill(); heir.Wait() })
	file.Close()
	socket.Close()
	// A socket may have been bound by another path than the one where it is by now.
	moved := brokertest.NewSocket(t, dir+"/sinks/.new")
	if err := os.Rename(moved.Name, dir+"/sinks/moved"); err != nil {
		t.Fatal(err)
	}
	test.Eventually(t, "a declared sink", func() bool { return len(sinksOf(t, dir)) == 3 })
	me := regexp.QuoteMeta(userName(uint32(os.Getuid())))
	got := prepare(t, dir, "status", "--readers").want(0).stdout.String()
	matches(t, got, fmt.Sprintf(`(?m)^agent +%s +1  \S+ +sleep\[%d\]$`, me, heir.Process.Pid))
	matches(t, got, fmt.Sprintf(`(?m)^moved +%s +1  \S+ +\S+\[%d\]$`, me, os.Getpid()))
	matches(t, got, fmt.Sprintf(`(?m)^archive +%s +1  \S+ +msgmux\[%d\]$`, me, sub.cmd.Process.Pid))
	var l statusJSON
	if err := json.Unmarshal([]byte(prepare(t, dir, "status", "--readers", "--json").want(0).stdout.String()), &l); err != nil || len(l.Readers) != 3 || l.Senders != nil {
		t.Errorf("%v, %+v", err, l)
	}
	prepare(t, dir, "status", "--readers", "--watch").want(exitUsage)
}

// TestStatusOfManySinks shows 4,000 sinks and their rates, for what a sink costs where there are 1,000: all of the program, from its
// start to its end. The time is that of the processor, which others who want it do not add to; BenchmarkStatusOfManySinks tells how
// long one waits for it.
func TestStatusOfManySinks(t *testing.T) {
	const few, many = 1000, 4000
	dir := startBrokerFor(t)
	cost := func(n int) time.Duration {
		best := time.Hour
		for range 7 {
			p := prepare(t, dir, "status").want(0)
			best = min(best, p.cmd.ProcessState.UserTime()+p.cmd.ProcessState.SystemTime())
			got := p.stdout.String()
			if lines := regexp.MustCompile(`(?m)^ *\d+  sink-\d{4}  dynamic  \S+ +ready +0 +0 `).FindAllString(got, -1); len(lines) != n {
				t.Fatalf("%d sinks of %d in\n%.2000s", len(lines), n, got)
			}
		}
		return best
	}
	manySinks(t, dir, 0, few)
	ofFew := cost(few)
	manySinks(t, dir, few, many)
	ofMany := cost(many)
	t.Logf("the table of %d sinks: %v, of %d: %v", few, ofFew, many, ofMany)
	if ofMany > many/few*ofFew*5/4 { // starting, which both do, makes it less; what looks at each for each costs up to 16 times as much
		t.Errorf("the table of %d sinks takes %v, that of %d %v", many, ofMany, few, ofFew)
	}
}

// BenchmarkStatusOfManySinks is how long the table of 4,000 takes, from the start of the program to its end.
func BenchmarkStatusOfManySinks(b *testing.B) {
	dir := startBrokerFor(b)
	manySinks(b, dir, 0, 4000)
	for b.Loop() {
		prepare(b, dir, "status").want(0)
	}
}

// TestStatusOfABrokerThatHangs gives up with status 4.
func TestStatusOfABrokerThatHangs(t *testing.T) {
	t.Parallel() // it mostly waits
	dir := folder(t)
	listener, err := net.Listen("unixpacket", filepath.Join(dir, "control"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for _, args := range []string{"status", "status --json", "sinks", "sinks drop x"} {
		prepare(t, dir, strings.Fields(args)...).want(exitTimeout).says("the broker in " + dir + " does not answer\n")
	}
}

// TestStatusLines of states that are hard to bring about.
func TestStatusLines(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	s := wire.Status{
		Channel: "web", RuntimeDir: "/run/msgmux.web", PID: 7, Version: "1\x1b", SinceUnix: now.Unix() - 90, RingSince: now.Unix() - 3600,
		Buffer: 16 << 20, Used: 1 << 20, Starts: 3, Received: 12345, Accepted: 37030, Lost: 5,
		Refused: map[string]uint64{"too-large": 3, "bad-packet": 0}, Abandoned: 8, Landed: 2,
		Sinks:       wire.SinkCounts{Total: 3, Static: 1, Dynamic: 2, Lagging: 1, Stalled: 1},
		Sources:     wire.Sources{Blocked: true, Why: "sink archive", Sink: "archive", ForSeconds: 12},
		RateSeconds: 1.5, ReceivedRate: 1234.4,
	}
	l := listing{Status: s, Sinks: []wire.Sink{{Label: "near", LagBytes: 1}, {Label: "far\x1b", LagBytes: 4 << 20}, {Label: "up"}}}
	got := string(appendStatus(nil, l, now))
	for _, want := range []string{
		"channel   web in /run/msgmux.web\n",
		`version 1\x1b, since`, "(1 min 30 s)\n",
		"messages  12,345 received, 37,030 accepted, 5 lost, 3 refused: too-large, 8 abandoned, 2 waiting for room\n",
		`ring      16.0 MiB; furthest behind: far\x1b, 4.00 MiB (25%); 2 restarts since `,
		"sources   blocked for 12.0 s: sink archive; 1,234 a second\n",
		"sinks     3 (1 static, 2 dynamic; 1 stalled, 1 lagging)\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	s.RateSeconds, s.Starts = 0, 1
	got = string(appendStatus(nil, listing{Status: s}, now))
	if !strings.Contains(got, "; - a second\n") || !strings.Contains(got, "\nring      16.0 MiB; no sink is behind; not restarted\n") {
		t.Errorf("without a known rate:\n%s", got)
	}
}

// TestSinksAreDroppedAndSet by label and by id, and only by who may.
func TestSinksAreDroppedAndSet(t *testing.T) {
	_, dir := startBroker(t)
	for _, label := range []string{"one", "two", "three"} {
		startSub(t, dir, "--label", label)
	}
	prepare(t, dir, "sinks", "set", "one", fmt.Sprintf("#%d", sinksOf(t, dir)[1].ID), "--patience", "90").want(0).prints("")
	for i, want := range []string{"1m30s", "1m30s", "1s"} {
		if got := sinksOf(t, dir)[i].Patience; got != want {
			t.Errorf("sink %d has patience %s, want %s", i, got, want)
		}
	}
	prepare(t, dir, "sinks", "drop", "nobody").want(exitNoSink).says("msgmux: the channel has no sink \"nobody\"; ")
	prepare(t, dir, "sinks", "drop", "one", "nobody", "three").want(exitNoSink).says("\"nobody\"")
	if left := sinksOf(t, dir); len(left) != 2 || left[0].Label != "two" {
		t.Errorf("left are %+v", left)
	}
	prepare(t, dir, "sinks", "drop", "two", "three").want(0).prints("")
	if left := sinksOf(t, dir); len(left) != 0 {
		t.Errorf("left are %+v", left)
	}

	startSub(t, dir, "--label", "mine")
	for _, name := range []string{"source", "register", "subscribe", "control"} {
		if err := os.Chmod(filepath.Join(dir, name), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	prepare(t, dir, "sinks", "drop", "mine").asNobody().want(exitRefused).says("mine: ", "refused")
	prepare(t, dir, "sub", "--patience", "forever").asNobody().want(exitRefused)
	prepare(t, dir, "status").asNobody().want(0)
}

// TestBenchMeasures a short while, as a table and as JSON.
func TestBenchMeasures(t *testing.T) {
	_, dir := startBroker(t)
	p := prepare(t, dir, "bench", "-n", "2", "--duration", "300ms", "--rate", "500", "--json").want(0)
	var got benchJSON
	if err := json.Unmarshal([]byte(p.stdout.String()), &got); err != nil {
		t.Fatalf("%v: %s", err, p.stdout.String())
	}
	if got.Sinks != 2 || got.Size != 256 || got.Sent < 50 || got.Sent > 160 || got.Deliveries != 2*got.Sent || got.Lost != 0 ||
		got.Disordered != 0 || got.ClientCPU <= 0 || got.CPU <= 0 || got.P50 <= 0 || got.P99 < got.P50 || got.P999 < got.P99 {
		t.Errorf("got %+v", got)
	}
	if left := sinksOf(t, dir); len(left) != 0 {
		t.Errorf("the sinks are still there: %+v", left)
	}
	text := prepare(t, dir, "bench", "--sinks", "1", "--size", "5000", "--duration", "300ms").want(0).stdout.String()
	for _, want := range []string{
		`1 sink, 5000 bytes, frames, as fast as the channel takes, for 300 ms; net\.unix\.max_dgram_qlen \d+\n`,
		`(?m)^messages    [0-9,]+, [0-9,]+/s$`, `(?m)^CPU         [0-9.]+ us a delivery: broker [0-9.]+, clients [0-9.]+$`,
		`(?m)^deliveries  [0-9,]+, [0-9,]+/s, `, `(?m)^lost        0 of [0-9,]+$`, `(?m)^latency     p50 .*s, p99 .*s, p99\.9 .*s$`,
	} {
		if !regexp.MustCompile(want).MatchString(text) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	prepare(t, dir, "bench", "--size", "1000000").want(exitTooLarge)
	sub := startSub(t, dir)
	prepare(t, dir, "bench", "--duration", "100ms").want(exitFailure).says("1 sink", "--force")
	prepare(t, dir, "bench", "--duration", "100ms", "--force", "--rate", "100", "-n", "1", "--datagrams").want(0)
	if !strings.Contains(sub.stdout.String(), "msgmux bench") {
		t.Error("the other sink got nothing")
	}
	p = prepare(t, dir, "bench", "--duration", "1m", "--rate", "10", "--force").start()
	test.Eventually(t, "its sinks", func() bool { return len(sinksOf(t, dir)) == 5 })
	time.Sleep(200 * time.Millisecond)
	p.signal(syscall.SIGINT)
	p.want(exitInterrupted)
	test.Eventually(t, "their end", func() bool { return len(sinksOf(t, dir)) == 1 })
}
