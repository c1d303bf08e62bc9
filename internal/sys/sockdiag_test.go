// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/test"
)

func newDiag(tb testing.TB) *SockDiag {
	tb.Helper()
	d, err := NewSockDiag()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { d.Close() })
	return d
}

// bindDatagram binds a datagram socket to name.
func bindDatagram(tb testing.TB, name string) int {
	tb.Helper()
	fd := bindMortal(tb, name)
	tb.Cleanup(func() { unix.Close(fd) })
	return fd
}

// bindMortal is bindDatagram for one that the caller closes.
func bindMortal(tb testing.TB, name string) int {
	tb.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		tb.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: name}); err != nil {
		tb.Fatalf("bind %q: %v", name, err)
	}
	return fd
}

// abstractName is one that no other test process uses.
func abstractName(tb testing.TB, suffix string) string {
	return fmt.Sprintf("@mm-%d-%s-%s", os.Getpid(), strings.ReplaceAll(tb.Name(), "/", "-"), suffix)
}

func connectDatagram(tb testing.TB, name string) int {
	tb.Helper()
	fd, err := ConnectDatagram(name, 0)
	if err != nil {
		tb.Fatalf("connect to %q: %v", name, err)
	}
	tb.Cleanup(func() { unix.Close(fd) })
	return fd
}

func inodeOf(tb testing.TB, fd int) uint32 {
	tb.Helper()
	n, err := SocketInode(fd)
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

// TestLookup follows a connected socket to its peer and compares each field with what the process itself knows.
func TestLookup(t *testing.T) {
	d := newDiag(t)
	dir := test.Folder(t)
	for _, name := range []string{
		abstractName(t, "a"),
		"@" + strings.Repeat("n", 106),
		dir + "/s",
	} {
		sink := bindDatagram(t, name)
		fd := connectDatagram(t, name)
		own, err := d.LookupFD(fd)
		if err != nil {
			t.Fatal(err)
		}
		cookie, err := SocketCookie(fd)
		if err != nil {
			t.Fatal(err)
		}
		buffer := uint32(30_000)
		for _, end := range []int{fd, sink} {
			if err := unix.SetsockoptInt(end, unix.SOL_SOCKET, unix.SO_RCVBUF, int(buffer/2)); err != nil {
				t.Fatal(err)
			}
		}
		if own, err = d.LookupFD(fd); err != nil {
			t.Fatal(err)
		}
		if want := (UnixSocket{
			ReceiveBuffer: buffer,
			Inode:         inodeOf(t, fd), Cookie: cookie, Peer: inodeOf(t, sink),
			UID: uint32(os.Geteuid()), HasUID: true, Type: unix.SOCK_DGRAM, State: StateEstablished,
		}); own != want {
			t.Errorf("own end of %q\n got %+v\nwant %+v", name, own, want)
		}
		peer, err := d.Lookup(own.Peer)
		if err != nil {
			t.Fatal(err)
		}
		cookie, _ = SocketCookie(sink)
		if want := (UnixSocket{
			ReceiveBuffer: buffer,
			Inode:         inodeOf(t, sink), Cookie: cookie,
			UID: uint32(os.Geteuid()), HasUID: true, Type: unix.SOCK_DGRAM, State: StateEstablished, Name: name,
		}); peer != want {
			t.Errorf("peer\n got %+v\nwant %+v", peer, want)
		}
		if got, err := PeerName(fd); err != nil || got != name {
			t.Errorf("PeerName = %q, %v; want %q", got, err, name)
		}
	}
}

// TestLookupNoSocket: what is closed, never was, or is another socket under the same inode, is not found, and the next
// question is answered all the same.
func TestLookupNoSocket(t *testing.T) {
	d := newDiag(t)
	fd := bindMortal(t, abstractName(t, "a"))
	n := inodeOf(t, fd)
	cookie, err := SocketCookie(fd)
	if err != nil {
		t.Fatal(err)
	}
	if s, err := d.lookup(n, cookie); err != nil || s.Inode != n {
		t.Errorf("by inode and cookie: %+v, %v", s, err)
	}
	if s, err := d.lookup(n, cookie+1); !errors.Is(err, ErrNoSocket) {
		t.Errorf("by inode and another cookie: %+v, %v; want ErrNoSocket", s, err)
	}
	if s, err := d.Lookup(0); !errors.Is(err, ErrNoSocket) {
		t.Errorf("inode 0: %+v, %v; want ErrNoSocket", s, err)
	}
	unix.Close(fd)
	if s, err := d.Lookup(n); !errors.Is(err, ErrNoSocket) {
		t.Errorf("a closed socket: %+v, %v; want ErrNoSocket", s, err)
	}
	fd = bindDatagram(t, abstractName(t, "b"))
	if s, err := d.LookupFD(fd); err != nil || s.Inode != inodeOf(t, fd) {
		t.Errorf("afterwards: %+v, %v", s, err)
	}
}

// TestPeerOfDeadSocket: a peer that was closed is 0, whether or not the kernel has told the sender yet.
func TestPeerOfDeadSocket(t *testing.T) {
	d := newDiag(t)
	name := abstractName(t, "a")
	sink := bindMortal(t, name)
	fd := connectDatagram(t, name)
	unix.Close(sink)
	if s, err := d.LookupFD(fd); err != nil || s.Peer != 0 || s.State != StateEstablished {
		t.Errorf("idle: %+v, %v; want peer 0, established", s, err)
	}
	if _, err := unix.SendmsgN(fd, []byte("x"), nil, nil, unix.MSG_DONTWAIT); err != unix.ECONNREFUSED {
		t.Errorf("send: %v", err)
	}
	if s, err := d.LookupFD(fd); err != nil || s.Peer != 0 || s.State != StateClose {
		t.Errorf("after a refused send: %+v, %v; want peer 0, closed", s, err)
	}
}

// TestDump lists more sockets than fit in one part of an answer, stops early, and goes on asking.
func TestDump(t *testing.T) {
	const sockets = 400 // some 140 bytes each: two parts of 32 KiB
	d := newDiag(t)
	want := make(map[uint64]UnixSocket, sockets)
	for i := range sockets {
		name := abstractName(t, fmt.Sprintf("%d%s", i, strings.Repeat("x", 60)))
		fd := bindDatagram(t, name)
		cookie, err := SocketCookie(fd)
		if err != nil {
			t.Fatal(err)
		}
		want[cookie] = UnixSocket{
			Inode: inodeOf(t, fd), Cookie: cookie, UID: uint32(os.Geteuid()), HasUID: true,
			Type: unix.SOCK_DGRAM, State: StateClose, Name: name,
		}
	}
	visits := 0
	if err := d.Dump(AllStates, func(UnixSocket) bool { visits++; return visits < 3 }); err != nil {
		t.Fatal(err)
	}
	if visits != 3 {
		t.Errorf("%d visits after the third said that it is enough", visits)
	}
	if err := d.Dump(1<<StateEstablished, func(s UnixSocket) bool {
		if _, ok := want[s.Cookie]; ok || s.State != StateEstablished {
			t.Errorf("not asked for: %+v", s)
			return false
		}
		return true
	}); err != nil {
		t.Fatal(err)
	}
	if err := d.Dump(1<<StateClose, func(s UnixSocket) bool {
		if w, ok := want[s.Cookie]; ok {
			if s != w {
				t.Errorf("got %+v\nwant %+v", s, w)
			}
			delete(want, s.Cookie)
		}
		return true
	}); err != nil {
		t.Fatal(err)
	}
	if len(want) > 0 {
		t.Errorf("%d of %d sockets are missing", len(want), sockets)
	}
	if allocs := testing.AllocsPerRun(5, func() {
		d.DumpPeers(AllStates, func(UnixSocket) bool { return true })
	}); allocs > 0 {
		t.Errorf("DumpPeers allocates %v times", allocs)
	}
}

// TestStaleAnswer: an answer to an earlier question that nobody waited for is not taken for this one's.
func TestStaleAnswer(t *testing.T) {
	d := newDiag(t)
	a, b := bindDatagram(t, abstractName(t, "a")), bindDatagram(t, abstractName(t, "b"))
	q := question{inode: inodeOf(t, a), cookie: anyCookie, states: AllStates, show: showName}
	if _, err := unix.Write(d.fd, q.append(nil, d.seq)); err != nil {
		t.Fatal(err)
	}
	if s, err := d.Lookup(inodeOf(t, b)); err != nil || s.Inode != inodeOf(t, b) {
		t.Errorf("got %+v, %v; want inode %d", s, err, inodeOf(t, b))
	}
}

// TestForgedAnswer: no other process can answer in place of the kernel, not even root's.
func TestForgedAnswer(t *testing.T) {
	d := newDiag(t)
	sink := bindDatagram(t, abstractName(t, "a"))
	port, err := unix.Getsockname(d.fd)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	msg := make([]byte, unixDiagMsgSize)
	msg[0] = unix.AF_UNIX
	forged := netlinkMessage(d, unix.SOCK_DIAG_BY_FAMILY, 0, msg)
	// ECONNREFUSED by the socket; EPERM by the kernel when the sender is not root.
	if err := unix.Sendto(fd, forged, 0, port); err != unix.ECONNREFUSED && err != unix.EPERM {
		t.Errorf("sending an answer: %v", err)
	}
	if s, err := d.Lookup(inodeOf(t, sink)); err != nil || s.Inode != inodeOf(t, sink) {
		t.Errorf("got %+v, %v; want inode %d", s, err, inodeOf(t, sink))
	}
}

// netlinkMessage is one message as the kernel would write it, seq being that of the next question.
func netlinkMessage(d *SockDiag, kind, flags uint16, body []byte) []byte {
	e := binary.NativeEndian
	b := e.AppendUint32(nil, uint32(unix.NLMSG_HDRLEN+len(body)))
	b = e.AppendUint16(b, kind)
	b = e.AppendUint16(b, flags)
	b = e.AppendUint32(b, d.seq+1)
	b = e.AppendUint32(b, 0)
	return append(b, body...)
}

// script puts in place of the kernel a socket from which d reads these datagrams, for what the kernel does not do on
// demand. The socket is closed by d; the other end, on which the question arrives, with the test.
func script(t *testing.T, d *SockDiag, datagrams ...[]byte) (other int) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(pair[1]) })
	timeout := unix.Timeval{Usec: 10_000}
	if err := unix.SetsockoptTimeval(pair[0], unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		t.Fatal(err)
	}
	for _, b := range datagrams {
		if _, err := unix.Write(pair[1], b); err != nil {
			t.Fatal(err)
		}
	}
	d.Close()
	d.fd = pair[0]
	return pair[1]
}

// TestBrokenAnswers: whatever comes back instead of an answer is an error, and the next question is asked on a fresh
// socket, so nothing of the old conversation can be taken for an answer.
func TestBrokenAnswers(t *testing.T) {
	d := newDiag(t)
	sink := bindDatagram(t, abstractName(t, "a"))
	n := inodeOf(t, sink)
	msg := make([]byte, unixDiagMsgSize)
	msg[0] = unix.AF_UNIX
	code := func(e int32) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(-e)) }
	for _, test := range []struct {
		name   string
		answer []byte
		want   error
	}{
		{"no answer", nil, unix.EAGAIN},
		{"empty", []byte{}, errMalformed},
		{"shorter than a header", make([]byte, 15), errMalformed},
		{"longer than it is", append(binary.NativeEndian.AppendUint32(nil, 17), make([]byte, 12)...), errMalformed},
		{"length 0", make([]byte, 16), errMalformed},
		{"another family", netlinkMessage(d, unix.SOCK_DIAG_BY_FAMILY, 0, make([]byte, unixDiagMsgSize)), errMalformed},
		{"no body", netlinkMessage(d, unix.SOCK_DIAG_BY_FAMILY, 0, nil), errMalformed},
		{"attribute too long", netlinkMessage(d, unix.SOCK_DIAG_BY_FAMILY, 0, append(msg[:16:16], 9, 9, 0, 0)), errMalformed},
		{"attribute of length 0", netlinkMessage(d, unix.SOCK_DIAG_BY_FAMILY, 0, append(msg[:16:16], 0, 0, 0, 0)), errMalformed},
		{"refused", netlinkMessage(d, unix.NLMSG_ERROR, 0, code(int32(unix.EPERM))), unix.EPERM},
		{"end at once", netlinkMessage(d, unix.NLMSG_DONE, 0, code(0)), errMalformed},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.answer == nil {
				script(t, d)
			} else {
				// The sequence number of the moment, where there is one.
				if len(test.answer) >= 12 {
					binary.NativeEndian.PutUint32(test.answer[8:], d.seq+1)
				}
				script(t, d, test.answer)
			}
			fake := d.fd
			if s, err := d.Lookup(n); !errors.Is(err, test.want) {
				t.Errorf("got %+v, %v; want %v", s, err, test.want)
			}
			if kept := d.fd == fake; kept != (test.want == unix.EPERM || test.name == "end at once") {
				t.Errorf("the old socket was kept: %v", kept)
			}
			d.Close() // a proper answer does not close the one that played the kernel
			if s, err := d.Lookup(n); err != nil || s.Inode != n {
				t.Errorf("afterwards: %+v, %v", s, err)
			}
		})
	}
}

// TestLookupFDAsksByCookie: a descriptor's own socket is asked for by the number that never repeats. Two sockets of one
// inode cannot be made in a test, so the question itself is looked at.
func TestLookupFDAsksByCookie(t *testing.T) {
	d := newDiag(t)
	fd := bindDatagram(t, abstractName(t, "a"))
	cookie, err := SocketCookie(fd)
	if err != nil {
		t.Fatal(err)
	}
	kernel := script(t, d)
	if s, err := d.LookupFD(fd); err == nil {
		t.Fatalf("got %+v from nobody", s)
	}
	request := make([]byte, 64)
	n, err := unix.Read(kernel, request)
	if err != nil {
		t.Fatal(err)
	}
	want := question{family: unix.AF_UNIX, inode: inodeOf(t, fd), cookie: cookie, states: AllStates, show: showName | showPeer | showLens | showMem | showUID}
	if w := want.append(nil, d.seq); !bytes.Equal(request[:n], w) {
		t.Errorf("asked %x\nwant  %x", request[:n], w)
	}
}

// TestDumpInterrupted: a list that the kernel calls inconsistent is read again, and not for ever.
func TestDumpInterrupted(t *testing.T) {
	d := newDiag(t)
	socket := make([]byte, unixDiagMsgSize)
	socket[0] = unix.AF_UNIX
	round := func(flags uint16) []byte {
		b := netlinkMessage(d, unix.SOCK_DIAG_BY_FAMILY, flags, socket)
		b = append(b, netlinkMessage(d, unix.NLMSG_DONE, 0, make([]byte, 4))...)
		d.seq++
		return b
	}
	first := d.seq
	script(t, d, round(unix.NLM_F_DUMP_INTR), round(0))
	d.seq = first
	visits := 0
	visit := func(UnixSocket) bool { visits++; return true }
	if err := d.Dump(AllStates, visit); err != nil || visits != 2 {
		t.Errorf("%v after %d visits; want none after 2", err, visits)
	}

	var rounds [][]byte
	first = d.seq
	for range diagAttempts {
		rounds = append(rounds, round(unix.NLM_F_DUMP_INTR))
	}
	script(t, d, rounds...)
	d.seq = first
	if err := d.Dump(AllStates, visit); !errors.Is(err, errDumpInterrupted) {
		t.Errorf("got %v, want %v", err, errDumpInterrupted)
	}
}

// TestSocketInodeOfFile: the inode of something else would be looked up as that of a stranger's socket.
func TestSocketInodeOfFile(t *testing.T) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if n, err := SocketInode(int(f.Fd())); !errors.Is(err, unix.ENOTSOCK) {
		t.Errorf("got %d, %v; want ENOTSOCK", n, err)
	}
	if n, err := SocketInode(-1); !errors.Is(err, unix.EBADF) {
		t.Errorf("got %d, %v; want EBADF", n, err)
	}
	if s, err := newDiag(t).LookupFD(int(f.Fd())); err == nil {
		t.Errorf("LookupFD of a file found %+v", s)
	}
}

// TestConnectDatagram: the socket is close-on-exec, not O_NONBLOCK, and has the buffer that was asked for; an address
// that no socket can have is refused, and no refusal leaves a descriptor behind.
func TestConnectDatagram(t *testing.T) {
	name := abstractName(t, "a")
	bindDatagram(t, name)
	const sndbuf = 64 << 10 // under any wmem_max
	fd, err := ConnectDatagram(name, sndbuf)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if got, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF); err != nil || got != 2*sndbuf {
		t.Errorf("SO_SNDBUF = %d, %v; want %d", got, err, 2*sndbuf)
	}
	if got, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err != nil || got&unix.O_NONBLOCK != 0 {
		t.Errorf("F_GETFL = %#x, %v; want no O_NONBLOCK", got, err)
	}
	if got, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || got&unix.FD_CLOEXEC == 0 {
		t.Errorf("F_GETFD = %#x, %v; want FD_CLOEXEC", got, err)
	}
	before := countDescriptors(t)
	for name, want := range map[string]unix.Errno{
		"":                                unix.EINVAL,
		"@" + strings.Repeat("n", 108):    unix.EINVAL,
		"/" + strings.Repeat("n", 107):    unix.EINVAL,
		"/" + strings.Repeat("n", 106):    unix.ENOENT,
		"@" + strings.Repeat("n", 107):    unix.ECONNREFUSED,
		abstractName(t, "nobody is here"): unix.ECONNREFUSED,
	} {
		if fd, err := ConnectDatagram(name, sndbuf); !errors.Is(err, want) {
			t.Errorf("%q: %d, %v; want %v", name, fd, err, want)
		}
	}
	if after := countDescriptors(t); after != before {
		t.Errorf("%d descriptors are open, %d before", after, before)
	}
}

// openSockets opens n pairs of a bound socket and one connected to it, more than which no channel has.
func openSockets(b *testing.B, n int) (connected []int) {
	b.Helper()
	for i := range n {
		name := abstractName(b, fmt.Sprint(i))
		bindDatagram(b, name)
		connected = append(connected, connectDatagram(b, name))
	}
	return connected
}

// BenchmarkProof is the two questions that one registration costs, among the sockets of 4,000 sinks.
func BenchmarkProof(b *testing.B) {
	d := newDiag(b)
	fds := openSockets(b, 4000)
	for i := 0; b.Loop(); i++ {
		own, err := d.LookupFD(fds[i%len(fds)])
		if err != nil {
			b.Fatal(err)
		}
		if _, err := d.Lookup(own.Peer); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDump is one list with names and owners, among the sockets of 4,000 sinks.
func BenchmarkDump(b *testing.B) {
	d := newDiag(b)
	openSockets(b, 4000)
	b.ReportAllocs()
	for b.Loop() {
		if err := d.Dump(AllStates, func(UnixSocket) bool { return true }); err != nil {
			b.Fatal(err)
		}
	}
}

// TestNoDiag: a kernel that tells nothing about a family answers as if there were no such socket, and that is told apart.
func TestNoDiag(t *testing.T) {
	d, err := newSockDiag(unix.AF_APPLETALK)
	if !errors.Is(err, ErrNoDiag) {
		t.Errorf("%v, %v", d, err)
	}
}

// TestSent: a socket has sent something as long as nobody has read it.
func TestSent(t *testing.T) {
	d := newDiag(t)
	receiver := bindDatagram(t, abstractName(t, "receiver"))
	sender := connectDatagram(t, abstractName(t, "receiver"))
	sent := func() uint32 {
		t.Helper()
		s, err := d.LookupFD(sender)
		if err != nil {
			t.Fatal(err)
		}
		return s.Sent
	}
	if n := sent(); n != 0 {
		t.Errorf("%d bytes before", n)
	}
	if _, err := unix.Write(sender, nil); err != nil { // also one of no bytes
		t.Fatal(err)
	}
	if n := sent(); n == 0 {
		t.Error("nothing is sent")
	}
	unix.Read(receiver, make([]byte, 8))
	if n := sent(); n != 0 {
		t.Errorf("%d bytes behind", n)
	}
}
