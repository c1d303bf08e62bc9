// SPDX-License-Identifier: Apache-2.0

package msgmux

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/wire"
)

// connectionOf makes a connection of the sink's end of a socket pair.
func connectionOf(t *testing.T, fd int) *net.UnixConn {
	t.Helper()
	file := os.NewFile(uintptr(fd), "sink")
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn.(*net.UnixConn)
}

// TestEndToldFirst: what the broker sent before it hung up is received, also where the kernel tells of the end first, in either form or
// in both.
func TestEndToldFirst(t *testing.T) {
	for _, told := range [][]error{nil, {nil}, {unix.ECONNRESET}, {nil, unix.ECONNRESET}, {unix.ECONNRESET, nil}} {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		s := &Sink{framed: true}
		if err := s.in.use(connectionOf(t, fds[0])); err != nil {
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
	}
}

// TestEndsBetweenConnections: a sink in view that has hung up itself, because it goes on by another connection, can be left and closed
// meanwhile as any other.
func TestEndsBetweenConnections(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[1])
	s := newSink("", SinkOptions{View: true})
	s.framed, s.conn = true, connectionOf(t, fds[0])
	if err := errors.Join(s.in.use(s.conn), s.conn.Close()); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Leave(t.Context()), s.Close()); err != nil || !s.left {
		t.Errorf("it is not left or closed: %v", err)
	}
	if err := s.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed twice: %v", err)
	}
}

// TestLastWordFindsRoom: what a sink that is closed is done with is said also where the broker has not looked at what was said before, if
// it does within a moment.
func TestLastWordFindsRoom(t *testing.T) {
	for _, looks := range []bool{true, false} {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fds[1])
		conn := connectionOf(t, fds[0])
		for err == nil {
			err = sendNow(conn, wire.AppendAck(nil, 1))
		}
		if !errors.Is(err, unix.EAGAIN) {
			t.Fatal(err)
		}
		ended, last := make(chan time.Duration, 1), uint64(0)
		go func() {
			began := time.Now()
			a := acks{conn: conn, done: 7}
			a.end()
			ended <- time.Since(began)
		}()
		read := func() {
			var err error
			for b, n := make([]byte, wire.AckSize), 0; err == nil; {
				if n, err = unix.Read(fds[1], b); n == wire.AckSize {
					last = binary.LittleEndian.Uint64(b)
				}
			}
		}
		time.Sleep(endWithin / 5)
		if looks {
			read()
		}
		took := <-ended
		if read(); looks != (last == 7) || took > 10*endWithin || !looks && took < endWithin {
			t.Errorf("the broker looks: %v; %d was said last, in %v", looks, last, took)
		}
	}
}
