// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
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
	"github.com/msgmux/msgmux/internal/wire"
)

// anything is messages of all kinds of bytes.
var anything = []string{
	"", "text", "two\nlines\n", "nul\x00in it", "\x00", "\xff\xfe", "\u202e\u009b \x1b[0m", `say "hi" \`, "日本", strings.Repeat("long\x00", 20_000), "",
}

// sendAll sends the messages one by one, byte by byte.
func sendAll(t *testing.T, dir string, messages []string) {
	t.Helper()
	for _, m := range messages {
		prepare(t, dir, "pub", "-s").input(strings.NewReader(m)).want(0)
	}
}

// TestWhatIsRecordedIsReplayed: what sub writes in each form that is exact, pub reads and sends again, every byte of it.
func TestWhatIsRecordedIsReplayed(t *testing.T) {
	_, dir := startBroker(t)
	count := strconv.Itoa(len(anything))
	for _, format := range []string{"json", "hex", "frames"} {
		record := startSub(t, dir, "-o", format, "-C", count)
		sendAll(t, dir, anything)
		recorded := record.want(0).stdout.String()
		args := []string{"pub", "-i", format}
		if format == "frames" {
			args = []string{"pub", "--frames"}
		}
		sub := startSub(t, dir, "-o", "hex", "-C", count)
		prepare(t, dir, args...).input(strings.NewReader(recorded)).want(0)
		if got := hexLines(t, sub.want(0).stdout.String()); !slices.Equal(got, anything) {
			t.Errorf("%s: got %.200q", format, got)
		}
		// From a file, too.
		file := filepath.Join(dir, "recorded")
		if err := os.WriteFile(file, []byte(recorded), 0o600); err != nil {
			t.Fatal(err)
		}
		sub = startSub(t, dir, "-o", "hex", "-C", count)
		prepare(t, dir, append(args, "-f", file)...).want(0)
		if got := hexLines(t, sub.want(0).stdout.String()); !slices.Equal(got, anything) {
			t.Errorf("%s from a file: got %.200q", format, got)
		}
	}
}

// pipe is a real one: what is written waits in it, and nobody waits for who reads.
func pipe(t *testing.T) (reader, writer *os.File) {
	t.Helper()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		reader.Close()
		writer.Close()
	})
	return reader, writer
}

// TestRelayBetweenChannels by a pipe, as it is documented.
func TestRelayBetweenChannels(t *testing.T) {
	_, one := startBroker(t)
	_, other := startBroker(t)
	reader, writer := pipe(t)
	before := newestSink(t, one)
	from := prepare(t, one, "sub", "-o", "frames", "-q")
	from.cmd.Stdout = writer
	from.start().registered(one, before)
	to := prepare(t, other, "pub", "--frames").input(reader).start()
	writer.Close()
	reader.Close()
	sub := startSub(t, other, "-o", "hex", "-C", strconv.Itoa(len(anything)))
	sendAll(t, one, anything)
	if got := hexLines(t, sub.want(0).stdout.String()); !slices.Equal(got, anything) {
		t.Errorf("got %.200q", got)
	}
	from.signal(syscall.SIGTERM)
	from.want(0).says()
	to.want(0)
}

// TestPubRefusesWhatIsNoRecording and says where; what came before it is sent.
func TestPubRefusesWhatIsNoRecording(t *testing.T) {
	_, dir := startBroker(t, "--max-message", "10K")
	startSub(t, dir)
	frame := func(text string) string { return string(appendFrame(nil, aMessage(text, 0))) }
	for _, test := range []struct {
		format, input, says string
		status              int
	}{
		{"frames", frame("a") + "\x05\x00\x00\x00abc", "ends in the middle of frame 2", exitFailure},
		{"frames", frame("a") + "\x05", "ends in the middle of frame 2", exitFailure},
		{"frames", frame("a") + "these are lines\n", "this is not what sub -o frames writes", exitFailure},
		{"frames", frame("a") + frame(strings.Repeat("x", 10<<10+1)), "message 2 is too large", exitTooLarge},
		{"json", `{"text":"a"}` + "\n" + `{"text":`, "cannot read line 2 as JSON", exitFailure},
		{"json", `{"text":"a"}` + "\n" + `{"base64":"!"}`, "the base64 of line 2", exitFailure},
		{"json", `{"text":"a"}` + "\n" + `{"size":0}`, "line 2 has not one of text and base64", exitFailure},
		{"json", `{"text":"a"}` + "\n" + `{"text":"a","base64":"YQ=="}`, "line 2 has not one of", exitFailure},
		{"json", `{"text":"a"}` + "\n" + `{"text":"` + strings.Repeat("x", 10<<10+1) + `"}`, "message 2 is too large", exitTooLarge},
		{"json", `{"text":"a"}` + "\n" + `{"text":"` + strings.Repeat("x", 1<<20) + `"}`, "message 2 is too large", exitTooLarge},
		{"json", `{"gap":{"before":7,"lost":6}}` + "\n" + `{"text":"a"}`, "", exitDone},
		{"hex", "61\nzz", "cannot read line 2 as hexadecimal", exitFailure},
		{"hex", "61\n" + strings.Repeat("00", 10<<10+1), "message 2 is too large", exitTooLarge},
	} {
		sub := startSub(t, dir, "-C", "1")
		prepare(t, dir, "pub", "-i", test.format).input(strings.NewReader(test.input)).want(test.status).says(test.says)
		sub.want(0).prints("a\n")
	}
	screen, slave := terminal(t)
	watch(screen)
	p := prepare(t, dir, "sub", "-o", "frames")
	p.cmd.Stdout = slave
	p.want(exitUsage).says("not for a terminal")
}

// TestPubInChunks: the input in messages of one size, however it comes, and what is left.
func TestPubInChunks(t *testing.T) {
	_, dir := startBroker(t)
	reader, writer := pipe(t)
	go func() {
		for _, piece := range []string{"a", "bcdefg", "h\x00\n", "ij"} {
			_, _ = io.WriteString(writer, piece)
		}
		writer.Close()
	}()
	sub := startSub(t, dir, "-o", "hex", "-C", "3")
	prepare(t, dir, "pub", "--chunk", "4").input(reader).want(0)
	if got := hexLines(t, sub.want(0).stdout.String()); !slices.Equal(got, []string{"abcd", "efgh", "\x00\nij"}) {
		t.Errorf("got %q", got)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, bytes.Repeat([]byte("x"), 2500), 0o600); err != nil {
		t.Fatal(err)
	}
	sub = startSub(t, dir, "-o", "hex", "-C", "3")
	prepare(t, dir, "pub", "--chunk", "1K", "-f", file).want(0)
	if got := hexLines(t, sub.want(0).stdout.String()); len(got) != 3 || len(got[0]) != 1024 || len(got[2]) != 452 {
		t.Errorf("got %d messages", len(got))
	}
}

// TestPubAtARate: what is not due is not sent, and what is due does not wait for what is not.
func TestPubAtARate(t *testing.T) {
	t.Parallel() // it mostly waits
	_, dir := startBroker(t)
	sub := startSub(t, dir)
	began := time.Now()
	prepare(t, dir, "pub", "--rate", "100").input(strings.NewReader(strings.Repeat("x\n", 61))).want(0)
	if took := time.Since(began); took < 600*time.Millisecond {
		t.Errorf("61 messages at 100 a second took %v", took)
	}
	test.Eventually(t, "all of them", func() bool { return strings.Count(sub.stdout.String(), "x\n") == 61 })
	slow := prepare(t, dir, "pub", "--rate", "0.001", "first", "in a quarter of an hour").start()
	test.Eventually(t, "the first", func() bool { return strings.HasSuffix(sub.stdout.String(), "first\n") })
	slow.signal(syscall.SIGTERM)
	slow.want(exitTerminated).says("1 message sent")
}

// again starts a broker that has ended anew, in its folder.
func (p *program) again() *program {
	p.t.Helper()
	next := prepare(p.t, "")
	next.cmd = exec.Command(p.cmd.Path, p.cmd.Args[1:]...)
	return next.start()
}

// TestBothEndsComeBack: with --retry and --reconnect there need be no broker at the start, and it may go.
func TestBothEndsComeBack(t *testing.T) {
	t.Parallel() // it mostly waits
	broker, dir := startBroker(t)
	broker.signal(syscall.SIGTERM)
	broker.status()
	reader, writer := pipe(t)
	sub := prepare(t, dir, "sub", "--reconnect", "-o", "json").start()
	pub := prepare(t, dir, "pub", "--retry", "-l").input(reader).start()
	for _, p := range []*program{sub, pub} {
		test.Eventually(t, "the notice", func() bool { return strings.Contains(p.stderr.String(), "waiting: no broker is running\n") })
	}
	for _, text := range []string{"one", "two"} {
		broker = broker.again()
		if _, err := io.WriteString(writer, text+"\n"); err != nil {
			t.Fatal(err)
		}
		test.Eventually(t, text, func() bool { return strings.Contains(sub.stdout.String(), `"text":"`+text+`"`) })
		broker.signal(syscall.SIGTERM)
		broker.status()
	}
	// Where there is none a message waits, as long as it may.
	prepare(t, dir, "pub", "--retry", "-W", "0.3", "x").want(exitTimeout).says("timed out: no broker is running")
	writer.Close()
	pub.want(0)
	sub.signal(syscall.SIGTERM)
	sub.want(0).says("a new sink: messages may be missing before number 0")
	if !regexp.MustCompile(`(?m)^\{"time":"[^"]*","gap":\{"before":0,"lost":0,"anew":true\}\}$`).MatchString(sub.stdout.String()) {
		t.Errorf("no line about the gap in %s", sub.stdout.String())
	}
	// Without, both end.
	prepare(t, dir, "pub", "x").want(exitNoBroker)
	prepare(t, dir, "sub").want(exitNoBroker)
}

// TestQuietSaysNothing but errors.
func TestQuietSaysNothing(t *testing.T) {
	t.Parallel() // it mostly waits
	_, dir := startBroker(t)
	sub := startSub(t, dir, "-q")
	prepare(t, dir, "pub", "-q", "x").want(0)
	test.Eventually(t, "the message", func() bool { return sub.stdout.String() == "x\n" })
	sub.signal(syscall.SIGTERM)
	if said := sub.want(0).stderr.String(); said != "" {
		t.Errorf("sub says %q", said)
	}
	fillChannel(t, dir)
	p := prepare(t, dir, "pub", "-q", "-W", "1.5", "x").want(exitTimeout)
	if said := p.stderr.String(); said != "msgmux: timed out: no sink is connected\n" {
		t.Errorf("pub says %q", said)
	}
	pub := prepare(t, dir, "pub", "-q", "x").start()
	test.Eventually(t, "its connection", func() bool {
		senders := prepare(t, dir, "status", "--senders").want(0).stdout.String()
		return strings.Contains(senders, fmt.Sprintf("msgmux[%d]", pub.cmd.Process.Pid))
	})
	pub.signal(syscall.SIGTERM)
	if said := pub.want(exitTerminated).stderr.String(); said != "" {
		t.Errorf("pub says %q", said)
	}
}

// TestPubBlamesWhoIsToBlame: the channel, when the broker goes, and the input, when that cannot be read.
func TestPubBlamesWhoIsToBlame(t *testing.T) {
	broker, dir := startBroker(t)
	sub := startSub(t, dir)
	reader, writer := pipe(t)
	p := prepare(t, dir, "pub", "-l").input(reader).start()
	if _, err := io.WriteString(writer, "one\n"); err != nil {
		t.Fatal(err)
	}
	test.Eventually(t, "the message", func() bool { return sub.stdout.String() == "one\n" })
	broker.signal(syscall.SIGKILL)
	broker.status()
	go func() {
		for range 10 {
			if _, err := io.WriteString(writer, "two\n"); err != nil {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
	}()
	p.want(exitNoBroker).says("cannot send", "no broker is listening")
	if strings.Contains(p.stderr.String(), "standard input") {
		t.Errorf("it says %q", p.stderr.String())
	}
	_, dir = startBroker(t)
	folder, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	prepare(t, dir, "pub", "-l").input(folder).want(exitFailure).says("cannot read standard input: ", "is a directory")
}

// TestPubOfWhoMayOnlySend takes the fast way, a connection, and knows how large a message may be: the broker tells it with
// its ok, and nobody has to be asked.
func TestPubOfWhoMayOnlySend(t *testing.T) {
	_, dir := startBroker(t, "--max-message", "10K")
	sub := startSub(t, dir, "-o", "hex")
	for name, mode := range map[string]os.FileMode{"source": 0o666, "publish": 0o666, "control": 0o600} {
		if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	reader, writer := pipe(t)
	p := prepare(t, dir, "pub", "-l").asNobody().input(reader).start()
	if _, err := io.WriteString(writer, "one\n"); err != nil {
		t.Fatal(err)
	}
	test.Eventually(t, "the message", func() bool { return len(hexLines(t, sub.stdout.String())) == 1 })
	var l statusJSON
	if err := json.Unmarshal([]byte(prepare(t, dir, "status", "--senders", "--json").want(0).stdout.String()), &l); err != nil {
		t.Fatal(err)
	}
	if len(l.Senders) != 1 || l.Senders[0].Socket != wire.SocketPublish || l.Senders[0].UID != 65534 {
		t.Errorf("connected are %+v", l.Senders)
	}
	go func() {
		_, _ = io.WriteString(writer, strings.Repeat("y", 10<<10+1)+"\ntwo\n")
		writer.Close()
	}()
	p.want(exitTooLarge).says("message 2 is too large", "10,240 bytes")
	test.Eventually(t, "what fits", func() bool { return slices.Equal(hexLines(t, sub.stdout.String()), []string{"one", "two"}) })
}

// TestJSONHasTheGaps that a sink has been told of, and nothing is lost between them and the numbers.
func TestJSONHasTheGaps(t *testing.T) {
	_, dir := startBroker(t)
	sub := startSub(t, dir, "-o", "json", "--patience", "0")
	startSub(t, dir, "-o", "json") // that one is waited for
	sub.signal(syscall.SIGSTOP)
	filler := strings.NewReader(strings.Repeat(strings.Repeat("z", 1000)+"\n", 5000))
	prepare(t, dir, "pub").input(filler).want(0)
	sub.signal(syscall.SIGCONT)
	test.Eventually(t, "all are in the one order", func() bool { // another source may overtake them
		s, err := msgmux.Channel{RuntimeDir: dir}.Status(t.Context())
		return err == nil && s.Entered == 5000
	})
	prepare(t, dir, "pub", "last").want(0)
	test.Eventually(t, "the last", func() bool { return strings.Contains(sub.stdout.String(), `"text":"last"`) })
	next, lost := uint64(0), uint64(0)
	for line := range strings.Lines(sub.stdout.String()) {
		var m struct {
			Time time.Time
			Seq  *uint64
			Gap  *msgmux.Gap
		}
		if err := json.Unmarshal([]byte(line), &m); err != nil || m.Time.IsZero() || (m.Seq == nil) == (m.Gap == nil) {
			t.Fatalf("%v in %s", err, line)
		}
		if m.Gap != nil {
			lost += m.Gap.Lost
			if next += m.Gap.Lost; m.Gap.Before != next {
				t.Errorf("a gap of %d ends before %d, and not before %d", m.Gap.Lost, m.Gap.Before, next)
			}
			continue
		}
		if *m.Seq != next {
			t.Fatalf("number %d where %d is next", *m.Seq, next)
		}
		next++
	}
	if lost == 0 || next != 5001 {
		t.Errorf("%d were lost, and %d is next", lost, next)
	}
}
