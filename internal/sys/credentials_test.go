// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// countDescriptors counts what this process has open.
func countDescriptors(tb testing.TB) int {
	tb.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		tb.Fatal(err)
	}
	return len(entries)
}

// receivingPair is a datagram socketpair whose first end asks for credentials.
func receivingPair(tb testing.TB) (receive, send int) {
	tb.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { unix.Close(pair[0]); unix.Close(pair[1]) })
	if err := unix.SetsockoptInt(pair[0], unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		tb.Fatal(err)
	}
	return pair[0], pair[1]
}

// receiveControl receives one datagram with a control buffer of space bytes and returns what the kernel wrote there.
func receiveControl(tb testing.TB, fd, space int) (control []byte, flags int) {
	tb.Helper()
	control = make([]byte, space)
	_, n, flags, _, err := unix.Recvmsg(fd, make([]byte, 64), control, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		tb.Fatal(err)
	}
	return control[:n], flags
}

// ownCredentials are the credentials of this process.
func ownCredentials() Credentials {
	return Credentials{PID: int32(os.Getpid()), UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}
}

// TestControlSpace: as many descriptors as the kernel lets a sender attach arrive together with all else that a socket
// can be told to add, nothing is cut off, and all of it can be closed.
func TestControlSpace(t *testing.T) {
	const most = 253 // SCM_MAX_FD of net/scm.h
	receive, send := receivingPair(t)
	pidfds := 1
	for option, name := range map[int]string{
		unix.SO_PASSPIDFD: "SO_PASSPIDFD", unix.SO_PASSSEC: "SO_PASSSEC", unix.SO_TIMESTAMPNS: "SO_TIMESTAMPNS",
	} {
		if err := unix.SetsockoptInt(receive, unix.SOL_SOCKET, option, 1); err != nil {
			t.Logf("%s: %v", name, err) // not on every kernel
			if option == unix.SO_PASSPIDFD {
				pidfds = 0
			}
		}
	}
	before := countDescriptors(t)
	rights := unix.UnixRights(slices.Repeat([]int{send}, most)...)
	if err := unix.Sendmsg(send, []byte("x"), rights, nil, 0); err != nil {
		t.Fatal(err)
	}
	control, flags := receiveControl(t, receive, ControlSpace)
	if flags&unix.MSG_CTRUNC != 0 {
		t.Error("the control buffer was too small")
	}
	creds, fds, err := ParseControl(control)
	if err != nil || creds != ownCredentials() {
		t.Errorf("credentials %+v, %v; want %+v", creds, err, ownCredentials())
	}
	if len(fds) != most+pidfds {
		t.Errorf("%d descriptors, want %d and %d pidfd", len(fds), most, pidfds)
	}
	if got := countDescriptors(t); got != before+len(fds) {
		t.Errorf("%d descriptors are open, want %d", got, before+len(fds))
	}
	CloseDescriptors(fds)
	if got := countDescriptors(t); got != before {
		t.Errorf("%d descriptors are open after closing all, %d before", got, before)
	}
	if spare := ControlSpace - unix.CmsgSpace(unix.SizeofUcred) - unix.CmsgSpace(4*most) - unix.CmsgSpace(4); spare < 800 {
		t.Errorf("%d bytes to spare, want at least 800", spare)
	}
}

// TestParseControlGarbage: descriptors are not lost because of what stands behind them.
func TestParseControlGarbage(t *testing.T) {
	receive, send := receivingPair(t)
	for _, garbage := range [][]byte{
		{1},
		make([]byte, unix.SizeofCmsghdr),
		bytes.Repeat([]byte{0xff}, 40),
		append(binary.NativeEndian.AppendUint64(nil, 15), make([]byte, 24)...),
	} {
		before := countDescriptors(t)
		if err := unix.Sendmsg(send, []byte("x"), unix.UnixRights(send, send, send), nil, 0); err != nil {
			t.Fatal(err)
		}
		control, _ := receiveControl(t, receive, ControlSpace)
		creds, fds, err := ParseControl(append(control, garbage...))
		if !errors.Is(err, ErrControl) {
			t.Errorf("%x: no error", garbage)
		}
		if creds != ownCredentials() || len(fds) != 3 {
			t.Errorf("%x: %+v and %d descriptors; want %+v and 3", garbage, creds, len(fds), ownCredentials())
		}
		CloseDescriptors(fds)
		if got := countDescriptors(t); got != before {
			t.Errorf("%x: %d descriptors are open, %d before", garbage, got, before)
		}
	}
}

// TestParseControlNoCredentials: a message that was queued before the receiver asked, and credentials that were cut
// off, are none.
func TestParseControlNoCredentials(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	for range 2 {
		if _, err := unix.Write(pair[1], []byte("x")); err != nil {
			t.Fatal(err)
		}
		if err := unix.SetsockoptInt(pair[0], unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
			t.Fatal(err)
		}
	}
	control, _ := receiveControl(t, pair[0], ControlSpace)
	if creds, fds, err := ParseControl(control); creds.PID != 0 || len(fds) > 0 || err != nil {
		t.Errorf("queued before SO_PASSCRED: %+v, %v, %v; want pid 0", creds, fds, err)
	}
	control, flags := receiveControl(t, pair[0], unix.SizeofCmsghdr+8)
	if flags&unix.MSG_CTRUNC == 0 {
		t.Fatal("the credentials were not cut off")
	}
	if creds, fds, err := ParseControl(control); creds != (Credentials{}) || len(fds) > 0 || err != nil {
		t.Errorf("cut off: %+v, %v, %v; want none", creds, fds, err)
	}
}

// TestParseControlPidfdErrno: the kernel writes a negative errno where it could not make a pidfd. Closing that number
// must not be tried, nor may what follows be lost.
func TestParseControlPidfdErrno(t *testing.T) {
	b := controlMessage(unix.SCM_PIDFD, -int32(unix.ESRCH))
	b = append(b, controlMessage(unix.SCM_RIGHTS, 1000, 1001)...)
	if _, fds, err := ParseControl(b); err != nil || !slices.Equal(fds, []int{1000, 1001}) {
		t.Errorf("got %v, %v", fds, err)
	}
}

// TestParseControlOtherLevel: messages of other levels count their types anew; the numbers in them are no descriptors.
func TestParseControlOtherLevel(t *testing.T) {
	b := controlMessage(unix.SCM_RIGHTS, 1000)
	binary.NativeEndian.PutUint32(b[unix.SizeofCmsghdr-8:], unix.SOL_IP)
	b = append(b, controlMessage(unix.SCM_RIGHTS, 1001)...)
	if _, fds, err := ParseControl(b); err != nil || !slices.Equal(fds, []int{1001}) {
		t.Errorf("got %v, %v", fds, err)
	}
}

// TestParseControlEnd: nothing behind the buffer is read, whatever the lengths in it say; reading there faults.
func TestParseControlEnd(t *testing.T) {
	page := os.Getpagesize()
	memory, err := unix.Mmap(-1, 0, 2*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(memory)
	if err := unix.Mprotect(memory[page:], unix.PROT_NONE); err != nil {
		t.Fatal(err)
	}
	for _, message := range [][]byte{
		controlMessage(unix.SCM_RIGHTS, 1, 2, 3), controlMessage(unix.SCM_CREDENTIALS, 1, 2, 3),
		controlMessage(unix.SCM_PIDFD, 1), bytes.Repeat([]byte{0xff}, 64),
	} {
		for n := range len(message) + 1 {
			b := memory[page-n : page : page]
			copy(b, message)
			ParseControl(b)
			if n >= 4 { // the length is what is there, odd numbers too
				binary.NativeEndian.PutUint32(b, uint32(n))
				ParseControl(b)
			}
		}
	}
}

// TestParseControlAllocations: in the steady state of a channel nothing is attached, and nothing may be allocated.
func TestParseControlAllocations(t *testing.T) {
	b := controlMessage(unix.SCM_CREDENTIALS, 1, 2, 3)
	if n := testing.AllocsPerRun(100, func() { ParseControl(b) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// controlMessage is one message of level SOL_SOCKET with padding, as the kernel writes it.
func controlMessage(kind int32, data ...int32) []byte {
	rights := make([]int, len(data))
	for i, v := range data {
		rights[i] = int(v)
	}
	b := unix.UnixRights(rights...)
	binary.NativeEndian.PutUint32(b[unix.SizeofCmsghdr-4:], uint32(kind))
	return b
}

// FuzzParseControl: no input reads outside the buffer, and what stands in front of garbage is always found.
func FuzzParseControl(f *testing.F) {
	f.Add([]byte{})
	f.Add(controlMessage(unix.SCM_CREDENTIALS, 1, 2, 3))
	f.Add(controlMessage(unix.SCM_RIGHTS, 5, 6, 7))
	f.Add(controlMessage(unix.SCM_PIDFD, -3))
	f.Add(controlMessage(unix.SCM_SECURITY, 0x61626364))
	f.Add(controlMessage(unix.SCM_RIGHTS, 5, 6, 7)[:unix.SizeofCmsghdr+6])
	f.Add(make([]byte, unix.SizeofCmsghdr))
	f.Add(bytes.Repeat([]byte{0xff}, 48))
	head := append(controlMessage(unix.SCM_CREDENTIALS, 7, 8, 9), controlMessage(unix.SCM_RIGHTS, 100, 101, 102)...)
	f.Fuzz(func(t *testing.T, b []byte) {
		// A copy that ends where the input does, so that a read past the end is seen by the race detector's checks.
		creds, fds, err := ParseControl(slices.Clip(bytes.Clone(b)))
		if len(fds) > len(b)/4 {
			t.Fatalf("%d descriptors in %d bytes", len(fds), len(b))
		}
		for _, fd := range fds {
			if fd < 0 {
				t.Fatalf("descriptor %d", fd)
			}
		}
		behindCreds, behind, behindErr := ParseControl(append(bytes.Clone(head), b...))
		if !slices.Equal(behind, append([]int{100, 101, 102}, fds...)) {
			t.Fatalf("behind three descriptors: %v; alone: %v", behind, fds)
		}
		if (err == nil) != (behindErr == nil) {
			t.Fatalf("behind something valid: %v; alone: %v", behindErr, err)
		}
		if want := (Credentials{7, 8, 9}); creds != (Credentials{}) {
			if behindCreds != creds {
				t.Fatalf("credentials %+v; alone: %+v", behindCreds, creds)
			}
		} else if behindCreds != want && behindCreds != creds {
			t.Fatalf("credentials %+v; want %+v", behindCreds, want)
		}
	})
}
