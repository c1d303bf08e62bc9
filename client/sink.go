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
	"sync/atomic"
	"time"

	"github.com/msgmux/msgmux/internal/wire"
)

// Forever is the patience of a sink that must have everything: it can stop the channel.
const Forever = wire.Forever

// SinkOptions say what a sink is to be. The zero value is good: every message from now on, under a name that the broker
// chooses.
type SinkOptions struct {
	// Address makes the sink a datagram socket of that name: "@NAME" (abstract) or "/PATH". Anybody in the network
	// namespace can write to an abstract name, as for every datagram socket; a path is guarded by its folder. The broker
	// must be allowed to write to a path. Without it the sink is a connection, which needs no name.
	Address string

	// Datagrams makes the sink a datagram socket although it has no Address: the kernel chooses an abstract name.
	Datagrams bool

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

	// Reconnect subscribes again, with the same options, when the broker has hung up, instead of ending with ErrHungUp:
	// at once, and then once a second until there is a broker. It is a new sink then, with a new ID, and OnGap is told.
	// With Oldest some messages may come again. A datagram socket is never hung up on.
	Reconnect bool

	// OnGap, if it is set, is called whenever messages are missing before the one that comes next. It is called by the
	// goroutine that receives, and must not call methods of the sink that receive.
	OnGap func(Gap)
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
	options SinkOptions
	framed  bool // connected to subscribe; otherwise a datagram socket
	where   string
	address wire.Address // of a datagram socket
	id      atomic.Uint64
	lost    atomic.Uint64
	life    context.Context // ends with Close
	end     context.CancelFunc

	turn turn // who has it may receive, and replace conn
	in   inlet

	mu   sync.Mutex // guards what follows; who has the turn may read conn without it
	conn *net.UnixConn
	left bool // the broker was told to send no more
	gone bool // closed
}

// Subscribe makes a sink. It connects to the subscribe socket, or registers a datagram socket where the channel has no
// subscribe socket or the options ask for one. What the channel has accepted before and no sink has had yet comes first.
//
// It fails with ErrNoBroker, with ErrRefused and the broker's reason, with ErrBadOption, or when ctx is done. A broker
// that is busy or being restarted answers late; without a deadline in ctx Subscribe waits for it.
//
// The sink outlives the broker under systemd: a restart is not noticed. A sink that an administrator dropped stays
// dropped, unless SinkOptions.Reconnect says otherwise.
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
	s := &Sink{channel: c, options: options, turn: newTurn()}
	s.life, s.end = context.WithCancel(context.Background())
	if options.Address == "" && !options.Datagrams {
		var err error
		if s.where, err = c.socket(op, socketSubscribe); err != nil {
			return nil, err
		}
		s.in.joined = time.Now()
		err = s.connect(ctx)
		if err == nil {
			s.framed = true
			return s, nil
		}
		if !lacksFrames(err) {
			return nil, opError(op, s.where, err)
		}
	}
	path, err := c.socket(op, socketRegister)
	if err != nil {
		return nil, err
	}
	// An empty name makes the kernel choose an abstract one (unix(7), autobind).
	s.conn, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: options.Address, Net: "unixgram"})
	if err != nil {
		// Not opError: what keeps a name from being bound is no broker's doing.
		return nil, &OpError{Op: op, Path: options.Address, Err: fmt.Errorf("cannot bind: %w", plain(err))}
	}
	if err := s.register(ctx); err != nil {
		_ = s.release() // the socket of a sink that never was
		return nil, opError(op, path, err)
	}
	return s, nil
}

// connect makes s a connected sink, a new one if it was one before.
//
// Preconditions: the caller has the turn, or nobody else knows s.
func (s *Sink) connect(ctx context.Context) error {
	r, err := s.options.registration(wire.Address{})
	if err != nil {
		return err
	}
	ctx, cancel := during(ctx, s.life)
	defer cancel()
	conn, reply, err := join(ctx, s.where, wire.Hello{Options: r.Options})
	if s.life.Err() != nil && err != nil {
		return net.ErrClosed
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone || s.left {
		return errors.Join(net.ErrClosed, conn.Close())
	}
	if err := s.in.use(conn); err != nil {
		return errors.Join(err, conn.Close())
	}
	if s.conn != nil {
		_ = s.conn.Close() // its broker hung up
	}
	s.conn = conn
	s.id.Store(reply.ID)
	return nil
}

// register asks the broker for the sink at the address of its socket, and keeps the id that it answers with.
func (s *Sink) register(ctx context.Context) error {
	err := s.in.use(s.conn)
	if err != nil {
		return err
	}
	if s.address, err = wire.ParseAddress(s.conn.LocalAddr().String()); err != nil {
		return err
	}
	r, err := s.options.registration(s.address)
	if err != nil {
		return err
	}
	s.where = s.address.String()
	id, err := s.channel.register(ctx, r)
	s.id.Store(id)
	return err
}

// ID is the sink's number in the channel, as Status and List have it; it is never used again for another.
func (s *Sink) ID() uint64 { return s.id.Load() }

// Address is the name of the sink's socket, "@NAME" or "/PATH"; "" for a sink that is a connection.
func (s *Sink) Address() string { return s.address.String() }

// Lost is how many messages this sink has lost, as the last packet that it received has told; what was lost since, the
// next one tells. In a share it is what the share has lost since this sink joined. It can be called at any time.
//
// A datagram socket is not told what it loses, and has 0 here; the status knows it (SinkStatus.Lost).
func (s *Sink) Lost() uint64 { return s.lost.Load() }

// Leave asks the broker to send no more. What was sent before can still be received; then Receive and Each end with
// io.EOF, also those that wait already. A program that is to lose nothing leaves, receives to the end, and closes.
//
// A connection is only shut down for writing, which does not wait; a datagram socket waits for the broker's answer. After
// an error the sink has not left, and Leave may be called again. Close ends a Leave that waits with net.ErrClosed.
func (s *Sink) Leave(ctx context.Context) error {
	ctx, cancel := during(ctx, s.life)
	defer cancel()
	err := s.leave(ctx)
	if err != nil && s.life.Err() != nil {
		return opError("leave", s.where, net.ErrClosed)
	}
	return err
}

// leave is Leave that goes on after the sink's life.
func (s *Sink) leave(ctx context.Context) error {
	s.mu.Lock()
	if s.left || s.gone {
		s.mu.Unlock()
		return nil
	}
	if s.framed {
		defer s.mu.Unlock()
		s.left = true
		return opError("leave", s.where, s.conn.CloseWrite())
	}
	s.mu.Unlock()
	_, err := s.channel.register(ctx, wire.Registration{Address: s.address, Remove: true})
	if refusal, ok := errors.AsType[*wire.Error](err); ok && refusal.Code == wire.CodeNotFound {
		err = nil // it was dropped before
	}
	if err != nil {
		return opError("leave", filepath.Join(s.channel.RuntimeDir, socketRegister), err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left = true
	// Who waits is to look again, and to find that nothing more will come.
	_ = s.conn.SetReadDeadline(longAgo) // fails only on a closed socket, where nobody waits
	return nil
}

// leaveWithin is how long Close waits for the broker to forget a datagram socket. One that is just gone is found and
// forgotten, too, only later.
const leaveWithin = time.Second

// Close leaves the channel and closes the socket. Messages that the socket still holds are gone; see Leave. A Receive
// that waits ends with net.ErrClosed. A datagram sink waits for the broker, a second at most; that it is absent or late
// is no error.
func (s *Sink) Close() error {
	s.end()
	if !s.framed {
		ctx, cancel := context.WithTimeout(context.Background(), leaveWithin)
		defer cancel()
		_ = s.leave(ctx)
	}
	return opError("close", s.where, s.release())
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
