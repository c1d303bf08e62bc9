// SPDX-License-Identifier: Apache-2.0

package msgmux

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/bits"
	"net"
	"syscall"
	"time"

	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/view"
	"github.com/msgmux/msgmux/internal/wire"
)

// A sink in view copies its messages out of the channel's memory, some 64 KiB at a time, and the copy is then what a packet is to
// other sinks. What comes by its connection wakes it.

// joinSink is join, and for a sink that wants to be in view what it takes to be. Where that cannot be had, it is a sink with frames.
func (s *Sink) joinSink(ctx context.Context, hello *wire.Hello) (*net.UnixConn, wire.Reply, *view.Reader, error) {
	hello.View = s.options.View && !s.noView
	conn, reply, reader, err := joinShared(ctx, s.where, hello, &hello.View, func(fds []int) (*view.Reader, error) {
		if len(fds) != 2 {
			return nil, fmt.Errorf("%d descriptors came instead of 2", len(fds))
		}
		return view.NewReader(fds[0], fds[1])
	})
	if errors.Is(err, errNotShared) {
		s.log(slog.LevelInfo, "the channel's memory cannot be viewed: messages come in packets", slog.Any("error", err))
		s.noView = true
		return s.joinSink(ctx, hello)
	}
	return conn, reply, reader, err
}

// receiveView is receive for a sink in view: its packets are short, and may have descriptors.
func (in *inlet) receiveView(fd uintptr) (done bool) {
	n, fds, errno := sys.RecvDescriptors(int(fd), in.packet[:])
	in.n, in.fds, in.err = n, fds, asError(errno)
	return errno != syscall.EAGAIN
}

// useView has the sink read from there, if it is not nil. The reader is the sink's from then on.
func (in *inlet) useView(reader *view.Reader) {
	old := in.view
	in.view, in.limit, in.moved = reader, math.MaxUint64, false
	if reader != nil {
		in.try = in.receiveView
		if len(in.buffer) < wire.MaxPacket {
			in.buffer = make([]byte, wire.MaxPacket)
		}
	} else {
		in.try = in.receive
	}
	if old != nil {
		old.Close()
	}
}

// unsureEvery is how often to look for what a broker has died over, which its successor finishes.
const unsureEvery = 10 * time.Millisecond

// look copies out what is there, unless the sink is closed or over.
func (s *Sink) look(ctx context.Context) (some bool, err error) {
	switch in := &s.in; {
	case s.closed.Load():
		return false, net.ErrClosed
	case in.limit == math.MaxUint64 && in.view.Over():
		return false, nil
	}
	return s.copyOut(ctx)
}

// copyOut copies what is there into the buffer. It says whether that was anything.
func (s *Sink) copyOut(ctx context.Context) (some bool, err error) {
	in := &s.in
	if in.place && in.seq >= in.want {
		return s.peek(ctx)
	}
	room := wire.MaxPacket - wire.SinkHeader // as much as a packet holds, or a single record
	for {
		b, err := in.view.Read(in.buffer[:room], in.limit)
		switch {
		case err != nil:
			return false, fmt.Errorf("%w: %w", errBadPacket, err)
		case b.Need > 0:
			if room = b.Need; room > len(in.buffer) {
				in.buffer = make([]byte, 1<<bits.Len(uint(room-1)))
			}
			continue
		case b.Count == 0:
			return false, s.unsure(ctx)
		}
		gap := in.reach(b.First)
		in.at, in.end, in.until = 0, b.Size, math.MaxUint64
		s.counts.messages.Add(uint64(b.Count))
		s.counts.bytes.Add(uint64(b.Bytes))
		if in.seq < in.want {
			s.passOver()
		}
		s.tellGap(gap)
		if in.at < in.end {
			return true, nil
		}
	}
}

// reach goes on at the message numbered first, and says what is missing before it.
func (in *inlet) reach(first uint64) Gap {
	gap := Gap{Lost: in.lostBefore(first) + in.missed, Anew: in.anew}
	in.begun, in.anew, in.missed, in.seq = true, false, 0, first
	return gap
}

// tellGap tells of a gap before what comes next, if there is one.
func (s *Sink) tellGap(gap Gap) {
	if gap.Lost > 0 || gap.Anew {
		gap.Before = s.in.seq
		s.tell(gap)
	}
}

// unsure is for when nothing can be read. It waits a moment if that is because a broker has died over what its successor finishes.
func (s *Sink) unsure(ctx context.Context) error {
	s.in.unsure = s.in.view.More(s.in.limit)
	if !s.in.unsure {
		return nil
	}
	return sleep(ctx, unsureEvery)
}

// mayRest says whether a sink in view may wait for a packet: it was said that it sleeps, and nothing has come meanwhile; or its connection
// has come to an end, which is to be received.
func (in *inlet) mayRest() bool {
	if in.limit != math.MaxUint64 || in.view.Over() || in.view.Sleep() {
		return true
	}
	ended := false
	if in.unsure { // there may be no successor
		_ = in.raw.Control(func(fd uintptr) { ended = sys.IsHungUp(int(fd)) })
	}
	return ended
}

// peek finds what is there where it lies, for InPlace. It says whether that is anything.
func (s *Sink) peek(ctx context.Context) (some bool, err error) {
	in := &s.in
	in.peeked, in.placed, err = in.view.Peek(in.limit, wire.MaxPacket)
	switch {
	case err != nil:
		return false, fmt.Errorf("%w: %w", errBadPacket, err)
	case in.peeked.Count == 0:
		return false, s.unsure(ctx)
	}
	s.tellGap(in.reach(in.peeked.First))
	return true, nil
}

// InPlace waits as ReceivePacket does and calls use with the messages where they lie: with SinkOptions.View in the channel's
// memory, uncopied and for reading only. They may be overwritten meanwhile if the sink is not waited for any longer; then
// InPlace fails with ErrOverwritten, nothing that use made of them may count, lengths included, and they are lost, as
// OnGap and Stats tell. Where there is no view, use gets what ReceivePacket returns.
//
// An error of use is returned as it is, and the packet is received nonetheless. use must not call methods of the sink that
// receive.
func (s *Sink) InPlace(ctx context.Context, use func(Packet) error) error {
	const op = "receive"
	if s.inherited && !s.framed {
		return opError(op, s.where, errors.ErrUnsupported)
	}
	if err := s.turn.take(ctx); err != nil {
		return opError(op, s.where, err)
	}
	defer s.giveTurn()
	in := &s.in
	in.place = in.view != nil
	defer func() { in.place, in.placed = false, nil }()
	p, err := s.nextPacket(ctx)
	if err != nil {
		return opError(op, s.where, err)
	}
	if in.placed == nil {
		return use(p)
	}
	err = use(p)
	if !in.view.Keep(in.peeked) {
		return opError(op, s.where, ErrOverwritten)
	}
	s.counts.messages.Add(uint64(in.peeked.Count))
	s.counts.bytes.Add(uint64(in.peeked.Bytes))
	in.seq, in.given = in.seq+uint64(p.Count), in.seq+uint64(p.Count)
	return err
}

// heard is for a packet of n bytes to a sink in view: what it is, beside that something is there.
func (s *Sink) heard(n int) error {
	in := &s.in
	fds := in.fds
	in.fds = nil
	defer sys.CloseDescriptors(fds)
	if reply, err := wire.ParseReply(in.packet[:n]); err == nil && reply.Err != nil {
		in.last = reply.Err // the last that comes
		return nil
	}
	var err error
	if len(fds) > 0 {
		err = in.view.Move(fds[0])
		s.noView = s.noView || err != nil
	}
	if err == nil && !in.view.Stale() { // the descriptors came, if there were any: it takes room
		return nil
	}
	s.log(slog.LevelWarn, "the channel's memory has moved, and cannot be viewed where it is", slog.Any("error", err))
	in.moved = true
	_ = s.conn.Close() // at once: there may be no descriptor left for another connection
	return nil
}

// unmap gives the mappings back of a sink that is closed, unless somebody receives: then he does.
func (s *Sink) unmap() {
	if s.turn.try() != nil {
		return
	}
	if s.in.view != nil {
		s.in.view.Close()
		s.in.view = nil
	}
	s.turn.give()
}

// giveTurn is the end of receiving.
func (s *Sink) giveTurn() {
	s.turn.give()
	if s.closed.Load() {
		s.unmap()
	}
}
