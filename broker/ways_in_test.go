// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/internal/test"
)

// The ways into a channel stay open: what fails for want of descriptors, or hangs, is tried again, and holds up nobody else.

// silent connects so many framed clients that say nothing.
func silent(t *testing.T, dir, socket string, n int) (clients []*brokertest.Client) {
	t.Helper()
	for range n {
		clients = append(clients, brokertest.Dial(t, dir, socket))
	}
	return clients
}

// setDescriptors sets how many descriptors a process may have, and returns how many it was.
func setDescriptors(t *testing.T, pid int, n uint64) (before uint64) {
	t.Helper()
	var limit unix.Rlimit
	err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &limit)
	before, limit.Cur = limit.Cur, n
	if err == nil {
		err = unix.Prlimit(pid, unix.RLIMIT_NOFILE, &limit, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return before
}

// TestPromise9_DoorStaysOpen: poll(2) refuses more descriptors than a process may have, for a moment. Afterwards clients are let
// in as before.
func TestPromise9_DoorStaysOpen(t *testing.T) {
	p := startProcess(t, "--buffer", "1M")
	clients := silent(t, p.Dir, "publish", 200)
	time.Sleep(300 * time.Millisecond)
	pid := p.cmd.Process.Pid
	before := setDescriptors(t, pid, 100)
	clients[0].Close() // any event has the door wait again
	test.Eventually(t, "the failure is logged", func() bool { return strings.Contains(p.stderr.String(), "cannot wait for framed clients") })
	setDescriptors(t, pid, before)
	for _, c := range clients {
		c.Close()
	}
	brokertest.NewPublisher(t, p.Dir)
	brokertest.NewSubscriber(t, p.Dir)
}

// TestPromise9_SilentClientsTakeNoPlaces: with as few descriptors as a channel of this size may be given, a user who may only
// send connects as often as he can and says nothing. Others register, attach and are found as before.
func TestPromise9_SilentClientsTakeNoPlaces(t *testing.T) {
	needRoot(t)
	p := newProcess(t, "--buffer", "1M", "--max-sinks", "64", "--max-clients", "16")
	p.cmd.Args = append([]string{"sh", "-c", `ulimit -n 160; exec "$@"`, "sh"}, append([]string{p.cmd.Path}, p.cmd.Args[1:]...)...)
	p.cmd.Path = "/bin/sh"
	p.start(t)
	p.serves(t)
	openToAll(t, p.Dir)
	holdSilent(t, p.Dir+"/publish", 250)
	test.Eventually(t, "there are silent clients", func() bool {
		open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
		return err == nil && len(open) > 20
	})
	time.Sleep(500 * time.Millisecond)
	source := brokertest.NewSource(t, p.Dir)
	for i := range uint64(5) {
		sink := brokertest.NewSink(t, p.Dir)
		brokertest.NewSubscriber(t, p.Dir)
		if err := source.Send(stamped(1, i, 100)); err != nil {
			t.Fatal(err)
		}
		receiveSeq(t, sink, 1, i, i+1)
	}
}

// holdSilent has another user keep n silent connections to a socket, new ones for those that are ended, until the test is over.
func holdSilent(t *testing.T, socket string, n int) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d", silentRole, socket, n))
	cmd.Dir, cmd.Stderr = "/", t.Output()
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: stranger, Gid: stranger}}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); cmd.Wait() })
}

// silentRole makes this program somebody who connects and says nothing.
const silentRole = "MSGMUX_SILENT"

// beSilent keeps COUNT connections to SOCKET until its input ends.
func beSilent(role string) int {
	var socket string
	var count int
	if _, err := fmt.Sscanf(role, "%s %d", &socket, &count); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for range count {
		go func() {
			for {
				conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: socket, Net: "unixpacket"})
				if err != nil {
					time.Sleep(10 * time.Millisecond)
					continue
				}
				conn.Read(make([]byte, 1024))
				conn.Close()
			}
		}()
	}
	os.Stdin.Read(make([]byte, 1))
	return 0
}

// hangingFolder mounts a file system on a folder that answers nothing until release is called, or the test is over.
func hangingFolder(t *testing.T, dir string) (release func()) {
	t.Helper()
	fuse, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("no file system can be made to hang: %v", err)
	}
	if err := unix.Mount("hanging", dir, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fuse)); err != nil {
		unix.Close(fuse)
		t.Skipf("no file system can be made to hang: %v", err)
	}
	open := true
	release = func() {
		if open {
			open = false
			unix.Close(fuse) // all that wait are answered ENOTCONN
			unix.Unmount(dir, unix.MNT_DETACH)
		}
	}
	t.Cleanup(release)
	return release
}

// TestPromise9_HangingFileSystem: the path of one connected static sink leads to a file system that hangs from now on. Others are
// found as before, and the broker ends when it is told to.
func TestPromise9_HangingFileSystem(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	for _, name := range []string{"/sound", "/hanging"} {
		if err := os.Mkdir(dir+name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	link := func(to, from string) {
		t.Helper()
		if err := os.Symlink(to, from+".new"); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(from+".new", from); err != nil {
			t.Fatal(err)
		}
	}
	link("sound", dir+"/way")
	b, closer := brokertest.Start(t), make(chan struct{})
	first := brokertest.NewSocket(t, b.Dir+"/first")
	link(b.Dir+"/first", dir+"/sound/first")
	link(dir+"/way/first", b.Dir+"/sinks/first")
	becomes(t, b, "first", "ready")
	release := hangingFolder(t, dir+"/hanging")
	link("hanging", dir+"/way")
	b.Channel.Rescan()
	time.Sleep(100 * time.Millisecond)

	second := brokertest.NewSocket(t, b.Dir+"/sinks/second")
	becomes(t, b, "second", "ready")
	if err := brokertest.NewSource(t, b.Dir).Send(stamped(1, 0, 100)); err != nil {
		t.Fatal(err)
	}
	receiveSeq(t, second, 1, 0, 1)
	receiveSeq(t, first, 1, 0, 1)
	go func() { defer close(closer); b.Stop() }()
	select {
	case <-closer:
	case <-time.After(brokertest.Within):
		t.Error("the broker has not ended")
		release()
		<-closer
	}
}

// TestStaticFolderRenamedAwayAndBack: it is the same folder, and watched as before.
func TestStaticFolderRenamedAwayAndBack(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t)
	brokertest.NewSocket(t, b.Dir+"/sinks/early")
	becomes(t, b, "early", "ready")
	for range 3 {
		for _, way := range [][2]string{{"/sinks", "/elsewhere"}, {"/elsewhere", "/sinks"}} {
			if err := os.Rename(b.Dir+way[0], b.Dir+way[1]); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(200 * time.Millisecond)
	}
	brokertest.NewSocket(t, b.Dir+"/sinks/late")
	becomes(t, b, "late", "ready")
}
