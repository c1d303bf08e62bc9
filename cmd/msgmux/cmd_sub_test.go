// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/msgmux/msgmux/internal/test"
)

// TestSubPrintsExactly in every format, into a pipe.
func TestSubPrintsExactly(t *testing.T) {
	_, dir := startBroker(t)
	messages := []string{"text", "", "\x1b[31m\x00\xff\n"}
	for format, want := range map[string]string{
		"raw":  "text\x1b[31m\x00\xff\n",
		"line": "text\n\n\x1b[31m\x00\xff\n\n",
		"nul":  "text\x00\x00\x1b[31m\x00\xff\n\x00",
		"hex":  "74657874\n\n1b5b33316d00ff0a\n",
	} {
		sub := startSub(t, dir, "-C", "3", "-o", format)
		for _, message := range messages {
			prepare(t, dir, "pub", "-s").input(strings.NewReader(message)).want(0)
		}
		sub.want(0).prints(want)
		if text := sub.stderr.String(); text != "" {
			t.Errorf("it also says %q", text)
		}
	}
}

// TestSubPrintsWhatIsAskedFor and nothing else: only what matches, without its end, behind its time or by a template.
func TestSubPrintsWhatIsAskedFor(t *testing.T) {
	_, dir := startBroker(t)
	messages := []string{"an error\n\x00", "fine\n", "", "ERROR\x00\n\n", "\xff\xfe error", "error"}
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"--match", "(?i)error", "-C", "4", "-o", "nul"}, "an error\n\x00\x00ERROR\x00\n\n\x00\xff\xfe error\x00error\x00"},
		{[]string{"--match", "error$", "--trim", "-C", "3"}, "an error\n\xff\xfe error\nerror\n"}, // the end is that of what is printed
		{[]string{"--trim", "-C", "6", "-o", "hex"}, "616e206572726f72\n66696e65\n\n4552524f52\nfffe206572726f72\n6572726f72\n"},
		{[]string{"--match", "^fine$|^$", "--trim", "-C", "2", "-f", `<%m> %b\0`}, "<fine> 4\x00<> 0\x00"},
	} {
		sub := startSub(t, dir, test.args...)
		sendAll(t, dir, messages)
		sub.want(0).prints(test.want)
	}
	_, dir = startBroker(t) // that has none of them left
	sub := startSub(t, dir, "--match", "error", "--idle", "2s", "-f", `%t %m\n`, "--trim")
	timed := startSub(t, dir, "--time", "-C", "1", "--match", "^error")
	sendAll(t, dir, messages)
	sub.want(0).says("3 messages received, 21 B,", "; 3 passed over")
	timed.want(0)
	matches(t, timed.stdout.String(), `^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z error\n$`)
	// What is passed over is nothing that comes: neither a message of those counted, nor the end of being idle.
	sub = startSub(t, dir, "--match", "error", "-W", "1")
	sendAll(t, dir, []string{"fine"})
	sub.want(exitTimeout).says("0 messages received", "1 passed over")
}

// TestSubTellsWhoSent what it prints: as the kernel attests it, and what it finds out itself, of senders by datagram and by
// connection, that are there still and that are not.
func TestSubTellsWhoSent(t *testing.T) {
	_, dir := startBroker(t)
	form := `%p %u %g %C %m\n`
	sub := startSub(t, dir, "-f", form, "-C", "3")
	all := startSub(t, dir, "-o", "json", "-C", "3")
	mine := startSub(t, dir, "--from-uid", strconv.Itoa(os.Getuid()), "-C", "3")
	nobody := startSub(t, dir, "--from-uid", "4294967294", "-W", "1")
	began := time.Now()
	conn, err := net.Dial("unixgram", filepath.Join(dir, "source"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("datagram")); err != nil {
		t.Fatal(err)
	}
	test.Eventually(t, "the first", func() bool { return strings.Contains(sub.stdout.String(), "datagram") })
	reader, writer := pipe(t)
	pub := prepare(t, dir, "pub", "-l").input(reader).start()
	if _, err := writer.WriteString("connection\n"); err != nil {
		t.Fatal(err)
	}
	test.Eventually(t, "the second", func() bool { return strings.Contains(sub.stdout.String(), "connection") })
	all.signal(syscall.SIGSTOP)
	sub.signal(syscall.SIGSTOP)
	gone := prepare(t, dir, "pub", "gone").want(0)
	all.signal(syscall.SIGCONT)
	sub.signal(syscall.SIGCONT)
	uid, gid := os.Getuid(), os.Getgid()
	command, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	name := strings.TrimSpace(string(command))
	sub.want(0).prints(fmt.Sprintf("%d %d %d %s datagram\n%d %d %d msgmux connection\n%d %d %d - gone\n",
		os.Getpid(), uid, gid, name, pub.cmd.Process.Pid, uid, gid, gone.cmd.Process.Pid, uid, gid))
	mine.want(0).prints("datagram\nconnection\ngone\n")
	nobody.want(exitTimeout).says("3 passed over")
	lines := slices.Collect(strings.Lines(all.want(0).stdout.String()))
	for i, want := range []struct {
		pid     int
		command string
	}{{os.Getpid(), name}, {pub.cmd.Process.Pid, "msgmux"}, {gone.cmd.Process.Pid, ""}} {
		var got struct {
			Origin struct {
				Time     time.Time
				PID      int
				UID, GID *int
			}
			Guess *struct{ Command, Unit string }
		}
		if err := json.Unmarshal([]byte(lines[i]), &got); err != nil {
			t.Fatal(err)
		}
		o := got.Origin
		if o.PID != want.pid || o.UID == nil || *o.UID != uid || o.GID == nil || *o.GID != gid || o.Time.Before(began) || o.Time.After(time.Now()) {
			t.Errorf("the origin is wrong: %s", lines[i])
		}
		if (got.Guess == nil) != (want.command == "") || got.Guess != nil && got.Guess.Command != want.command {
			t.Errorf("the guess is wrong: %s", lines[i])
		}
	}
}

// TestSubAsksForOriginsOnlyWhenItShowsThem: they cost everybody something.
func TestSubAsksForOriginsOnlyWhenItShowsThem(t *testing.T) {
	_, dir := startBroker(t)
	for _, args := range []string{"-o line", "-o frames", "-f %m", "--match x", "--trim"} {
		startSub(t, dir, append(strings.Fields(args), "--label", "plain")...)
	}
	status := prepare(t, dir, "sinks", "--json").want(0).stdout.String()
	if strings.Contains(status, "meta") {
		t.Errorf("it asks for origins: %s", status)
	}
}

// TestSubPrintsJSON that every reader understands, text as text and the rest as base64.
func TestSubPrintsJSON(t *testing.T) {
	_, dir := startBroker(t)
	messages := []string{`say "hi" <&> \`, "", "\x00\xff", "esc \x1b del \x7f c1 \u009b turn \u202e", "日本"}
	sub := startSub(t, dir, "-C", "5", "-o", "json")
	began := time.Now()
	for _, message := range messages {
		prepare(t, dir, "pub", "-s").input(strings.NewReader(message)).want(0)
	}
	sub.want(0)
	lines := bufio.NewScanner(strings.NewReader(sub.stdout.String()))
	for i, message := range messages {
		lines.Scan()
		if strings.ContainsFunc(lines.Text(), isActive) || i != 4 && strings.ContainsFunc(lines.Text(), func(r rune) bool { return r > 126 }) {
			t.Errorf("line %d would act on a terminal: %q", i, lines.Text())
		}
		var got struct {
			Time         time.Time
			Seq          *uint64
			Size         int
			Text, Base64 *string
			Origin       *struct {
				Time                  time.Time
				PID, UID, GID, Source int
			}
			Guess map[string]string
		}
		decoder := json.NewDecoder(strings.NewReader(lines.Text()))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&got); err != nil {
			t.Fatalf("line %d: %v: %q", i, err, lines.Text())
		}
		if got.Size != len(message) || got.Time.Before(began) || got.Time.After(time.Now()) {
			t.Errorf("line %d: size %d, time %v", i, got.Size, got.Time)
		}
		if got.Origin == nil || got.Origin.PID == 0 {
			t.Errorf("line %d does not say who sent it: %s", i, lines.Text())
		}
		if got.Seq == nil || *got.Seq != uint64(i) {
			t.Errorf("line %d has not its number: %s", i, lines.Text())
		}
		switch {
		case (got.Text == nil) == (got.Base64 == nil):
			t.Errorf("line %d has not one of text and base64: %s", i, lines.Text())
		case got.Text != nil && *got.Text != message:
			t.Errorf("line %d: %q is not %q", i, *got.Text, message)
		case got.Base64 != nil:
			if b, err := base64.StdEncoding.DecodeString(*got.Base64); err != nil || string(b) != message || message != messages[2] {
				t.Errorf("line %d: %q and %v", i, b, err)
			}
		}
	}
	if lines.Scan() {
		t.Errorf("one line more: %s", lines.Text())
	}
}

// TestSubBeginsWhereItIsTold: with the last few, or with a number, of what is kept.
func TestSubBeginsWhereItIsTold(t *testing.T) {
	_, dir := startBroker(t)
	first := startSub(t, dir, "-C", "5")
	prepare(t, dir, "pub", "zero", "one", "two", "three", "four").want(0)
	first.want(0)
	for args, want := range map[string]string{
		"-n 2 -C 2": "three\nfour\n", "-n 100 -C 5": "zero\none\ntwo\nthree\nfour\n", "--start 1 -C 4": "one\ntwo\nthree\nfour\n",
		"--start oldest -C 1": "zero\n",
	} {
		prepare(t, dir, append([]string{"sub", "-W", "10s"}, strings.Fields(args)...)...).want(0).prints(want)
	}
}

// TestSubSparesTerminals shows control bytes on a terminal as text, except with -o raw.
func TestSubSparesTerminals(t *testing.T) {
	_, dir := startBroker(t)
	for format, want := range map[string]string{
		"<%m> \x07%b": `<a\x1b[31m` + "\tb> \x078", // what the template itself has is its user's own business
		"line":        `a\x1b[31m` + "\tb\n", "nul": `a\x1b[31m` + "\tb\x00", "raw": "a\x1b[31m\tb", "hex": "611b5b33316d0962\n",
	} {
		screen, slave := terminal(t)
		shown := watch(screen)
		before := newestSink(t, dir)
		args := []string{"-o", format}
		if strings.Contains(format, "%") {
			args[0] = "-f"
		}
		sub := prepare(t, dir, append([]string{"sub", "-C", "1"}, args...)...)
		sub.cmd.Stdout = slave
		sub.start().registered(dir, before)
		prepare(t, dir, "pub", "a\x1b[31m\tb").want(0)
		sub.want(0)
		test.Eventually(t, "the message on the screen", func() bool { return len(shown.String()) >= len(want) })
		if got := shown.String(); got != want {
			t.Errorf("%s: the screen shows %q, want %q", format, got, want)
		}
	}
}

// TestSubEndsInTime goes through --count, --timeout and --idle, each met and not met.
func TestSubEndsInTime(t *testing.T) {
	t.Parallel() // it mostly waits
	_, dir := startBroker(t)
	for _, c := range []struct {
		args   string
		send   int
		status int
		says   string
	}{
		{"-C 0", 0, 0, ""},
		{"-C 2", 3, 0, ""},
		{"-C 2 -W 30", 2, 0, ""},
		{"-W 0.5", 0, exitTimeout, "timed out"},
		{"-W 3", 1, 0, "1 message received"},
		{"-C 2 -W 3", 1, exitTimeout, "1 message received"},
		{"-C 2 --idle 2", 1, exitTimeout, "nothing came any more"},
		{"--idle 2", 1, 0, "1 message received"},
		{"--idle 0.5", 0, exitTimeout, "0 messages received"},
	} {
		before := newestSink(t, dir)
		sub := prepare(t, dir, append([]string{"sub", "-o", "raw"}, strings.Fields(c.args)...)...).start()
		if c.args != "-C 0" {
			sub.registered(dir, before)
		}
		for range c.send {
			prepare(t, dir, "pub", "x").want(0)
		}
		sub.want(c.status).says(c.says)
		if len(sub.stdout.String()) > c.send {
			t.Errorf("%s: %q", c.args, sub.stdout.String())
		}
		test.Eventually(t, "its end", func() bool { return len(sinksOf(t, dir)) == 0 })
		// What -C 2 has left of three.
		prepare(t, dir, "sub", "-W", "0.2").start().status()
	}
	// Idle is between messages, not from the beginning.
	sub := startSub(t, dir, "--idle", "3", "-o", "raw")
	for range 4 {
		time.Sleep(time.Second)
		prepare(t, dir, "pub", "x").want(0)
	}
	sub.want(0).prints("xxxx")
}

// TestSubEndsInOrderBySignal prints what it has got, leaves the channel, and tells how much it was.
func TestSubEndsInOrderBySignal(t *testing.T) {
	_, dir := startBroker(t)
	for s, unmet := range map[syscall.Signal]int{syscall.SIGINT: exitInterrupted, syscall.SIGTERM: exitTerminated} {
		for args, status := range map[string]int{"": 0, "-C 10000": unmet} {
			sub := startSub(t, dir, append(strings.Fields(args), "-o", "raw")...)
			// While it is stopped its queue fills; then it wakes with the signal already there.
			sub.signal(syscall.SIGSTOP)
			prepare(t, dir, "pub").input(strings.NewReader(strings.Repeat("x\n", 5))).want(0)
			test.Eventually(t, "the delivery", func() bool { return sinksOf(t, dir)[0].Accepted == 5 })
			sub.signal(s)
			sub.signal(syscall.SIGCONT)
			sub.want(status).prints("xxxxx").says("5 messages received, 5 B, in ")
			if left := sinksOf(t, dir); len(left) > 0 {
				t.Errorf("%v %s: the sink is still there", s, args)
			}
		}
	}
}

// TestSubPrintsWhatWaitsInItsSocket when it is ended in the middle of a message: nobody else will get the rest.
func TestSubPrintsWhatWaitsInItsSocket(t *testing.T) {
	_, dir := startBroker(t)
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	sub := prepare(t, dir, "sub", "-o", "raw")
	sub.cmd.Stdout = writer
	sub.start().registered(dir, 0)
	writer.Close()
	large := strings.Repeat("x", 100_000) // more than a pipe holds
	prepare(t, dir, "pub", large, "a", "b", "c").want(0)
	test.Eventually(t, "the delivery", func() bool { return sinksOf(t, dir)[0].Accepted == 4 })
	sub.signal(syscall.SIGTERM)
	time.Sleep(200 * time.Millisecond) // the signal is seen before the reader begins
	got, err := io.ReadAll(reader)
	if err != nil || string(got) != large+"abc" {
		t.Errorf("got %d bytes and %v", len(got), err)
	}
	sub.want(0).says("4 messages received")
}

// TestSubShowsCountsOnSignal at SIGUSR1, and goes on.
func TestSubShowsCountsOnSignal(t *testing.T) {
	_, dir := startBroker(t)
	sub := startSub(t, dir, "-C", "2")
	prepare(t, dir, "pub", "one").want(0)
	test.Eventually(t, "the message", func() bool { return sub.stdout.String() == "one\n" })
	sub.signal(syscall.SIGUSR1)
	test.Eventually(t, "the counts", func() bool { return strings.Contains(sub.stderr.String(), "1 message received, 3 B") })
	prepare(t, dir, "pub", "two").want(0)
	sub.want(0).prints("one\ntwo\n")
}

// TestSubEndsWithItsReader quietly, and leaves the channel.
func TestSubEndsWithItsReader(t *testing.T) {
	_, dir := startBroker(t)
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	sub := prepare(t, dir, "sub")
	sub.cmd.Stdout = writer
	sub.start().registered(dir, 0)
	writer.Close()
	prepare(t, dir, "pub", "one").want(0)
	if line, err := bufio.NewReader(reader).ReadString('\n'); err != nil || line != "one\n" {
		t.Errorf("got %q and %v", line, err)
	}
	reader.Close()
	prepare(t, dir, "pub", "two").want(0)
	sub.want(0)
	if text := sub.stderr.String(); text != "" {
		t.Errorf("it says %q", text)
	}
	test.Eventually(t, "the leaving", func() bool { return len(sinksOf(t, dir)) == 0 })
}

// TestSubEndsBesideAStuckReader who has the pipe open and reads nothing.
func TestSubEndsBesideAStuckReader(t *testing.T) {
	t.Parallel() // it mostly waits
	_, dir := startBroker(t)
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	sub := prepare(t, dir, "sub")
	sub.cmd.Stdout = writer
	sub.start().registered(dir, 0)
	writer.Close()
	prepare(t, dir, "pub").input(strings.NewReader(strings.Repeat(strings.Repeat("x", 1000)+"\n", 200))).want(0)
	test.Eventually(t, "a full pipe", func() bool { return sinksOf(t, dir)[0].Accepted >= 70 }) // it holds 64 KiB
	sub.signal(syscall.SIGTERM)
	sub.want(0).says("nobody reads the output")
}

// TestSubOnAFullDisk fails and says so.
func TestSubOnAFullDisk(t *testing.T) {
	_, dir := startBroker(t)
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skipf("this host has no /dev/full: %v", err)
	}
	defer full.Close()
	sub := prepare(t, dir, "sub")
	sub.cmd.Stdout = full
	sub.start().registered(dir, 0)
	prepare(t, dir, "pub", "x").want(0)
	sub.want(exitFailure).says("no space left")
}

// TestStrictSubReportsLoss falls behind until it loses messages, ends, and has status 7; without --strict it says so.
func TestStrictSubReportsLoss(t *testing.T) {
	_, dir := startBroker(t)
	quick := startSub(t, dir)
	quick.cmd.Stdout = io.Discard
	strict, lax := startSub(t, dir, "--strict", "--patience", "0"), startSub(t, dir, "--patience", "0")
	strict.signal(syscall.SIGSTOP)
	lax.signal(syscall.SIGSTOP)
	prepare(t, dir, "pub").input(strings.NewReader(strings.Repeat(strings.Repeat("x", 10_000)+"\n", 500))).want(0)
	for p, status := range map[*program]int{strict: exitGap, lax: 0} {
		p.signal(syscall.SIGTERM)
		p.signal(syscall.SIGCONT)
		p.want(status).says(" lost")
	}
}

// TestStrictSubSaysWhereTheGapIs as soon as it knows, without asking anybody.
func TestStrictSubSaysWhereTheGapIs(t *testing.T) {
	_, dir := startBroker(t)
	quick := startSub(t, dir)
	quick.cmd.Stdout = io.Discard
	strict := startSub(t, dir, "--strict", "--patience", "0", "-o", "json")
	strict.signal(syscall.SIGSTOP)
	prepare(t, dir, "pub").input(strings.NewReader(strings.Repeat(strings.Repeat("x", 10_000)+"\n", 500))).want(0)
	if err := os.Remove(filepath.Join(dir, "control")); err != nil {
		t.Fatal(err)
	}
	strict.signal(syscall.SIGCONT)
	prepare(t, dir, "pub", "last").want(0)
	test.Eventually(t, "the last message", func() bool { return strings.Contains(strict.stdout.String(), `"last"`) })
	var lost, before, next int
	if _, err := fmt.Sscanf(strict.stderr.String(), "msgmux: %d messages lost before number %d\n", &lost, &before); err != nil || lost == 0 {
		t.Fatalf("it says %q: %v", strict.stderr.String(), err)
	}
	for line := range strings.Lines(strict.stdout.String()) {
		var m struct{ Seq *int }
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatal(err)
		}
		if m.Seq == nil {
			continue // that line tells of the gap, too
		}
		if missing := *m.Seq - next; missing != 0 && (missing != lost || *m.Seq != before) {
			t.Errorf("%d messages are missing before number %d, it says %q", missing, *m.Seq, strict.stderr.String())
		}
		next = *m.Seq + 1
	}
	strict.signal(syscall.SIGTERM)
	strict.want(exitGap)
}

// TestSubEndsWhenItIsHungUp on, with status 3, whoever did it.
func TestSubEndsWhenItIsHungUp(t *testing.T) {
	broker, dir := startBroker(t)
	dropped, stopped := startSub(t, dir, "--label", "dropped"), startSub(t, dir)
	prepare(t, dir, "pub", "one").want(0)
	for _, p := range []*program{dropped, stopped} {
		test.Eventually(t, "the message", func() bool { return p.stdout.String() == "one\n" })
	}
	prepare(t, dir, "sinks", "drop", "dropped").want(0)
	dropped.want(exitNoBroker).says("1 message received", "the broker has hung up: this sink was dropped, or the channel was stopped")
	broker.signal(syscall.SIGTERM)
	stopped.want(exitNoBroker).says("the broker has hung up")
}

// TestSubTellsTheBrokerWhatItIs and starts where it is told to.
func TestSubTellsTheBrokerWhatItIs(t *testing.T) {
	_, dir := startBroker(t)
	startSub(t, dir, "--label", "first")
	prepare(t, dir, "pub", "old").want(0)
	test.Eventually(t, "the delivery", func() bool { return sinksOf(t, dir)[0].Accepted == 1 })
	for _, test := range []struct {
		args string
		want string
	}{
		{"--label archive --patience 250ms --start oldest -C 2", "old\nnew\n"},
		{"--tap -C 1", "new\n"},
		{"--share writers -C 1", "new\n"},
	} {
		sub := startSub(t, dir, strings.Fields(test.args)...)
		for _, s := range sinksOf(t, dir) {
			switch {
			case s.Label == "archive" && s.Patience != "250ms":
				t.Errorf("%s: %+v", test.args, s)
			case s.Label != "first" && s.Tap != strings.Contains(test.args, "--tap"):
				t.Errorf("%s: %+v", test.args, s)
			}
		}
		prepare(t, dir, "pub", "new").want(0)
		sub.want(0).prints(test.want)
	}
}
