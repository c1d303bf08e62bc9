// SPDX-License-Identifier: Apache-2.0

package owner

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

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
		if _, err := unix.SendmsgN(got.FD, []byte("hello"), nil, nil, unix.MSG_DONTWAIT); err != nil {
			t.Errorf("send to %q: %v", name, err)
		}
		buf := make([]byte, 8)
		if n, err := unix.Read(sink, buf); err != nil || string(buf[:n]) != "hello" {
			t.Errorf("%q received %q, %v", name, buf[:max(n, 0)], err)
		}
		again, refusal := p.Check(got.FD, uint32(os.Getuid()), false)
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
	_, refusal := p.Check(got.FD, other, false)
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
			forged, err := sys.ConnectDatagram(from.String(), 0)
			if err != nil {
				t.Fatalf("the forged name %q leads nowhere: %v", from, err)
			}
			static, refusal := p.checkStatic(forged, from.String())
			unix.Close(forged)
			if refusal != nil || static.Inode != socketInode(t, sink) {
				t.Fatalf("the forged name %q leads to %d (%v) and not to the victim", from, static.Inode, refusal)
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
	got, refusal := p.JoinStatic(address(t, name), 0)
	if refusal != nil {
		t.Fatal(refusal)
	}
	defer unix.Close(got.FD)
	if got.Inode != child.inode || got.UID != NoOwner {
		t.Errorf("static: inode %d of uid %d; want inode %d of nobody known", got.Inode, got.UID, child.inode)
	}
	child.stop()
	_, refusal = p.Check(got.FD, stranger, false)
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
	mustRefuse(t, p, name, sys.Credentials{UID: p.overflow}, wire.CodeNoCredentials)
}

// TestPromise8_Loop: the broker does not send into a socket that it receives from, whoever asks and however it is
// called.
func TestPromise8_Loop(t *testing.T) {
	dir := sharedDir(t)
	if err := os.Chmod(dir, 0o755); err != nil { // links in it lead somewhere, declared or not
		t.Fatal(err)
	}
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
		_, refusal := p.JoinStatic(address(t, name), 0)
		checkRefusal(t, refusal, wire.CodeLoop, name)
		if after := descriptors(t); after != before {
			t.Errorf("static %q: %d descriptors are open, %d before", name, after, before)
		}
		fd, err := sys.ConnectDatagram(name, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, refusal = p.Check(fd, uint32(os.Getuid()), false)
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
		_, refusal := p.Check(got.FD, uint32(os.Getuid()), false)
		checkRefusal(t, refusal, wire.CodeNoPeer, name)
		if _, err := unix.SendmsgN(got.FD, []byte("x"), nil, nil, unix.MSG_DONTWAIT); err != unix.ECONNREFUSED {
			t.Errorf("send to %q after another bound it: %v", name, err)
		}
		// After the refused send the socket is connected to nothing.
		_, refusal = p.Check(got.FD, uint32(os.Getuid()), false)
		checkRefusal(t, refusal, wire.CodeNoPeer)

		// Between connecting and asking.
		_, refusal = p.connect(address(t, name), 0, 0, func(fd int) (Proven, *wire.Error) {
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
	_, refusal := p.Join(wire.Address{Abstract: true, Name: name[1:]}, me(), 0, false)
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

// TestBlind: where the kernel tells nothing about sockets, nobody can prove that one is his, and it is said why. A declared sink
// needs no proof; one that the broker receives from is a loop all the same.
func TestBlind(t *testing.T) {
	dir := sharedDir(t)
	os.Chmod(dir, 0o755)
	source := bindSocket(t, unix.SOCK_DGRAM, dir+"/source")
	sink := bindSocket(t, unix.SOCK_DGRAM, dir+"/s")
	if err := os.Symlink(dir+"/source", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	p, err := newProver(Config{Receiving: []int{source}}, func() (*sys.SockDiag, error) { return nil, fmt.Errorf("no: %w", sys.ErrNoDiag) })
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	mustRefuse(t, p, dir+"/s", me(), wire.CodeUnsupported, "unix_diag", "subscribe")
	for _, name := range []string{dir + "/source", dir + "/link"} {
		_, refusal := p.JoinStatic(address(t, name), 0)
		checkRefusal(t, refusal, wire.CodeLoop, name)
	}
	got, refusal := p.JoinStatic(address(t, dir+"/s"), 0)
	if refusal != nil {
		t.Fatal(refusal)
	}
	defer unix.Close(got.FD)
	if _, err := unix.Write(got.FD, []byte("m")); err != nil {
		t.Fatal(err)
	}
	if n, err := unix.Read(sink, make([]byte, 8)); n != 1 || err != nil {
		t.Error(n, err)
	}
	if _, refusal := p.Check(got.FD, 0, false); refusal == nil || refusal.Code != wire.CodeUnsupported {
		t.Errorf("a stored one, which would be taken for dead: %v", refusal)
	}
	if _, err := newProver(Config{}, func() (*sys.SockDiag, error) { return nil, unix.EMFILE }); err != unix.EMFILE {
		t.Error(err)
	}
}

// TestOtherPidNamespace: who sends from outside the broker's pid namespace has no pid in it, and a uid all the same.
func TestOtherPidNamespace(t *testing.T) {
	needRoot(t)
	name, register := ownAbstract(t, "sink"), ownAbstract(t, "register")
	var sink int
	bound := make(chan struct{})
	go func() {
		defer close(bound)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		unix.Setfsuid(stranger)
		defer unix.Setfsuid(0)
		sink = bindSocket(t, unix.SOCK_DGRAM, name)
	}()
	<-bound
	go func() {
		creds := unix.UnixCredentials(&unix.Ucred{Pid: int32(os.Getpid()), Uid: stranger, Gid: stranger})
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			if unix.Sendmsg(sink, nil, creds, &unix.SockaddrUnix{Name: register}, 0) == nil {
				return
			}
		}
	}()
	child := startChild(t, &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID}, "judge", register)
	if want := fmt.Sprintf("pid 0, uid %d: joined", stranger); child.said != want {
		t.Errorf("%s; want %s", child.said, want)
	}
}
