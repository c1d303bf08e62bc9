// SPDX-License-Identifier: Apache-2.0

package msgmux

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// Message is a message as a sink gets it.
type Message struct {
	// Payload is what was sent. It is empty, not nil, for a message of no bytes.
	Payload []byte

	// Seq is the message's number in the one order of the channel, the same at every sink; the next one's is higher by
	// one, unless messages were lost or another sink of the share has got them. Numbers only grow as long as the channel
	// is not stopped. It is 0 at a sink that is a datagram socket.
	Seq uint64
}

// Gap is what is missing before a message.
type Gap struct {
	Before uint64 // the Seq of the message that comes next
	Lost   uint64 // how many messages this sink, or its share, has lost there because it was too slow
	Anew   bool   // more may be missing: the sink was connected again, or the channel's memory is not the one it was
}

// inlet is what a sink has received and not given out yet. It belongs to who has the turn.
type inlet struct {
	buffer  []byte
	at, end int    // the records that are left of a packet; of a datagram, only its end
	whole   bool   // a datagram is there, maybe an empty one
	seq     uint64 // of the next record

	begun  bool      // a packet has come by this connection
	anew   bool      // the connection is not the first, and no packet has come by it
	told   uint64    // the loss that the last packet told of
	joined time.Time // when this connection was asked for

	raw   syscall.RawConn
	try   func(fd uintptr) (done bool) // receive, bound once
	last  bool                         // do not wait: what is not there will not come
	reset bool                         // the kernel has told of the end of this connection
	n     int                          // what the last recv returned
	err   error                        //
}

// bufferSize holds the largest datagram that Linux makes at all: 4 MiB and a little more pass, never a quarter MiB
// more. So no packet is ever cut off, and no second system call has to ask for its size. Untouched pages cost nothing.
const bufferSize = MaxMessage + 256<<10

// Receive waits for the next message and returns it; the caller owns it. After ctx is done it returns ctx's error.
// ErrHungUp means that the broker has ended the sink, io.EOF that all has come after Leave.
func (s *Sink) Receive(ctx context.Context) (Message, error) {
	if err := s.turn.take(ctx); err != nil {
		return Message{}, opError("receive", s.where, err)
	}
	defer s.turn.give()
	m, ok := s.in.next(s.framed)
	if !ok {
		release := interrupt(ctx, s.setReadDeadline)
		defer release()
		if err := s.fill(ctx); err != nil {
			return Message{}, opError("receive", s.where, err)
		}
		m, _ = s.in.next(s.framed)
	}
	m.Payload = append(make([]byte, 0, len(m.Payload)), m.Payload...)
	return m, nil
}

// Each calls f with one message after the other until ctx is done or f returns an error, and returns that error; or one
// of those that Receive returns. It costs a fraction of what Receive costs: no copy, no allocation, and one system call
// for all messages of a packet.
//
// Payload is the sink's own memory and holds the message only during the call; what is to be kept must be copied. (Under
// the race detector it is overwritten after the call, so that a test finds who forgot.) f must not call methods of the
// same sink that receive.
func (s *Sink) Each(ctx context.Context, f func(Message) error) error {
	if err := s.turn.take(ctx); err != nil {
		return opError("receive", s.where, err)
	}
	defer s.turn.give()
	release := interrupt(ctx, s.setReadDeadline)
	defer release()
	ends := ctx.Done() != nil
	for {
		for m, ok := s.in.next(s.framed); ok; m, ok = s.in.next(s.framed) {
			err := f(m)
			if overwriteLent {
				clear(m.Payload)
			}
			if err != nil {
				return err
			}
			if ends && ctx.Err() != nil {
				return opError("receive", s.where, ctx.Err())
			}
		}
		if err := s.fill(ctx); err != nil {
			return opError("receive", s.where, err)
		}
	}
}

// errBreak is the end of a loop over Messages.
var errBreak = errors.New("break")

// Messages is Each for a loop:
//
//	for m, err := range sink.Messages(ctx) {
//
// The last turn, if the loop does not end by itself, has an error and no message. Payload holds the message only during
// its turn.
func (s *Sink) Messages(ctx context.Context) iter.Seq2[Message, error] {
	return func(yield func(Message, error) bool) {
		err := s.Each(ctx, func(m Message) error {
			if !yield(m, nil) {
				return errBreak
			}
			return nil
		})
		if !errors.Is(err, errBreak) {
			yield(Message{}, err)
		}
	}
}

// next takes the next message out of the buffer; false: there is none. Its payload is a part of the buffer.
func (in *inlet) next(framed bool) (m Message, ok bool) {
	if !framed {
		ok, in.whole = in.whole, false
		return Message{Payload: in.buffer[:in.end:in.end]}, ok
	}
	if in.at >= in.end {
		return Message{}, false
	}
	begin := in.at + wire.RecordHeader
	end := begin + int(binary.LittleEndian.Uint32(in.buffer[in.at:]))
	in.at += wire.Padded(end - begin)
	in.seq++
	return Message{Payload: in.buffer[begin:end:end], Seq: in.seq - 1}, true
}

// fill waits for the next packet or datagram and puts it into the buffer.
//
// Preconditions: the caller has the turn, has set up ctx with interrupt, and has taken all that the buffer held.
func (s *Sink) fill(ctx context.Context) error {
	for {
		n, err := s.read()
		switch {
		case err == nil && s.framed:
			return s.unpack(n)
		case err == nil:
			s.in.end, s.in.whole = n, true
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil && s.hasLeft():
			_ = s.setReadDeadline(time.Time{}) // Leave has set it, and from now on no read waits
			continue
		case !isHangUp(err):
			return orContext(ctx, err)
		case s.hasLeft():
			return io.EOF
		case !s.options.Reconnect:
			return ErrHungUp
		}
		if err := s.reconnect(ctx); err != nil {
			return err
		}
	}
}

// read waits for a packet or datagram, and returns its size. The end of a connection, and of what came before Leave, is
// io.EOF.
func (s *Sink) read() (int, error) {
	in := &s.in
	in.last = !s.framed && s.hasLeft() // nobody sends to it any more
	err := in.raw.Read(in.try)
	if err == nil {
		err = in.err
	}
	switch {
	case errors.Is(err, syscall.ECONNRESET) && !in.reset:
		in.reset = true // told once, and before what was sent last
		return s.read()
	case in.last && errors.Is(err, syscall.EAGAIN), err == nil && s.framed && in.n == 0: // no packet is empty
		err = io.EOF
	case err == nil && in.n == len(in.buffer):
		err = syscall.EMSGSIZE // there is more of it than can be; no broker sent it
	}
	return in.n, err
}

// receive is the function that RawConn.Read calls: it reads from the socket, again each time that the poller finds
// something. Descriptors that a stranger attaches to a datagram are closed by the kernel: recv has no place for them.
func (in *inlet) receive(fd uintptr) (done bool) {
	n, errno := sys.Recv(int(fd), in.buffer, nil)
	in.n, in.err = n, asError(errno)
	return in.last || errno != syscall.EAGAIN
}

// use makes conn the socket to receive from.
func (in *inlet) use(conn *net.UnixConn) (err error) {
	if in.buffer == nil {
		in.buffer = make([]byte, bufferSize)
		in.try = in.receive
	}
	in.reset = false
	in.raw, err = conn.SyscallConn()
	return err
}

// unpack begins with the records of a packet of n bytes that is in the buffer.
func (s *Sink) unpack(n int) error {
	in := &s.in
	packet, err := wire.ParseSinkPacket(in.buffer[:n])
	if err != nil {
		return fmt.Errorf("%w: %s", errBadPacket, err.Error()) // only its text: it is no refusal by the broker
	}
	shared := s.options.Share != ""
	if shared && !in.begun {
		in.told = packet.Lost // before this sink came
	}
	gap := Gap{Before: packet.First, Lost: packet.Lost - in.told, Anew: in.anew}
	if packet.Lost < in.told {
		gap.Lost, gap.Anew = packet.Lost, true // it counts from the beginning
	}
	// What comes is what was next, or what was lost lies between. In a share, others have what lies between.
	if in.begun && !shared && packet.First != in.seq+gap.Lost {
		gap.Anew = true
	}
	in.begun, in.anew, in.told, in.seq = true, false, packet.Lost, packet.First
	in.at, in.end = wire.SinkHeader, n
	s.lost.Add(gap.Lost)
	if s.options.OnGap != nil && (gap.Lost > 0 || gap.Anew) {
		s.options.OnGap(gap)
	}
	return nil
}

// errBadPacket is a broker that does not keep to the protocol.
var errBadPacket = errors.New("the broker sent what is no packet")

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

// reconnect makes s a sink again after the broker has hung up: at once, but never more than once a second, until ctx is
// done. What the broker refuses for a reason that will not pass is the end.
func (s *Sink) reconnect(ctx context.Context) error {
	ctx, cancel := during(ctx, s.life)
	defer cancel()
	for {
		err := sleep(ctx, againAfter-time.Since(s.in.joined))
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
		case err == nil:
			s.in.begun, s.in.anew, s.in.told = false, true, 0
			return nil
		case !mayPass(err):
			return err
		}
	}
}

// mayPass tells whether it is of use to try again: there is no broker, or it refused with a code for which
// docs/protocol.md says so.
func mayPass(err error) bool {
	if refusal, ok := errors.AsType[*wire.Error](err); ok {
		switch refusal.Code {
		case wire.CodeBusy, wire.CodeQuota, wire.CodeTimeout:
			return true
		}
		return false
	}
	return lacksFrames(err)
}
