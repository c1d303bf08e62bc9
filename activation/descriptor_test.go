// SPDX-License-Identifier: Apache-2.0

package activation_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/msgmux/msgmux/activation"
	"golang.org/x/sys/unix"
)

func TestClassify(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	removed, err := os.Create(filepath.Join(t.TempDir(), "removed"))
	if err != nil {
		t.Fatal(err)
	}
	defer removed.Close()
	os.Remove(removed.Name())
	// Where there is no /dev/shm, one more plain file will do.
	shared, err := os.CreateTemp("/dev/shm", "mm")
	if err != nil {
		shared, err = os.CreateTemp(t.TempDir(), "mm")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(shared.Name())
	defer shared.Close()
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	own(t, pipe[0], nil)
	own(t, pipe[1], nil)
	dgram, _ := pair(t, unix.SOCK_DGRAM)
	seq, gone := pair(t, unix.SOCK_SEQPACKET)
	stream, _ := pair(t, unix.SOCK_STREAM)
	for _, tt := range []struct {
		name string
		fd   int
		want activation.Kind
	}{
		{"datagram", newSocket(t, unix.AF_UNIX, unix.SOCK_DGRAM), activation.Datagram},
		{"connected datagram", dgram, activation.Datagram},
		{"seqpacket", seq, activation.SeqpacketConn},
		{"seqpacket listener", listening(t, unix.AF_UNIX, unix.SOCK_SEQPACKET), activation.SeqpacketListener},
		{"stream listener", listening(t, unix.AF_UNIX, unix.SOCK_STREAM), activation.StreamListener},
		{"TCP listener", listening(t, unix.AF_INET, unix.SOCK_STREAM), activation.StreamListener},
		{"connected stream", stream, activation.Other},
		{"TCP", newSocket(t, unix.AF_INET, unix.SOCK_STREAM), activation.Other},
		{"UDP", newSocket(t, unix.AF_INET, unix.SOCK_DGRAM), activation.Other},
		{"netlink", newSocket(t, unix.AF_NETLINK, unix.SOCK_DGRAM), activation.Other},
		{"memfd", memfd(t, "x"), activation.Memfd},
		{"file", int(file.Fd()), activation.Other},
		{"removed file", int(removed.Fd()), removedKind(t, removed)},
		{"file in shared memory", int(shared.Fd()), activation.Other},
		{"pipe", pipe[0], activation.Other},
	} {
		if got, err := activation.Classify(tt.fd); err != nil || got != tt.want {
			t.Errorf("%s: %v, %v; want %v", tt.name, got, err, tt.want)
		}
	}
	// A client that hung up while the broker was away is still what it was.
	unix.Shutdown(gone, unix.SHUT_RDWR)
	if got, err := activation.Classify(seq); err != nil || got != activation.SeqpacketConn {
		t.Errorf("seqpacket after hang-up: %v, %v", got, err)
	}
	if got, err := activation.Classify(1 << 20); err == nil {
		t.Errorf("a number that is not open is %v", got)
	}
}

// removedKind: in shared memory a file without a name is as good as a memfd.
func removedKind(t *testing.T, f *os.File) activation.Kind {
	t.Helper()
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
		t.Fatal(err)
	}
	if fs.Type == unix.TMPFS_MAGIC {
		return activation.Memfd
	}
	return activation.Other
}

func TestClassifyMessageQueue(t *testing.T) {
	if got, err := activation.Classify(messageQueue(t)); err != nil || got != activation.MessageQueue {
		t.Errorf("%v, %v", got, err)
	}
}

func TestRefuseRights(t *testing.T) {
	a, b := pair(t, unix.SOCK_DGRAM)
	refuses, err := activation.RefuseRights(b)
	if err != nil {
		t.Fatal(err)
	}
	err = unix.Sendmsg(a, []byte("x"), unix.UnixRights(a), nil, 0)
	if refuses && err != unix.EPERM {
		t.Errorf("a descriptor was sent: %v", err)
	}
	if !refuses && err != nil {
		t.Errorf("the kernel cannot refuse, and refused: %v", err)
	}
	if err := unix.Sendmsg(a, []byte("x"), nil, nil, 0); err != nil {
		t.Errorf("a plain message: %v", err)
	}
}
