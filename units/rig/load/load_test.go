// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/need"
	"github.com/msgmux/msgmux/internal/test"
	"github.com/msgmux/msgmux/units/rig/load/tally"
)

// asProgram makes the test binary be the program.
const asProgram = "MSGMUX_LOAD_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// program is one running load.
type program struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdout io.Reader
	stderr *bufio.Reader
}

// start starts the program and waits until it is ready.
func start(t *testing.T, arguments ...string) *program {
	t.Helper()
	p := launch(t, arguments...)
	if line, _ := p.stderr.ReadString('\n'); line != "ready\n" {
		t.Fatalf("load %v says %q", arguments, line)
	}
	return p
}

// launch starts the program.
func launch(t *testing.T, arguments ...string) *program {
	t.Helper()
	p := &program{t: t, cmd: exec.Command(os.Args[0], arguments...)}
	p.cmd.Env = append(os.Environ(), asProgram+"=1")
	var err error
	if p.stdout, err = p.cmd.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.stderr = bufio.NewReader(stderr)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		p.cmd.Wait()
	})
	return p
}

// kill kills the program.
func (p *program) kill() {
	p.cmd.Process.Kill()
	p.cmd.Wait()
}

// report waits for the end of the program and reads its report.
func report[T any](p *program) (r T) {
	p.t.Helper()
	if err := json.NewDecoder(p.stdout).Decode(&r); err != nil {
		text, _ := io.ReadAll(p.stderr)
		p.t.Fatalf("cannot read report: %v: %s", err, text)
	}
	if err := p.cmd.Wait(); err != nil {
		p.t.Fatal(err)
	}
	return r
}

// stop ends the program by SIGTERM and reads its report.
func stop[T any](p *program) T {
	p.t.Helper()
	p.cmd.Process.Signal(syscall.SIGTERM)
	return report[T](p)
}

func TestSendersToSink(t *testing.T) {
	path := test.Folder(t) + "/sink"
	receiver := start(t, "sink", "--bind", path, "--settle", "200ms")
	var senders []tally.Sender
	var running []*program
	for i, flags := range [][]string{nil, {"--unconnected"}, {"--nonblocking", "--spread", "5000"}, {"--unconnected", "--nonblocking"}} {
		arguments := append([]string{"send", "--to", path, "--count", "5000", "--source", fmt.Sprint(i + 1)}, flags...)
		running = append(running, start(t, arguments...))
	}
	for _, p := range running {
		r := report[tally.Sender](p)
		if r.Sent != 5000 || r.Blocked {
			t.Errorf("a sender reports %+v", r)
		}
		senders = append(senders, r)
	}
	sinks := stop[[]tally.Sink](receiver)
	if problems := sinks[0].Problems(senders...); len(problems) > 0 || sinks[0].Received != 20000 {
		t.Errorf("%d received: %v", sinks[0].Received, problems)
	}
}

func TestSenderStopsOnDemand(t *testing.T) {
	path := test.Folder(t) + "/sink"
	receiver := start(t, "sink", "--bind", path)
	free := start(t, "send", "--to", path, "--rate", "200")
	time.Sleep(300 * time.Millisecond)
	sent := stop[tally.Sender](free)
	if sent.Sent < 20 || sent.Sent > 100 {
		t.Errorf("%d messages sent in 0.3 s at 200 a second", sent.Sent)
	}
	if problems := stop[[]tally.Sink](receiver)[0].Problems(sent); len(problems) > 0 {
		t.Error(problems)
	}

	// One that nobody reads from ends too, and says how it was.
	full, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path + "2", Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	stuck := start(t, "send", "--to", path+"2")
	time.Sleep(100 * time.Millisecond)
	if r := stop[tally.Sender](stuck); !r.Blocked || r.Sent == 0 {
		t.Errorf("a blocked sender reports %+v", r)
	}
}

func TestSenderCountsErrorsAndGoesOn(t *testing.T) {
	path := test.Folder(t) + "/sink"
	p := start(t, "send", "--to", path, "--unconnected", "--count", "10")
	time.Sleep(50 * time.Millisecond)
	receiver := start(t, "sink", "--bind", path)
	sent := report[tally.Sender](p)
	if sent.Sent != 10 || sent.Errors["ENOENT"] == 0 {
		t.Errorf("a sender to nobody at first reports %+v", sent)
	}
	sent.Errors = nil
	if problems := stop[[]tally.Sink](receiver)[0].Problems(sent); len(problems) > 0 {
		t.Error(problems)
	}
}

// TestKilledSinkForgetsNothing kills a sink that keeps a log, whose socket outlives it, as with a socket unit.
func TestKilledSinkForgetsNothing(t *testing.T) {
	dir := test.Folder(t)
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: dir + "/sink", Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	file, err := socket.File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	log := filepath.Join(dir, "log")
	inheriting := func() *program {
		// A shell in between, because LISTEN_PID must name the process that gets the socket.
		p := &program{t: t, cmd: exec.Command("sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"`, "sh",
			os.Args[0], "sink", "--inherit", "--log", log)}
		p.cmd.Env = append(os.Environ(), asProgram+"=1")
		p.cmd.ExtraFiles = []*os.File{file}
		if p.stdout, err = p.cmd.StdoutPipe(); err != nil {
			t.Fatal(err)
		}
		p.stderr = bufio.NewReader(strings.NewReader(""))
		if err := p.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			p.cmd.Process.Kill()
			p.cmd.Wait()
		})
		return p
	}
	sender := start(t, "send", "--to", dir+"/sink")
	for i := range 20 {
		p := inheriting()
		time.Sleep(time.Duration(30+i) * time.Millisecond)
		p.kill()
	}
	last := inheriting()
	sent := stop[tally.Sender](sender)
	final := stop[[]tally.Sink](last)[0]
	if problems := final.Problems(sent); len(problems) > 0 || sent.Sent < 1000 {
		t.Errorf("of %d messages: %v", sent.Sent, problems)
	}
	replayed := report[[]tally.Sink](launch(t, "replay", "--log", log))[0]
	if replayed.Order != final.Order || replayed.Received != final.Received {
		t.Errorf("the log holds %+v, the sink got %+v", replayed, final)
	}
}

func TestSinkRegisters(t *testing.T) {
	dir := test.Folder(t)
	register, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: dir + "/register", Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer register.Close()
	answers := []string{"ok id=1\n", "ok id=2\n", "error quota enough\n"}
	requests := make(chan string, len(answers))
	go func() {
		request := make([]byte, 4096)
		for _, answer := range answers {
			n, from, err := register.ReadFromUnix(request)
			if err != nil {
				return
			}
			requests <- string(request[:n])
			register.WriteToUnix([]byte(answer), from)
		}
	}()
	name := fmt.Sprintf("@mm-load-%d", os.Getpid())
	p := start(t, "sink", "--bind", name, "--number", "2", "--register", dir+"/register", "--option", "patience=5s", "--settle", "50ms")
	for i := range 2 {
		if got, want := <-requests, fmt.Sprintf("%s-%d\npatience=5s\nreply=yes\n", name, i); got != want {
			t.Errorf("registration %d is %q, want %q", i, got, want)
		}
	}
	sent := report[tally.Sender](start(t, "send", "--to", name+"-1", "--count", "3"))
	sinks := stop[[]tally.Sink](p)
	if len(sinks) != 2 || len(sinks[1].Problems(sent)) > 0 || sinks[0].Received != 0 {
		t.Errorf("two sinks report %+v", sinks)
	}

	refused := launch(t, "sink", "--bind", name, "--register", dir+"/register")
	text, _ := io.ReadAll(refused.stderr)
	if err := refused.cmd.Wait(); err == nil || !strings.Contains(string(text), "error quota enough") {
		t.Errorf("a refused sink ends with %v and says %q", err, text)
	}
}

func TestQueue(t *testing.T) {
	need.Root(t, "systemd")
	dir := t.TempDir()
	if err := unix.Mount("mqueue", dir, "mqueue", 0, ""); err != nil {
		need.Lacking(t, "systemd", "message queues cannot be mounted: %v", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	path := fmt.Sprintf("%s/mm-load-%d", dir, os.Getpid())
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	file.Close()
	defer os.Remove(path)
	receiver := start(t, "queue", "--from", path)
	sent := report[tally.Sender](start(t, "send", "--to", path, "--count", "2000", "--spread", "8000"))
	if sent.Again == 0 {
		t.Errorf("a queue of ten messages was never full: %+v", sent)
	}
	if problems := stop[[]tally.Sink](receiver)[0].Problems(sent); len(problems) > 0 {
		t.Error(problems)
	}
}
