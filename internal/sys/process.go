// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// SinceBoot is how long the host has been up, suspended or not (CLOCK_BOOTTIME, clock_gettime(2)): the clock by which
// /proc/PID/stat says when a process began.
func SinceBoot() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) // there is no such clock before Linux 2.6.39
	return time.Duration(t.Nano())
}

// sigkill is the bit of SIGKILL in the sets of /proc/PID/status.
const sigkill = 1 << (9 - 1)

// Dying says whether a process was killed, or has ended, and is still there: one of its threads does not come back from the
// kernel, where nothing can end it. What it has locked stays locked. A process that cannot be seen is not known to.
func Dying(pid int) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	return err == nil && dying(status)
}

// dying reads /proc/PID/status (proc_pid_status(5)): a first thread that has ended, or a SIGKILL that is under way.
func dying(status []byte) bool {
	for line := range bytes.Lines(status) {
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimSpace(value)
		switch string(name) {
		case "State":
			if bytes.HasPrefix(value, []byte("Z")) || bytes.HasPrefix(value, []byte("X")) {
				return true
			}
		case "SigPnd", "ShdPnd":
			if set, err := strconv.ParseUint(string(value), 16, 64); err == nil && set&sigkill != 0 {
				return true
			}
		}
	}
	return false
}
