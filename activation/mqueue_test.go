// SPDX-License-Identifier: Apache-2.0

package activation_test

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/need"
)

// messageQueue opens a new POSIX queue for reading, as a socket unit with ListenMessageQueue= does, and unlinks it.
// Skips where it can have none.
func messageQueue(t *testing.T) int {
	t.Helper()
	// A file made in the queues' file system is a queue, mq_overview(7). It need not be mounted anywhere, if we are root.
	folder, err := queueFolder()
	if err != nil {
		if folder, err = unix.Open("/dev/mqueue", unix.O_PATH|unix.O_CLOEXEC, 0); err != nil {
			need.Lacking(t, "unit", "cannot get at message queues: %v", err)
		}
	}
	defer unix.Close(folder)
	name := fmt.Sprintf("mm-activation-%d", os.Getpid())
	fd, err := unix.Openat(folder, name, unix.O_RDONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		need.Lacking(t, "unit", "cannot make a message queue: %v", err)
	}
	unix.Unlinkat(folder, name, 0)
	return own(t, fd, nil)
}

func queueFolder() (int, error) {
	fs, err := unix.Fsopen("mqueue", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, err
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
}
