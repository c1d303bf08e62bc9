// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	namespaceMark = "MSGMUX_BENCH_NAMESPACE"
	qlenFile      = "/proc/sys/net/unix/max_dgram_qlen"
)

func insideNamespace() bool { return os.Getenv(namespaceMark) != "" }

// enterNamespace starts this program again in a network namespace of its own,
// waits for it, and returns false; in there it brings up the loopback device
// and returns true. Ports are free there, and max_dgram_qlen, which belongs to
// the namespace, can be set without touching the host's.
func enterNamespace() (bool, error) {
	if insideNamespace() {
		return true, loopbackUp()
	}
	exe, err := os.Executable()
	if err != nil {
		return false, fmt.Errorf("cannot find own program: %w", err)
	}
	c := exec.Command(exe, os.Args[1:]...)
	c.Env = append(os.Environ(), namespaceMark+"=1")
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGTERM}
	signal.Ignore(os.Interrupt) // the inner process cleans up
	if err := c.Start(); err != nil {
		return false, fmt.Errorf("cannot make network namespace (it needs root): %w", err)
	}
	var exit *exec.ExitError
	if err := c.Wait(); errors.As(err, &exit) {
		os.Exit(1) // it has said why
	} else if err != nil {
		return false, fmt.Errorf("cannot wait for benchmark: %w", err)
	}
	return false, nil
}

func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot bring up loopback: %w", err)
	}
	defer unix.Close(s)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("cannot bring up loopback: %w", err)
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING | unix.IFF_LOOPBACK | unix.IFF_MULTICAST)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("cannot bring up loopback: %w", err)
	}
	return nil
}

// setQlen sets the queue length that datagram sockets made from now on get.
func setQlen(n int) error {
	if err := os.WriteFile(qlenFile, []byte(strconv.Itoa(n)), 0o644); err != nil {
		return fmt.Errorf("cannot set max_dgram_qlen: %w", err)
	}
	got, err := os.ReadFile(qlenFile)
	if err != nil {
		return fmt.Errorf("cannot read max_dgram_qlen: %w", err)
	}
	if text := strings.TrimSpace(string(got)); text != strconv.Itoa(n) {
		return fmt.Errorf("cannot set max_dgram_qlen to %d: it is %s", n, text)
	}
	return nil
}

// lock takes the machine's benchmark lock, bench.lock in the temporary folder,
// and returns what releases it. It is held for one run or pair at a time, so
// that several drivers can take turns and never overlap; with -calm it waits for
// that first, so as not to keep others from it meanwhile.
func (b *bench) lock() (func(), error) {
	b.awaitCalm()
	f, err := os.OpenFile(filepath.Join(os.TempDir(), "bench.lock"), os.O_CREATE|os.O_RDWR, 0o666)
	if err != nil {
		return nil, fmt.Errorf("cannot open benchmark lock: %w", err)
	}
	for said := false; ; time.Sleep(20 * time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("cannot take benchmark lock: %w", err)
		}
		if !said {
			fmt.Fprintln(os.Stderr, "bench: waiting for another benchmark")
			said = true
		}
	}
}

// open are the folders to be removed should the program be interrupted; the
// processes die with it.
var open struct {
	mu   sync.Mutex
	dirs map[string]bool
}

func remember(dir string) {
	open.mu.Lock()
	defer open.mu.Unlock()
	if open.dirs == nil {
		open.dirs = map[string]bool{}
	}
	open.dirs[dir] = true
}

func forget(dir string) {
	os.RemoveAll(dir)
	open.mu.Lock()
	defer open.mu.Unlock()
	delete(open.dirs, dir)
}

func cleanUpOnSignal() {
	c := make(chan os.Signal, 1)
	signal.Notify(c, os.Interrupt, unix.SIGTERM)
	go func() {
		<-c
		open.mu.Lock()
		for d := range open.dirs {
			os.RemoveAll(d)
		}
		os.Exit(130)
	}()
}
