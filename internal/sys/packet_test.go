// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"testing"

	"golang.org/x/sys/unix"
)

// packetPair is a connected pair of packet sockets that block by themselves.
func packetPair(t *testing.T) (one, other int) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(pair[0]); unix.Close(pair[1]) })
	return pair[0], pair[1]
}

// TestPacketsFillBothPlaces puts what the first has no room for into the second, and nothing where there is room.
func TestPacketsFillBothPlaces(t *testing.T) {
	one, other := packetPair(t)
	for _, size := range []int{1, 0, 999, 1000, 1001, 60000} {
		packet := make([]byte, size)
		for i := range packet {
			packet[i] = byte(i)
		}
		if e := Send(other, packet); e != 0 {
			t.Fatalf("cannot send %d bytes: %v", size, e)
		}
		first, rest := make([]byte, 1000), make([]byte, 1<<16)
		n, e := Recv(one, first, rest)
		if e != 0 || n != size || string(append(first[:min(n, 1000)], rest[:max(0, n-1000)]...)) != string(packet) {
			t.Errorf("sent %d bytes, got %d: %v", size, n, e)
		}
	}
}

// TestPacketCallsNeverWait although the sockets block.
func TestPacketCallsNeverWait(t *testing.T) {
	one, _ := packetPair(t)
	if _, e := Recv(one, make([]byte, 10), nil); e != unix.EAGAIN {
		t.Errorf("recv ended with %v, want EAGAIN", e)
	}
	var e unix.Errno
	for range 10_000 {
		if e = Send(one, make([]byte, 1000)); e != 0 {
			break
		}
	}
	if e != unix.EAGAIN {
		t.Errorf("send ended with %v, want EAGAIN", e)
	}
	one, other := packetPair(t)
	unix.Shutdown(other, unix.SHUT_RD)
	if e := Send(one, nil); e != unix.EPIPE {
		t.Errorf("send to nobody ended with %v, want EPIPE", e)
	}
}

// TestDescriptorsOfAnEmptyPacketAreClosed: to whoever receives it, it is the end of the connection, with which nothing comes.
func TestDescriptorsOfAnEmptyPacketAreClosed(t *testing.T) {
	one, other := packetPair(t)
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[0])
	if e := SendDescriptors(other, nil, pipe[1]); e != 0 {
		t.Fatal(e)
	}
	unix.Close(pipe[1])
	if n, fds, e := RecvDescriptors(one, make([]byte, 100)); n != 0 || len(fds) != 0 || e != 0 {
		t.Errorf("%d bytes, descriptors %v, %v", n, fds, e)
	}
	if n, err := unix.Read(pipe[0], make([]byte, 1)); n != 0 || err != nil {
		t.Errorf("the pipe has a writer still: %d, %v", n, err)
	}
}
