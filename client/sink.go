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

// Forever is a duration without end. As a sink's patience it can stop the channel.
const Forever time.Duration = math.MaxInt64

// SinkOptions say what a sink is to be. The zero value is good: every message from now on.
type SinkOptions struct {
	Label string // in the status: [A-Za-z0-9_.-]{1,64}, or "" to let the broker choose; one that is taken gets a number
	Share string // sinks of one user with the same Share divide the messages among themselves
	Start Start  // where it begins: now, Oldest(), Last(n) or At(seq); one that joins a share begins where that is
	Tap   bool   // only look on: a tap never holds up the channel, and a channel with nothing but taps has no sink

	// Patience is how long the channel waits for this sink before it leaves it behind, and the sink loses messages; nil
	// leaves it to the broker. More than the broker's default, as new(msgmux.Forever), is for the privileged.
	Patience *time.Duration

	// Keep is how long the channel keeps this sink's place when its connection has gone, whether by Close or a kill, or
	// Forever: who subscribes with the same Label or Share as the same user goes on there, and misses nothing that the
	// channel still has. More than the broker's --keep is for the privileged. It needs a Share, or a Label that is free or
	// this user's own (else ErrInUse).
	//
	// Such a sink acknowledges: a message is done when the next one is asked for, and one whose turn in the loop was not
	// finished comes again.
	Keep    time.Duration
	Replace bool // take the place of a connection with the same kept name, which ends with ErrInUse

	// Ack leaves it to the program to say what is done, by Sink.Ack; until then messages stay in the channel. Without Keep
	// they are abandoned when the connection goes, or go to others of the share.
	Ack bool

	// From is the place that the program has stored with its results: everything before is done, whatever was said. With
	// that each message takes effect once. Subscribe fails with ErrEpoch if it is of another life of the channel's numbers.
	// What the channel has not kept since, OnGap is told.
	From Position

	// Batch is how many messages one of a share that acknowledges gets at once at most, the next ones when those are done;
	// 0: a packet. What one that dies has not done goes to another.
	Batch int

	// View has the sink read the channel's memory itself, for consumers of very much: nothing is sent to it but what wakes
	// it. It acknowledges, as with Keep. It goes with neither Share nor Tap nor Origin, and takes addresses for twice the
	// channel's --buffer. Where it cannot be had, messages come in packets, as SinkStats.View tells; all else is the same.
	View   bool
	Origin bool // tell Message.Origin, which the channel asks the kernel for only while some sink wants it
	// OwnProcessor is for a program that does nothing but receive, some hundred messages a second and more: a wait keeps the
	// processor (see runtime.GOMAXPROCS) for its first 4 ms, and ends twice as soon. The program's other goroutines, and
	// contexts, are late by as much. Half of the processors are kept at most, and none by sinks in view.
	OwnProcessor bool

	// Retry has Subscribe wait where there is no broker, or it answers "busy", "quota", "internal" or another Code that may
	// pass: it tries once a second until its context is done.
	Retry bool

	// Reconnect subscribes again when the broker has hung up, at once and then once a second, instead of ending with
	// ErrHungUp. It is a new sink then, with a new ID, that begins behind the last message that came: nothing is missing
	// or comes twice as far as the channel has kept it, and OnGap is told the rest. If the channel was stopped meanwhile
	// its messages begin anew (Gap.Anew). One of a share begins where that is.
	Reconnect bool

	// OnGap is called where messages are missing before the next one, by the goroutine that receives; it must not receive.
	OnGap func(Gap)

	// Logger is told when the sink connects (debug) or connects again (info), and of hang-ups and gaps (warning).
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

// Sink receives the messages of a channel. Its methods may be called by several goroutines; each message goes to one of
// them. The zero Sink is as one that was closed.
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

	noView bool // it cannot be in view here; it belongs to who connects
}

// Subscribe makes a sink. What the channel has accepted before and no sink has had yet comes first. It fails with
// ErrNoBroker, ErrBadOption, or ErrRefused and the broker's reason. A broker that is busy or being restarted answers late;
// Subscribe waits for it until ctx is done.
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
		if s.Close() != nil {
			s.end() // it never was connected
		}
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
	if s.in.moved && hello.Keep != 0 {
		hello.Replace = true // the broker may not have seen yet that the connection before has ended
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
	if err == nil {
		err = s.in.use(conn)
	}
	if err == nil && s.options.OwnProcessor && reader == nil {
		err = s.in.keep.prepare(conn)
	}
	if err != nil {
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
		s.acks.begin(conn, reader, reply.Next, s.in.want, s.options.Share != "")
	}
	s.in.useView(reader)
	s.counts.view.Store(reader != nil)
	return nil
}

// ID is the sink's number in the channel, which no other sink ever gets; 0 on an inherited socket.
func (s *Sink) ID() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.id
}

// Label is the sink's name in the channel: what was asked for, or what the broker has made of it ("db-2"); or the name of
// the inherited socket.
func (s *Sink) Label() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.label
}

// Status asks the channel how this sink is: how far it is behind, how long it would still be waited for, what it has lost.
// It fails as Channel.Sinks does; with ErrNotFound if the channel has forgotten the sink; on an inherited socket, which does
// not know its channel, with errors.ErrUnsupported.
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

// Leave asks the broker to send no more, and waits for nothing. Receiving goes on with what was sent before, and ends with
// io.EOF, also where it waits already: a program that is to lose nothing leaves, receives to the end, and closes. After an
// error the sink has not left.
//
// On an inherited socket, and of a sink that acknowledges, only what is left of the packet in hand can still be received;
// the rest stays in the socket, or the channel, for whoever is next.
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
	if err := leave(); err != nil && (!s.takesNoMore() || !errors.Is(err, net.ErrClosed)) {
		return opError(op, s.where, err)
	}
	s.left = true // also of a connection that the sink has closed itself, to go on by another
	return nil
}

// Close leaves the channel, having said how far a sink that acknowledges is done. What was not received is gone, except from
// an inherited socket or a kept sink. Receiving ends with net.ErrClosed.
func (s *Sink) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == nil || s.closed.Swap(true) {
		return opError("close", s.where, net.ErrClosed)
	}
	s.acks.end()
	s.end()
	err := s.conn.Close()
	if s.unmap(); errors.Is(err, net.ErrClosed) {
		err = nil // the sink has closed it itself, to go on by another
	}
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
