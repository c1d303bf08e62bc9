// SPDX-License-Identifier: Apache-2.0

package msgmux

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/msgmux/msgmux/broker/wire"
)

// Forever is the patience of a sink that must have everything: it can stop the channel.
const Forever = wire.Forever

// SinkOptions say what a sink is to be. The zero value is good: every message from now on, under a name that the broker
// chooses.
type SinkOptions struct {
	// Address is the name of the sink's own socket: "@NAME" (abstract), "/PATH", or "" for an abstract one that the
	// kernel chooses. Anybody in the network namespace can write to an abstract name, as for every datagram socket; a
	// path is guarded by its folder. The broker must be allowed to write to a path.
	Address string

	// Label names the sink in the status: [A-Za-z0-9_.-]{1,64}, or "" to let the broker choose.
	Label string

	// Patience is how long the channel waits for this sink before it is left behind and loses messages; nil leaves it
	// to the broker. new(msgmux.Forever) and more than the broker's default are for the privileged.
	Patience *time.Duration

	// Oldest begins with the oldest message that the channel has kept, not with the newest.
	Oldest bool

	// Share makes this sink one of several, of the same name and user, that divide the messages among themselves.
	Share string

	// Tap only looks on: it never holds up the channel, and a channel with nothing but taps has no sink.
	Tap bool
}

// registration is the text that asks for a sink at address.
func (o SinkOptions) registration(address wire.Address) (wire.Registration, error) {
	r := wire.Registration{Address: address}
	set := func(key, value string) error {
		if value == "" {
			return nil
		}
		return r.Set(key, value)
	}
	flag := func(yes bool, value string) string {
		if yes {
			return value
		}
		return ""
	}
	patience := ""
	if o.Patience != nil {
		patience = wire.FormatPatience(*o.Patience)
	}
	err := cmp.Or(
		set("label", o.Label),
		set("patience", patience),
		set("start", flag(o.Oldest, wire.StartOldest.String())),
		set("share", o.Share),
		set("tap", flag(o.Tap, "yes")),
	)
	return r, err
}

// Sink receives the messages of a channel. Its methods may be called by several goroutines; each message goes to one
// of them.
type Sink struct {
	channel Channel
	address wire.Address
	id      uint64
	turn    turn // who has it may read from conn into buffer
	conn    *net.UnixConn
	buffer  []byte

	mu   sync.Mutex // guards what follows
	left bool       // the broker was asked to forget the sink
	gone bool       // closed
}

// bufferSize holds the largest datagram that Linux makes at all: 4 MiB and a little more pass, never a quarter MiB
// more. So no message is ever cut off, and no second system call has to ask for its size. Untouched pages cost nothing.
const bufferSize = MaxMessage + 256<<10

// Subscribe makes a sink: it binds a socket, registers it with the broker, and waits for the answer. What the channel
// has accepted before and no sink has had yet comes first.
//
// It fails with ErrNoBroker, with ErrRefused and the broker's reason, with ErrBadOption, or when ctx is done. A broker
// that is busy or being restarted answers late; without a deadline in ctx Subscribe waits for it.
//
// The registration is for the life of the sink and outlives the broker under systemd. It is never repeated silently: a
// sink that an administrator dropped stays dropped.
func (c Channel) Subscribe(ctx context.Context, options SinkOptions) (*Sink, error) {
	const op = "subscribe"
	if _, err := options.registration(wire.Address{}); err != nil {
		return nil, badValue(op, err)
	}
	if options.Address != "" {
		if _, err := wire.ParseAddress(options.Address); err != nil {
			return nil, badValue(op, err)
		}
	}

	path, err := c.socket(op, socketRegister)
	if err != nil {
		return nil, err
	}
	// An empty name makes the kernel choose an abstract one (unix(7), autobind).
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: options.Address, Net: "unixgram"})
	if err != nil {
		// Not opError: what keeps a name from being bound is no broker's doing.
		return nil, &OpError{Op: op, Path: options.Address, Err: fmt.Errorf("cannot bind: %w", plainErrno(err))}
	}
	s := &Sink{channel: c, turn: newTurn(), conn: conn}
	if err := s.register(ctx, options); err != nil {
		_ = s.release() // the socket of a sink that never was
		return nil, opError(op, path, err)
	}
	return s, nil
}

// register asks the broker for the sink and keeps the id that it answers with.
func (s *Sink) register(ctx context.Context, options SinkOptions) error {
	var err error
	if s.address, err = wire.ParseAddress(s.conn.LocalAddr().String()); err != nil {
		return err
	}
	r, err := options.registration(s.address)
	if err != nil {
		return err
	}
	s.id, err = s.channel.register(ctx, r)
	return err
}

// ID is the sink's number in the channel, as Status and List have it; it is never used again for another.
func (s *Sink) ID() uint64 { return s.id }

// Address is the name of the sink's socket: "@NAME" or "/PATH".
func (s *Sink) Address() string { return s.address.String() }

// Receive waits for the next message and returns it; the caller owns it. An empty message is an empty slice without an
// error.
func (s *Sink) Receive(ctx context.Context) ([]byte, error) {
	var message []byte
	err := s.turn.take(ctx)
	if err == nil {
		defer s.turn.give()
		release := interrupt(ctx, s.conn.SetReadDeadline)
		defer release()
		var n int
		if n, err = s.read(ctx); err == nil {
			message = append(make([]byte, 0, n), s.buffer[:n]...)
		}
	}
	return message, opError("receive", s.Address(), err)
}

// Each calls f with one message after the other until ctx is done or f returns an error, and returns that error. The
// slice is the sink's own memory and holds the message only during the call. It costs less than Receive: no copy, and
// ctx is watched once. f must not call methods of the same sink that receive.
func (s *Sink) Each(ctx context.Context, f func(message []byte) error) error {
	if err := s.turn.take(ctx); err != nil {
		return opError("receive", s.Address(), err)
	}
	defer s.turn.give()
	release := interrupt(ctx, s.conn.SetReadDeadline)
	defer release()
	for {
		n, err := s.read(ctx)
		if err != nil {
			return opError("receive", s.Address(), err)
		}
		if err := f(s.buffer[:n:n]); err != nil {
			return err
		}
	}
}

// read waits for a datagram and puts it into the buffer.
//
// Preconditions: the caller has the turn and has set up ctx with interrupt.
func (s *Sink) read(ctx context.Context) (int, error) {
	if s.buffer == nil {
		s.buffer = make([]byte, bufferSize)
	}
	// No room for control messages: descriptors that a stranger attaches are closed by the kernel.
	n, _, flags, _, err := s.conn.ReadMsgUnix(s.buffer, nil)
	if err != nil {
		return 0, orContext(ctx, err)
	}
	if flags&syscall.MSG_TRUNC != 0 {
		return 0, syscall.EMSGSIZE // larger than a datagram can be; no broker sent it
	}
	return n, nil
}

// Leave asks the broker to send no more and waits for its answer. Messages that were sent before can still be received;
// a program that is to lose none of them receives until nothing comes any more, and closes then.
func (s *Sink) Leave(ctx context.Context) error {
	s.mu.Lock()
	done := s.left || s.gone
	s.left = true
	s.mu.Unlock()
	if done {
		return nil
	}
	_, err := s.channel.register(ctx, wire.Registration{Address: s.address, Remove: true})
	return opError("leave", filepath.Join(s.channel.RuntimeDir, socketRegister), err)
}

// leaveWithin is how long Close waits for the broker. A sink that is just gone is found and forgotten, too, only later.
const leaveWithin = time.Second

// Close leaves the channel, waiting at most a second for the broker, and closes the socket. Messages that the socket
// still holds are gone. A Receive that waits ends with net.ErrClosed. That the broker is absent or late is no error.
func (s *Sink) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), leaveWithin)
	defer cancel()
	_ = s.Leave(ctx)
	return opError("close", s.Address(), s.release())
}

// release closes the socket, and removes it if it has a path: nobody else can use it any more.
func (s *Sink) release() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		return net.ErrClosed
	}
	s.gone = true
	err := s.conn.Close()
	if !s.address.IsZero() && !s.address.Abstract {
		err = errors.Join(err, os.Remove(s.address.Name))
	}
	return err
}
