// SPDX-License-Identifier: Apache-2.0

package msgmux

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// InheritedOptions say how an inherited socket is read. What the sink is (patience, label) is said where it is declared.
type InheritedOptions struct {
	// Frames says that the sink is declared with frames=yes: a packet is many messages, with their numbers and with what
	// was lost. Without it a packet is a message. It must be as declared: a plain message is an error here.
	Frames bool
	Origin bool // it is declared with meta=yes, too; goes with Frames only, and must be as declared

	OnGap  func(Gap)    // as in SinkOptions; never called without Frames
	Logger *slog.Logger // as in SinkOptions
}

// Inherited receives from a socket that the service manager has given to this process (sd_listen_fds(3)): a declared sink,
// whose socket is there before the program and after it. What comes while the program is restarted or crashed waits in the
// socket, and then in the channel for as long as the sink's patience lasts. A program that dies loses what it has taken out
// and not done with: the message, or with Frames the packet. One that ends in good order calls Sink.Leave and receives to
// io.EOF.
//
// name is the socket's FileDescriptorName=, or the name of its unit: "archive" finds archive.socket, and
// msgmux-sink@archive.socket; "" is the only one. It fails with ErrNotFound if no such socket was given, and with
// ErrBadOption if it is none for datagrams. The descriptor stays open: after Close it can be had again. Who has the same
// socket, in this program or another, gets another part of its messages, and does not block on it any more.
func Inherited(name string, options InheritedOptions) (*Sink, error) {
	const op = "inherit"
	number, found, err := inheritedDescriptor(name)
	if err != nil {
		return nil, opError(op, name, err)
	}
	conn, err := datagramSocket(number)
	if err != nil {
		return nil, &OpError{Op: op, Path: found, Err: err}
	}
	s := newSink("inherited:"+found, SinkOptions{Origin: options.Origin, OnGap: options.OnGap, Logger: options.Logger})
	s.inherited, s.framed, s.label, s.conn = true, options.Frames, found, conn
	if err := s.in.use(conn); err != nil {
		return nil, opError(op, found, errors.Join(err, s.Close()))
	}
	s.log(slog.LevelDebug, "inherited")
	return s, nil
}

// firstDescriptor is SD_LISTEN_FDS_START of sd_listen_fds(3).
const firstDescriptor = 3

// inheritedDescriptor finds the descriptor of that name among those that are announced to this process.
func inheritedDescriptor(name string) (number int, found string, err error) {
	count, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if pid, wrong := strconv.Atoi(os.Getenv("LISTEN_PID")); err != nil || wrong != nil || pid != os.Getpid() || count < 1 {
		return 0, "", fmt.Errorf("%w: the service manager has given no socket to this process", ErrNotFound)
	}
	names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	if len(names) != count {
		names = slices.Repeat([]string{"unknown"}, min(count, 1)) // as sd_listen_fds_with_names(3) says
	}
	at := slices.IndexFunc(names, func(given string) bool {
		unit, isUnit := strings.CutSuffix(given, ".socket")
		_, instance, isInstance := strings.Cut(unit, "@")
		return name == given || isUnit && name == unit || isUnit && isInstance && name == instance
	})
	if name == "" && count == 1 {
		at = 0
	}
	if at < 0 {
		return 0, "", fmt.Errorf("%w: the service manager has given the sockets %s", ErrNotFound, strings.Join(names, ", "))
	}
	return firstDescriptor + at, names[at], nil
}

// datagramSocket makes a socket of a descriptor, which stays open.
func datagramSocket(number int) (*net.UnixConn, error) {
	kind, err := syscall.GetsockoptInt(number, syscall.SOL_SOCKET, syscall.SO_TYPE)
	if err != nil {
		return nil, fmt.Errorf("%w: descriptor %d is no socket (%w)", ErrBadOption, number, err)
	}
	if kind != syscall.SOCK_DGRAM {
		return nil, fmt.Errorf("%w: descriptor %d is no socket for datagrams", ErrBadOption, number)
	}
	syscall.CloseOnExec(number)
	// FilePacketConn takes a duplicate. What is closed here is another one: an os.File would close the number itself when
	// it is collected, and then anything could have it.
	again, err := syscall.Dup(number)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(again), "inherited")
	defer file.Close()
	conn, err := net.FilePacketConn(file)
	if err != nil {
		return nil, plain(err)
	}
	if socket, ok := conn.(*net.UnixConn); ok {
		return socket, nil
	}
	return nil, errors.Join(fmt.Errorf("%w: descriptor %d is no Unix socket", ErrBadOption, number), conn.Close())
}
