// SPDX-License-Identifier: Apache-2.0

package msgmux

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestEndToldFirst: what the broker sent before it hung up is received, also where the kernel tells of the end first, in either form or
// in both.
func TestEndToldFirst(t *testing.T) {
	for _, told := range [][]error{nil, {nil}, {unix.ECONNRESET}, {nil, unix.ECONNRESET}, {unix.ECONNRESET, nil}} {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		file := os.NewFile(uintptr(fds[0]), "sink")
		conn, err := net.FileConn(file)
		file.Close()
		if err != nil {
			t.Fatal(err)
		}
		s := &Sink{framed: true}
		if err := s.in.use(conn.(*net.UnixConn)); err != nil {
			t.Fatal(err)
		}
		looks := 0
		s.in.try = func(fd uintptr) bool {
			if looks++; looks <= len(told) {
				s.in.n, s.in.err = 0, told[looks-1]
				return true
			}
			return s.in.receive(fd)
		}
		if _, err := unix.Write(fds[1], []byte("the last")); err != nil {
			t.Fatal(err)
		}
		unix.Close(fds[1])
		if n, err := s.read(); err != nil || string(s.in.buffer[:n]) != "the last" {
			t.Errorf("told %v first: %q, %v", told, s.in.buffer[:n], err)
		}
		if _, err := s.read(); !errors.Is(err, io.EOF) {
			t.Errorf("told %v first: %v at the end", told, err)
		}
		conn.Close()
	}
}
