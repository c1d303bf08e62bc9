// SPDX-License-Identifier: Apache-2.0

package msgmux

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"math"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/msgmux/msgmux/internal/view"
	"github.com/msgmux/msgmux/internal/wire"
)

// Message is a message as a sink gets it.
type Message struct {
	Payload []byte // what was sent; empty, not nil, for a message of no bytes

	// Seq is the message's number in the one order of the channel, the same at every sink, and one more than that of the
	// message before, unless messages were lost or went to others of a share. Numbers begin anew when the channel is
	// stopped and started. It is 0 on an inherited socket without frames.
	Seq uint64

	Origin *Origin // who sent it and when; nil if SinkOptions.Origin did not ask. Messages share it: it is only to be read
}

// Gap is what is missing before a message.
type Gap struct {
	Before uint64 // the Seq of the message that comes next
	Lost   uint64 // how many messages this sink, or its share, has lost there because it was too slow
	Anew   bool   // more may be missing: the channel has begun anew, or a share's sink was connected again
}

// inlet is what a sink has received and not given out yet. It belongs to who has the turn.
type inlet struct {
	buffer  []byte   // grows to what comes
	at, end int      // the records that are left of a packet
	origins []byte   // whose they are: origins that hold from a later one on
	each    int      // from one origin to the next
	until   uint64   // the number from which the next of them holds; math.MaxUint64: there is none
	origin  *Origin  // that of the records before
	spare   []Origin // for those to come
	whole   bool     // or a datagram is there, maybe an empty one,
	size    int      // of so many bytes

	joined time.Time // when this connection was asked for
	epoch  uint64    // which life of the channel's numbers; 0: the broker did not tell
	seq    uint64    // the number of the next record
	want   uint64    // records with lower numbers were given out by an earlier connection
	begun  bool      // seq is known
	anew   bool      // the connection is not the first, does not go on where that was, and no packet has come by it
	given  uint64    // the number after that of the message that was given out last; 0: it has been noted as done
	acks   bool      // the sink says how far it is done
	lent   Message   // what is being looked at
	missed uint64    // messages between the last one of the connection before and the first one of this
	told   uint64    // the loss that the last packet told of

	raw  syscall.RawConn
	keep keeping
	try  func(fd uintptr) (done bool) // receive, bound once
	dry  func()                       // nothing more is there; nil: nobody wants to know
	n    int                          // what the last recv returned
	last error                        // why the broker ends the connection, if it has said so
	err  error                        //

	place  bool       // what is there next is wanted where it lies
	peeked view.Batch // what lies in placed
	placed []byte     // nil: nothing

	view   *view.Reader // of a sink in view: from where it reads; nil: packets come
	limit  uint64       // the position up to where it may: of a connection that has ended, where head was then
	unsure bool         // something is there that could not be read
	moved  bool         // to where it cannot be viewed: the sink has hung up itself, and goes on by another connection
	packet [wire.MaxReply]byte
	fds    []int // that came with the last packet
}

// Receive waits for the next message and returns it; the caller owns it. It fails with ErrHungUp when the broker has ended
// the sink, with io.EOF when all has come after Leave, and with ctx's error.
func (s *Sink) Receive(ctx context.Context) (Message, error) {
	if err := s.turn.take(ctx); err != nil {
		return Message{}, opError("receive", s.where, err)
	}
	defer s.giveTurn()
	s.moveOn()
	if !s.has() {
		release := interrupt(ctx, s.setReadDeadline)
		defer release()
		if err := s.fill(ctx); err != nil {
			return Message{}, opError("receive", s.where, err)
		}
	}
	if s.closed.Load() {
		return Message{}, opError("receive", s.where, net.ErrClosed)
	}
	var m Message
	s.take(&m)
	m.Payload = append(make([]byte, 0, len(m.Payload)), m.Payload...)
	return m, nil
}

// each yields one message after the other until ctx is done, yield returns false (errBreak), or there is an error of those
// that Receive returns. The message is lent for the turn.
func (s *Sink) each(ctx context.Context, yield func(*Message, error) bool) error {
	if err := s.turn.take(ctx); err != nil {
		return opError("receive", s.where, err)
	}
	defer s.giveTurn()
	release := interrupt(ctx, s.setReadDeadline)
	defer release()
	ends := ctx.Done() != nil
	s.moveOn()
	for {
		for !s.closed.Load() && s.has() {
			s.take(&s.in.lent)
			more := yield(&s.in.lent, nil)
			if overwriteLent {
				clear(s.in.lent.Payload)
				s.in.lent = Message{}
			}
			if !more {
				s.doneBefore()
				return errBreak
			}
			if s.in.at == s.in.end || s.in.acks && (s.acks.now || s.in.seq%noteEvery == 0) {
				s.moveOn()
			}
			if ends && ctx.Err() != nil {
				s.moveOn()
				return opError("receive", s.where, ctx.Err())
			}
		}
		if err := s.fill(ctx); err != nil {
			return opError("receive", s.where, err)
		}
	}
}

// noteEvery is how many messages of a packet a loop may have before it is noted that they are done. Each time takes a lock.
const noteEvery = 16

// errBreak is the end of a loop over Messages.
var errBreak = errors.New("break")

// Messages receives in a loop. Unless the loop ends by itself its last turn has no message, and an error of those that
// Receive returns. It costs a fraction of what Receive costs: nothing is copied or allocated.
//
// The Message and its Payload are the sink's own memory and hold the message only during its turn: copy what is to be kept. (Under
// the race detector they are overwritten after the turn, so that a test finds who forgot.) The loop must not call methods of the same
// sink that receive. After a loop that was left another goes on where it was.
func (s *Sink) Messages(ctx context.Context) iter.Seq2[*Message, error] {
	return func(yield func(*Message, error) bool) {
		if err := s.each(ctx, yield); !errors.Is(err, errBreak) {
			yield(new(Message), err)
		}
	}
}

// has says whether there is a message in the buffer.
func (s *Sink) has() bool { return s.in.at < s.in.end || s.in.whole }

// take takes the next message out of the buffer, a part of which its payload is, and makes m of it. It is filled where it stands: a
// Message is too large to be handed on by its parts.
//
// Preconditions: there is one.
func (s *Sink) take(m *Message) {
	in := &s.in
	if !s.framed {
		in.whole = false
		m.Payload = in.buffer[:in.size:in.size]
		return
	}
	b := in.buffer[in.at+wire.RecordHeader : in.end]
	n := int(binary.LittleEndian.Uint32(in.buffer[in.at:]))
	m.Payload, m.Seq = b[:n:n], in.seq
	in.at += wire.Padded(n)
	in.seq++
	if in.seq > in.until {
		in.nextOrigin()
	}
	m.Origin = in.origin
	if in.acks {
		in.given = in.seq
	}
}

// originsAtOnce is how many origins are allocated at once. A packet mostly has one, and who keeps it keeps its neighbours.
const originsAtOnce = 16

// nextOrigin takes the origins that hold up to the record that was just taken.
func (in *inlet) nextOrigin() {
	for in.seq > in.until {
		if len(in.spare) == 0 {
			in.spare = make([]Origin, originsAtOnce)
		}
		in.origin, in.spare = &in.spare[0], in.spare[1:]
		*in.origin = originOf(in.origins)
		in.origins, in.until = in.origins[in.each:], math.MaxUint64
		if len(in.origins) > 0 {
			in.until, _ = wire.ParseOrigin(in.origins)
		}
	}
}

// fill waits for the next packet or datagram and puts it into the buffer.
//
// Preconditions: the caller has the turn, has set up ctx with interrupt, and has taken all that the buffer held.
func (s *Sink) fill(ctx context.Context) error {
	for {
		if s.takesNoMore() && s.hasLeft() {
			return io.EOF
		}
		if s.in.moved {
			if err := s.reconnect(ctx); err != nil {
				return err
			}
		}
		if s.in.view != nil {
			if some, err := s.look(ctx); some || err != nil {
				return err
			}
			if !s.in.mayRest() {
				s.in.view.Wake()
				continue
			}
		}
		n, err := s.read()
		if s.in.view != nil {
			s.in.view.Wake()
			if err == nil {
				err = s.heard(n)
			}
			if err == nil {
				continue
			}
		}
		switch {
		case err == nil && s.framed:
			if err := s.unpack(n); err != nil || s.in.at < s.in.end {
				return err
			}
			continue // an earlier connection had all of it
		case err == nil:
			s.in.size, s.in.whole = n, true
			s.counts.messages.Add(1)
			s.counts.bytes.Add(uint64(n))
			return nil
		case s.takesNoMore() && errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil:
			continue // Leave has set it; nobody else does without ctx
		case !isHangUp(err):
			return orContext(ctx, err)
		case s.hasLeft():
			return io.EOF
		}
		if v := s.in.view; v != nil && s.in.last == nil && s.in.limit == math.MaxUint64 {
			if s.in.limit = v.Head(); v.More(s.in.limit) {
				continue // what there was is there still
			}
		}
		s.log(slog.LevelWarn, "the broker has hung up")
		if s.in.last != nil {
			return s.in.last
		}
		if !s.options.Reconnect {
			return ErrHungUp
		}
		if err := s.reconnect(ctx); err != nil {
			return err
		}
	}
}

// read waits for a packet or datagram, and returns its size. The end of a connection is io.EOF or ECONNRESET.
func (s *Sink) read() (n int, err error) {
	n, err = s.readOnce()
	for ends := 1; ends < looksAtEnd && isHangUp(err); ends++ {
		n, err = s.readOnce()
	}
	return n, err
}

// readOnce is read that takes the kernel's word for the end.
func (s *Sink) readOnce() (int, error) {
	in := &s.in
	err := in.raw.Read(in.try)
	if err == nil {
		err = in.err
	}
	switch {
	case err == nil && !s.inherited && in.n == 0: // no packet is empty
		err = io.EOF
	case err == nil && in.n > len(in.buffer):
		err = syscall.EMSGSIZE // there is more of it than can be; no broker sent it
	}
	return in.n, err
}

// receive is the function that RawConn.Read calls: it reads from the socket, again each time that the poller finds
// something. Descriptors that a stranger attaches to a datagram are closed by the kernel: recv has no place for them.
func (in *inlet) receive(fd uintptr) (done bool) {
	over, err := takeOverflow()
	if err != nil {
		in.err = err
		return true
	}
	defer over.give()
	n, errno := in.recv(int(fd), over.memory)
	in.n, in.err = n, asError(errno)
	if behind := n - len(in.buffer); behind > 0 && behind < len(over.memory) {
		in.buffer = over.into(in.buffer, behind)
	}
	if errno != syscall.EAGAIN {
		return true
	}
	if in.dry != nil {
		in.dry()
	}
	return false
}

// use makes conn the socket to receive from.
func (in *inlet) use(conn *net.UnixConn) (err error) {
	if in.buffer == nil {
		in.buffer = make([]byte, firstBuffer)
		in.try = in.receive
	}
	in.raw, err = conn.SyscallConn()
	return err
}

// begin notes what the broker has said with its ok: where the sink begins. It goes on exactly where it was if the numbers
// are still the same ones.
func (in *inlet) begin(reply wire.Reply, again, shared bool) {
	exact := again && !shared && in.epoch != 0 && reply.Epoch == in.epoch
	in.anew, in.missed, in.want, in.told = again && !exact, 0, 0, 0
	if exact {
		in.want, in.missed = in.seq, max(reply.Next, in.seq)-in.seq
	}
	in.epoch, in.seq, in.begun = reply.Epoch, reply.Next, reply.Epoch != 0 && !shared
}

// unpack begins with the records of a packet of n bytes that is in the buffer.
func (s *Sink) unpack(n int) error {
	in := &s.in
	// The number of a packet would have to be beyond 10^13 for it to begin like this.
	if in.acks && bytes.HasPrefix(in.buffer[:n], []byte("error ")) {
		if reply, err := wire.ParseReply(in.buffer[:n]); err == nil && reply.Err != nil {
			in.last = reply.Err // the last that comes
			return nil
		}
	}
	parse := wire.ParseSinkPacket
	if s.options.Origin {
		parse = wire.ParseMetaPacket
	}
	packet, err := parse(in.buffer[:n])
	if err != nil {
		return fmt.Errorf("%w: %s", errBadPacket, err.Error()) // only its text: it is no refusal by the broker
	}
	shared := s.options.Share != ""
	if (shared || s.inherited || in.acks) && !in.begun {
		in.told = packet.Lost // before this sink came
	}
	gap := Gap{Lost: packet.Lost - in.told, Anew: in.anew}
	if packet.Lost < in.told {
		gap.Lost, gap.Anew = packet.Lost, true // it counts from the beginning
	}
	// What comes is what was next, or what was lost lies between. In a share, others have what lies between.
	switch {
	case !in.begun || shared:
	case !in.acks && packet.First != in.seq+gap.Lost:
		gap.Anew = true
	default: // who acknowledges may have lost what it was sent, and had not done
		gap.Lost = in.lostBefore(packet.First)
	}
	gap.Lost += in.missed
	in.begun, in.anew, in.missed, in.told, in.seq = true, false, 0, packet.Lost, packet.First
	in.at, in.end = n-len(packet.Records), n
	in.origins, in.each, in.until = packet.Origins, packet.OriginSize, math.MaxUint64
	if in.each > 0 {
		in.until = packet.First // the first one's
	}
	s.counts.messages.Add(uint64(packet.Count))
	s.counts.bytes.Add(uint64(packet.Bytes))
	if in.acks {
		s.acks.read(n, packet.First+uint64(packet.Count))
	}
	if in.seq < in.want {
		s.passOver()
	}
	if gap.Lost > 0 || gap.Anew {
		gap.Before = in.seq
		s.tell(gap)
	}
	return nil
}

// lostBefore is how many messages are missing where the one numbered first comes next. What an earlier connection has brought is not.
func (in *inlet) lostBefore(first uint64) uint64 { return first - min(first, max(in.seq, in.want)) }

// passOver drops what an earlier connection has brought already: a tap may have had what no sink had, and is then begun
// before it.
func (s *Sink) passOver() {
	in := &s.in
	for in.at < in.end && in.seq < in.want {
		size := binary.LittleEndian.Uint32(in.buffer[in.at:])
		in.at += wire.Padded(int(size))
		in.seq++
		s.counts.messages.Add(^uint64(0))
		s.counts.bytes.Add(-uint64(size))
	}
}

// tell says that messages are missing.
func (s *Sink) tell(gap Gap) {
	s.counts.lost.Add(gap.Lost)
	s.counts.gaps.Add(1)
	s.log(slog.LevelWarn, "messages are missing", slog.Uint64("before", gap.Before), slog.Uint64("lost", gap.Lost),
		slog.Bool("anew", gap.Anew))
	if s.options.OnGap != nil {
		s.options.OnGap(gap)
	}
}

// errBadPacket is a broker that does not keep to the protocol, or a plain message where frames should be.
var errBadPacket = errors.New("what came is no packet")

// hasLeft says whether Leave was called.
func (s *Sink) hasLeft() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.left
}

// setReadDeadline is for interrupt: the connection may be another by the time that it is called.
func (s *Sink) setReadDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conn.SetReadDeadline(t)
}

// reconnect makes s a sink again after the broker has hung up, or one where there was no broker: at once, but never more
// than once a second, until ctx is done. What the broker refuses for a reason that will not pass is the end.
func (s *Sink) reconnect(ctx context.Context) error {
	ctx, cancel := during(ctx, s.life)
	defer cancel()
	for {
		err := sleep(ctx, againAfter-time.Since(s.in.joined))
		again := s.conn != nil
		if err == nil {
			s.in.joined = time.Now()
			err = s.connect(ctx)
		}
		switch {
		case s.life.Err() != nil:
			return net.ErrClosed
		case ctx.Err() != nil:
			return ctx.Err() // also if it was done just before: interrupt has met the old connection then
		case s.hasLeft():
			return io.EOF
		case err == nil && again:
			s.counts.reconnects.Add(1)
			s.log(slog.LevelInfo, "subscribed again", slog.Bool("anew", s.in.anew))
			return nil
		case err == nil || !mayPass(err):
			return err
		case again && !s.options.Reconnect && isAbsent(err):
			return ErrHungUp // the channel was stopped meanwhile
		}
	}
}

// mayPass tells whether it is of use to try again: there is no broker, or it refused with a code for which
// docs/protocol.md says so. Codes that it does not have count as internal, which may pass. A name that is in use is not waited for.
func mayPass(err error) bool {
	if refusal, ok := errors.AsType[*wire.Error](err); ok {
		switch refusal.Code {
		case wire.CodeBadText, wire.CodeBadAddress, wire.CodeBadOption, wire.CodeUnknownOption, wire.CodeUnsupported, wire.CodeNotOwner,
			wire.CodeProve, wire.CodeDenied, wire.CodeNotFound, wire.CodeLoop, wire.CodeNamespace, wire.CodeAccess, wire.CodeWrongType,
			wire.CodePoison, wire.CodeTooLarge, wire.CodeBadPacket, wire.CodeBadAck, wire.CodeInUse:
			return false
		}
		return true
	}
	return isAbsent(err)
}
