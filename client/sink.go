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

	// Keep has the channel keep this sink's place for so long, or Forever, when its connection goes, whether it was closed or
	// its process killed: who subscribes with the same Label as the same user goes on there, and misses nothing that the
	// channel still has. More than the broker's --keep is for the privileged. It needs a Label or a Share, and the label has to
	// be free, or this user's own: ErrInUse.
	//
	// Such a sink says how far it is done. By itself it does so when the next message is asked for: a message whose turn in the
	// loop was not finished comes again.
	Keep time.Duration

	// Ack leaves it to the program to say how far it is done: see Sink.Ack. Until then messages stay in the channel. Without
	// Keep they are abandoned when the connection goes; in a share, the other members get them.
	Ack bool

	// From is the place that the program has written down with its results: everything before is done, whatever it has said.
	// With that each message takes effect once. ErrEpoch: it is of another life of the channel's numbers, and the program has to
	// decide what that means. What the channel has not kept, OnGap is told.
	From Position

	// Replace takes the place of a connection that has the same kept name: of a consumer that hangs. Its sink ends with
	// ErrInUse.
	Replace bool

	// Batch is how many messages a member of a share gets at once at most, if it acknowledges; 0: as many as a packet holds. It
	// gets the next ones when it is done with those. What a member that dies has not done goes to another.
	Batch int

	// View has the sink read the channel's memory itself, at the speed of memory: nothing is sent to it but what wakes it when
	// there was nothing. It is for consumers of very much. Like one with Keep such a sink says how far it is done, by itself or
	// with Ack: messages are waited for until then. It goes with neither Share nor Tap nor Origin. Where broker or kernel do not
	// have it, messages come in packets, as to all others, and nothing else is different; Sink.InView tells. It takes addresses
	// for twice the channel's --buffer.
	View bool

	// Origin asks for Message.Origin: who sent each message, and when the broker received it. The channel asks the kernel for
	// that only while some sink does.
	Origin bool

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
	patience, tap, meta := "", "", ""
	if o.Patience != nil {
		patience = wire.FormatPatience(*o.Patience)
	}
	if o.Tap {
		tap = "yes"
	}
	if o.Origin {
		meta = "yes"
	}
	err = cmp.Or(set("label", o.Label), set("patience", patience), set("share", o.Share), set("tap", tap), set("meta", meta))
	if o.Keep < 0 || o.Batch < 0 || o.Batch > math.MaxUint32 {
		err = cmp.Or(err, error(wire.Refuse(wire.CodeBadOption, "Keep and Batch cannot be negative")))
	}
	w.Start, w.Ack, w.Keep, w.From, w.Replace, w.Batch, w.View = o.Start.at, o.acknowledges(), o.Keep, wire.Position(o.From), o.Replace, uint32(o.Batch), o.View
	if err == nil {
		err = (&wire.Hello{Options: w}).CheckSink()
	}
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
	acks acks

	mu    sync.Mutex // guards what follows; who has the turn may read conn without it
	conn  *net.UnixConn
	id    uint64
	label string
	epoch uint64
	left  bool // the broker was told to send no more

	inView bool // conn is that of a sink in view
	noView bool // it cannot be one here; it belongs to who connects
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
	path, err := c.socket(op, wire.SocketSubscribe)
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
	switch {
	case s.in.epoch == 0 || s.options.Share != "":
	case hello.Ack:
		s.acks.mu.Lock()
		hello.From = wire.Position{Epoch: s.in.epoch, Seq: s.acks.done}
		s.acks.mu.Unlock()
	default:
		hello.Start = wire.StartAt(s.in.epoch, s.in.seq)
	}
	ctx, cancel := during(ctx, s.life)
	defer cancel()
	greeting := wire.Hello{Options: hello}
	conn, reply, reader, err := s.joinSink(ctx, &greeting)
	if s.life.Err() != nil && err != nil {
		return net.ErrClosed
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	err = s.checkEpoch(reply.Epoch)
	if s.closed.Load() || s.left {
		err = net.ErrClosed
	}
	if err = cmp.Or(err, s.in.use(conn)); err != nil {
		if reader != nil {
			reader.Close()
		}
		return errors.Join(err, conn.Close())
	}
	again := s.conn != nil
	if again {
		_ = s.conn.Close() // its broker hung up
	}
	s.conn, s.id, s.label = conn, reply.ID, cmp.Or(reply.Label, s.options.Label)
	s.epoch = reply.Epoch
	s.in.begin(reply, again, s.options.Share != "")
	if hello.Ack {
		s.in.acks, s.in.dry = true, s.acks.dry
		if !again && reply.Next > s.options.From.Seq && s.options.From.Epoch != 0 {
			s.in.missed = reply.Next - s.options.From.Seq
		} else if !again {
			s.in.missed = reply.Lost
		}
		s.acks.begin(conn, reader, reply.Next, s.options.Share != "")
	}
	s.in.useView(reader)
	s.inView = reader != nil
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
// A sink on an inherited socket takes nothing more out of it, and neither does one that acknowledges: what is left of the packet
// in hand can still be received. The rest stays in the socket, or in the channel, for whoever reads it next.
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
	if s.takesNoMore() {
		leave = func() error { return s.conn.SetReadDeadline(longAgo) } // who waits is to look again
	}
	if err := leave(); err != nil {
		return opError(op, s.where, err)
	}
	s.left = true
	return nil
}

// Close leaves the channel and closes the socket. A sink that acknowledges has said then how far it is done. Messages that the socket still holds, or the sink, are gone, see Leave; but
// those in an inherited socket stay in it, for whoever reads it next. A Receive that waits ends with net.ErrClosed, and so does every
// later one.
func (s *Sink) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == nil || s.closed.Swap(true) {
		return opError("close", s.where, net.ErrClosed)
	}
	s.acks.end()
	s.end()
	err := s.conn.Close()
	s.unmap()
	return opError("close", s.where, err)
}

// takesNoMore says that a sink that leaves reads no more, instead of asking the broker to send no more.
func (s *Sink) takesNoMore() bool { return s.inherited || s.options.acknowledges() }

// log tells the logger, if there is one.
func (s *Sink) log(level slog.Level, text string, attrs ...slog.Attr) {
	if l := s.options.Logger; l != nil {
		l.LogAttrs(context.Background(), level, text, append(attrs, slog.String("socket", s.where), slog.String("sink", s.Label()))...)
	}
}
