// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"

	"golang.org/x/sys/unix"
)

// ErrNoSocket says that the network namespace has no such AF_UNIX socket: it is closed, or in another namespace.
var ErrNoSocket = errors.New("no such socket in this network namespace")

// ErrNoDiag says that this kernel tells nothing about AF_UNIX sockets (no CONFIG_UNIX_DIAG, or its module is not there), or
// that this process may not ask (no AF_NETLINK). It answers as if there were no such socket.
var ErrNoDiag = errors.New("the kernel tells nothing about unix sockets")

// errDumpInterrupted says that the kernel could not give a consistent list in several attempts.
var errDumpInterrupted = errors.New("the list changed while it was read")

// errMalformed says that an answer of the kernel breaks the format of netlink(7).
var errMalformed = errors.New("malformed netlink message")

// States of an AF_UNIX socket, the kernel's TCP_ numbers. A datagram socket is established as soon as it is connected
// or somebody has connected to it.
const (
	StateEstablished = 1
	StateClose       = 7
	StateListen      = 10

	// AllStates asks Dump for every socket. A narrower question is the sum of 1<<State.
	AllStates uint32 = math.MaxUint32
)

// What unix_diag_req and unix_diag_msg of linux/unix_diag.h consist of; x/sys/unix has no names for it.
const (
	unixDiagReqSize = 24
	unixDiagMsgSize = 16

	showName = 0x01 // UDIAG_SHOW_NAME
	showFile = 0x02 // UDIAG_SHOW_VFS
	showPeer = 0x04 // UDIAG_SHOW_PEER
	showLens = 0x10 // UDIAG_SHOW_RQLEN
	showMem  = 0x20 // UDIAG_SHOW_MEMINFO
	showUID  = 0x40 // UDIAG_SHOW_UID, Linux 5.3

	attrName = 0 // UNIX_DIAG_NAME: sun_path as it was bound
	attrFile = 1 // UNIX_DIAG_VFS: u32 inode, u32 device of the file that it is bound to
	attrPeer = 2 // UNIX_DIAG_PEER: u32, the peer's inode
	attrLens = 4 // UNIX_DIAG_RQLEN: two u32, what lies in its own queue and what it sent
	attrMem  = 5 // UNIX_DIAG_MEMINFO: u32 each, the second the size of its receive buffer
	attrUID  = 7 // UNIX_DIAG_UID: u32

	anyCookie uint64 = math.MaxUint64 // INET_DIAG_NOCOOKIE, twice
)

const (
	// The kernel answers within send(2), or fills the next part of a dump within recv(2), so this never passes. It
	// is here so that whatever breaks that rule costs one question and not the goroutine.
	diagTimeoutSeconds = 2
	// A dump comes in parts of at most 32 KiB (af_netlink.c, netlink_dump).
	diagBuffer = 32 << 10
	// How often Dump begins again when the kernel says NLM_F_DUMP_INTR.
	diagAttempts = 5
)

// UnixSocket is what the kernel tells about one AF_UNIX socket.
type UnixSocket struct {
	// Inode is what fstat(2) shows as st_ino. It is unique among open sockets only in practice: the kernel's counter
	// has 32 bits, and somebody with an hour to spare can make it go round.
	Inode uint32
	// Cookie is the kernel's number of the socket, as SO_COOKIE: never used twice before a reboot.
	Cookie uint64
	// Peer is the inode of the socket at the other end. 0: not connected, or what it was connected to is closed.
	Peer uint32
	// UID is the user who created the socket, or to whom root gave it with fchown(2), as the user namespace of the
	// asking socket sees it: the overflow uid stands for everybody who has no number there. HasUID is false on
	// kernels before 5.3.
	UID    uint32
	HasUID bool
	// File is the inode number, as far as 32 bits go, of the file that the socket is bound to, whatever that is called by now; 0:
	// none. Device is the file system's number, as the kernel writes it for itself. Only Named and Dump tell.
	File, Device uint32
	// Sent is how many bytes, with the kernel's own overhead, the socket has sent that nobody has read yet. Only a lookup and DumpPeers tell.
	Sent uint32
	// ReceiveBuffer is its SO_RCVBUF in bytes. Only a lookup tells.
	ReceiveBuffer uint32
	Type          int   // unix.SOCK_DGRAM, SOCK_STREAM, SOCK_SEQPACKET
	State         uint8 // StateEstablished, StateClose, StateListen
	// Name is the address the socket is bound to, as its owner wrote it, which need not be how anybody else finds it:
	// "@name" abstract, a path (perhaps relative), "" when not bound. It can hold any byte.
	Name string
}

// SockDiag asks the kernel about the AF_UNIX sockets of the network namespace in which it was opened
// (NETLINK_SOCK_DIAG, sock_diag(7)). It needs no privilege, but address family AF_NETLINK must not be forbidden.
//
// It is for one goroutine at a time. No call waits for anything but the kernel's own locks.
type SockDiag struct {
	family uint8 // AF_UNIX
	fd     int   // -1 after a failure: the next question opens another, as nobody knows what is still to come on the old
	seq    uint32
	buf    []byte
}

// NewSockDiag opens a sock_diag socket, and sees that it answers: the error wraps [ErrNoDiag] if it never will. The caller
// closes it.
func NewSockDiag() (*SockDiag, error) { return newSockDiag(unix.AF_UNIX) }

func newSockDiag(family uint8) (*SockDiag, error) {
	d := &SockDiag{family: family, fd: -1, buf: make([]byte, diagBuffer)}
	err := d.open()
	if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EAFNOSUPPORT) {
		err = errors.Join(ErrNoDiag, err)
	}
	if err == nil {
		err = d.try()
	}
	if err != nil {
		d.Close()
		return nil, fmt.Errorf("cannot open a sock_diag socket: %w", err)
	}
	return d, nil
}

// try asks about a socket that there is.
func (d *SockDiag) try() error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	if _, err := d.LookupFD(fd); errors.Is(err, ErrNoSocket) {
		return ErrNoDiag
	} else if err != nil {
		return err
	}
	return nil
}

func (d *SockDiag) open() error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	// Connected to port 0, the socket takes messages from the kernel only: another process cannot make up answers.
	if err := unix.Connect(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		unix.Close(fd)
		return os.NewSyscallError("connect", err)
	}
	timeout := unix.Timeval{Sec: diagTimeoutSeconds}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		unix.Close(fd)
		return os.NewSyscallError("setsockopt", err)
	}
	d.fd = fd
	return nil
}

// Close closes the socket. The SockDiag must not be used afterwards.
func (d *SockDiag) Close() error {
	if d.fd < 0 {
		return nil
	}
	fd := d.fd
	d.fd = -1
	return unix.Close(fd)
}

// Lookup tells about the socket with this inode, or returns ErrNoSocket. The kernel walks its list of all sockets of
// the namespace: some 50 us among 8,000 of them.
func (d *SockDiag) Lookup(inode uint32) (UnixSocket, error) {
	return d.lookup(inode, anyCookie)
}

// LookupFD tells about the socket behind fd, and about no other that happens to have the same inode. It returns
// ErrNoSocket when fd belongs to another network namespace.
func (d *SockDiag) LookupFD(fd int) (UnixSocket, error) {
	inode, err := SocketInode(fd)
	if err != nil {
		return UnixSocket{}, err
	}
	cookie, err := SocketCookie(fd)
	if err != nil {
		return UnixSocket{}, err
	}
	return d.lookup(inode, cookie)
}

func (d *SockDiag) lookup(inode uint32, cookie uint64) (UnixSocket, error) {
	var s UnixSocket
	if inode == 0 { // the kernel says EINVAL to it
		return s, ErrNoSocket
	}
	q := question{family: d.family, inode: inode, cookie: cookie, states: AllStates, show: showName | showPeer | showLens | showMem | showUID}
	found := false
	err := d.ask(q, func(got UnixSocket) bool {
		s, found = got, true
		return false
	})
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ESTALE): // ESTALE: only one with another cookie
		return s, ErrNoSocket
	case err != nil:
		return s, fmt.Errorf("cannot look up socket %d: %w", inode, err)
	case !found:
		return s, fmt.Errorf("cannot look up socket %d: %w", inode, errMalformed)
	}
	return s, nil
}

// Dump calls visit for the sockets of the namespace that are in one of states (a sum of 1<<State, or AllStates), until
// it returns false. The list is not a snapshot: a socket may be missing, or come twice, while others come and go. So
// to have seen a socket proves something, not to have seen it proves nothing. 8,000 sockets take some 4 ms.
func (d *SockDiag) Dump(states uint32, visit func(UnixSocket) bool) error {
	return d.dump(question{family: d.family, dump: true, cookie: anyCookie, states: states, show: showName | showFile | showPeer | showUID}, visit)
}

// Named is Dump for the sockets that are bound to a file and were called name then.
func (d *SockDiag) Named(name string, visit func(UnixSocket) bool) error {
	return d.dump(question{family: d.family, dump: true, cookie: anyCookie, states: AllStates, show: showName | showFile | showUID}, func(s UnixSocket) bool {
		return s.Name != name || s.File == 0 || visit(s)
	})
}

// SocketFile is the file that a socket is bound to, as the kernel tells of it (UNIX_DIAG_VFS).
type SocketFile struct{ Inode, Device uint32 }

// BoundFile is the file that the socket is bound to, whatever it was called then. The zero value: none, or nobody has told.
func (s UnixSocket) BoundFile() SocketFile { return SocketFile{s.File, s.Device} }

// SocketFileAt is what BoundFile tells of the socket that lies at a path by now; false if none does. It may block as stat(2) does.
// Some file systems have other numbers for the kernel than for programs.
func SocketFileAt(path string) (SocketFile, bool) {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return SocketFile{}, false
	}
	return SocketFile{uint32(st.Ino), unix.Major(st.Dev)<<20 | unix.Minor(st.Dev)}, true // MKDEV of the kernel
}

// DumpPeers is Dump without UID and Name, and with Sent, which is looked at after Peer. It allocates nothing.
func (d *SockDiag) DumpPeers(states uint32, visit func(UnixSocket) bool) error {
	return d.dump(question{family: d.family, dump: true, cookie: anyCookie, states: states, show: showPeer | showLens}, visit)
}

func (d *SockDiag) dump(q question, visit func(UnixSocket) bool) error {
	var err error
	for range diagAttempts {
		if err = d.ask(q, visit); !errors.Is(err, errDumpInterrupted) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("cannot list the sockets: %w", err)
	}
	return nil
}

// question is one request: nlmsghdr and unix_diag_req.
type question struct {
	family uint8
	dump   bool
	inode  uint32
	cookie uint64
	states uint32
	show   uint32
}

func (q question) append(b []byte, seq uint32) []byte {
	flags := uint16(unix.NLM_F_REQUEST)
	if q.dump {
		flags |= unix.NLM_F_DUMP
	}
	e := binary.NativeEndian
	b = e.AppendUint32(b, unix.NLMSG_HDRLEN+unixDiagReqSize)
	b = e.AppendUint16(b, unix.SOCK_DIAG_BY_FAMILY)
	b = e.AppendUint16(b, flags)
	b = e.AppendUint32(b, seq)
	b = e.AppendUint32(b, 0) // port: the kernel fills in ours
	b = append(b, q.family, 0, 0, 0)
	b = e.AppendUint32(b, q.states)
	b = e.AppendUint32(b, q.inode)
	b = e.AppendUint32(b, q.show)
	b = e.AppendUint32(b, uint32(q.cookie)) // two words, the lower first (sock_diag_save_cookie)
	return e.AppendUint32(b, uint32(q.cookie>>32))
}

// ask sends q and hands what the kernel answers to visit. An errno in the answer is returned as it is; after any other
// failure the socket is closed.
func (d *SockDiag) ask(q question, visit func(UnixSocket) bool) error {
	if d.fd < 0 {
		if err := d.open(); err != nil {
			return err
		}
	}
	d.seq++
	answer, err := d.exchange(q, visit)
	switch {
	case errors.Is(err, errDumpInterrupted): // the answer was read to its end
		return err
	case err != nil:
		d.Close()
		return err
	case answer != 0:
		return answer
	}
	return nil
}

// exchange returns the errno that the kernel answered with, or how sending and receiving failed.
func (d *SockDiag) exchange(q question, visit func(UnixSocket) bool) (unix.Errno, error) {
	request := q.append(d.buf[:0], d.seq) // the kernel has read it before the answer is read into the same place
	if _, err := retry(func() (int, error) { return unix.Write(d.fd, request) }); err != nil {
		return 0, os.NewSyscallError("send", err)
	}
	wanted, interrupted := true, false
	for {
		n, err := retry(func() (int, error) { return unix.Read(d.fd, d.buf) })
		if err != nil {
			return 0, os.NewSyscallError("recv", err)
		}
		b := d.buf[:n]
		if n == 0 {
			return 0, errMalformed
		}
		for len(b) > 0 {
			m, rest, ok := cutMessage(b)
			if !ok {
				return 0, errMalformed
			}
			b = rest
			if m.seq != d.seq {
				continue
			}
			interrupted = interrupted || m.flags&unix.NLM_F_DUMP_INTR != 0
			switch m.kind {
			case unix.NLMSG_ERROR, unix.NLMSG_DONE:
				if len(m.body) >= 4 {
					if code := int32(binary.NativeEndian.Uint32(m.body)); code < 0 {
						return unix.Errno(-code), nil
					}
				}
				if interrupted {
					return 0, errDumpInterrupted
				}
				return 0, nil
			case unix.SOCK_DIAG_BY_FAMILY:
				s, ok := parseUnixSocket(m.body)
				if !ok {
					return 0, errMalformed
				}
				// A dump that nobody wants any more is read to its end all the same: until then the kernel refuses
				// the next one with EBUSY.
				wanted = wanted && visit(s)
				if !q.dump {
					return 0, nil
				}
			}
		}
	}
}

// retry repeats a call that a signal interrupted; the Go runtime sends itself some.
func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if err != unix.EINTR {
			return n, err
		}
	}
}

// message is one netlink message; body points into the receive buffer.
type message struct {
	kind, flags uint16
	seq         uint32
	body        []byte
}

// cutMessage takes the first message off b.
func cutMessage(b []byte) (m message, rest []byte, ok bool) {
	if len(b) < unix.NLMSG_HDRLEN {
		return m, nil, false
	}
	size := uint64(binary.NativeEndian.Uint32(b))
	if size < unix.NLMSG_HDRLEN || size > uint64(len(b)) {
		return m, nil, false
	}
	m.kind = binary.NativeEndian.Uint16(b[4:])
	m.flags = binary.NativeEndian.Uint16(b[6:])
	m.seq = binary.NativeEndian.Uint32(b[8:])
	m.body = b[unix.NLMSG_HDRLEN:size]
	return m, b[min(align4(int(size)), len(b)):], true
}

// parseUnixSocket reads a unix_diag_msg and its attributes.
func parseUnixSocket(b []byte) (s UnixSocket, ok bool) {
	if len(b) < unixDiagMsgSize || b[0] != unix.AF_UNIX {
		return s, false
	}
	e := binary.NativeEndian
	s.Type, s.State = int(b[1]), b[2]
	s.Inode = e.Uint32(b[4:])
	s.Cookie = uint64(e.Uint32(b[8:])) | uint64(e.Uint32(b[12:]))<<32
	for b = b[unixDiagMsgSize:]; len(b) >= unix.SizeofNlAttr; {
		size := int(e.Uint16(b))
		if size < unix.SizeofNlAttr || size > len(b) {
			return s, false
		}
		value := b[unix.SizeofNlAttr:size]
		switch e.Uint16(b[2:]) {
		case attrName:
			s.Name = socketName(value)
		case attrFile:
			if len(value) >= 8 {
				s.File, s.Device = e.Uint32(value), e.Uint32(value[4:])
			}
		case attrPeer:
			if len(value) >= 4 {
				s.Peer = e.Uint32(value)
			}
		case attrLens:
			if len(value) >= 8 {
				s.Sent = e.Uint32(value[4:])
			}
		case attrMem:
			if len(value) >= 8 {
				s.ReceiveBuffer = e.Uint32(value[4:])
			}
		case attrUID:
			if len(value) >= 4 {
				s.UID, s.HasUID = e.Uint32(value), true
			}
		}
		b = b[min(align4(size), len(b)):]
	}
	return s, true
}

// socketName turns sun_path into the text form: abstract names begin with a NUL, paths end with one.
func socketName(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	if b[0] == 0 {
		return "@" + string(b[1:])
	}
	if last := len(b) - 1; b[last] == 0 {
		b = b[:last]
	}
	return string(b)
}

func align4(n int) int { return (n + 3) &^ 3 }

// SocketInode returns the inode of the socket behind fd.
func SocketInode(fd int) (uint32, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, fmt.Errorf("cannot read the inode of descriptor %d: %w", fd, os.NewSyscallError("fstat", err))
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return 0, fmt.Errorf("cannot read the inode of descriptor %d: %w", fd, unix.ENOTSOCK)
	}
	return uint32(st.Ino), nil // get_next_ino of the kernel counts in 32 bits
}

// SocketCookie returns the kernel's number of the socket behind fd (SO_COOKIE, Linux 4.12). Unlike an inode it is never
// used twice before a reboot, and every process that has the socket sees the same.
func SocketCookie(fd int) (uint64, error) {
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		return 0, fmt.Errorf("cannot read the cookie of descriptor %d: %w", fd, os.NewSyscallError("getsockopt", err))
	}
	return cookie, nil
}
