// SPDX-License-Identifier: Apache-2.0

package owner

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/test"
	"github.com/msgmux/msgmux/internal/wire"
)

// stranger is the uid of the other user in these tests: one that no account has.
const stranger = 65533

// me are the credentials of this process, as they would come with a datagram.
func me() sys.Credentials {
	return sys.Credentials{PID: int32(os.Getpid()), UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}
}

// ordinary is somebody who is not root and owns what uid owns.
func ordinary(uid uint32) sys.Credentials { return sys.Credentials{PID: 1, UID: uid, GID: uid} }

func address(tb testing.TB, name string) wire.Address {
	tb.Helper()
	a, err := wire.ParseAddress(name)
	if err != nil {
		tb.Fatal(err)
	}
	return a
}

// ownAbstract is an abstract name that no other test process uses.
func ownAbstract(tb testing.TB, suffix string) string {
	return fmt.Sprintf("@mm-%d-%s-%s", os.Getpid(), strings.ReplaceAll(tb.Name(), "/", "-"), suffix)
}

// sharedDir is a folder in which every user may bind sockets; its path is short enough for that.
func sharedDir(tb testing.TB) string {
	tb.Helper()
	dir := test.Folder(tb)
	if err := os.Chmod(dir, 0o777); err != nil {
		tb.Fatal(err)
	}
	return dir
}

// bindSocket binds a socket of this process to name, which everybody may write to.
func bindSocket(tb testing.TB, kind int, name string) int {
	tb.Helper()
	fd := bindMortal(tb, kind, name)
	tb.Cleanup(func() { unix.Close(fd) })
	return fd
}

// bindMortal is bindSocket for one that the caller closes.
func bindMortal(tb testing.TB, kind int, name string) int {
	tb.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		tb.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: name}); err != nil {
		tb.Fatalf("bind %q: %v", name, err)
	}
	if name[0] == '/' {
		if err := os.Chmod(name, 0o777); err != nil {
			tb.Fatal(err)
		}
	}
	return fd
}

// registerSocket is a datagram socket bound to name that tells who sends to it.
func registerSocket(tb testing.TB, name string) int {
	tb.Helper()
	fd := bindSocket(tb, unix.SOCK_DGRAM, name)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		tb.Fatal(err)
	}
	return fd
}

// receiveRegistration takes the datagram that is waiting on fd, from whom it says it is and who that was.
func receiveRegistration(tb testing.TB, fd int) (wire.Address, sys.Credentials) {
	tb.Helper()
	control := make([]byte, sys.ControlSpace)
	_, n, _, from, err := unix.Recvmsg(fd, make([]byte, 64), control, unix.MSG_DONTWAIT)
	if err != nil {
		tb.Fatal(err)
	}
	creds, fds, err := sys.ParseControl(control[:n])
	if err != nil || len(fds) > 0 {
		tb.Fatalf("control buffer: %v, %v", fds, err)
	}
	return address(tb, from.(*unix.SockaddrUnix).Name), creds
}

func ownershipProver(tb testing.TB, receiving ...int) *Prover {
	tb.Helper()
	p, err := New(Config{Receiving: receiving})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { p.Close() })
	return p
}

func socketInode(tb testing.TB, fd int) uint32 {
	tb.Helper()
	n, err := sys.SocketInode(fd)
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

// descriptors counts what this process has open.
func descriptors(tb testing.TB) int {
	tb.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		tb.Fatal(err)
	}
	return len(entries)
}

// mustJoin joins and checks who is at the other end.
func mustJoin(t *testing.T, p *Prover, name string, sender sys.Credentials, inode, uid uint32) Proven {
	t.Helper()
	got, refusal := p.Join(address(t, name), sender, 64<<10, sender.UID == 0)
	if refusal != nil {
		t.Fatalf("join %q: %v", name, refusal)
	}
	t.Cleanup(func() { unix.Close(got.FD) })
	if got.Inode != inode || got.UID != uid {
		t.Errorf("join %q: inode %d of uid %d; want inode %d of uid %d", name, got.Inode, got.UID, inode, uid)
	}
	cookie, err := sys.SocketCookie(got.FD)
	if err != nil || got.Cookie != cookie {
		t.Errorf("join %q: cookie %d; want %d, %v", name, got.Cookie, cookie, err)
	}
	return got
}

// mustRefuse joins, and wants a refusal with this code whose text has these words and which leaves no descriptor behind.
func mustRefuse(t *testing.T, p *Prover, name string, sender sys.Credentials, code string, words ...string) {
	t.Helper()
	before := descriptors(t)
	got, refusal := p.Join(address(t, name), sender, 64<<10, sender.UID == 0)
	if refusal == nil {
		unix.Close(got.FD)
		t.Errorf("join %q for uid %d: inode %d of uid %d; want %s", name, sender.UID, got.Inode, got.UID, code)
		return
	}
	checkRefusal(t, refusal, code, words...)
	if after := descriptors(t); after != before {
		t.Errorf("join %q: %d descriptors are open, %d before", name, after, before)
	}
}

func checkRefusal(t *testing.T, refusal *wire.Error, code string, words ...string) {
	t.Helper()
	if refusal == nil {
		t.Errorf("no refusal; want %s", code)
		return
	}
	if refusal.Code != code {
		t.Errorf("refused: %v; want code %s", refusal, code)
	}
	for _, w := range words {
		if !strings.Contains(refusal.Text, w) {
			t.Errorf("refused: %q; want in it %q", refusal.Text, w)
		}
	}
	if strings.ContainsAny(refusal.Text, "\n\x00\x1b") {
		t.Errorf("refused: %q; want one clean line", refusal.Text)
	}
}

// nonblocking makes fd one, for a last look at what did not arrive.
func nonblocking(t *testing.T, fd int) int {
	t.Helper()
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	return fd
}
