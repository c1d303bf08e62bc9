// SPDX-License-Identifier: Apache-2.0

package crashtest

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/msgmux/msgmux/broker/ring"
)

// namespaceMark is set in the process that has namespaces of its own.
const namespaceMark = "MSGMUX_CRASHTEST_NAMESPACE"

func TestMain(m *testing.M) {
	RunChild()
	flag.Parse()
	if os.Getenv(namespaceMark) == "" {
		if code, ok := runInNamespace(); ok {
			os.Exit(code)
		}
		fmt.Println("no namespaces can be had: queues are as long as net.unix.max_dgram_qlen allows, message queues are left out")
	}
	// The runtime opens what it polls with at the first use.
	if r, w, err := os.Pipe(); err == nil {
		r.Close()
		w.Close()
	}
	open, running := openDescriptors(), runtime.NumGoroutine()
	code := m.Run()
	// A moment for those who are on their way out.
	for n := 0; n < 100 && (openDescriptors() > open || runtime.NumGoroutine() > running); n++ {
		time.Sleep(10 * time.Millisecond)
	}
	if nowOpen, nowRunning := openDescriptors(), runtime.NumGoroutine(); code == 0 && (nowOpen > open || nowRunning > running) {
		fmt.Printf("left over: %d descriptors and %d goroutines\n", nowOpen-open, nowRunning-running)
		code = 1
	}
	os.Exit(code)
}

// openDescriptors counts those of this process.
func openDescriptors() int {
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		panic(err)
	}
	return len(open)
}

// runInNamespace runs this program once more in a network namespace of its own, in which the length of socket queues
// belongs to nobody else, and with message queues and mounts of its own. It says whether that could be done, and the
// exit code.
func runInNamespace() (code int, ok bool) {
	self, err := os.Executable()
	if err != nil {
		return 0, false
	}
	// The child dies with this very thread.
	runtime.LockOSThread()
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Env = append(os.Environ(), namespaceMark+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if uid := os.Getuid(); uid != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	if cmd.Start() != nil {
		return 0, false
	}
	// What go test does at its timeout is the inner process's business: it knows where it hangs.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGQUIT, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		for s := range signals {
			cmd.Process.Signal(s)
		}
	}()
	var exit *exec.ExitError
	if err := cmd.Wait(); errors.As(err, &exit) {
		return max(1, exit.ExitCode()), true
	} else if err != nil {
		return 1, true
	}
	return 0, true
}

// setQueueLength sets how many datagrams wait in the queue of each socket that is made from now on: 10 is the kernel's
// own default, 512 is what systemd sets.
func setQueueLength(t *testing.T, n int) {
	t.Helper()
	if os.Getenv(namespaceMark) == "" {
		return
	}
	if err := os.WriteFile("/proc/sys/net/unix/max_dgram_qlen", []byte(strconv.Itoa(n)), 0); err != nil {
		t.Logf("queues stay as they are: %v", err)
	}
}

// seed is the seed of a test: $MSGMUX_SEED, or a new one.
func seed(t *testing.T) uint64 {
	t.Helper()
	n := uint64(time.Now().UnixNano())
	if text := os.Getenv("MSGMUX_SEED"); text != "" {
		var err error
		if n, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("MSGMUX_SEED: %v", err)
		}
	}
	t.Logf("MSGMUX_SEED=%d", n)
	return n
}

// setting is one kind of channel.
type setting struct {
	geometry ring.Geometry
	queue    int // messages that a socket's queue takes
	largest  int // bytes of the largest message sent
}

// settings vary what decides how many messages one operation is about: how many a receive takes, how many a queue
// takes from a send, and where the ring ends.
var settings = []setting{
	{ring.Geometry{Size: 1 << 20, MaxMessage: 64 << 10, MaxSinks: 64, MaxClients: 16}, 512, 64 << 10},
	{ring.Geometry{Size: 1 << 20, MaxMessage: 64 << 10, MaxSinks: 64, MaxClients: 16}, 10, 64 << 10},
	{ring.Geometry{Size: 8 << 20, MaxMessage: 4 << 20, MaxSinks: 64, MaxClients: 16}, 512, 150 << 10}, // 4 a receive
	{ring.Geometry{Size: 2 << 20, MaxMessage: 1 << 20, MaxSinks: 64, MaxClients: 16}, 64, 64 << 10},   // 16 a receive
}

func (s *setting) setup() Setup {
	return Setup{Geometry: s.geometry, Patience: 50 * time.Millisecond}
}

func (s *setting) traffic(seed uint64) Traffic {
	t := Traffic{Seed: seed, Largest: s.largest}
	// What the kernel would not send at all cannot be refused.
	if s.geometry.MaxMessage == uint64(s.largest) {
		t.TooLarge = s.largest + 1 + int(seed%1000)
	}
	return t
}

// everyWay is a load with every kind of source.
var everyWay = []string{Blocking, Blocking, NonBlocking, NonBlocking, Unconnected, Publish, Publish}

// newLoad makes a channel with everything on it.
func newLoad(t *testing.T, s *setting, seed uint64, shape Shape) *Load {
	t.Helper()
	setQueueLength(t, s.queue)
	k, err := NewKeeper(s.setup())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	l, err := NewLoad(k, s.traffic(seed), shape)
	if err != nil {
		t.Fatalf("%v\n%s", err, k.Log())
	}
	return l
}

// die starts a broker that dies at d, or by somebody else's hand within limit, and says whether d came to pass.
func die(t *testing.T, k *Keeper, d Death, limit time.Duration) bool {
	t.Helper()
	if err := k.Start(d); err != nil {
		t.Fatal(err)
	}
	itself := k.AwaitDeath(limit)
	if err := k.Kill(); err != nil {
		t.Fatal(err)
	}
	return itself
}

// balance lets the channel come to rest and compares the books. Each violation fails the test.
func balance(t *testing.T, l *Load) *Books {
	t.Helper()
	for _, err := range l.Quiesce() {
		t.Errorf("violation: %v", err)
	}
	b, err := l.Books()
	if err != nil {
		t.Fatalf("%v\n%s", err, l.Keeper.Log())
	}
	for _, v := range b.Violations() {
		t.Errorf("violation: %s", v)
	}
	if t.Failed() {
		t.Logf("log:\n%s", l.Keeper.Log())
	}
	return b
}

// between is a random duration.
func between(r *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(r.Int64N(int64(most-least)))
}
