// SPDX-License-Identifier: Apache-2.0

package msgmux

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/view"
	"github.com/msgmux/msgmux/internal/wire"
)

// MaxMessage is the largest message that any channel takes, in bytes. Most take less: 256 KiB, unless msgmuxd was given
// another --max-message. Source.MaxMessage tells.
const MaxMessage = 4 << 20

// SourceOptions say what a source is to be. The zero value is good.
type SourceOptions struct {
	Label     string // in the broker's log: [A-Za-z0-9_.-]{1,64}, or "" to let the broker choose
	Datagrams bool   // each message is a datagram of its own, also where the broker takes many in one packet

	// Marks has each packet tell the channel how far the source has come in its own input (Batch.Mark), and Source.Mark
	// tell the source, so that it goes on there and each message is in the channel once. It needs a Label and a publish
	// socket. If a source of that label is connected already Dial fails with ErrInUse.
	Marks bool

	// Keep is how long the channel keeps the mark when the connection has gone, or Forever. More than the broker's --keep
	// is for the privileged.
	Keep    time.Duration
	Replace bool // take the place of a connection with the same label and marks

	// Stage has the source write to memory that it shares with the broker: while both are busy neither makes a system call
	// for the other. Where that cannot be had, messages go in packets; SourceStats.Stage tells. It takes a megabyte or
	// more, and counts as two sources.
	Stage bool

	// Retry has Dial, Send, Batch.Add and Batch.Flush wait where there is no broker, or it answers "busy", "quota", "internal"
	// or another Code that may pass, instead of failing: they try once a second until their context is done.
	Retry bool

	// Logger is told when the source connects (debug) or connects again (info), and of hang-ups and waiting (warning).
	Logger *slog.Logger
}

// Source sends messages into a channel. Its methods may be called by several goroutines; each message is sent whole. The
// messages of one source keep their order; those of several have one order too, the same for all sinks. The zero Source is
// as one that was closed.
type Source struct {
	channel Channel
	options SourceOptions
	hello   wire.Hello
	framed  bool // connected to publish and not to source; holds for life
	path    string
	turn    turn            // who has it may use what follows, and replace conn
	life    context.Context // ends with Close
	end     context.CancelFunc
	counts  sourceCounts

	out    attempt
	record []byte // the message that is being sent, as a record; kept for the next one
	load   load   // what the packet that is being sent holds

	stage   *view.Writer // where messages are put, in place of packets; nil: they are sent. Who has the turn may use it
	noStage bool         // there is none to be had
	last    error        // why the broker has ended the connection, if it has said so

	mark   atomic.Uint64 // of a marked source: what the channel has
	epoch  uint64        // of the connection; who has the turn may read it
	packet []byte        // the packet with a mark that is being sent; kept for the next one

	limit  atomic.Int64 // the largest message that the broker takes, as far as is known; 0: nothing is
	asking atomic.Bool  // somebody asks for that, for those who do not wait

	mu     sync.Mutex // guards what follows against Close, which does not wait for its turn
	conn   *net.UnixConn
	closed bool
}

// attempt is one sendmsg on one socket. It is a part of Source, with its method bound once, so that a send allocates
// nothing.
type attempt struct {
	raw     syscall.RawConn
	try     func(fd uintptr) (done bool)
	packet  []byte
	wait    bool            // in the runtime's poller, for room,
	ctx     context.Context // until that is done
	release func()          // it waits: see interrupt
	err     error
}

// Dial opens the channel for sending: it connects to the publish socket or, where there is none, to the source socket, one
// datagram a message. It fails with ErrNoBroker, and with ErrRefused where the mode of the socket or the broker does not
// allow it. The broker answers at once unless it is being restarted; Dial waits for that until ctx is done.
func (c Channel) Dial(ctx context.Context, options SourceOptions) (*Source, error) {
	const op = "dial"
	s := &Source{channel: c, options: options, turn: newTurn()}
	s.out.try = s.try
	if options.Label != "" {
		if err := s.hello.Set("label", options.Label); err != nil {
			return nil, badValue(op, err)
		}
	}
	s.hello.Mark, s.hello.Keep, s.hello.Replace = options.Marks, options.Keep, options.Replace
	if err := s.hello.CheckSource(); err != nil || options.Keep < 0 || options.Marks && options.Datagrams {
		return nil, badValue(op, cmp.Or(err, errors.New("a negative Keep, or Marks of what goes as datagrams")))
	}
	s.life, s.end = context.WithCancel(context.Background())
	for {
		err := s.dialEither(ctx, op)
		if err == nil {
			s.log(slog.LevelDebug, "connected")
			return s, nil
		}
		if s.retries(err) {
			err = s.pause(ctx, err)
		}
		if err != nil {
			s.end()
			return nil, opError(op, s.path, err)
		}
	}
}

// dialEither connects to publish, or to source where there is no publish.
func (s *Source) dialEither(ctx context.Context, op string) (err error) {
	for _, name := range []string{wire.SocketPublish, wire.SocketSource} {
		s.framed = name == wire.SocketPublish
		if s.framed && s.options.Datagrams {
			continue
		}
		if s.path, err = s.channel.socket(op, name); err != nil {
			return err
		}
		if err = s.dial(ctx); !s.framed || err == nil || s.options.Marks || !lacksFrames(err) {
			return err
		}
	}
	return err
}

// lacksFrames tells whether err means that this channel has no publish socket, or a broker that speaks another version:
// then datagrams are the way in. They are never lost silently, as they would be on the way out.
func lacksFrames(err error) bool {
	if refusal, ok := errors.AsType[*wire.Error](err); ok {
		return refusal.Code == wire.CodeUnsupported
	}
	return isAbsent(err)
}

// retries tells whether the source is to try again after err.
func (s *Source) retries(err error) bool { return s.options.Retry && mayPass(err) }

// pause waits until it is time to try again what failed with cause.
func (s *Source) pause(ctx context.Context, cause error) error {
	s.log(slog.LevelWarn, "waiting for a broker", slog.Any("error", cause))
	ctx, cancel := during(ctx, s.life)
	defer cancel()
	if err := sleep(ctx, againAfter); s.life.Err() == nil {
		return err
	}
	return net.ErrClosed
}

// dial connects, in place of an earlier connection.
//
// Preconditions: the caller has the turn, or nobody else knows s.
func (s *Source) dial(ctx context.Context) error {
	ctx, cancel := during(ctx, s.life)
	defer cancel()
	conn, told, stage, err := s.connect(ctx)
	if s.life.Err() != nil && err != nil {
		return net.ErrClosed
	}
	if err != nil {
		return err
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		if stage != nil {
			stage.Close()
		}
		return errors.Join(net.ErrClosed, conn.Close())
	}
	if s.conn != nil {
		_ = s.conn.Close() // its broker is gone
	}
	s.conn, s.out.raw, s.last = conn, raw, nil
	s.useStage(stage)
	s.limit.Store(s.limitOf(told))
	return nil
}

// sendBuffer is what a connection to publish may hold that the broker has not received, in bytes as setsockopt(2) takes it: the kernel doubles
// it, up to twice net.core.wmem_max. It wakes a sender that waits for room only when three quarters of the buffer are free
// (unix_writable in net/unix/af_unix.c): of the default, 208 KiB, when the last packet of 64 KiB is gone, so that the broker has nothing to do
// until the sender runs. Of more, some are there still, and the sender is woken for several.
const sendBuffer = 512 << 10

// connect makes a connection to the socket that s sends to, and returns the largest message that it takes; 0: not told.
// A datagram socket must be connected too: only then does the kernel tell when a full channel takes messages again
// (unix(7), poll).
func (s *Source) connect(ctx context.Context) (_ *net.UnixConn, told int, stage *view.Writer, err error) {
	if s.framed {
		conn, reply, stage, err := s.join(ctx)
		if err == nil && stage == nil {
			_ = conn.SetWriteBuffer(sendBuffer) // mostly there is more than the default to be had; if not, all is slower and nothing else
		}
		return conn, int(min(reply.MaxMessage, MaxMessage)), stage, err
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unixgram", s.path)
	if err != nil {
		return nil, 0, nil, err
	}
	return conn.(*net.UnixConn), 0, nil, nil
}

// Send sends one message, of any bytes and of 0 to MaxMessage in length, and waits while its queue is full, because no sink
// is there or one has to be waited for. When it returns nil the message is in the channel, and payload may be used
// again; when it returns ctx's error the message was not sent, but if the source has a stage, and ctx ended while the broker was
// hanging up, it may have been. What is in the channel outlives a kill of a broker under systemd; stopping the channel, or killing a broker that was started by hand, gives up what no sink has had. Small messages
// go several times as fast through a Batch.
//
// If the channel was stopped and started since the last message, Send connects again; while it is stopped, Send fails with
// ErrNoBroker, or waits if SourceOptions.Retry says so.
//
// A message of more than Source.MaxMessage fails with ErrTooLarge. In two cases that cannot be known beforehand. A source of
// datagrams asks for the limit from 64 KiB on; if this user may not ask, the broker drops the message. And where a restart
// has made the limit smaller the broker drops the message and what was sent after it, and hangs up; the next call fails with
// the Code "too-large" in its OpError, its message not sent, and the one after that connects again.
func (s *Source) Send(ctx context.Context, payload []byte) error {
	if err := s.turn.take(ctx); err != nil {
		return opError("send", s.path, err)
	}
	defer s.giveTurn()
	return opError("send", s.path, s.send(ctx, payload, true))
}

// TrySend is Send that does not wait for the channel, nor for another goroutine that uses the source: it fails with
// ErrWouldBlock. Connecting again may take a tenth of a second.
func (s *Source) TrySend(payload []byte) error {
	if err := s.turn.try(); err != nil {
		return opError("send", s.path, err)
	}
	defer s.giveTurn()
	return opError("send", s.path, s.send(context.Background(), payload, false))
}

// Writer makes each Write one message, byte for byte, which is sent as Send does with ctx: for log, slog (whose newline is
// a part of the message) and io.Copy.
func (s *Source) Writer(ctx context.Context) io.Writer { return writer{s, ctx} }

type writer struct {
	source *Source
	ctx    context.Context // of every Write: io.Writer has no place for one
}

func (w writer) Write(message []byte) (int, error) {
	if err := w.source.Send(w.ctx, message); err != nil {
		return 0, err
	}
	return len(message), nil
}

// MaxMessage is the largest message that the channel takes, in bytes; 0: the broker has not told, as it does a source of
// datagrams only when asked.
func (s *Source) MaxMessage() int { return int(s.limit.Load()) }

// send does what Send and TrySend promise, with errors as the kernel gives them.
//
// Preconditions: the caller has the turn.
func (s *Source) send(ctx context.Context, payload []byte, wait bool) error {
	if err := s.admit(ctx, len(payload), wait); err != nil {
		return err
	}
	s.record, s.load = wire.AppendRecord(s.record[:0], payload), load{1, len(payload)}
	if s.options.Marks {
		return s.sendMarked(ctx, s.mark.Load(), s.record, wait)
	}
	_, err := s.transmit(ctx, s.record, wait)
	return err
}

// join connects to publish. What a marked source has sent on an earlier connection may still be on its way in: then the broker is
// busy for a moment.
func (s *Source) join(ctx context.Context) (*net.UnixConn, wire.Reply, *view.Writer, error) {
	for {
		conn, reply, stage, err := s.joinStaged(ctx)
		if err == nil && s.options.Marks {
			s.mark.Store(reply.Mark)
			s.epoch = reply.Epoch
		}
		if refusal, ok := errors.AsType[*wire.Error](err); !ok || !s.options.Marks || refusal.Code != wire.CodeBusy {
			return conn, reply, stage, err
		}
		if err := sleep(ctx, drainedAfter); err != nil {
			return nil, wire.Reply{}, nil, err
		}
	}
}

// drainedAfter is how soon a marked source asks again whether what it has sent before is in.
const drainedAfter = 20 * time.Millisecond

// limitWithin is how long the broker may take to say how large a message may be, before one that may be too large.
const limitWithin = 250 * time.Millisecond

// takes tells whether the broker takes a message of size bytes, as far as it has told. Where it has not, what fits a
// packet with others is not worth the question. Everybody may call it.
func (s *Source) takes(size int) bool {
	limit := s.limit.Load()
	return int64(size) <= limit || limit == 0 && size <= wire.MaxPacket
}

// admit refuses a message of more bytes than the channel takes, as far as that can be known. What the broker has told
// may have changed with a restart: it is asked before a refusal. Who cannot wait is refused by what is known, or with EAGAIN where
// nothing is, and the broker is asked meanwhile.
//
// Preconditions: the caller has the turn.
func (s *Source) admit(ctx context.Context, size int, wait bool) error {
	if s.takes(size) {
		return nil
	}
	most, known := s.most(), s.limit.Load() != 0
	if wait {
		s.askLimit(ctx, most)
	} else if !s.asking.Swap(true) {
		go func() {
			s.askLimit(s.life, most)
			s.asking.Store(false)
		}()
	}
	switch {
	case !wait && !known:
		return syscall.EAGAIN
	case !s.takes(size):
		return syscall.EMSGSIZE
	}
	return nil
}

// askLimit asks the broker how large a message may be, at most of what there is room for.
func (s *Source) askLimit(ctx context.Context, most int) {
	ctx, cancel := context.WithTimeout(ctx, limitWithin)
	defer cancel()
	if status, err := s.channel.Status(ctx); err == nil {
		s.limit.Store(int64(min(status.MaxMessage, most)))
	} else if s.limit.Load() == 0 {
		s.limit.Store(MaxMessage) // and is not asked again, unless that is too large
	}
}

// redialWithin bounds how long those who cannot wait may wait for a new connection.
const redialWithin = 100 * time.Millisecond

// load is how much there is in a packet: to count it again would cost as much as to send it.
type load struct{ messages, bytes int }

// transmit sends records: all in one packet, or each as a datagram of its own. It returns those that it has not sent.
// Of an error EMSGSIZE the cause is not among them: it will never be sent.
//
// Preconditions: the caller has the turn, and s.load is what the records hold.
func (s *Source) transmit(ctx context.Context, records []byte, wait bool) (rest []byte, err error) {
	for dialled := false; ; dialled = true {
		records, err = s.write(ctx, records, wait)
		if !isGone(err) {
			return records, err
		}
		// This connection's broker is gone, and has not taken what was to be written now.
		if refusal := s.farewell(); refusal != nil {
			return records, refusal
		}
		if dialled {
			if !wait || !s.options.Retry {
				return records, err
			}
			if err := s.pause(ctx, err); err != nil {
				return records, err
			}
		}
		if err := s.redial(ctx, wait); err != nil {
			return records, err
		}
	}
}

// redial is dial after the broker has gone, which those who cannot wait for are given a moment for.
func (s *Source) redial(ctx context.Context, wait bool) error {
	s.log(slog.LevelWarn, "the broker has gone")
	err := s.redialOnce(ctx, wait)
	for err != nil && wait && s.retries(err) {
		if err := s.pause(ctx, err); err != nil {
			return err
		}
		err = s.redialOnce(ctx, wait)
	}
	if err == nil {
		s.counts.reconnects.Add(1)
		s.log(slog.LevelInfo, "connected again")
	}
	return err
}

func (s *Source) redialOnce(ctx context.Context, wait bool) error {
	if wait {
		return s.dial(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, redialWithin)
	defer cancel()
	err := s.dial(ctx)
	if ctx.Err() != nil && err != nil {
		return syscall.EAGAIN
	}
	return err
}

// write is transmit on the connection that there is.
func (s *Source) write(ctx context.Context, records []byte, wait bool) (rest []byte, err error) {
	for err == nil && len(records) > 0 {
		n := int(binary.LittleEndian.Uint32(records))
		packet, end, holds := records[wire.RecordHeader:wire.RecordHeader+n], wire.Padded(n), load{1, n}
		if s.framed {
			packet, end, holds = records, len(records), s.load
		}
		if err = s.put(ctx, packet, wait); err == nil {
			s.counts.messages.Add(uint64(holds.messages))
			s.counts.bytes.Add(uint64(holds.bytes))
		}
		if err == nil || errors.Is(err, syscall.EMSGSIZE) {
			records = records[end:]
		}
	}
	return records, err
}

// put sends one packet or datagram.
func (s *Source) put(ctx context.Context, packet []byte, wait bool) error {
	for grown := false; ; {
		err := s.once(ctx, packet, wait)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, syscall.EMSGSIZE) && !grown:
			// The kernel charges a message to its sender's buffer until it is read, and takes none that is larger than
			// the buffer. It doubles the size that it is asked for, up to twice net.core.wmem_max (socket(7)).
			grown = true
			if err := s.conn.SetWriteBuffer(len(packet)); err != nil {
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
func (s *Source) once(ctx context.Context, packet []byte, wait bool) error {
	if s.stage != nil {
		return s.putStaged(ctx, packet, wait)
	}
	s.out.ctx = ctx
	err := s.out.run(packet, wait)
	s.out.ctx = nil
	if s.out.release != nil {
		s.out.release()
		s.out.release = nil
		s.counts.waited()
		err = orContext(ctx, err)
	}
	return err
}

// run makes the attempt.
func (a *attempt) run(packet []byte, wait bool) error {
	a.packet, a.wait = packet, wait
	err := a.raw.Write(a.try)
	a.packet = nil
	if err != nil {
		return err // closed, or the deadline has passed
	}
	return a.err
}

// try is the function that RawConn.Write calls, again each time that the poller finds room. The net package's own
// writers do not do: UnixConn.Write reports an empty message as done or failed without ever waiting, and WriteMsgUnix
// refuses connected datagram sockets.
func (s *Source) try(fd uintptr) (done bool) {
	a := &s.out
	errno := sys.Send(int(fd), a.packet)
	a.err = asError(errno)
	if !a.wait || errno != syscall.EAGAIN {
		return true
	}
	if a.release == nil { // mostly there is room, and ctx need not be watched
		s.counts.wait()
		a.release = interrupt(a.ctx, s.setWriteDeadline)
	}
	return false
}

// setWriteDeadline is for interrupt.
func (s *Source) setWriteDeadline(t time.Time) error { return s.conn.SetWriteDeadline(t) }

// farewell is the refusal of an earlier packet that the broker sent before it hung up, or nil. It is told once.
func (s *Source) farewell() error {
	if told := s.last; !s.framed || told != nil {
		s.last = nil
		return told
	}
	last := make([]byte, wire.MaxReply)
	for range looksAtEnd {
		n := 0
		err := s.out.raw.Read(func(fd uintptr) (done bool) {
			n, _, _ = syscall.Recvfrom(int(fd), last, syscall.MSG_DONTWAIT)
			return true
		})
		if err == nil && n > 0 {
			if reply, err := wire.ParseReply(last[:n]); err == nil && reply.Err != nil {
				return reply.Err
			}
		}
	}
	return nil
}

// isGone tells whether err means that nobody reads at the other end any more: refused once, then not connected (a
// datagram socket); reset once, then a broken pipe (a connection); or shut down.
func isGone(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOTCONN) || isHangUp(err)
}

// isShortOfMemory tells whether err means a lack of kernel memory that may pass.
func isShortOfMemory(err error) bool {
	return errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.ENOMEM)
}

// Close ends the source. What was sent stays sent; a Send that waits ends with net.ErrClosed.
func (s *Source) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.conn == nil {
		return opError("close", s.path, net.ErrClosed)
	}
	s.end()
	s.closed = true
	err := s.conn.Close()
	s.unmap()
	return opError("close", s.path, err)
}

// log tells the logger, if there is one.
func (s *Source) log(level slog.Level, text string, attrs ...slog.Attr) {
	if l := s.options.Logger; l != nil {
		l.LogAttrs(context.Background(), level, text, append(attrs, slog.String("socket", s.path))...)
	}
}
