// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"os"

	"golang.org/x/sys/unix"
)

// Close closes a descriptor. The number is free afterwards whatever the outcome (close(2)), so there is nothing to
// tell.
func Close(fd int) { unix.Close(fd) }

// OutQueue is how many bytes sent through fd its peer has not read yet, with the kernel's own overhead (SIOCOUTQ,
// unix(7)); 0 means that it has read everything.
func OutQueue(fd int) (int, error) {
	n, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ)
	return n, os.NewSyscallError("ioctl", err)
}

// SendBuffer is what the send buffer of fd comes to, in bytes as the kernel counts them: twice what was asked for, or
// twice net.core.wmem_max. The largest message is 32 bytes less.
func SendBuffer(fd int) (int, error) {
	n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF)
	return n, os.NewSyscallError("getsockopt", err)
}
