// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"
)

// ErrControl says that a control buffer does not hold what recvmsg(2) writes.
var ErrControl = errors.New("malformed control message")

// ControlSpace is the size in bytes of a control buffer in which everything fits that a sender can attach to one
// message: SCM_CREDENTIALS (32), SCM_RIGHTS with the 253 descriptors that the kernel allows (SCM_MAX_FD, 1032),
// SCM_PIDFD (24), and some 900 to spare for an SCM_SECURITY label and a timestamp, where a unit asked for them.
// Room matters: descriptors that do not fit are closed by the kernel inside recvmsg(2), and closing can take seconds.
const ControlSpace = 2048

// Credentials are those of the sender of a message, checked by the kernel (SCM_CREDENTIALS, unix(7)), as the
// namespaces of the receiver see them. PID 0: there are none, or the sender is outside the receiver's pid namespace.
type Credentials struct {
	PID      int32
	UID, GID uint32
}

// ParseControl reads the part of a control buffer that recvmsg(2) filled. The descriptors, attached by the sender or
// made by the kernel (SCM_PIDFD), are open and the caller's: see CloseDescriptors. They are returned even with an
// error, as are credentials: it tells only that what follows them in b could not be read. With none attached, nothing
// is allocated.
func ParseControl(b []byte) (creds Credentials, fds []int, err error) {
	e := binary.NativeEndian
	for len(b) > 0 {
		// x/sys/unix reads the header without looking whether it is there.
		if len(b) < unix.SizeofCmsghdr {
			return creds, fds, ErrControl
		}
		h, data, rest, err := unix.ParseOneSocketControlMessage(b)
		if err != nil {
			return creds, fds, ErrControl
		}
		b = rest
		if h.Level != unix.SOL_SOCKET {
			continue
		}
		switch h.Type {
		case unix.SCM_CREDENTIALS:
			if len(data) < unix.SizeofUcred { // cut off: the buffer was too small
				continue
			}
			creds = Credentials{PID: int32(e.Uint32(data)), UID: e.Uint32(data[4:]), GID: e.Uint32(data[8:])}
		case unix.SCM_RIGHTS, unix.SCM_PIDFD:
			for ; len(data) >= 4; data = data[4:] {
				// A pidfd that could not be made is a negative errno.
				if fd := int32(e.Uint32(data)); fd >= 0 {
					fds = append(fds, int(fd))
				}
			}
		}
	}
	return creds, fds, nil
}

// CloseDescriptors closes what a stranger attached to a message. It can take seconds, for each of them: a file on a
// network file system, a connection with lingering sockets in its queue. So it is for a goroutine of its own, never for
// one that others wait for. It cannot fail in a way that matters: close(2) frees the descriptor whatever it returns.
func CloseDescriptors(fds []int) {
	for _, fd := range fds {
		// A TCP socket that lingers would wait as long as its sender liked (SO_LINGER, socket(7)). To others this is an error.
		unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{})
		unix.Close(fd)
	}
}
