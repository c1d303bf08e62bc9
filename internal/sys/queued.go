// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"os"

	"golang.org/x/sys/unix"
)

// maxQueued bounds how many datagrams Queued counts, for a queue that is filled as fast as it is counted.
const maxQueued = 1 << 16

// Queued is how many datagrams lie in the queue of the datagram socket fd, and how many bytes they have. It takes none and does not
// block, but holds up for a moment who receives at the same time; what is received or sent meanwhile it may count or not. Of
// messages without bytes, those that were counted once are not counted again.
//
// The kernel has no number for that. So each datagram is peeked at, from the offset where the one before ends (SO_PEEK_OFF,
// socket(7)), which only who peeks has to do with.
func Queued(fd int) (messages, bytes uint64, err error) {
	defer unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEEK_OFF, -1)
	for messages < maxQueued {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEEK_OFF, int(bytes)); err != nil {
			return messages, bytes, os.NewSyscallError("setsockopt", err)
		}
		n, _, _, _, err := unix.Recvmsg(fd, nil, nil, unix.MSG_PEEK|unix.MSG_TRUNC|unix.MSG_DONTWAIT)
		switch err {
		case nil:
			messages++
			bytes += uint64(n)
		case unix.EAGAIN:
			return messages, bytes, nil
		case unix.EINTR:
		default:
			return messages, bytes, os.NewSyscallError("recvmsg", err)
		}
	}
	return messages, bytes, nil
}
