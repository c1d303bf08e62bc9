// SPDX-License-Identifier: Apache-2.0

package owner

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

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
		{dir + "/nowhere", wire.CodeNoPeer, []string{"bind the socket first", "container", "PrivateTmp=", "subscribe"}},
		{dir + "/dangling", wire.CodeNoPeer, []string{"bind the socket first"}},
		{dir + "/file/s", wire.CodeNoPeer, []string{"bind the socket first"}},
		{dir + "/round", wire.CodeBadAddress, []string{"symbolic links"}},
		{dir + "/connected", wire.CodeAccess, []string{"connected to another socket", "bound and not connected"}},
		{ownAbstract(t, "nobody"), wire.CodeNoPeer, []string{"bind it first", "container", "subscribe"}},
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
			unix.SendmsgN(got.FD, nil, nil, nil, unix.MSG_DONTWAIT)
		}
		if i != 7 { // not asked about
			own[got.Cookie] = i
		}
	}
	want = slices.DeleteFunc(want, func(i int) bool { return i == 7 })
	dead, err := DeadPeers(p.diag, own, nil)
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
		if dead, err := DeadPeers(d, own, nil); err != nil || len(dead) > 0 {
			b.Fatal(dead, err)
		}
	}
}
