// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/internal/need"
	"github.com/msgmux/msgmux/internal/test"
	"github.com/msgmux/msgmux/internal/wire"
)

// hangingRole makes this program mount a file system that does not answer at the folder that it names, where only it and its
// children see that, and then become the program of its command line.
const hangingRole = "MSGMUX_HANGING"

func beHanging(dir string) int {
	const fuse = 3
	unix.CloseOnExec(fuse)
	err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	if err == nil {
		err = unix.Mount("hanging", dir, "fuse.hanging", unix.MS_NOSUID|unix.MS_NODEV,
			fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", fuse))
	}
	if err == nil {
		os.Unsetenv(hangingRole)
		err = syscall.Exec(os.Args[1], os.Args[1:], os.Environ())
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// hanging is a file system whose every answer is outstanding.
type hanging struct {
	dir   string
	asked atomic.Int64 // questions that were read, and are not answered: who asked cannot be killed
}

// startHanging starts msgmuxd where there is such a file system. It answers when the test ends, with an error.
func startHanging(t *testing.T, flags ...string) (*process, *hanging) {
	t.Helper()
	needRoot(t)
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		need.Lacking(t, "unit", "no file system can be made here: %v", err)
	}
	device := os.NewFile(uintptr(fd), "fuse")
	p := newProcess(t, flags...)
	h := &hanging{dir: p.Dir + "/hanging"}
	if err := os.Mkdir(h.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", p.cmd.Args...)
	cmd.Env = append(os.Environ(), hangingRole+"="+h.dir)
	cmd.Stderr = &p.stderr
	cmd.ExtraFiles = []*os.File{device}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	p.cmd = cmd
	p.start(t)
	stop, served := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(served)
		h.serve(fd, stop)
	}()
	// When nobody has the device any more, every question ends with an error.
	t.Cleanup(func() {
		close(stop)
		<-served
		p.cmd.Process.Kill()
		device.Close()
	})
	p.serves(t)
	return p, h
}

// serve reads questions (fuse(4)) until stop is closed, and answers the first one, which begins it all: otherwise whoever asks
// could be killed.
func (h *hanging) serve(fd int, stop <-chan struct{}) {
	const opInit = 26
	for b := make([]byte, 1<<17); ; {
		select {
		case <-stop:
			return
		default:
		}
		set := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(set, 20); n <= 0 || err != nil || set[0].Revents&unix.POLLIN == 0 {
			time.Sleep(time.Millisecond) // before it is mounted there is nothing but errors
			continue
		}
		n, err := unix.Read(fd, b)
		if err != nil || n < 40 {
			continue
		}
		if e := binary.NativeEndian; e.Uint32(b[4:]) == opInit {
			// Length, no error, the question's number; then version 7.31 and nothing that it could do.
			answer := append(e.AppendUint32(nil, 16+64), 0, 0, 0, 0)
			answer = append(answer, b[8:16]...)
			answer = e.AppendUint32(e.AppendUint32(answer, 7), 31)
			answer = append(answer, make([]byte, 64-8)...)
			unix.Write(fd, answer)
			continue
		}
		h.asked.Add(1)
	}
}

// TestPromise9_LeftBehind: a path on a file system that does not answer keeps its own user's registrations, and nobody
// else's; and the broker ends when it is told to or killed, as what hangs is left behind.
func TestPromise9_LeftBehind(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		t.Run(signal.String(), func(t *testing.T) {
			t.Parallel()
			p, h := startHanging(t, "--buffer", "1M")
			openToAll(t, p.Dir)
			// A declared one, too, and the options of another.
			if err := os.Symlink(h.dir+"/agent", p.Dir+"/sinks/declared"); err != nil {
				t.Fatal(err)
			}
			test.Eventually(t, "the file system is asked", func() bool { return h.asked.Load() > 0 })

			// No more answers to one socket than fit its queue: what does not is not sent.
			const askers, each, many = 6, 5, 30
			answered := make(chan string, many)
			var impatient []*brokertest.Sink
			for range askers {
				asker := strangersSocket(t, brokertest.Name())
				impatient = append(impatient, asker)
				go func() {
					for range each {
						b, err := asker.Receive()
						if err != nil {
							answered <- err.Error()
							continue
						}
						r, err := wire.ParseReply(b)
						answered <- cmp.Or(codeOf(r.Err), fmt.Sprint(err))
					}
				}()
			}
			for i := range many {
				sendAs(t, p.Dir, stranger, impatient[i%askers], fmt.Sprintf("%s/s%d\nreply=yes\n", h.dir, i))
			}
			// Behind them all, somebody else is served: in any folder that answers.
			brokertest.NewSink(t, p.Dir)
			other := brokertest.NewSocket(t, p.Dir+"/other")
			if r := brokertest.Register(t, p.Dir, other.Name); r.Err != nil {
				t.Error(r.Err)
			}
			codes := make(map[string]int)
			for range many {
				codes[<-answered]++
			}
			if codes[wire.CodeTimeout] == 0 || codes[wire.CodeTimeout] > 2 || codes[wire.CodeTimeout]+codes[wire.CodeBusy] != many {
				t.Errorf("%v", codes)
			}
			brokertest.NewSocket(t, p.Dir+"/sinks/good")
			test.Eventually(t, "a declared sink that answers is ready", func() bool {
				_, sinks := p.status(t)
				for _, s := range sinks {
					if s.Label == "good" && s.State == "ready" {
						return true
					}
				}
				return false
			})
			if h.asked.Load() < 2 {
				t.Errorf("the file system was asked %d questions", h.asked.Load())
			}
			p.signal(t, signal)
			p.wait(t)
		})
	}
}

// TestStaticElsewhere: what only another process may ask is connected to by that one, which hands the socket over; it ends with
// the broker, and before it where the broker ends in order: a service manager would find it left over.
func TestStaticElsewhere(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		t.Run(signal.String(), func(t *testing.T) { staticElsewhere(t, signal) })
	}
}

func staticElsewhere(t *testing.T, signal syscall.Signal) {
	p := startProcess(t, "--buffer", "1M")
	agent := brokertest.NewSocket(t, p.Dir+"/agent")
	if err := os.Symlink("/proc/self/root"+agent.Name, p.Dir+"/sinks/agent"); err != nil {
		t.Fatal(err)
	}
	if err := brokertest.NewSource(t, p.Dir).Send(stamped(1, 0, 100)); err != nil {
		t.Fatal(err)
	}
	receiveSeq(t, agent, 1, 0, 1)
	var scout int
	// Whichever thread has started it.
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", p.cmd.Process.Pid))
	for _, task := range tasks {
		children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", p.cmd.Process.Pid, task.Name()))
		if n, _ := fmt.Sscan(string(children), &scout); n == 1 {
			break
		}
	}
	name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", scout))
	if string(name) != "msgmuxd-scout\x00" {
		t.Fatalf("the broker's child %d is %q", scout, name)
	}
	p.signal(t, signal)
	p.wait(t)
	ended := func() bool { return unix.Kill(scout, 0) == unix.ESRCH || stateOf(scout) == "Z" }
	if signal == syscall.SIGTERM && !ended() {
		t.Error("it has outlived a broker that has ended in order")
	}
	test.Eventually(t, "it ends with the broker", ended)
}

// stateOf is the state of a process (proc_pid_stat(5)), "" if there is none.
func stateOf(pid int) string {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(text), ") ")
	state, _, _ := strings.Cut(rest, " ")
	return state
}
