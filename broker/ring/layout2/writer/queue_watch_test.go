// SPDX-License-Identifier: Apache-2.0

//go:build ring_watch

package writer

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
