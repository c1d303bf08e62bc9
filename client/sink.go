// SPDX-License-Identifier: Apache-2.0

package msgmux

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/msgmux/msgmux/internal/wire"
)

// Forever is the patience of a sink that must have everything: it can stop the channel.
const Forever time.Duration = math.MaxInt64

// SinkOptions say what a sink is to be. The zero value is good: every message from now on, under a name that the broker
// chooses.
type SinkOptions struct {
	// Label names the sink in the status: [A-Za-z0-9_.-]{1,64}, or "" to let the broker choose. One that is taken gets a
	// number; Sink.Label tells.
	Label string

	// Patience is how long the channel waits for this sink before it is left behind and loses messages; nil leaves it
	// to the broker. new(msgmux.Forever) and more than the broker's default are for the privileged.
	Patience *time.Duration

	// Start is where the sink begins: now, Oldest(), Last(n) or At(seq). A member of a share that is there already begins
	// where the share is.
	Start Start

	// Share makes this sink one of several, of the same name and user, that divide the messages among themselves.
	Share string

	// Tap only looks on: it never holds up the channel, and a channel with nothing but taps has no sink.
	Tap bool

	// Retry has Subscribe wait for a broker where there is none, or one that is busy: it tries once a second until its
	// context is done.
	Retry bool

	// Reconnect subscribes again, with the same options, when the broker has hung up, instead of ending with ErrHungUp:
	// at once, and then once a second until there is a broker. It is a new sink then, with a new ID, which begins with
	// the message after the last one that came: nothing is missing, and nothing comes twice, as long as the channel's
	// memory lives and has kept it. What it has not kept, OnGap is told. If the channel was stopped meanwhile, its
	// messages begin anew, with Gap.Anew. A member of a share begins where the share is.
	Reconnect bool

	// OnGap, if it is set, is called whenever messages are missing before the one that comes next. It is called by the
	// goroutine that receives, and must not call methods of the sink that receive.
	OnGap func(Gap)

	// Logger, if it is set, is told when the sink connects (debug), when the broker has hung up, when messages are missing
	// (warning) and when it is connected again (info).
	Logger *slog.Logger
}

// wire is the options as a hello has them.
func (o SinkOptions) wire() (w wire.Options, err error) {
	set := func(key, value string) error {
		if value == "" {
			return nil
		}
		return w.Set(key, value)
	}
	patience, tap := "", ""
	if o.Patience != nil {
		patience = wire.FormatPatience(*o.Patience)
	}
	if o.Tap {
		tap = "yes"
	}
	err = cmp.Or(set("label", o.Label), set("patience", patience), set("share", o.Share), set("tap", tap))
	w.Start = o.Start.at
	return w, err
}

// Sink receives the messages of a channel. Its methods may be called by several goroutines; each message goes to one
// of them. The zero Sink is as one that was closed.
type Sink struct {
	channel   Channel
	options   SinkOptions
	framed    bool // packets of records come, and not a message in each
	inherited bool // the socket is the service manager's, and there is no connection
	where     string
	life      context.Context // ends with Close
	end       context.CancelFunc
	closed    atomic.Bool
	counts    sinkCounts

	turn turn // who has it may receive, and replace conn
	in   inlet

	mu    sync.Mutex // guards what follows; who has the turn may read conn without it
	conn  *net.UnixConn
	id    uint64
	label string
	left  bool // the broker was told to send no more
}

// Subscribe makes a sink: it connects to the subscribe socket. What the channel has accepted before and no sink has had
// yet comes first.
//
// It fails with ErrNoBroker, with ErrRefused and the broker's reason, with ErrBadOption, or when ctx is done. A broker
// that is busy or being restarted answers late; without a deadline in ctx Subscribe waits for it.
//
// The sink outlives the broker under systemd: a restart is not noticed. A sink that an administrator dropped stays
// dropped, unless SinkOptions.Reconnect says otherwise. What a sink has in its queue is gone when its process dies; a
// sink that is to survive that is declared, and read through Inherited.
func (c Channel) Subscribe(ctx context.Context, options SinkOptions) (*Sink, error) {
	const op = "subscribe"
	if _, err := options.wire(); err != nil {
		return nil, badValue(op, err)
	}
	path, err := c.socket(op, socketSubscribe)
	if err != nil {
		return nil, err
	}
	s := newSink(path, options)
	s.channel, s.framed = c, true
	s.in.joined = time.Now()
	if err = s.connect(ctx); err != nil && options.Retry && mayPass(err) {
		s.log(slog.LevelWarn, "cannot subscribe yet", slog.Any("error", opError(op, path, err)))
		err = s.reconnect(ctx)
	}
	if err != nil {
		s.end()
		return nil, opError(op, path, err)
	}
	s.log(slog.LevelDebug, "subscribed")
	return s, nil
}

// newSink is a sink without a socket.
func newSink(where string, options SinkOptions) *Sink {
	s := &Sink{where: where, options: options, turn: newTurn()}
	s.life, s.end = context.WithCancel(context.Background())
	return s
}

// connect makes s a connected sink, a new one if it was one before.
//
// Preconditions: the caller has the turn, or nobody else knows s.
func (s *Sink) connect(ctx context.Context) error {
	hello, err := s.options.wire()
	if err != nil {
		return err
	}
	if s.in.epoch != 0 && s.options.Share == "" {
		hello.Start = wire.StartAt(s.in.epoch, s.in.seq)
	}
	ctx, cancel := during(ctx, s.life)
	defer cancel()
	conn, reply, err := join(ctx, s.where, wire.Hello{Options: hello})
	if s.life.Err() != nil && err != nil {
		return net.ErrClosed
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed.Load() || s.left {
		return errors.Join(net.ErrClosed, conn.Close())
	}
	if err := s.in.use(conn); err != nil {
		return errors.Join(err, conn.Close())
	}
	again := s.conn != nil
	if again {
		_ = s.conn.Close() // its broker hung up
	}
	s.conn, s.id, s.label = conn, reply.ID, cmp.Or(reply.Label, s.options.Label)
	s.in.begin(reply, again, s.options.Share != "")
	return nil
}

// ID is the sink's number in the channel, as Status and Sinks have it; it is never used again for another. It is 0 on an
// inherited socket.
func (s *Sink) ID() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.id
}

// Label is the sink's name in the channel: the one that was asked for, or what the broker has made of it ("db-2"). On an
// inherited socket it is the socket's name.
func (s *Sink) Label() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.label
}

// Status asks the channel how this sink is: how far it is behind, how long it would still be waited for, what it has lost.
// It fails as Channel.Sinks does; with ErrNotFound if the channel has forgotten the sink, and with errors.ErrUnsupported
// on an inherited socket, which does not know its channel.
func (s *Sink) Status(ctx context.Context) (SinkStatus, error) {
	const op = "read the status"
	if s.inherited {
		return SinkStatus{}, opError(op, s.where, errors.ErrUnsupported)
	}
	_, all, err := s.channel.Sinks(ctx)
	if err != nil {
		return SinkStatus{}, err
	}
	id := s.ID()
	for _, one := range all {
		if one.ID == id {
			return one, nil
		}
	}
	return SinkStatus{}, opError(op, s.where, ErrNotFound)
}

// Leave asks the broker to send no more. What was sent before can still be received; then Receive and Messages end with
// io.EOF, also those that wait already. A program that is to lose nothing leaves, receives to the end, and closes.
//
// A sink on an inherited socket takes nothing more out of it: what is left of the packet in hand can still be received, and
// the rest stays in the socket for whoever reads it next.
//
// It waits for nothing. After an error the sink has not left, and Leave may be called again.
func (s *Sink) Leave(ctx context.Context) error {
	const op = "leave"
	if err := ctx.Err(); err != nil {
		return opError(op, s.where, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left || s.conn == nil || s.closed.Load() {
		return nil
	}
	leave := s.conn.CloseWrite
	if s.inherited {
		leave = func() error { return s.conn.SetReadDeadline(longAgo) } // who waits is to look again
	}
	if err := leave(); err != nil {
		return opError(op, s.where, err)
	}
	s.left = true
	return nil
}

// Close leaves the channel and closes the socket. Messages that the socket still holds, or the sink, are gone, see Leave; but
// those in an inherited socket stay in it, for whoever reads it next. A Receive that waits ends with net.ErrClosed, and so does every
// later one.
func (s *Sink) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == nil || s.closed.Swap(true) {
		return opError("close", s.where, net.ErrClosed)
	}
	s.end()
	return opError("close", s.where, s.conn.Close())
}

// log tells the logger, if there is one.
func (s *Sink) log(level slog.Level, text string, attrs ...slog.Attr) {
	if l := s.options.Logger; l != nil {
		l.LogAttrs(context.Background(), level, text, append(attrs, slog.String("socket", s.where), slog.String("sink", s.Label()))...)
	}
}
