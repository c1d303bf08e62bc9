// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"fmt"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/sys"
)

// openQueue makes a message queue that goes with the test.
func openQueue(t *testing.T, which string) int {
	t.Helper()
	name := fmt.Sprintf("msgmux-test-%d-%s\x00", unix.Getpid(), which)
	attr := sys.QueueAttributes{MaxMessages: 8, MessageSize: 1024}
	fd, _, e := unix.Syscall6(unix.SYS_MQ_OPEN, uintptr(unsafe.Pointer(unsafe.StringData(name))), unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o600, uintptr(unsafe.Pointer(&attr)), 0, 0)
	if e != 0 {
		t.Fatal(e)
	}
	t.Cleanup(func() {
		unix.Syscall(unix.SYS_MQ_UNLINK, uintptr(unsafe.Pointer(unsafe.StringData(name))), 0, 0)
		unix.Close(int(fd))
	})
	return int(fd)
}

func TestQueueIsSourceAndSink(t *testing.T) {
	g := newRig(t, small())
	in, out := openQueue(t, "in"), openQueue(t, "out")
	s := g.add(wish{Kind: Static, Label: "q"}, false)
	s.Queue(true)
	var k sys.Kernel
	if n, errno := g.r.Receive(in, Queues, From{}, 64); n != 0 || errno != unix.EAGAIN {
		t.Fatalf("empty queue: %d %v", n, errno)
	}
	for round := range 3 {
		for i := range 8 {
			if errno := k.QueueSend("", in, fmt.Appendf(nil, "%d/%d", round, i)); errno != 0 {
				t.Fatal(errno)
			}
		}
		if n, errno := g.r.Receive(in, Queues, From{}, 64); n != 8 || errno != 0 {
			t.Fatalf("took %d: %v", n, errno)
		}
		if o := g.r.Append(); o.Entered != 8 {
			t.Fatalf("%+v", o)
		}
		if n, errno := g.r.Send(s, out); n != 8 || errno != 0 {
			t.Fatalf("gave %d: %v", n, errno)
		}
		buf, prio := make([]byte, 1024), uint32(0)
		for i := range 8 {
			n, errno := k.QueueReceive("", out, buf, &prio)
			if want := fmt.Sprintf("%d/%d", round, i); errno != 0 || string(buf[:n]) != want {
				t.Fatalf("%q instead of %q: %v", buf[:n], want, errno)
			}
		}
	}
	if n := g.r.totals().Uncertain; n != 0 {
		t.Fatalf("%d uncertain", n)
	}
}
