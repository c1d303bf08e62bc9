// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/internal/test"
)

// hexLines is what sub -o hex prints, taken apart: message by message, whatever they hold.
func hexLines(t *testing.T, text string) []string {
	t.Helper()
	messages := make([]string, 0)
	for line := range strings.Lines(text) {
		var message []byte
		if line != "\n" {
			if _, err := fmt.Sscanf(line, "%x", &message); err != nil {
				t.Fatalf("cannot read %q: %v", line, err)
			}
		}
		messages = append(messages, string(message))
	}
	return messages
}

// TestPubSendsWhatItIsGiven by every way to give it, and a sub gets exactly that.
func TestPubSendsWhatItIsGiven(t *testing.T) {
	_, dir := startBroker(t)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("in a file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args  []string
		input string
		want  []string
	}{
		{args: []string{"one", "two words", "\x1b[0m\n"}, want: []string{"one", "two words", "\x1b[0m\n"}},
		{args: []string{""}, want: []string{""}},
		{args: []string{"--", "-l"}, want: []string{"-l"}},
		{args: []string{"--empty"}, want: []string{""}},
		{args: nil, input: "a\n\nb", want: []string{"a", "b"}},
		{args: []string{"-l"}, input: "a\x00b\n\nc\r\n", want: []string{"a\x00b", "c\r"}},
		{args: []string{"-l", "--keep-empty"}, input: "a\n\nb\n", want: []string{"a", "", "b"}},
		{args: []string{"--keep-empty"}, input: "\n", want: []string{""}},
		{args: []string{"-0"}, input: "a\nb\x00\x00c", want: []string{"a\nb", "c"}},
		{args: []string{"-s"}, input: "a\nb\n", want: []string{"a\nb\n"}},
		{args: []string{"-s"}, input: "", want: []string{""}},
		{args: []string{"-f", file}, want: []string{"in a file\n"}},
		{args: []string{"-f", "-"}, input: "from\nstdin", want: []string{"from\nstdin"}},
		{args: []string{"-W", "5s", "x"}, want: []string{"x"}},
		{args: []string{"--nonblock", "x"}, want: []string{"x"}},
	} {
		sub := startSub(t, dir, "-o", "hex", "-C", strconv.Itoa(len(test.want)))
		prepare(t, dir, append([]string{"pub"}, test.args...)...).input(strings.NewReader(test.input)).want(0).prints("").says()
		sub.want(0)
		if got := hexLines(t, sub.stdout.String()); !slices.Equal(got, test.want) {
			t.Errorf("pub %q <%q: got %q, want %q", test.args, test.input, got, test.want)
		}
	}
	prepare(t, dir, "pub", "-f", filepath.Join(dir, "nothing")).want(exitFailure).says("no such file")
	prepare(t, dir, "pub", "-f", dir).want(exitFailure).says("is a directory")
}

// TestPubLeavesOutWhatIsTooLarge and sends the rest; the status is 6 in the end. The limit is the channel's own.
func TestPubLeavesOutWhatIsTooLarge(t *testing.T) {
	_, dir := startBroker(t, "--max-message", "10K")
	fits, over := strings.Repeat("x", 10<<10), strings.Repeat("y", 10<<10+1)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte(over), 0o600); err != nil {
		t.Fatal(err)
	}
	sub := startSub(t, dir, "-o", "hex")
	for _, args := range []string{"-l", "-s", "-f " + file} {
		p := prepare(t, dir, append([]string{"pub"}, strings.Fields(args)...)...).input(strings.NewReader(over))
		p.want(exitTooLarge).says("message 1 is too large", "10,240 bytes")
	}
	prepare(t, dir, "pub", over, fits).want(exitTooLarge).says("1 message sent")
	prepare(t, dir, "pub").input(strings.NewReader(fits+"\n"+over+over+over+"\n"+over+"\nlast")).
		want(exitTooLarge).says("message 2 is too large", "cannot send 2 messages", "2 messages sent")
	sub.signal(syscall.SIGTERM)
	sub.want(0)
	if got := hexLines(t, sub.stdout.String()); !slices.Equal(got, []string{fits, fits, "last"}) {
		t.Errorf("%d messages have come", len(got))
	}
	// An input without end is not read to its end.
	zero, err := os.Open("/dev/zero")
	if err != nil {
		t.Fatal(err)
	}
	defer zero.Close()
	prepare(t, dir, "pub", "-s").input(zero).want(exitTooLarge)
}

// fillChannel sends until the broker takes no more and the queue in front of it is full, too. A broker that only comes
// late with reading is not full.
func fillChannel(t *testing.T, dir string) {
	t.Helper()
	channel := msgmux.Channel{RuntimeDir: dir}
	for blocked := false; ; {
		filler := strings.NewReader(strings.Repeat(strings.Repeat("z", 1000)+"\n", 10_000))
		prepare(t, dir, "pub", "--nonblock").input(filler).want(exitBlocked).says("not sent: ")
		if blocked {
			return
		}
		status, err := channel.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		// For a while: a sink that was told to stop reads on for a moment.
		blocked = status.Sources.Blocked && status.Sources.For.Seconds() > 0.3
		time.Sleep(50 * time.Millisecond)
	}
}

// TestPubWaitsAndSaysForWhat goes through a channel without sinks and one with a sink that has stopped.
func TestPubWaitsAndSaysForWhat(t *testing.T) {
	t.Parallel() // it mostly waits
	_, dir := startBroker(t)
	fillChannel(t, dir)
	prepare(t, dir, "pub", "--nonblock", "x").want(exitBlocked).says("not sent: no sink is connected")
	began := time.Now()
	prepare(t, dir, "pub", "-W", "0.3", "x").want(exitTimeout).says("timed out: no sink is connected", "0 messages sent")
	if took := time.Since(began); took < 300*time.Millisecond {
		t.Errorf("it gave up after %v", took)
	}
	quick := prepare(t, dir, "pub", "quick").start()
	waits := prepare(t, dir, "pub", "-W", "1m", "late").start()
	test.Eventually(t, "the notice", func() bool { return strings.Contains(waits.stderr.String(), "waiting: no sink is connected\n") })

	// Someone comes, and is enough to let both go on; then it stops, and has to be waited for.
	sub := startSub(t, dir, "--label", "archive", "--patience", "forever")
	waits.want(0).says("the channel takes messages again, after ")
	quick.want(0)
	test.Eventually(t, "everything has come", func() bool {
		got := sub.stdout.String()
		return strings.Contains(got, "late\n") && strings.Contains(got, "quick\n")
	})
	sub.signal(syscall.SIGSTOP)
	fillChannel(t, dir)
	waitsFor(t, dir, "for the sink archive")
	sub.signal(syscall.SIGCONT)
}

// waitsFor wants pub to wait, and to say that it does for this.
func waitsFor(t *testing.T, dir, reason string) {
	t.Helper()
	p := prepare(t, dir, "pub", "x").start()
	test.Eventually(t, "the notice that pub waits "+reason, func() bool {
		return strings.Contains(p.stderr.String(), "waiting: "+reason+"\n")
	})
	p.signal(syscall.SIGTERM)
	p.want(exitTerminated)
}

// TestPubSaysWhenItMayNotAsk why the channel takes no message: who may send need not be allowed to ask.
func TestPubSaysWhenItMayNotAsk(t *testing.T) {
	t.Parallel() // it mostly waits
	broker, dir := startBroker(t)
	fillChannel(t, dir)
	if err := os.Remove(filepath.Join(dir, "control")); err != nil {
		t.Fatal(err)
	}
	waitsFor(t, dir, "no broker is running")
	listener, err := net.Listen("unixpacket", filepath.Join(dir, "control"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	waitsFor(t, dir, "the broker does not answer")
	broker.signal(syscall.SIGKILL)
}

// TestPubEndsBySignal in the middle of waiting for the channel and in the middle of waiting for input.
func TestPubEndsBySignal(t *testing.T) {
	t.Parallel() // it mostly waits
	_, dir := startBroker(t)
	sub := startSub(t, dir)
	for s, status := range map[syscall.Signal]int{syscall.SIGINT: exitInterrupted, syscall.SIGTERM: exitTerminated} {
		// Its input stays open.
		reader, writer, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer reader.Close()
		defer writer.Close()
		p := prepare(t, dir, "pub").input(reader).start()
		if _, err := io.WriteString(writer, s.String()+"\ntwo\nthr"); err != nil {
			t.Fatal(err)
		}
		test.Eventually(t, "the messages", func() bool { return strings.HasSuffix(sub.stdout.String(), s.String()+"\ntwo\n") })
		p.signal(s)
		p.want(status).says("2 messages sent")
	}
	sub.signal(syscall.SIGTERM)
	sub.want(0)
	fillChannel(t, dir)
	for s, status := range map[syscall.Signal]int{syscall.SIGINT: exitInterrupted, syscall.SIGTERM: exitTerminated} {
		p := prepare(t, dir, "pub", "x", "y").start()
		test.Eventually(t, "the notice", func() bool { return strings.Contains(p.stderr.String(), "waiting: ") })
		p.signal(s)
		p.want(status).says("0 messages sent")
		if strings.Count(p.stderr.String(), "sent") != 1 {
			t.Errorf("it says %q", p.stderr.String())
		}
	}
}

// TestPubNeedsAnInput that is no terminal, and shows progress on one.
func TestPubNeedsAnInput(t *testing.T) {
	t.Parallel() // it mostly waits
	_, dir := startBroker(t)
	_, keyboard := terminal(t)
	prepare(t, dir, "pub").input(keyboard).want(exitUsage).says("nothing to send")

	startSub(t, dir)
	screen, slave := terminal(t)
	shown := watch(screen)
	reader, writer := io.Pipe()
	p := prepare(t, dir, "pub", "-l").input(reader)
	p.cmd.Stderr = slave
	p.start()
	for range 1234 {
		if _, err := io.WriteString(writer, "a line\n"); err != nil {
			t.Fatal(err)
		}
	}
	progress := regexp.MustCompile(`1,234 messages sent, 7\.23 KiB, [0-9,]+ messages/s`)
	test.Eventually(t, "the progress", func() bool { return progress.MatchString(shown.String()) })
	writer.Close()
	p.want(0)
	test.Eventually(t, "the erasing", func() bool { return strings.HasSuffix(shown.String(), "\r\x1b[K") })
}

// TestPubSendsLinesTogether that are there already, and each at once that comes alone.
func TestPubSendsLinesTogether(t *testing.T) {
	_, dir := startBroker(t, "--max-clients", "1")
	sub := startSub(t, dir, "-o", "line")
	reader, writer := io.Pipe()
	first := prepare(t, dir, "pub").input(reader).start()
	var want strings.Builder
	for i := range 3 {
		fmt.Fprintf(&want, "line %d\n", i)
		fmt.Fprintf(writer, "line %d\n", i)
		test.Eventually(t, "the line", func() bool { return sub.stdout.String() == want.String() })
	}
	// Its connection is the only one that may be; the second goes another way.
	many := strings.Repeat("many\n", 20_000) + strings.Repeat("l", 70_000) + "\nend\n"
	prepare(t, dir, "pub").input(strings.NewReader(many)).want(0).says()
	want.WriteString(many)
	test.Eventually(t, "all lines", func() bool { return len(sub.stdout.String()) >= want.Len() })
	writer.Close()
	first.want(0)
	prepare(t, dir, "pub").input(strings.NewReader(many)).want(0).says()
	want.WriteString(many)
	test.Eventually(t, "all lines again", func() bool { return len(sub.stdout.String()) >= want.Len() })
	if sub.stdout.String() != want.String() {
		t.Error("something came otherwise")
	}
}
