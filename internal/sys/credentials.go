// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"encoding/binary"
	"errors"
	"os"
	"strconv"
	"strings"
	"sync"

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

// FindCredentials reads the sender's credentials from a control buffer, which may hold anything; a cheaper ParseControl for
// whoever looks at nothing else. ok is false if there are none, or if they say that nobody is known: of what was sent before the
// receiver had SO_PASSCRED the kernel gives pid 0, and ids that stand for those that have no mapping.
func FindCredentials(b []byte) (c Credentials, ok bool) {
	e := binary.NativeEndian
	for len(b) >= unix.SizeofCmsghdr {
		n, level, kind := e.Uint64(b), e.Uint32(b[8:]), e.Uint32(b[12:])
		if n < unix.SizeofCmsghdr || n > uint64(len(b)) {
			return c, false
		}
		if data := b[unix.SizeofCmsghdr:n]; level == unix.SOL_SOCKET && kind == unix.SCM_CREDENTIALS && len(data) >= unix.SizeofUcred {
			c = Credentials{PID: int32(e.Uint32(data)), UID: e.Uint32(data[4:]), GID: e.Uint32(data[8:])}
			none := overflowIDs()
			return c, c.PID != 0 || c.UID != none.UID || c.GID != none.GID
		}
		b = b[min(len(b), unix.CmsgSpace(int(n)-unix.SizeofCmsghdr)):]
	}
	return c, false
}

// CredentialsSpace is how much control data PutCredentials writes, in bytes.
const CredentialsSpace = 32

// PutCredentials writes to b, of CredentialsSpace bytes, the control data of a message that is to carry c, and not its sender's own.
// The kernel refuses the message (unix(7)) with ESRCH if there is no such process, with EPERM where LackedForCredentials has something, or a
// capability is not held in the user namespace that counts, and with EINVAL for ids that have no mapping.
func PutCredentials(b []byte, c Credentials) {
	e := binary.NativeEndian
	e.PutUint64(b, uint64(unix.SizeofCmsghdr+unix.SizeofUcred))
	e.PutUint32(b[8:], unix.SOL_SOCKET)
	e.PutUint32(b[12:], unix.SCM_CREDENTIALS)
	e.PutUint32(b[16:], uint32(c.PID))
	e.PutUint32(b[20:], c.UID)
	e.PutUint32(b[24:], c.GID)
	e.PutUint32(b[28:], 0)
}

// LackedForCredentials are the capabilities that this process has not in effect and that sending others' credentials takes.
func LackedForCredentials() (lacked []string) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var held [2]unix.CapUserData
	err := unix.Capget(&header, &held[0])
	for _, c := range []struct {
		name string
		bit  int
	}{{"CAP_SYS_ADMIN", unix.CAP_SYS_ADMIN}, {"CAP_SETUID", unix.CAP_SETUID}, {"CAP_SETGID", unix.CAP_SETGID}} {
		if err != nil || held[0].Effective&(1<<c.bit) == 0 {
			lacked = append(lacked, c.name)
		}
	}
	return lacked
}

// overflowIDs are what stands for ids that have no mapping (proc_sys_kernel(5)).
var overflowIDs = sync.OnceValue(func() Credentials {
	read := func(name string) uint32 {
		b, err := os.ReadFile("/proc/sys/kernel/" + name)
		if n, bad := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 32); err == nil && bad == nil {
			return uint32(n)
		}
		return 65534
	}
	return Credentials{UID: read("overflowuid"), GID: read("overflowgid")}
})

// PassCredentials says whether the kernel attaches its sender's credentials to whatever is sent to the socket fd from now on
// (SO_PASSCRED, unix(7)).
func PassCredentials(fd int, yes bool) {
	n := 0
	if yes {
		n = 1
	}
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, n)
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
