// SPDX-License-Identifier: Apache-2.0

package crashtest

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// namespaceMark is set in the process that has namespaces of its own.
const namespaceMark = "MSGMUX_CRASHTEST_NAMESPACE"

func TestMain(m *testing.M) {
	RunChild()
	RunEnd()
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
