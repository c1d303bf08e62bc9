// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/broker/sys"
	"github.com/msgmux/msgmux/broker/wire"
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
	dir, err := os.MkdirTemp("", "mm")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
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

func ownershipProver(tb testing.TB, receiving ...int) *prover {
	tb.Helper()
	p, err := newProver(receiving)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { p.close() })
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
func mustJoin(t *testing.T, p *prover, name string, sender sys.Credentials, inode, uid uint32) proven {
	t.Helper()
	got, refusal := p.join(address(t, name), sender, 64<<10)
	if refusal != nil {
		t.Fatalf("join %q: %v", name, refusal)
	}
	t.Cleanup(func() { unix.Close(got.fd) })
	if got.inode != inode || got.uid != uid {
		t.Errorf("join %q: inode %d of uid %d; want inode %d of uid %d", name, got.inode, got.uid, inode, uid)
	}
	cookie, err := sys.SocketCookie(got.fd)
	if err != nil || got.cookie != cookie {
		t.Errorf("join %q: cookie %d; want %d, %v", name, got.cookie, cookie, err)
	}
	return got
}

// mustRefuse joins, and wants a refusal with this code whose text has these words and which leaves no descriptor behind.
func mustRefuse(t *testing.T, p *prover, name string, sender sys.Credentials, code string, words ...string) {
	t.Helper()
	before := descriptors(t)
	got, refusal := p.join(address(t, name), sender, 64<<10)
	if refusal == nil {
		unix.Close(got.fd)
		t.Errorf("join %q for uid %d: inode %d of uid %d; want %s", name, sender.UID, got.inode, got.uid, code)
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

// TestPromise8_OwnSocket: what is one's own is joined, by abstract name, by path and through a symbolic link, and
// carries messages.
func TestPromise8_OwnSocket(t *testing.T) {
	p := ownershipProver(t)
	dir := sharedDir(t)
	if err := os.Symlink(dir+"/s", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	abstract, path := ownAbstract(t, "a"), dir+"/s"
	long := "@" + strings.Repeat("n", 106)
	sinks := map[string]int{
		abstract: bindSocket(t, unix.SOCK_DGRAM, abstract),
		path:     bindSocket(t, unix.SOCK_DGRAM, path),
		long:     bindSocket(t, unix.SOCK_DGRAM, long),
	}
	sinks[dir+"/link"] = sinks[path]
	for name, sink := range sinks {
		got := mustJoin(t, p, name, me(), socketInode(t, sink), uint32(os.Getuid()))
		if _, err := unix.SendmsgN(got.fd, []byte("hello"), nil, nil, unix.MSG_DONTWAIT); err != nil {
			t.Errorf("send to %q: %v", name, err)
		}
		buf := make([]byte, 8)
		if n, err := unix.Read(sink, buf); err != nil || string(buf[:n]) != "hello" {
			t.Errorf("%q received %q, %v", name, buf[:max(n, 0)], err)
		}
		again, refusal := p.check(got.fd, uint32(os.Getuid()))
		if refusal != nil || again != got {
			t.Errorf("check %q: %+v, %v; want %+v", name, again, refusal, got)
		}
	}
}

// TestPromise8_NotOwner: a user cannot have messages sent to somebody else's socket, whatever leads there; root can.
func TestPromise8_NotOwner(t *testing.T) {
	p := ownershipProver(t)
	dir := sharedDir(t)
	sink := bindSocket(t, unix.SOCK_DGRAM, dir+"/s")
	if err := os.Symlink(dir+"/s", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	abstract := ownAbstract(t, "a")
	bindSocket(t, unix.SOCK_DGRAM, abstract)
	other := uint32(os.Getuid()) + 1
	for _, name := range []string{dir + "/s", dir + "/link", abstract} {
		mustRefuse(t, p, name, ordinary(other), wire.CodeNotOwner, name, fmt.Sprint(other), "root has to register it")
	}
	mustJoin(t, p, dir+"/link", ordinary(0), socketInode(t, sink), uint32(os.Getuid()))

	got := mustJoin(t, p, dir+"/s", me(), socketInode(t, sink), uint32(os.Getuid()))
	_, refusal := p.check(got.fd, other)
	checkRefusal(t, refusal, wire.CodeNotOwner, dir+"/s")
}

// TestPromise8_OtherUser is the same with a socket that another user really has open: refused for an ordinary sender,
// joined for root and for that user, and charged to that user in both cases.
func TestPromise8_OtherUser(t *testing.T) {
	needRoot(t)
	p := ownershipProver(t)
	dir := sharedDir(t)
	for _, name := range []string{dir + "/s", ownAbstract(t, "a")} {
		child := startChild(t, asStranger(), "hold", name)
		inode := child.inode
		mustRefuse(t, p, name, ordinary(1), wire.CodeNotOwner, "belongs to uid 65533 and not to uid 1")
		mustJoin(t, p, name, ordinary(stranger), inode, stranger)
		mustJoin(t, p, name, ordinary(0), inode, stranger)
	}
}

// TestPromise8_ForgedName: an attacker sends the registration from a socket that has the victim's name in another
// mount or network namespace, or from one whose path is a symbolic link by now. The kernel tells the broker the
// victim's name as the sender's address, and that name leads the broker to the victim.
func TestPromise8_ForgedName(t *testing.T) {
	needRoot(t)
	for _, test := range []struct {
		name     string
		attr     *syscall.SysProcAttr
		role     string
		abstract bool // the victim's name; the register socket has one of the other kind
	}{
		{"mount namespace", inNamespace(unix.CLONE_NEWNS), "forge-mount", false},
		{"network namespace", inNamespace(unix.CLONE_NEWNET), "forge", true},
		{"symbolic link", asStranger(), "forge-link", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := ownershipProver(t)
			dir := sharedDir(t)
			inside := filepath.Join(dir, "victim") // the folder that the attacker covers with one of its own
			if err := os.Mkdir(inside, 0o777); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(inside, 0o777); err != nil {
				t.Fatal(err)
			}
			victim, register := inside+"/s", ownAbstract(t, "register")
			if test.abstract {
				victim, register = ownAbstract(t, "victim"), dir+"/register"
			}
			sink := bindSocket(t, unix.SOCK_DGRAM, victim)
			fd := registerSocket(t, register)
			startChild(t, test.attr, test.role, victim, register)
			from, creds := receiveRegistration(t, fd)
			if creds.UID != stranger {
				t.Fatalf("the attacker is uid %d", creds.UID)
			}
			// Without the proof, the broker would send to the victim.
			static, refusal := p.joinStatic(from, 0)
			if refusal != nil {
				t.Fatalf("the forged name %q leads nowhere: %v", from, refusal)
			}
			unix.Close(static.fd)
			if static.inode != socketInode(t, sink) {
				t.Fatalf("the forged name %q leads to %d and not to the victim", from, static.inode)
			}
			mustRefuse(t, p, from.String(), creds, wire.CodeNotOwner, "belongs to uid 0 and not to uid 65533")
			if n, err := unix.Read(nonblocking(t, sink), make([]byte, 8)); err != unix.EAGAIN {
				t.Errorf("the victim received %d bytes, %v", n, err)
			}
		})
	}
}

// TestPromise8_OtherNetworkNamespace: whose socket it is cannot be seen from here, so it is no dynamic sink; a static
// one may be there.
func TestPromise8_OtherNetworkNamespace(t *testing.T) {
	needRoot(t)
	p := ownershipProver(t)
	name := sharedDir(t) + "/s"
	child := startChild(t, inNamespace(unix.CLONE_NEWNET), "hold", name)
	mustRefuse(t, p, name, ordinary(stranger), wire.CodeNamespace, "subscribe")
	mustRefuse(t, p, name, ordinary(0), wire.CodeNamespace, "subscribe")
	got, refusal := p.joinStatic(address(t, name), 0)
	if refusal != nil {
		t.Fatal(refusal)
	}
	defer unix.Close(got.fd)
	if got.inode != child.inode || got.uid != noOwner {
		t.Errorf("static: inode %d of uid %d; want inode %d of nobody known", got.inode, got.uid, child.inode)
	}
	child.stop()
	_, refusal = p.check(got.fd, stranger)
	checkRefusal(t, refusal, wire.CodeNoPeer, name)
}

// TestPromise8_UnmappedOwner: in a user namespace all who have no number look the same, so being like one of them
// proves nothing.
func TestPromise8_UnmappedOwner(t *testing.T) {
	p := ownershipProver(t)
	name := ownAbstract(t, "a")
	sink := bindSocket(t, unix.SOCK_DGRAM, name)

	// As if this process had no number: as the overflow uid of a namespace that has one, and of one that has not.
	p.overflow, p.identity = uint32(os.Getuid()), true
	mustJoin(t, p, name, me(), socketInode(t, sink), uint32(os.Getuid()))
	p.identity = false
	mustRefuse(t, p, name, me(), wire.CodeNotOwner, "user namespace", "subscribe")
	mustRefuse(t, p, name, ordinary(0), wire.CodeNotOwner, "user namespace")

	t.Run("in a user namespace", func(t *testing.T) { // the broker is there, and this process has no number
		needRoot(t)
		child := startChild(t, inNamespace(0), "join-unmapped", name)
		if want := "identity false, code not-owner"; child.said != want {
			t.Errorf("%s; want %s", child.said, want)
		}
	})
}

// TestPromise8_NoCredentials: a datagram that came before the socket asked for credentials says nothing about who sent
// it, and nobody means not root.
func TestPromise8_NoCredentials(t *testing.T) {
	p := ownershipProver(t)
	name := ownAbstract(t, "sink")
	sink := bindSocket(t, unix.SOCK_DGRAM, name)
	register := bindSocket(t, unix.SOCK_DGRAM, ownAbstract(t, "register"))
	if err := unix.Sendto(sink, nil, 0, &unix.SockaddrUnix{Name: ownAbstract(t, "register")}); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptInt(register, unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		t.Fatal(err)
	}
	from, creds := receiveRegistration(t, register)
	if from.String() != name {
		t.Fatalf("from %q", from)
	}
	mustRefuse(t, p, name, creds, wire.CodeNoCredentials, "send it again")
	mustRefuse(t, p, name, sys.Credentials{UID: 0}, wire.CodeNoCredentials)
}

// TestPromise8_Loop: the broker does not send into a socket that it receives from, whoever asks and however it is
// called.
func TestPromise8_Loop(t *testing.T) {
	dir := sharedDir(t)
	abstract := ownAbstract(t, "source")
	source, register := bindSocket(t, unix.SOCK_DGRAM, abstract), bindSocket(t, unix.SOCK_DGRAM, dir+"/register")
	publish := bindSocket(t, unix.SOCK_SEQPACKET, dir+"/publish")
	p := ownershipProver(t, source, register, publish)
	if err := os.Symlink(dir+"/register", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{abstract, dir + "/register", dir + "/link"} {
		for _, sender := range []sys.Credentials{me(), ordinary(0), ordinary(stranger)} {
			mustRefuse(t, p, name, sender, wire.CodeLoop, name)
		}
		before := descriptors(t)
		_, refusal := p.joinStatic(address(t, name), 0)
		checkRefusal(t, refusal, wire.CodeLoop, name)
		if after := descriptors(t); after != before {
			t.Errorf("static %q: %d descriptors are open, %d before", name, after, before)
		}
		fd, err := sys.ConnectDatagram(name, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, refusal = p.check(fd, uint32(os.Getuid()))
		checkRefusal(t, refusal, wire.CodeLoop)
		_, refusal = p.checkStatic(fd, name)
		checkRefusal(t, refusal, wire.CodeLoop, name)
		unix.Close(fd)
	}
	mustRefuse(t, p, dir+"/publish", me(), wire.CodeWrongType, "SOCK_DGRAM")
}

// TestPromise8_Rebound: a connected socket does not follow the name to a new owner, neither while the old one is being
// looked at nor later.
func TestPromise8_Rebound(t *testing.T) {
	p := ownershipProver(t)
	for _, name := range []string{ownAbstract(t, "a"), sharedDir(t) + "/s"} {
		rebind := func(old int) (impostor int) {
			unix.Close(old)
			os.Remove(name)
			return bindMortal(t, unix.SOCK_DGRAM, name)
		}
		sink := bindMortal(t, unix.SOCK_DGRAM, name)
		got := mustJoin(t, p, name, me(), socketInode(t, sink), uint32(os.Getuid()))
		impostor := rebind(sink)
		_, refusal := p.check(got.fd, uint32(os.Getuid()))
		checkRefusal(t, refusal, wire.CodeNoPeer, name)
		if _, err := unix.SendmsgN(got.fd, []byte("x"), nil, nil, unix.MSG_DONTWAIT); err != unix.ECONNREFUSED {
			t.Errorf("send to %q after another bound it: %v", name, err)
		}
		// After the refused send the socket is connected to nothing.
		_, refusal = p.check(got.fd, uint32(os.Getuid()))
		checkRefusal(t, refusal, wire.CodeNoPeer)

		// Between connecting and asking.
		_, refusal = p.connect(address(t, name), 0, func(fd int) (proven, *wire.Error) {
			impostor = rebind(impostor)
			return p.inspect(fd, name)
		})
		checkRefusal(t, refusal, wire.CodeNoPeer, name)
		if n, err := unix.Read(nonblocking(t, impostor), make([]byte, 8)); err != unix.EAGAIN {
			t.Errorf("the new owner of %q received %d bytes, %v", name, n, err)
		}
		unix.Close(impostor)
	}
}

// TestPromise8_TwoOfOneInode: a socket that was found by its inode is believed only when it can be the one that is
// connected. Inodes cannot be made to collide in a test; but of an abstract name with a NUL inside, which no text can
// say, getpeername shows a part only, so the two differ.
func TestPromise8_TwoOfOneInode(t *testing.T) {
	p := ownershipProver(t)
	name := ownAbstract(t, "a\x00b")
	bindSocket(t, unix.SOCK_DGRAM, name)
	before := descriptors(t)
	_, refusal := p.join(wire.Address{Abstract: true, Name: name[1:]}, me(), 0)
	checkRefusal(t, refusal, wire.CodeNotOwner, "two sockets")
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors are open, %d before", after, before)
	}
	for _, test := range []struct {
		found sys.UnixSocket
		want  bool
	}{
		{sys.UnixSocket{Type: unix.SOCK_DGRAM, Name: "@victim"}, true},
		{sys.UnixSocket{Type: unix.SOCK_DGRAM, Name: "@attacker"}, false},
		{sys.UnixSocket{Type: unix.SOCK_DGRAM, Name: ""}, false},
		{sys.UnixSocket{Type: unix.SOCK_STREAM, Name: "@victim"}, false}, // streams have abstract names of their own
		{sys.UnixSocket{Type: unix.SOCK_SEQPACKET, Name: "@victim"}, false},
	} {
		if got := couldBe(test.found, "@victim"); got != test.want {
			t.Errorf("connected to a datagram socket @victim, found %+v: %v", test.found, got)
		}
	}
}

// TestPromise8_ClosedMeanwhile: a socket that closes while it is looked at is closed, and not taken for one of another
// network namespace, which would send its owner looking in the wrong place.
func TestPromise8_ClosedMeanwhile(t *testing.T) {
	p := ownershipProver(t)
	name := ownAbstract(t, "a")
	// look looks at a socket that closes after that time, and returns how long it took and what came of it.
	look := func(after time.Duration) (time.Duration, *wire.Error) {
		sink := bindMortal(t, unix.SOCK_DGRAM, name)
		fd, err := sys.ConnectDatagram(name, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		var begin atomic.Bool
		done := make(chan struct{})
		go func() {
			defer close(done)
			for !begin.Load() {
			}
			for start := time.Now(); time.Since(start) < after; {
			}
			unix.Close(sink)
		}()
		start := time.Now()
		begin.Store(true)
		_, refusal := p.inspect(fd, name)
		took := time.Since(start)
		<-done
		return took, refusal
	}
	took := time.Second
	for range 10 { // the shortest, as the scheduler may come between
		if once, refusal := look(10 * time.Millisecond); refusal == nil {
			took = min(took, once)
		}
	}
	const rounds = 1000
	alive, closed := 0, 0
	for i := range rounds {
		switch _, refusal := look(took * time.Duration(i) * 2 / rounds); {
		case refusal == nil:
			alive++
		case refusal.Code == wire.CodeNoPeer:
			closed++
		default:
			t.Fatalf("round %d: %v", i, refusal)
		}
	}
	if alive == 0 || closed == 0 {
		t.Errorf("%d alive, %d closed: none was closing while it was looked at", alive, closed)
	}
}

// TestPromise8_Refusals: each thing that is not a socket one can send to, with what to do about it.
func TestPromise8_Refusals(t *testing.T) {
	p := ownershipProver(t)
	dir := sharedDir(t)
	bindSocket(t, unix.SOCK_STREAM, dir+"/stream")
	bindSocket(t, unix.SOCK_SEQPACKET, dir+"/seqpacket")
	unix.Close(bindMortal(t, unix.SOCK_DGRAM, dir+"/stale"))
	if err := os.WriteFile(dir+"/file", nil, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir+"/file", 0o777); err != nil {
		t.Fatal(err)
	}
	for link, target := range map[string]string{"dangling": "nowhere", "round": "round", "to-file": "file"} {
		if err := os.Symlink(target, dir+"/"+link); err != nil {
			t.Fatal(err)
		}
	}
	connected := bindSocket(t, unix.SOCK_DGRAM, dir+"/connected")
	bindSocket(t, unix.SOCK_DGRAM, dir+"/elsewhere")
	if err := unix.Connect(connected, &unix.SockaddrUnix{Name: dir + "/elsewhere"}); err != nil {
		t.Fatal(err)
	}
	stream := ownAbstract(t, "stream")
	bindSocket(t, unix.SOCK_STREAM, stream)

	for _, test := range []struct {
		name, code string
		words      []string
	}{
		{dir + "/stream", wire.CodeWrongType, []string{"SOCK_DGRAM", "subscribe"}},
		{dir + "/seqpacket", wire.CodeWrongType, []string{"SOCK_DGRAM", "subscribe"}},
		{stream, wire.CodeNoPeer, []string{"no datagram socket"}}, // each type has abstract names of its own
		{dir, wire.CodeWrongType, []string{"not a socket", "drwx"}},
		{dir + "/file", wire.CodeWrongType, []string{"not a socket", "-rwx"}},
		{dir + "/to-file", wire.CodeWrongType, []string{"not a socket", "-rwx"}},
		{dir + "/stale", wire.CodeNoPeer, []string{"bind again"}},
		{dir + "/nowhere", wire.CodeNoPeer, []string{"bind the socket first", "PrivateTmp="}},
		{dir + "/dangling", wire.CodeNoPeer, []string{"bind the socket first"}},
		{dir + "/file/s", wire.CodeNoPeer, []string{"bind the socket first"}},
		{dir + "/round", wire.CodeBadAddress, []string{"symbolic links"}},
		{dir + "/connected", wire.CodeAccess, []string{"connected to another socket", "bound and not connected"}},
		{ownAbstract(t, "nobody"), wire.CodeNoPeer, []string{"bind it first"}},
	} {
		mustRefuse(t, p, test.name, me(), test.code, append(test.words, test.name)...)
	}
}

// TestPromise8_Unwritable: the broker does not write where it may not, and says how to let it.
func TestPromise8_Unwritable(t *testing.T) {
	p := ownershipProver(t)
	dir := sharedDir(t)
	sink := bindSocket(t, unix.SOCK_DGRAM, dir+"/s")
	if err := os.Chmod(dir+"/s", 0o555); err != nil {
		t.Fatal(err)
	}
	locked := filepath.Join(dir, "locked")
	if err := os.Mkdir(locked, 0o700); err != nil {
		t.Fatal(err)
	}
	bindSocket(t, unix.SOCK_DGRAM, locked+"/s")
	if err := os.Chmod(locked, 0o000); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Chmod(locked, 0o700) }) // so that it can be removed
	if os.Geteuid() == 0 {
		// To root every file is writable; the file system ids of this thread are another user's for a while (setfsuid(2)).
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		mustJoin(t, p, dir+"/s", me(), socketInode(t, sink), 0)
		unix.Setfsuid(stranger)
		defer unix.Setfsuid(0)
	}
	for _, name := range []string{dir + "/s", locked + "/s"} {
		mustRefuse(t, p, name, me(), wire.CodeAccess, "give group msgmux write access", "or use an abstract name", name)
	}
}

// TestIdentityMap: only the map of the initial namespace means that every user has a number.
func TestIdentityMap(t *testing.T) {
	for uidMap, want := range map[string]bool{
		"         0          0 4294967295\n": true,
		"         0       1000          1\n": false,
		"         0     100000      65536\n": false,
		"         0          0      65536\n": false,
		"         1          1 4294967294\n": false,
		"":                                   false,
		"0 0 1\n1 1 4294967294\n":            false,
	} {
		if got := identityMap(uidMap); got != want {
			t.Errorf("%q: %v", uidMap, got)
		}
	}
}

// TestDeadPeers: one dump finds those whose peer is closed, and no other.
func TestDeadPeers(t *testing.T) {
	const sinks = 500 // more than one part of a dump
	p := ownershipProver(t)
	own := make(map[uint64]int)
	var want []int
	for i := range sinks {
		name := ownAbstract(t, fmt.Sprint(i))
		sink := bindMortal(t, unix.SOCK_DGRAM, name)
		got := mustJoin(t, p, name, me(), socketInode(t, sink), uint32(os.Getuid()))
		if i%7 != 0 {
			t.Cleanup(func() { unix.Close(sink) })
		} else {
			unix.Close(sink)
			want = append(want, i)
		}
		if i%14 == 0 { // the kernel has told the sender already
			unix.SendmsgN(got.fd, nil, nil, nil, unix.MSG_DONTWAIT)
		}
		if i != 7 { // not asked about
			own[got.cookie] = i
		}
	}
	want = slices.DeleteFunc(want, func(i int) bool { return i == 7 })
	dead, err := deadPeers(p.diag, own)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(dead)
	if !slices.Equal(dead, want) {
		t.Errorf("dead: %v\nwant: %v", dead, want)
	}
}

// BenchmarkDeadPeers is what the search for dead sinks costs each time, with 4,000 sinks of which none is dead.
func BenchmarkDeadPeers(b *testing.B) {
	const sinks = 4000
	d, err := sys.NewSockDiag()
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	own := make(map[uint64]int, sinks)
	for i := range sinks {
		name := ownAbstract(b, fmt.Sprint(i))
		bindSocket(b, unix.SOCK_DGRAM, name)
		fd, err := sys.ConnectDatagram(name, 0)
		if err != nil {
			b.Fatal(err)
		}
		defer unix.Close(fd)
		cookie, err := sys.SocketCookie(fd)
		if err != nil {
			b.Fatal(err)
		}
		own[cookie] = i
	}
	b.ReportAllocs()
	for b.Loop() {
		if dead, err := deadPeers(d, own); err != nil || len(dead) > 0 {
			b.Fatal(dead, err)
		}
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

// needRoot skips what takes another user or a namespace whose map root writes. To root these tests are never skipped.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can run a process of another user")
	}
}

// asStranger runs a child as another user.
func asStranger() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: stranger, Gid: stranger}}
}

// inNamespace runs a child as another user in new namespaces of its own, root there, as that user could do by itself
// where unprivileged user namespaces are allowed.
func inNamespace(flags uintptr) *syscall.SysProcAttr {
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: stranger, Size: 1}}
	return &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER | flags, UidMappings: ids, GidMappings: ids,
		Credential: &syscall.Credential{Uid: 0, Gid: 0, NoSetGroups: true},
	}
}

// child is another process, which has done what it was started for and waits to be stopped.
type child struct {
	inode uint32 // of the socket it has open
	said  string // what else it found out
	cmd   *exec.Cmd
}

const childRole = "MSGMUX_OWNERSHIP_CHILD"

// startChild runs TestOwnershipChild in another process and returns when that has played its role.
func startChild(t *testing.T, attr *syscall.SysProcAttr, role string, args ...string) *child {
	t.Helper()
	// Another user cannot reach the folder of the test binary; the link in procfs is not looked up by path.
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestOwnershipChild$")
	cmd.Env = append(os.Environ(), childRole+"="+strings.Join(append([]string{role}, args...), ","))
	cmd.Dir = "/"
	cmd.SysProcAttr = attr
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if _, err := cmd.StdinPipe(); err != nil { // closed when this process dies, and then the child exits
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		if attr.Cloneflags != 0 && !slices.Contains(strings.Fields(os.Getenv("MSGMUX_REQUIRE")), "unit") {
			t.Skipf("no namespace can be made here: %v", err)
		}
		t.Fatal(err)
	}
	c := &child{cmd: cmd}
	t.Cleanup(c.stop)
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		c.stop()
		t.Fatalf("child %s: %v, %s", role, err, stderr.String())
	}
	n, said, _ := strings.Cut(strings.TrimSpace(line), " ")
	if _, err := fmt.Sscan(n, &c.inode); err != nil {
		t.Fatalf("child %s said %q", role, line)
	}
	c.said = said
	return c
}

// stop ends the child and waits until it is gone.
func (c *child) stop() {
	c.cmd.Process.Kill()
	c.cmd.Wait() // tells only that it was killed, or that stop was called before
}

// TestOwnershipChild is no test but the other process of those above.
func TestOwnershipChild(t *testing.T) {
	role := os.Getenv(childRole)
	if role == "" {
		t.Skip("runs in a child process of other tests")
	}
	args := strings.Split(role, ",")
	inode, said, err := playRole(args[0], args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(inode, said)
	io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

func playRole(role string, args []string) (inode uint32, said string, err error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	if err != nil {
		return 0, "", err
	}
	if inode, err = sys.SocketInode(fd); err != nil {
		return 0, "", err
	}
	name := args[0]
	bind := func(name string) error {
		if err := unix.Bind(fd, &unix.SockaddrUnix{Name: name}); err != nil {
			return fmt.Errorf("bind %q: %w", name, err)
		}
		if name[0] == '/' {
			return os.Chmod(name, 0o777)
		}
		return nil
	}
	// register sends from fd.
	register := func() error { return unix.Sendto(fd, nil, 0, &unix.SockaddrUnix{Name: args[1]}) }
	switch role {
	case "hold": // NAME: bind it
		return inode, "", bind(name)
	case "forge": // VICTIM REGISTER: bind the name as well, which is possible in this namespace
		return inode, "", errors.Join(bind(name), register())
	case "forge-mount": // VICTIM REGISTER: the same behind a file system of one's own
		if err := unix.Mount("mine", filepath.Dir(name), "tmpfs", 0, ""); err != nil {
			return 0, "", fmt.Errorf("mount: %w", err)
		}
		return inode, "", errors.Join(bind(name), register())
	case "forge-link": // VICTIM REGISTER: bind a path nearby, and make it a link to the victim
		mine := filepath.Dir(name) + "/mine"
		return inode, "", errors.Join(bind(mine), os.Remove(mine), os.Symlink(name, mine), register())
	case "join-unmapped": // NAME: be the broker; the owner of the socket has no number here
		p, err := newProver(nil)
		if err != nil {
			return 0, "", err
		}
		code := "none"
		if _, refusal := p.join(wire.Address{Abstract: true, Name: name[1:]}, ordinary(p.overflow), 0); refusal != nil {
			code = refusal.Code
		}
		return inode, fmt.Sprintf("identity %v, code %s", p.identity, code), nil
	}
	return 0, "", fmt.Errorf("no role %q", role)
}
