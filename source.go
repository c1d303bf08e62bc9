// SPDX-License-Identifier: Apache-2.0

package msgmux

import (
	"context"
	"errors"
	"net"
	"sync"
	"syscall"
)

// MaxMessage is the largest message that any channel takes, in bytes. A channel usually takes less (msgmuxd's
// --max-message, Status.MaxMessage): what is larger than that leaves the source and is dropped and counted by the broker.
const MaxMessage = 4 << 20

// Source sends messages into a channel. Its methods may be called by several goroutines; each message is sent whole.
//
// Messages of one source keep their order. Across several sources the order is the one in which the broker takes them,
// and it is the same for all sinks.
type Source struct {
	path string
	turn turn // who has it may use out and conn

	mu     sync.Mutex // guards conn and closed against Close, which does not wait for its turn
	conn   *net.UnixConn
	closed bool

	out attempt
}

// attempt is one sendmsg on one socket. It is a part of Source, with its method bound once, so that a send allocates
// nothing.
type attempt struct {
	raw     syscall.RawConn
	try     func(fd uintptr) (done bool)
	payload []byte
	wait    bool // on EAGAIN: let the poller wait and call again
	err     error
}

// Dial opens the channel for sending. It does not wait: where there is no broker it fails with ErrNoBroker, where the
// socket's mode does not allow sending with ErrRefused.
func (c Channel) Dial(ctx context.Context) (*Source, error) {
	path, err := c.socket("dial", socketSource)
	if err != nil {
		return nil, err
	}
	s := &Source{path: path, turn: newTurn()}
	s.out.try = s.out.send
	if err := s.dial(ctx); err != nil {
		return nil, opError("dial", path, err)
	}
	return s, nil
}

// dial connects, in place of an earlier connection. The socket must be connected: only then does the kernel tell when
// a full channel takes messages again (unix(7), poll).
//
// Preconditions: the caller has the turn, or nobody else knows s.
func (s *Source) dial(ctx context.Context) error {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unixgram", s.path)
	if err != nil {
		return err
	}
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errors.Join(net.ErrClosed, conn.Close())
	}
	if s.conn != nil {
		_ = s.conn.Close() // its broker is gone
	}
	s.conn, s.out.raw = conn.(*net.UnixConn), raw
	return nil
}

// Send sends one message, of any bytes and of 0 to MaxMessage in length, and waits while the channel takes none: no
// sink is connected, or one has to be waited for. It returns when the channel's queue has the message; payload may be
// used again then. After ctx is done it returns ctx's error, and the message was not sent.
//
// If the broker was started anew by hand since the last message, Send connects again. (Under systemd the socket lives on
// and there is nothing to notice.)
func (s *Source) Send(ctx context.Context, payload []byte) error {
	return opError("send", s.path, s.send(ctx, payload, true))
}

// TrySend is Send for who cannot wait: it returns ErrWouldBlock where Send would wait for the channel.
func (s *Source) TrySend(payload []byte) error {
	return opError("send", s.path, s.send(context.Background(), payload, false))
}

// send does what Send and TrySend promise, with errors as the kernel gives them.
func (s *Source) send(ctx context.Context, payload []byte, wait bool) error {
	if len(payload) > MaxMessage {
		return syscall.EMSGSIZE
	}
	if err := s.turn.take(ctx); err != nil {
		return err
	}
	defer s.turn.give()
	grown, dialled := false, false
	for {
		err := s.once(ctx, payload, wait)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, syscall.EMSGSIZE) && !grown:
			// The kernel charges a message to its sender's buffer until it is read, and takes none that is larger than
			// the buffer. It doubles the size that it is asked for, up to twice net.core.wmem_max (socket(7)).
			grown = true
			if err := s.conn.SetWriteBuffer(len(payload)); err != nil {
				return err
			}
		case isGone(err) && !dialled:
			// This connection's broker is gone and has not taken the message. Another may be there by now.
			dialled = true
			if err := s.dial(ctx); err != nil {
				return err
			}
		case isShortOfMemory(err) && wait:
			if err := sleep(ctx, retryAfter); err != nil {
				return err
			}
		default:
			return err
		}
	}
}

// once tries to send, and waits for room if it may.
func (s *Source) once(ctx context.Context, payload []byte, wait bool) error {
	// First without the cost of watching ctx: mostly there is room.
	err := s.out.run(payload, false)
	if !wait || !errors.Is(err, syscall.EAGAIN) {
		return err
	}
	release := interrupt(ctx, s.conn.SetWriteDeadline)
	defer release()
	return orContext(ctx, s.out.run(payload, true))
}

// run makes the attempt, again and again if wait, each time that the poller finds room.
func (a *attempt) run(payload []byte, wait bool) error {
	a.payload, a.wait = payload, wait
	err := a.raw.Write(a.try)
	a.payload = nil
	if err != nil {
		return err // closed, or the deadline has passed
	}
	return a.err
}

// send is the function that RawConn.Write calls. The net package's own writers do not do: UnixConn.Write reports an
// empty message as done or failed without ever waiting, and WriteMsgUnix refuses connected datagram sockets.
func (a *attempt) send(fd uintptr) (done bool) {
	for {
		_, a.err = syscall.SendmsgN(int(fd), a.payload, nil, nil, syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL)
		if !errors.Is(a.err, syscall.EINTR) {
			return !a.wait || !errors.Is(a.err, syscall.EAGAIN)
		}
	}
}

// isGone tells whether err means that nobody reads at the other end any more: refused once, then not connected, or
// shut down.
func isGone(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOTCONN) || errors.Is(err, syscall.EPIPE)
}

// isShortOfMemory tells whether err means a lack of kernel memory that may pass.
func isShortOfMemory(err error) bool {
	return errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.ENOMEM)
}

// Close ends the source. Messages that were sent stay sent; a Send that waits ends with net.ErrClosed.
func (s *Source) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return opError("close", s.path, net.ErrClosed)
	}
	s.closed = true
	return opError("close", s.path, s.conn.Close())
}
