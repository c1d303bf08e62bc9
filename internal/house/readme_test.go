// SPDX-License-Identifier: Apache-2.0

package house_test

// What the README shows must work as it stands there: its examples are taken out of the text and run against a broker.

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/msgmux/msgmux/internal/need"
)

// readmeDir is the runtime folder that the examples in the README name; the tests put their own in its place.
const readmeDir = "/tmp/msgmux"

// TestReadmeExamples runs the example of each language as a sink and expects a message in what it prints.
func TestReadmeExamples(t *testing.T) {
	broker := buildBroker(t)
	for _, example := range []struct {
		language string
		lines    int      // at most, as short is the point
		tools    []string // without which the example cannot run
		command  func(t *testing.T, text string) *exec.Cmd
		sends    string // what the example sends by itself, if it does
	}{
		{"sh", 3, []string{"sh", "socat"}, func(_ *testing.T, text string) *exec.Cmd {
			return exec.Command("sh", "-c", text+"wait\n") // the sink runs in the background of the shell
		}, "hello from a shell"},
		{"python", 5, []string{"python3"}, func(_ *testing.T, text string) *exec.Cmd {
			return exec.Command("python3", "-u", "-c", text)
		}, ""},
		{"c", 24, []string{"gcc"}, compileC, ""},
	} {
		t.Run(example.language, func(t *testing.T) {
			for _, tool := range example.tools {
				need.Program(t, "unit", tool, tool)
			}
			text := readmeBlock(t, example.language)
			if n := strings.Count(text, "\n"); n > example.lines {
				t.Errorf("the example has %d lines, more than %d", n, example.lines)
			}
			dir, _ := startBroker(t, broker)
			sink := example.command(t, strings.ReplaceAll(text, readmeDir, dir))
			out := bufio.NewReader(startSink(t, sink))
			want := example.sends
			if want == "" {
				want = "sent to the " + example.language + " example"
				sendTo(t, filepath.Join(dir, "source"), want)
			}
			expectLine(t, out, want)
			for _, anything := range []string{"", "nul \x00 and \xff", strings.Repeat("long ", 14_000), "end"} {
				sendTo(t, filepath.Join(dir, "source"), anything)
				switch example.language {
				case "python": // shows bytes
					if anything == "nul \x00 and \xff" {
						anything = `b'nul \x00 and \xff'`
					}
					expectLine(t, out, anything)
				case "c":
					expectLine(t, out, anything)
				}
			}
			if example.language == "sh" {
				return // its sink is in the background, where Ctrl-C ends nothing
			}
			if err := sink.Process.Signal(syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, out); err != nil {
				t.Errorf("Ctrl-C does not end it: %v", err)
			}
		})
	}
}

// TestReadmeShowsTheFirstCommands keeps the two commands that a newcomer needs on the first screen.
func TestReadmeShowsTheFirstCommands(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatalf("cannot read the README: %v", err)
	}
	lines := strings.Split(string(text), "\n")
	screen := strings.Join(lines[:min(50, len(lines))], "\n")
	for _, want := range []string{"make run", "make test", "no disk", "no network", "reboot forgets", "Linux ", "systemd ", "Go "} {
		if !strings.Contains(strings.ReplaceAll(screen, "**", ""), want) {
			t.Errorf("the first 50 lines of the README do not say %q", want)
		}
	}
}

// readmeBlock returns the first fenced block of a language, with its final newline.
func readmeBlock(t *testing.T, language string) string {
	t.Helper()
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatalf("cannot read the README: %v", err)
	}
	found := regexp.MustCompile("(?ms)^```" + language + "\n(.*?)^```$").FindSubmatch(readme)
	if found == nil {
		t.Fatalf("the README has no example in %s", language)
	}
	if !bytes.Contains(found[1], []byte(readmeDir)) {
		t.Fatalf("the README's example in %s does not use %s", language, readmeDir)
	}
	return string(found[1])
}

// compileC builds the example with every warning an error.
func compileC(t *testing.T, text string) *exec.Cmd {
	t.Helper()
	dir := t.TempDir()
	source, program := filepath.Join(dir, "sink.c"), filepath.Join(dir, "sink")
	if err := os.WriteFile(source, []byte(text), 0o600); err != nil {
		t.Fatalf("cannot write the example: %v", err)
	}
	if out, err := exec.Command("gcc", "-Wall", "-Wextra", "-Werror", "-O2", "-o", program, source).CombinedOutput(); err != nil {
		t.Fatalf("cannot compile the example: %v\n%s", err, out)
	}
	return exec.Command(program)
}

// buildBroker builds msgmuxd into a temporary folder and returns its path.
func buildBroker(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "msgmuxd")
	if out, err := exec.Command("go", "build", "-o", program, "./cmd/msgmuxd").CombinedOutput(); err != nil {
		t.Fatalf("cannot build the broker: %v\n%s", err, out)
	}
	return program
}

// startBroker runs a broker in a folder of its own until stop is called or the test ends. It must end in good order.
func startBroker(t *testing.T, program string) (dir string, stop func()) {
	t.Helper()
	// Not t.TempDir: its names are too long for a socket's address.
	dir, err := os.MkdirTemp("", "mm")
	if err != nil {
		t.Fatalf("cannot make a folder: %v", err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	var log bytes.Buffer
	cmd := exec.Command(program, "--runtime-dir", dir)
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatalf("cannot start the broker: %v", err)
	}
	stop = sync.OnceFunc(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		late := time.AfterFunc(10*time.Second, func() { cmd.Process.Kill() })
		defer late.Stop()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the broker did not end in good order: %v\n%s", err, &log)
		}
	})
	t.Cleanup(stop)
	for _, name := range []string{"register", "source"} {
		waitForSocket(t, filepath.Join(dir, name))
	}
	return dir, stop
}

// waitForSocket returns once somebody is bound to a datagram socket's path.
func waitForSocket(t *testing.T, path string) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		var conn net.Conn
		if conn, err = net.Dial("unixgram", path); err == nil {
			conn.Close()
			return
		}
	}
	t.Fatalf("the broker does not listen: %v", err)
}

// startSink runs an example, in a process group of its own because a shell has children, until the test ends, and returns
// what it prints.
func startSink(t *testing.T, cmd *exec.Cmd) io.Reader {
	t.Helper()
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatalf("cannot make a pipe: %v", err)
	}
	t.Cleanup(func() { out.Close() })
	cmd.Stdout, cmd.Stderr = in, in
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = cmd.Start()
	in.Close()
	if err != nil {
		t.Fatalf("cannot start the example: %v", err)
	}
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
	})
	if err := out.SetReadDeadline(time.Now().Add(15 * time.Second)); err != nil {
		t.Fatalf("cannot set a deadline: %v", err)
	}
	return out
}

// sendTo sends one datagram as any program would. It may arrive before the sink does: then it waits for the sink.
func sendTo(t *testing.T, path, text string) {
	t.Helper()
	conn, err := net.Dial("unixgram", path)
	if err != nil {
		t.Fatalf("cannot reach the source socket: %v", err)
	}
	defer conn.Close()
	if _, err := fmt.Fprint(conn, text); err != nil {
		t.Fatalf("cannot send: %v", err)
	}
}

// expectLine reads until a line contains want.
func expectLine(t *testing.T, out *bufio.Reader, want string) {
	t.Helper()
	var seen []string
	for {
		line, err := out.ReadString('\n')
		if strings.Contains(line, want) {
			return
		}
		if seen = append(seen, line); err != nil {
			t.Errorf("the example did not print %.100q (%v) but: %.1000q", want, err, seen)
			return
		}
	}
}
