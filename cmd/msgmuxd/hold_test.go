// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/internal/need"
	"github.com/msgmux/msgmux/internal/test"
	"github.com/msgmux/msgmux/internal/wire"
)

// heldProgram is a run of msgmuxd --hold.
type heldProgram struct {
	t    *testing.T
	cmd  *exec.Cmd
	dir  string // where its channel's folder is for us
	said bytes.Buffer
	done chan struct{}
}

// startHolder runs cmd, which becomes a holder.
func startHolder(t *testing.T, dir string, cmd *exec.Cmd) *heldProgram {
	t.Helper()
	h := &heldProgram{t: t, cmd: cmd, dir: dir, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &h.said, &h.said, time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { defer close(h.done); cmd.Wait() }()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-h.done:
		case <-time.After(brokertest.Within):
			t.Errorf("the holder does not end")
			cmd.Process.Kill()
			<-h.done
		}
	})
	return h
}

// ends wants the holder to end with this status.
func (h *heldProgram) ends(status int) {
	h.t.Helper()
	select {
	case <-h.done:
	case <-time.After(2 * brokertest.Within):
		h.t.Fatal("the holder does not end")
	}
	if got := h.cmd.ProcessState.ExitCode(); got != status {
		h.t.Errorf("exit status %d, want %d: %s", got, status, h.said.String())
	}
}

// broker is the process of the broker, as a process that sees all of them numbers it; 0 while there is none.
func (h *heldProgram) broker(holder int) int {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", holder)) // each thread has those that it has started
	for _, task := range tasks {
		text, _ := os.ReadFile(task)
		pid, _, _ := strings.Cut(string(text), " ")
		if n, err := strconv.Atoi(pid); err == nil {
			return n
		}
	}
	return 0
}

// kill sends the broker a signal.
func (h *heldProgram) kill(holder int, s syscall.Signal) (broker int) {
	h.t.Helper()
	test.Eventually(h.t, "there is a broker", func() bool { broker = h.broker(holder); return broker != 0 })
	if err := syscall.Kill(broker, s); err != nil {
		h.t.Fatal(err)
	}
	return broker
}

// account is what has come to a sink: the numbers of each source, which are to be without a gap and in order.
type account struct {
	next map[string]int
	err  error
}

// take notes one message, "NAME NUMBER".
func (a *account) take(message []byte) {
	var name string
	var n int
	if _, err := fmt.Sscan(string(message), &name, &n); err != nil {
		a.err = fmt.Errorf("%q came", message)
	} else if n != a.next[name] && a.err == nil {
		a.err = fmt.Errorf("of %s came %d, and %d was next", name, n, a.next[name])
	}
	a.next[name]++
}

// TestPromise7_HeldByHand kills brokers of a holder, at whatever instruction, while sources of both kinds send as fast as they can
// and sinks of both kinds receive: nobody sees an error, and nothing is missing, repeated or in another order.
func TestPromise7_HeldByHand(t *testing.T) {
	dir := test.Folder(t)
	h := startHolder(t, dir, exec.Command(program(t), "--hold", "--runtime-dir", dir, "--buffer", "1M"))
	untilReady(t, dir)
	underKills(t, h, h.cmd.Process.Pid, true)
	if n := strings.Count(h.said.String(), "the broker was killed; the next one goes on"); n < heldKills {
		t.Errorf("it tells of %d kills:\n%s", n, h.said.String())
	}
}

// TestGuardIsHeld: every broker holds the lock on the ring's state that keeps a second one from it, the first one, which has made the
// ring, and the next ones, which have found it: /proc/locks has it (proc_locks(5)).
func TestGuardIsHeld(t *testing.T) {
	dir := test.Folder(t)
	h := startHolder(t, dir, exec.Command(program(t), "--hold", "--runtime-dir", dir, "--buffer", "1M"))
	for _, ring := range []string{"made", "found"} {
		untilReady(t, dir)
		pid := brokertest.Ask(t, dir, wire.Request{Op: wire.OpStatus}).Status.PID
		locks, err := os.ReadFile("/proc/locks")
		if err != nil {
			t.Fatal(err)
		}
		if held := regexp.MustCompile(fmt.Sprintf(`(?m)^\d+: POSIX  ADVISORY  WRITE %d `, pid)); !held.Match(locks) {
			t.Errorf("process %d, whose ring was %s, holds no lock:\n%s", pid, ring, locks)
		}
		h.kill(h.cmd.Process.Pid, syscall.SIGKILL)
		test.Eventually(t, "it is gone", func() bool { return h.broker(h.cmd.Process.Pid) != pid })
	}
}

// heldKills is how many brokers are killed in a test.
const heldKills = 15

// recordsOf gives one record after the other that a framed sink receives.
func recordsOf(c *brokertest.Client) func() ([]byte, error) {
	var records [][]byte
	return func() ([]byte, error) {
		for len(records) == 0 {
			p, err := c.Receive()
			if err != nil {
				return nil, err
			}
			wire.EachRecord(p.Records, func(payload []byte) bool { records = append(records, payload); return true })
		}
		next := records[0]
		records = records[1:]
		return next, nil
	}
}

// underKills is the traffic and the kills of such a test. holder is the number of the holder's process for us; plain says whether one
// of the sinks gets datagrams.
func underKills(t *testing.T, h *heldProgram, holder int, plain bool) {
	const datagrams, packets, each = 12_000, 1_200, 10
	dir := h.dir
	receive := []func() ([]byte, error){}
	if plain {
		receive = append(receive, brokertest.NewSink(t, dir).Receive)
	} else {
		receive = append(receive, recordsOf(brokertest.NewSubscriber(t, dir)))
	}
	receive = append(receive, recordsOf(brokertest.NewSubscriber(t, dir)))
	source, publisher := brokertest.NewSource(t, dir), brokertest.NewPublisher(t, dir)
	results := make(chan error, 4)
	var came atomic.Int64 // to the first sink
	for i, next := range receive {
		go func() {
			a := account{next: map[string]int{}}
			for a.err == nil && (a.next["d"] < datagrams || a.next["p"] < packets*each) {
				b, err := next()
				if err != nil {
					a.err = fmt.Errorf("sink %d, after %v: %w", i, a.next, err)
					break
				}
				a.take(b)
				if i == 0 {
					came.Add(1)
				}
			}
			results <- a.err
		}()
	}
	go func() {
		for i := range datagrams {
			if err := source.Send(fmt.Appendf(nil, "d %d", i)); err != nil {
				results <- fmt.Errorf("datagram %d: %w", i, err)
				return
			}
		}
		results <- nil
	}()
	go func() {
		for i := range packets {
			messages := make([][]byte, each)
			for j := range messages {
				messages[j] = fmt.Appendf(nil, "p %d", i*each+j)
			}
			if err := publisher.Send(messages...); err != nil {
				results <- fmt.Errorf("packet %d: %w", i, err)
				return
			}
		}
		results <- nil
	}()
	// Each kill somewhere in its part of the traffic, every third one followed by one of the successor, in its start.
	const part = (datagrams + packets*each) / (heldKills + 1)
	for n := range heldKills {
		at := int64(n*part + rand.IntN(part))
		test.Eventually(t, "the traffic goes on", func() bool { return came.Load() >= at })
		before := h.kill(holder, syscall.SIGKILL)
		test.Eventually(t, "it is gone", func() bool { return h.broker(holder) != before })
		if n%3 == 0 {
			test.Eventually(t, "there is another", func() bool { return h.broker(holder) != 0 })
			time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
			h.kill(holder, syscall.SIGKILL)
		}
	}
	for range cap(results) {
		select {
		case err := <-results:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(6 * brokertest.Within):
			t.Fatalf("it does not end: %s", h.said.String())
		}
	}
	if t.Failed() {
		t.Log(h.said.String())
	}
	if s := brokertest.Ask(t, dir, wire.Request{Op: wire.OpStatus}).Status; s.Starts < 2 || s.Received != datagrams+packets*each || s.Accepted != 2*s.Received || s.Lost+s.Uncertain != 0 {
		t.Errorf("the broker counts %+v", s)
	}
}

// TestHolderDeliversBeforeItEnds: what was sent in the moment of the end has a sink, and who sends later is told.
func TestHolderDeliversBeforeItEnds(t *testing.T) {
	for _, dead := range []bool{false, true} {
		dir := test.Folder(t)
		h := startHolder(t, dir, exec.Command(program(t), "--hold", "--runtime-dir", dir, "--buffer", "1M"))
		untilReady(t, dir)
		sink, source := brokertest.NewSink(t, dir), brokertest.NewSource(t, dir)
		stop := syscall.SIGSTOP
		if dead {
			stop = syscall.SIGKILL // between two brokers
		}
		broker := h.kill(h.cmd.Process.Pid, stop)
		const count = 5 // less than a queue holds
		for i := range count {
			if err := source.TrySend([]byte{byte(i)}); err != nil {
				t.Fatal(err)
			}
		}
		h.cmd.Process.Signal(syscall.SIGTERM)
		test.Eventually(t, "the files are gone", func() bool { _, err := os.Stat(dir + "/source"); return err != nil })
		if !dead {
			syscall.Kill(broker, syscall.SIGCONT)
		}
		for i := range count {
			if b, err := sink.Receive(); err != nil || !bytes.Equal(b, []byte{byte(i)}) {
				t.Fatalf("dead: %v: message %d is %v, %v", dead, i, b, err)
			}
		}
		h.ends(0)
		if err := source.TrySend([]byte("late")); err == nil {
			t.Error("a message was taken that nobody gets")
		}
		if left, _ := filepath.Glob(dir + "/*"); len(left) != 2 { // sinks, and the lock
			t.Errorf("left behind: %q", left)
		}
	}
}

// TestHolderStartsTheProgramThatIsThere: an upgrade replaces the program and ends the broker, and sinks notice nothing.
func TestHolderStartsTheProgramThatIsThere(t *testing.T) {
	dir, path := test.Folder(t), filepath.Join(t.TempDir(), "msgmuxd")
	if err := os.Link(program(t), path); err != nil {
		t.Fatal(err)
	}
	h := startHolder(t, dir, exec.Command(path, "--hold", "--runtime-dir", dir, "--buffer", "1M"))
	untilReady(t, dir)
	sink, source := brokertest.NewSink(t, dir), brokertest.NewSource(t, dir)
	newer := path + ".new"
	if out, err := exec.Command("go", "build", "-ldflags", "-X main.version=9.9.9", "-o", newer, ".").CombinedOutput(); err != nil {
		t.Fatalf("cannot build: %v\n%s", err, out)
	}
	if err := os.Rename(newer, path); err != nil {
		t.Fatal(err)
	}
	before := h.kill(h.cmd.Process.Pid, syscall.SIGTERM)
	test.Eventually(t, "the newer one is there", func() bool { return h.broker(h.cmd.Process.Pid) != before })
	if v := brokertest.Ask(t, dir, wire.Request{Op: wire.OpStatus}).Status.Version; !strings.HasPrefix(v, "9.9.9") {
		t.Errorf("it is version %s", v)
	}
	if err := source.Send([]byte("after")); err != nil {
		t.Fatal(err)
	}
	if b, err := sink.Receive(); err != nil || string(b) != "after" {
		t.Errorf("%q, %v", b, err)
	}
	h.cmd.Process.Signal(syscall.SIGINT)
	h.ends(0)
	for line := range strings.Lines(h.said.String()) {
		if !strings.Contains(line, "event=started") {
			t.Errorf("it says %s", line)
		}
	}
}

// inRoot makes a container of a file system of its own, with this host's programs, and runs the rest of the command line as its
// first process.
const inRoot = `
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
mkdir "$1/proc" "$1/run" "$1/dev" "$1/tmp"
for top in bin lib lib64 sbin usr; do
	if [ -L "/$top" ]; then cp -P "/$top" "$1/"; elif [ -d "/$top" ]; then mkdir "$1/$top"; mount --rbind "/$top" "$1/$top"; fi
done
cp "$2" "$1/msgmuxd"
mount -t proc proc "$1/proc"
mknod -m 666 "$1/dev/null" c 1 3
root=$1; shift 2
exec chroot "$root" /msgmuxd "$@"`

// TestPromise7_FirstProcessOfAContainer: as PID 1, with brokers killed, children of others left to it, and an end that the
// container's runtime asks for.
func TestPromise7_FirstProcessOfAContainer(t *testing.T) {
	need.Root(t, "unit")
	root := test.Folder(t)
	cmd := exec.Command("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-euc", inRoot, "sh", root, program(t),
		"--hold", "--runtime-dir", "/run/channel", "--buffer", "1M")
	h := startHolder(t, "", cmd)
	first := 0
	test.Eventually(t, "the holder runs", func() bool {
		first = h.broker(cmd.Process.Pid) // the child of unshare
		name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", first))
		return strings.TrimSpace(string(name)) == "msgmuxd"
	})
	h.dir = fmt.Sprintf("/proc/%d/root/run/channel", first)
	untilReady(t, h.dir)
	inside := func(args ...string) string {
		t.Helper()
		out, err := exec.Command("nsenter", append([]string{"--target", strconv.Itoa(first), "--mount", "--pid", "--root"}, args...)...).Output()
		if err != nil {
			t.Fatalf("%q: %v: %s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	if name := inside("cat", "/proc/1/comm"); name != "msgmuxd" {
		t.Fatalf("the first process is %q", name)
	}
	underKills(t, h, first, false) // a registration from another pid namespace proves nothing

	// Children whose parents are gone, among them one that the holder is told of at the same moment as of its broker's end.
	inside("sh", "-c", "for i in 1 2 3 4 5; do (sleep 0.2 &); done")
	h.kill(first, syscall.SIGKILL)
	rest := ""
	for range 100 {
		rest = inside("sh", "-c", "grep -lE '^State:.Z|^Name:.sleep' /proc/[0-9]*/status 2>/dev/null | xargs -r cat | grep -E '^(Name|State|PPid)' || :")
		if rest == "" {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if rest != "" {
		t.Errorf("there is still\n%s", rest)
	}
	// It ends as a first process has to: with SIGTERM, in order, and everything in the container with it.
	if err := syscall.Kill(first, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	h.ends(0)
	if err := syscall.Kill(first, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the first process is still there: %v", err)
	}
}
