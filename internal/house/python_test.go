// SPDX-License-Identifier: Apache-2.0

package house_test

// The client in Python that docs/protocol.md shows is a file that works.

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/msgmux/msgmux/broker/brokertest"
	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/internal/need"
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
	if n := bytes.Count(file, []byte("\n")); n >= 100 {
		t.Errorf("%s has %d lines; under 100 is the point", pythonClient, n)
	}
}

// TestPythonClientWorks against a broker: it sends, receives, is refused, and is hung up on.
func TestPythonClientWorks(t *testing.T) {
	need.Program(t, "unit", "python3", "python3")
	dir, stop := startBroker(t, buildBroker(t))
	channel := msgmux.Channel{RuntimeDir: dir}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	brokertest.Eventually(t, "the start", func() bool {
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
	brokertest.Eventually(t, "the receiver comes", func() bool {
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
