// SPDX-License-Identifier: Apache-2.0

package house_test

// The client in Python that docs/protocol.md shows is a file that works.

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/internal/need"
	"github.com/msgmux/msgmux/internal/test"
)

const pythonClient = "docs/examples/client.py"

// TestPythonClientIsTheDocumented one, and short.
func TestPythonClientIsTheDocumented(t *testing.T) {
	file, err := os.ReadFile(pythonClient)
	if err != nil {
		t.Fatal(err)
	}
	document, err := os.ReadFile("docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	_, shown, found := strings.Cut(string(document), "```python\n")
	shown, _, closed := strings.Cut(shown, "```")
	_, real, begun := strings.Cut(string(file), "\n# begin\n")
	real, _, ended := strings.Cut(real, "# end\n")
	if !found || !closed || !begun || !ended || shown != real {
		t.Errorf("docs/protocol.md does not show what stands between the marks of %s", pythonClient)
	}
	if n := bytes.Count(file, []byte("\n")); n >= 150 {
		t.Errorf("%s has %d lines; under 150 is the point", pythonClient, n)
	}
}

// TestPythonClientWorks against a broker: it sends, receives, is refused, and is hung up on.
func TestPythonClientWorks(t *testing.T) {
	need.Program(t, "unit", "python3", "python3")
	dir, stop := startBroker(t, buildBroker(t))
	channel := msgmux.Channel{RuntimeDir: dir}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute) // only waited for when it hangs
	defer cancel()
	test.Eventually(t, "the start", func() bool {
		_, err := channel.Status(ctx)
		return err == nil
	})
	python := func(words ...string) *exec.Cmd {
		return exec.CommandContext(ctx, "python3", append([]string{"-u", pythonClient}, words...)...)
	}

	receiver := python("receive", channel.RuntimeDir, "label=python", "patience=2.5s")
	out, err := receiver.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	receiver.Stderr = &said
	if err := receiver.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		receiver.Process.Kill()
		receiver.Wait()
	})
	sink, err := channel.Subscribe(ctx, msgmux.SinkOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sink.Close() })
	test.Eventually(t, "the receiver comes", func() bool {
		_, sinks, err := channel.Sinks(ctx)
		return err == nil && len(sinks) == 2
	})

	large := strings.Repeat("L", 100_000) // alone in its packet
	many := strings.Repeat("line\n", 20_000)
	source, err := channel.Dial(ctx, msgmux.SourceOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { source.Close() })
	for _, text := range []string{"from Go", ""} {
		if err := source.Send(ctx, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	sender := python("send", channel.RuntimeDir)
	sender.Stdin = strings.NewReader("one\n\n" + large + "\nthree\n" + many)
	if text, err := sender.CombinedOutput(); err != nil {
		t.Fatalf("the sender: %v\n%s", err, text)
	}
	if text, err := python("send", channel.RuntimeDir, "a word", "and another").CombinedOutput(); err != nil {
		t.Fatalf("the sender: %v\n%s", err, text)
	}
	want := append([]string{"from Go", "", "one", "", large, "three"}, strings.Split(strings.TrimSuffix(many, "\n"), "\n")...)
	want = append(want, "a word", "and another")
	lines := bufio.NewReader(out)
	for i, text := range want {
		if got, err := sink.Receive(ctx); err != nil || string(got.Payload) != text || got.Seq != uint64(i) {
			t.Fatalf("message %d: the Go client got %.20q, number %d, and %v", i, got.Payload, got.Seq, err)
		}
		if line, err := lines.ReadString('\n'); err != nil || line != fmt.Sprintf("%d %s\n", i, text) {
			t.Fatalf("message %d: the Python client printed %.20q and %v, want %.20q", i, line, err, text)
		}
	}

	if text, err := python("receive", channel.RuntimeDir, "patience=soon").CombinedOutput(); err == nil || !strings.Contains(string(text), "error bad-option") {
		t.Errorf("a refused client: %v\n%s", err, text)
	}
	stop()
	if err := receiver.Wait(); err == nil || !strings.Contains(said.String(), "the broker has hung up") {
		t.Errorf("the receiver ended with %v\n%s", err, &said)
	}
}

// TestPythonReadsToTheEnd: what the broker sent before it hung up is received, also where the kernel tells of the end first, in either form
// or in both; as it does where the broker has not read all that was acknowledged.
func TestPythonReadsToTheEnd(t *testing.T) {
	need.Program(t, "unit", "python3", "python3")
	out, err := exec.Command("python3", "-c", `
import runpy, socket, sqlite3, struct
def hung_up_on():
    broker, sink = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sink.send(b"8 bytes.")
    for n in range(3):
        broker.send(struct.pack("<QQI", n, 0, 1) + b"%d..." % n)
    broker.send(b"error in-use another has the name")
    broker.close()
    return sink
def told(*forms):
    forms = list(forms)
    def receive(size):
        form = forms.pop(0)
        if isinstance(form, bytes): return form
        raise form
    return receive

client = runpy.run_path("docs/examples/client.py", run_name="client")
writer = runpy.run_path("docs/examples/sqlite-writer/sqlite-writer.py", run_name="writer")
for program in client, writer:
    for first in [], [b""], [ConnectionResetError()], [b"", ConnectionResetError()], [ConnectionResetError(), b""]:
        print(program["heard"](told(*first, b"last"), 9).decode(), end=" ")
try:
    for number, lost, message in client["receive"](hung_up_on(), ack=True):
        print(number, end=" ")
except RuntimeError as why:
    print(why)
db, (stop, _) = sqlite3.connect(":memory:"), socket.socketpair()
db.executescript(writer["SCHEMA"])
try:
    writer["archive"](hung_up_on(), db, "5", 0, stop)
except SystemExit as why:
    print(*(number for number, in db.execute("SELECT number FROM messages")), why)
`).CombinedOutput()
	want := strings.Repeat("last ", 10) + "0 1 2 error in-use another has the name\n" +
		"0 1 2 sqlite-writer: hung up on: error in-use another has the name\n"
	if err != nil || string(out) != want {
		t.Errorf("got %v\n%s\nwant\n%s", err, out, want)
	}
}

// TestPromise10_PythonClient: what is killed goes on where it was, as a sink and as a source that follows a file.
func TestPromise10_PythonClient(t *testing.T) {
	need.Program(t, "unit", "python3", "python3")
	dir, _ := startBroker(t, buildBroker(t))
	channel := msgmux.Channel{RuntimeDir: dir}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute) // only waited for when it hangs
	defer cancel()
	test.Eventually(t, "the start", func() bool {
		_, err := channel.Status(ctx)
		return err == nil
	})
	// kill returns what was printed and is not read yet.
	python := func(words ...string) (out *bufio.Reader, kill func() string) {
		t.Helper()
		cmd := exec.CommandContext(ctx, "python3", append([]string{"-u", pythonClient}, words...)...)
		pipe, err := cmd.StdoutPipe()
		cmd.Stderr = os.Stderr
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		out = bufio.NewReader(pipe)
		kill = sync.OnceValue(func() string {
			cmd.Process.Kill()
			rest, _ := io.ReadAll(out)
			cmd.Wait()
			return string(rest)
		})
		t.Cleanup(func() { kill() })
		return out, kill
	}
	sink, err := channel.Subscribe(ctx, msgmux.SinkOptions{Label: "counter"})
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	file := filepath.Join(t.TempDir(), "log")
	grow := func(text string) {
		t.Helper()
		f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		if err == nil {
			_, err = f.WriteString(text)
		}
		if err == nil {
			err = f.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	grow("0\n")
	next, printed := 0, 0
	prints := func(line string, err error) {
		t.Helper()
		number, text, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, numeric := strconv.Atoi(text)
		// One that was printed and not acknowledged comes again, as may those of its packet.
		if err != nil || numeric != nil || number != text || n > printed {
			t.Fatalf("the sink printed %q, %v, after %d", line, err, printed)
		}
		printed = n + 1
	}
	for range 5 {
		out, killSink := python("receive", dir, "label=db", "ack=yes", "keep=1m")
		for { // a busy machine is in no hurry to start it
			_, sinks, err := channel.Sinks(ctx)
			if err != nil {
				t.Fatalf("the receiver does not come: %v", err)
			}
			if slices.ContainsFunc(sinks, func(s msgmux.SinkStatus) bool { return s.Label == "db" && s.State != msgmux.StateAbsent }) {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		_, killTail := python("follow", dir, "tail", file)
		for range 20 {
			m, err := sink.Receive(ctx)
			if err != nil || string(m.Payload) != fmt.Sprint(next) {
				t.Fatalf("in the channel is %q, %v, and not %d", m.Payload, err, next)
			}
			next++
			grow(fmt.Sprint(next)) // what has no end is no line
			grow("\n")
		}
		for printed < next {
			prints(out.ReadString('\n'))
		}
		for line := range strings.Lines(killSink()) { // the follower may have sent the next one already
			if strings.HasSuffix(line, "\n") {
				prints(line, nil)
			}
		}
		killTail()
	}
}
