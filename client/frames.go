// SPDX-License-Identifier: Apache-2.0

package msgmux

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// againAfter is how long to wait before a broker that hung up before its answer is tried again (docs/protocol.md): it is
// being restarted, and should not be met by all its clients at once.
const againAfter = time.Second

// join connects to the publish or subscribe socket at path and says hello. It returns the connection on which the broker
// has said ok, and what it said with that, or the *wire.Error with which it refused. A broker that hangs up before either
// has agreed to nothing: join tries again until ctx is done.
func join(ctx context.Context, path string, hello wire.Hello) (*net.UnixConn, wire.Reply, error) {
	for {
		conn, err := dialPacket(ctx, path)
		if err != nil {
			return nil, wire.Reply{}, err
		}
		reply, err := greet(ctx, conn, hello)
		switch {
		case err == nil && reply.Err == nil:
			return conn, reply, nil
		case err == nil:
			err = reply.Err
		case isHangUp(err):
			err = sleep(ctx, againAfter)
		}
		_ = conn.Close()
		if err != nil {
			return nil, wire.Reply{}, err
		}
	}
}

// errNotShared is why no memory can be shared with this broker, or on this host.
var errNotShared = errors.New("no memory can be shared")

// joinShared is join for an end that shares memory with the broker, if wanted, which is an option of its hello, says so: behind
// the ok comes a packet with the descriptors, which enter maps. Where that cannot be had it fails with errNotShared.
func joinShared[T any](ctx context.Context, path string, hello *wire.Hello, wanted *bool, enter func(fds []int) (*T, error)) (
	conn *net.UnixConn, reply wire.Reply, memory *T, err error,
) {
	for {
		conn, reply, err = join(ctx, path, *hello)
		if !*wanted {
			return conn, reply, nil, err
		}
		if refusal, ok := errors.AsType[*wire.Error](err); ok && (refusal.Code == wire.CodeUnknownOption || refusal.Code == wire.CodeUnsupported) {
			err = fmt.Errorf("%w: %w", errNotShared, err)
		}
		if err != nil {
			return nil, reply, nil, err
		}
		_, fds, err := receiveShort(ctx, conn)
		if err == nil {
			if memory, err = enter(fds); err != nil {
				err = fmt.Errorf("%w: %w", errNotShared, err)
			}
			sys.CloseDescriptors(fds)
		}
		if err == nil {
			return conn, reply, memory, nil
		}
		_ = conn.Close()
		if isHangUp(err) {
			err = sleep(ctx, againAfter)
		}
		if err != nil {
			return nil, reply, nil, err
		}
	}
}

// greet says hello and reads the answer.
func greet(ctx context.Context, conn *net.UnixConn, hello wire.Hello) (wire.Reply, error) {
	release := interrupt(ctx, conn.SetDeadline)
	defer release()
	// Where the broker has hung up already, its reason may still be there to be read.
	if _, err := conn.Write(hello.Append(nil)); err != nil && !isHangUp(err) {
		return wire.Reply{}, orContext(ctx, err)
	}
	answer := make([]byte, wire.MaxReply)
	n, err := conn.Read(answer)
	for ends := 1; ends < looksAtEnd && isHangUp(err); ends++ {
		n, err = conn.Read(answer)
	}
	if err != nil {
		return wire.Reply{}, orContext(ctx, err)
	}
	reply, err := wire.ParseReply(answer[:n])
	if err != nil {
		// Only its text: it is no refusal by the broker.
		return wire.Reply{}, fmt.Errorf("cannot read the answer to the hello: %s", err.Error())
	}
	return reply, nil
}

// receiveShort waits for a packet no longer than an answer, which may have descriptors: they are the caller's. The end of the connection
// is ECONNRESET.
func receiveShort(ctx context.Context, conn *net.UnixConn) (packet []byte, fds []int, err error) {
	release := interrupt(ctx, conn.SetReadDeadline)
	defer release()
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, nil, err
	}
	packet = make([]byte, wire.MaxReply)
	for range looksAtEnd {
		var n int
		var failed error
		if err := raw.Read(func(fd uintptr) (done bool) {
			got, with, errno := sys.RecvDescriptors(int(fd), packet)
			n, fds, failed = got, with, asError(errno)
			return errno != syscall.EAGAIN
		}); err != nil {
			return nil, nil, orContext(ctx, err)
		}
		if failed == nil && n > 0 || failed != nil && !isHangUp(failed) {
			return packet[:n], fds, failed
		}
	}
	return nil, nil, syscall.ECONNRESET
}

// sayLeave says on a sink's connection that nothing is to be kept for it, as soon as there is room for that. It fails with ErrHungUp at the
// end of the connection.
func (s *Sink) sayLeave(ctx context.Context) error {
	for {
		err := s.sayLeaveNow()
		switch {
		case isHangUp(err):
			return ErrHungUp
		case !mayGoSoon(err):
			return err
		}
		if err := sleep(ctx, retryAfter); err != nil {
			return err
		}
	}
}

// sayLeaveNow is sayLeave where there is room, on the connection of now: others may close the sink, or connect it again, between two tries.
func (s *Sink) sayLeaveNow() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed.Load() {
		return net.ErrClosed
	}
	err := sendNow(s.conn, []byte(wire.Leave))
	if errors.Is(err, net.ErrClosed) {
		return ErrHungUp // the sink has hung up itself, as where it cannot view what the broker has
	}
	return err
}

// looksAtEnd is how often a connection is read before its end is believed. The kernel tells of the end before what the broker sent
// last, once as ECONNRESET if something was not read by the broker, and once as the end if the broker has sent and closed while
// the kernel was between looking for a packet and looking whether there is another end (unix_dgram_recvmsg).
const looksAtEnd = 3

// isHangUp tells whether err is the end of a connection, in the forms in which reading and writing show it.
func isHangUp(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// isAbsent tells whether err means that this channel has no such socket, or that nobody has it open.
func isAbsent(err error) bool {
	return errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED)
}
