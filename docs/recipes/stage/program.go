// SPDX-License-Identifier: Apache-2.0

package stage

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	// patience is how long a test waits for anything: long, as two cores may be busy with other tests.
	patience = 30 * time.Second
	// stopLimit is how long a program may take to end before it is killed.
	stopLimit = 10 * time.Second
)

// Program is a process that ends with the test at the latest.
type Program struct {
	t        testing.TB
	cmd      *exec.Cmd
	ended    chan struct{}
	out, err text
}

// text collects what a program writes while others read it.
type text struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (x *text) Write(p []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.b.Write(p)
}

func (x *text) String() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.b.String()
}

// Start starts a program. change may alter the command before that: environment, standard input. Should the test process
// die, the program is killed.
func Start(t testing.TB, argv []string, change ...func(*exec.Cmd)) *Program {
	t.Helper()
	p := &Program{t: t, cmd: exec.Command(argv[0], argv[1:]...), ended: make(chan struct{})}
	p.cmd.Env = os.Environ()
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.err
	p.cmd.WaitDelay = time.Second // a child of the program may hold the pipes open
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	for _, f := range change {
		f(p.cmd)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("cannot start %s: %v", argv[0], err)
	}
	go func() {
		p.cmd.Wait() // the exit status is in ProcessState, whatever the error
		close(p.ended)
	}()
	t.Cleanup(func() {
		p.Stop()
		if t.Failed() {
			t.Logf("%s said:\n%s", strings.Join(argv, " "), lastLines(p.err.String(), 20))
		}
	})
	return p
}

// Shell starts a shell script.
func Shell(t testing.TB, script string, change ...func(*exec.Cmd)) *Program {
	t.Helper()
	return Start(t, []string{"sh", "-euc", script}, change...)
}

// Env adds to a program's environment.
func Env(env ...string) func(*exec.Cmd) {
	return func(c *exec.Cmd) { c.Env = append(c.Env, env...) }
}

// Input gives a program its standard input.
func Input(text string) func(*exec.Cmd) {
	return func(c *exec.Cmd) { c.Stdin = strings.NewReader(text) }
}

// PID is the process id.
func (p *Program) PID() int { return p.cmd.Process.Pid }

// Out and Err are what the program has written so far.
func (p *Program) Out() string { return p.out.String() }
func (p *Program) Err() string { return p.err.String() }

// Signal sends a signal to the program and the processes that it started.
func (p *Program) Signal(s syscall.Signal) { syscall.Kill(-p.PID(), s) }

// Running says whether the program has not ended yet.
func (p *Program) Running() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// Wait waits until the program has ended and returns its exit status, -1 if a signal ended it.
func (p *Program) Wait() int {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(patience):
		p.t.Fatalf("%v did not end in %v\n%s", p.cmd.Args, patience, p.Err())
	}
	return p.cmd.ProcessState.ExitCode()
}

// Succeed waits until the program has ended, which must be a success.
func (p *Program) Succeed() {
	p.t.Helper()
	if status := p.Wait(); status != 0 {
		p.t.Fatalf("%v ended with status %d\n%s", p.cmd.Args, status, p.Err())
	}
}

// Stop ends the program by SIGTERM, or SIGKILL when that takes too long.
func (p *Program) Stop() {
	select {
	case <-p.ended:
		return
	default:
	}
	p.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(stopLimit):
		p.t.Errorf("%v did not end in %v and was killed", p.cmd.Args, stopLimit)
		p.Kill()
	}
}

// Kill ends the program by SIGKILL, and waits for its end.
func (p *Program) Kill() {
	p.Signal(syscall.SIGKILL)
	<-p.ended
}

// Until waits until done returns true, and ends the test if that takes too long.
func Until(t testing.TB, what string, done func() bool) {
	t.Helper()
	for began := time.Now(); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Since(began) > patience {
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// lastLines returns at most the n last lines of text.
func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
