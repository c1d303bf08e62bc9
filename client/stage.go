// SPDX-License-Identifier: Apache-2.0

package msgmux

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"syscall"

	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/view"
	"github.com/msgmux/msgmux/internal/wire"
)

// A source with a stage writes what would be a packet to memory that it shares with the broker. What goes over its connection wakes the
// broker, or the source where it waits for room.

// joinStaged is join, and for a source that wants a stage what it takes to have one. Where that cannot be had, it sends packets.
func (s *Source) joinStaged(ctx context.Context) (*net.UnixConn, wire.Reply, *view.Writer, error) {
	s.hello.Stage = s.options.Stage && !s.noStage
	conn, reply, stage, err := joinShared(ctx, s.path, &s.hello, &s.hello.Stage, func(fds []int) (*view.Writer, error) {
		if len(fds) != 1 {
			return nil, fmt.Errorf("%d descriptors came instead of one", len(fds))
		}
		return view.NewWriter(fds[0])
	})
	if errors.Is(err, errNotShared) {
		s.log(slog.LevelInfo, "there is no stage to be had: messages go in packets", slog.Any("error", err))
		s.noStage = true
		return s.joinStaged(ctx)
	}
	return conn, reply, stage, err
}

// useStage has the source write there, if it is not nil, in place of what it wrote to before.
//
// Preconditions: the caller has the turn, or nobody else knows s; s.mu is held.
func (s *Source) useStage(stage *view.Writer) {
	if s.stage != nil {
		s.stage.Close()
	}
	s.stage = stage
	s.counts.stage.Store(stage != nil)
}

// unmap gives the stage back of a source that is closed, unless somebody sends: then he does.
func (s *Source) unmap() {
	if s.turn.try() != nil {
		return
	}
	if s.stage != nil {
		s.stage.Close()
		s.stage = nil
	}
	s.turn.give()
}

// giveTurn is the end of sending.
func (s *Source) giveTurn() {
	s.turn.give()
	if s.life.Err() != nil {
		s.unmap()
	}
}

// most is the largest message that what the source writes to has room for.
func (s *Source) most() int {
	if s.stage == nil {
		return MaxMessage
	}
	return min(MaxMessage, s.stage.Most()-wire.RecordHeader)
}

// putStaged puts into the stage what would be one packet, and waits for room if it may. It fails with EPIPE if the broker has gone, and
// has not taken it.
//
// Preconditions: the caller has the turn.
func (s *Source) putStaged(ctx context.Context, packet []byte, wait bool) error {
	mark, records := uint64(0), packet
	if s.options.Marks {
		mark, records = binary.LittleEndian.Uint64(packet), packet[wire.MarkSize:]
	}
	if len(records) > s.stage.Most() {
		return syscall.EMSGSIZE
	}
	if s.stage.Over() {
		return syscall.EPIPE
	}
	for waited := false; ; {
		switch done, wake := s.stage.Put(records, mark, s.options.Marks); {
		case wake:
			return s.wakeBroker(ctx, wait)
		case done:
			return nil
		case !wait:
			return syscall.EAGAIN
		case !s.stage.Want(len(records)):
			continue
		}
		if !waited {
			waited = true
			s.counts.wait()
			defer s.counts.waited()
		}
		if err := s.awaitRoom(ctx); err != nil {
			return err
		}
	}
}

// wakeUp is what wakes the broker. Only that it comes is of any meaning.
var wakeUp = []byte{0}

// wakeBroker tells the broker that something is there. If it has gone, or says that it ends the connection, the error says whether it has
// not taken what was put last: a packet may still be sent while it closes its end. Who cannot wait for that waits for no longer than for
// another connection.
func (s *Source) wakeBroker(ctx context.Context, wait bool) error {
	if !wait {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, redialWithin)
		defer cancel()
	}
	err := s.out.run(wakeUp, false)
	for isShortOfMemory(err) {
		if err = sleep(ctx, retryAfter); err != nil {
			s.stage.Unwoken() // what was put is there, and the next call wakes
			return nil
		}
		err = s.out.run(wakeUp, false)
	}
	switch ended := s.stage.Over(); {
	case !ended && (err == nil || errors.Is(err, syscall.EAGAIN)):
		return nil // EAGAIN: it was woken before, and has not looked yet
	case !ended && !isGone(err):
		return err
	}
	for err = nil; err == nil || errors.Is(err, errTold); { // it takes in what there was before it closes its end
		err = s.awaitPacket(ctx)
	}
	switch {
	case s.stage.Taken():
		return nil
	case errors.Is(err, syscall.EPIPE), !wait && ctx.Err() != nil:
		return syscall.EPIPE
	}
	return err
}

// errTold means that the broker has told why it ends the connection.
var errTold = errors.New("the broker has told why")

// awaitRoom waits for a packet. The error is EPIPE at the end of the connection, or when the broker has told why that is.
func (s *Source) awaitRoom(ctx context.Context) error {
	err := s.awaitPacket(ctx)
	if errors.Is(err, errTold) {
		return syscall.EPIPE
	}
	return err
}

// awaitPacket waits for a packet. The error is EPIPE at the end of the connection, and errTold if the broker has told why that comes:
// s.last.
func (s *Source) awaitPacket(ctx context.Context) error {
	packet, fds, err := receiveShort(ctx, s.conn)
	sys.CloseDescriptors(fds)
	switch {
	case isHangUp(err):
		return syscall.EPIPE
	case err != nil:
		return err // net.ErrClosed, too
	}
	if reply, err := wire.ParseReply(packet); err == nil && reply.Err != nil {
		s.last = reply.Err
		return errTold
	}
	return nil
}

// limitOf is how large a message may be, of a broker that has told; 0: it has not.
func (s *Source) limitOf(told int) int64 { return int64(min(told, s.most())) }
