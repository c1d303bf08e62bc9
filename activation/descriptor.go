// SPDX-License-Identifier: Apache-2.0

package activation

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Kind is what the kernel says a descriptor is. Names are given by people, kinds are facts.
type Kind uint8

// The kinds that msgmux tells apart.
const (
	None              Kind = iota // no descriptor; the zero value
	Datagram                      // AF_UNIX SOCK_DGRAM, connected or not
	SeqpacketListener             // AF_UNIX SOCK_SEQPACKET that accepts connections
	SeqpacketConn                 // AF_UNIX SOCK_SEQPACKET that does not
	StreamListener                // SOCK_STREAM that accepts connections, AF_UNIX or IP
	MessageQueue                  // POSIX message queue, mq_overview(7)
	Memfd                         // regular file in shared memory that has no name, memfd_create(2)
	Other                         // anything else
)

var kindNames = [...]string{
	None:              "nothing",
	Datagram:          "datagram socket",
	SeqpacketListener: "listening seqpacket socket",
	SeqpacketConn:     "connected seqpacket socket",
	StreamListener:    "listening stream socket",
	MessageQueue:      "message queue",
	Memfd:             "memfd",
	Other:             "something else",
}

// String is the kind in words, for log lines.
func (k Kind) String() string {
	if int(k) >= len(kindNames) {
		return fmt.Sprintf("kind %d", uint8(k))
	}
	return kindNames[k]
}

// Descriptor is an open descriptor with the name it was given. Whoever holds the value owns the descriptor; nothing
// in this package closes one that it has handed out, unless it says so.
type Descriptor struct {
	Name string
	FD   int // -1 where there is none
	Kind Kind
}

// absent is the value of a place that nothing was given for. Its number is -1 because 0 is a real descriptor, which a
// careless close would hit.
var absent = Descriptor{FD: -1}

// Given says whether there is a descriptor at all.
func (d Descriptor) Given() bool { return d.Kind != None }

// mqueueMagic is the file system type of POSIX message queues (MQUEUE_MAGIC in the kernel's ipc/mqueue.c).
const mqueueMagic = 0x19800202

// Classify asks the kernel what fd is. It changes nothing about fd, needs no /proc, and fails only if fd is not open.
func Classify(fd int) (Kind, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return None, fmt.Errorf("cannot classify descriptor %d: %w", fd, os.NewSyscallError("fstat", err))
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFSOCK:
		return classifySocket(fd), nil
	case unix.S_IFREG:
		var fs unix.Statfs_t
		if unix.Fstatfs(fd, &fs) == nil && int64(fs.Type) == mqueueMagic {
			return MessageQueue, nil
		}
		// Only files in shared memory have seals, and a memfd never had a name. An unlinked file in /dev/shm looks the
		// same, and is the same to us.
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0); err == nil && st.Nlink == 0 {
			return Memfd, nil
		}
	}
	return Other, nil
}

func classifySocket(fd int) Kind {
	domain, err1 := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	typ, err2 := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	accepts, err3 := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if errors.Join(err1, err2, err3) != nil {
		return Other
	}
	local := domain == unix.AF_UNIX
	switch {
	case typ == unix.SOCK_DGRAM && local:
		return Datagram
	case typ == unix.SOCK_SEQPACKET && local && accepts != 0:
		return SeqpacketListener
	case typ == unix.SOCK_SEQPACKET && local:
		return SeqpacketConn
	case typ == unix.SOCK_STREAM && accepts != 0 && (local || domain == unix.AF_INET || domain == unix.AF_INET6):
		return StreamListener
	}
	return Other
}

// RefuseRights makes the kernel refuse descriptors that a peer would send to fd (SO_PASSRIGHTS=0): the peer gets EPERM.
// What a listening socket accepts inherits the setting. False, without an error, on kernels before 6.16: they cannot
// refuse, and the receiver has to close what comes.
func RefuseRights(fd int) (bool, error) {
	switch err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSRIGHTS, 0); err {
	case nil:
		return true, nil
	case unix.ENOPROTOOPT, unix.EOPNOTSUPP:
		return false, nil
	default:
		return false, fmt.Errorf("cannot refuse descriptors on descriptor %d: %w", fd, os.NewSyscallError("setsockopt", err))
	}
}
