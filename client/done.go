// SPDX-License-Identifier: Apache-2.0

package msgmux

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/view"
	"github.com/msgmux/msgmux/internal/wire"
)

// Position is a place in the order of a channel, as a program stores it with its results: everything numbered below Seq is
// done. The zero Position is none.
type Position struct {
	Epoch uint64 // which life of the channel's numbers (Sink.Epoch)
	Seq   uint64 // the number after that of the last message (Message.Seq) that is done
}

// String is "EPOCH:NUMBER".
func (p Position) String() string { return wire.Position(p).String() }

// ParsePosition reads what Position.String has written, or fails with ErrBadOption.
func ParsePosition(text string) (Position, error) {
	p, err := wire.ParsePosition(text)
	if err != nil {
		return Position{}, badValue("read a position", err)
	}
	return Position(p), nil
}

const (
	// ackEvery is how often a sink says at most how far it is done, unless it has read a good part of its queue since.
	ackEvery = 50 * time.Millisecond
	// ackBytes is how much it reads before it says so in any case.
	ackBytes = 1 << 20
	// dryBytes is how much it has read when it says so because nothing more is there: the channel may have no room. It is a part
	// of the smallest ring that there is; as long as it is not reached, there is more that the broker can send.
	dryBytes = 512 << 10
)

// acks are what a sink with acknowledgements says. The broker looks at them by time and when it needs room, so they are said by
// time, too.
type acks struct {
	mu    sync.Mutex // guards what follows; who has it has no other lock to wait for
	conn  *net.UnixConn
	view  *view.Reader // of a sink in view, which says it there; nil: it sends it
	owes  bool         // the broker has asked a sink in view to send it
	done  uint64       // everything numbered below is done
	said  uint64       // what the broker was told, on this connection
	had   uint64       // what is numbered below came on an earlier connection, and can be said when it has come on this one
	bytes int          // read since then
	whole uint64       // the number behind the last message of the packet in hand
	timer *time.Timer
	armed bool // the timer runs
	now   bool // a member of a share asks for more by what it says
}

// begin is for a new connection, on which everything numbered below done is known to be done. It goes on where an earlier one was that
// had brought what is numbered below had, and more of that may be done by now; 0: there is none.
func (a *acks) begin(conn *net.UnixConn, reader *view.Reader, done, had uint64, now bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.view, a.owes = reader, false
	if had == 0 {
		a.done = 0
	}
	a.conn, a.done, a.said, a.had, a.whole, a.bytes, a.now = conn, max(a.done, done), done, had, done, 0, now
	if a.done > a.said {
		a.later()
	}
}

// note notes that everything numbered below done is done. lower says that it may be less than before: in a share.
func (a *acks) note(done uint64, lower bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.conn == nil || done == a.done || done < a.done && !lower {
		return
	}
	a.done = done
	if a.view != nil || a.now && done == a.whole || a.bytes >= ackBytes {
		_ = a.say()
	} else {
		a.later()
	}
}

// later has it said in a while.
//
// Preconditions: a.mu is held.
func (a *acks) later() {
	switch {
	case a.armed:
	case a.timer == nil:
		a.timer = time.AfterFunc(ackEvery, a.flush)
	default:
		a.timer.Reset(ackEvery)
	}
	a.armed = true
}

// read notes that a packet of so many bytes has come; the number behind its last message is end.
func (a *acks) read(bytes int, end uint64) {
	a.mu.Lock()
	a.bytes += bytes
	if a.whole = end; a.said < a.had && a.done > a.said {
		a.later()
	}
	a.mu.Unlock()
}

// dry is for when nothing more is there to be read.
func (a *acks) dry() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.bytes >= dryBytes {
		_ = a.say()
	}
}

// flush says what has not been said.
func (a *acks) flush() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.armed = false
	_ = a.say()
}

// say tells the broker, or says why it could not. If there is no room it has not looked yet, and is told later. A connection that has
// ended is noticed by who receives from it.
//
// Preconditions: a.mu is held.
func (a *acks) say() error {
	done := a.done
	if a.view == nil && done <= a.had {
		done = min(done, max(a.whole, a.said)) // the broker has sent no more
	}
	if a.conn == nil || done == a.said && !a.owes {
		return nil
	}
	if a.view != nil && done != a.said {
		// It costs no call, unless the broker waits for it.
		a.owes = a.view.Say(done) || a.owes
		a.said, a.bytes = done, 0
		if !a.owes {
			return nil
		}
	}
	err := sendNow(a.conn, wire.AppendAck(nil, done))
	if err == nil {
		a.said, a.bytes, a.owes = done, 0, false
	} else {
		a.later()
	}
	return err
}

// endWithin is how long the broker may take to make room for what a sink says last.
const endWithin = 250 * time.Millisecond

// end says what has not been said, and no more.
func (a *acks) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	err := a.say()
	for until := time.Now().Add(endWithin); mayGoSoon(err) && time.Now().Before(until); err = a.say() {
		time.Sleep(retryAfter)
	}
	a.view = nil
	if a.conn = nil; a.timer != nil {
		a.timer.Stop()
	}
}

// mayGoSoon tells whether a packet for which there was no room, or no memory, may have some a moment later.
func mayGoSoon(err error) bool { return errors.Is(err, syscall.EAGAIN) || isShortOfMemory(err) }

// sendNow sends a packet, if there is room for it now.
func sendNow(conn *net.UnixConn, packet []byte) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Write(func(fd uintptr) bool {
		failed = asError(sys.Send(int(fd), packet))
		return true
	})
	return errors.Join(err, failed)
}

// acknowledges says whether a sink with these options says how far it is done.
func (o *SinkOptions) acknowledges() bool {
	return o.Ack || o.View || o.Keep != 0 || o.From != Position{} || o.Batch != 0
}

// Ack says that everything numbered below seq is done, which for message m is m.Seq+1; SinkOptions.Ack leaves that to the
// program. It does not block: the broker hears of it soon, and at the latest with Close. Less than before means nothing;
// for more than has come the broker hangs up. In a share it is about the packet in hand alone, and the next one comes when
// all of it is done. It fails with ErrBadOption without SinkOptions.Ack, and with net.ErrClosed.
func (s *Sink) Ack(seq uint64) error {
	const op = "acknowledge"
	switch {
	case !s.options.Ack:
		return badOption(op, "the sink has not asked for it with SinkOptions.Ack")
	case s.closed.Load() || s.turn == nil:
		return opError(op, s.where, net.ErrClosed)
	}
	s.acks.note(seq, s.options.Share != "")
	return nil
}

// Epoch names the life of the channel's numbers (Message.Seq): restarts of the broker do not change it, stopping and
// starting the channel does. It is 0 on an inherited socket.
func (s *Sink) Epoch() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.epoch
}

// Forget closes a sink and has the channel forget its place, which SinkOptions.Keep would keep; what it has not done is
// abandoned. It may block until ctx is done. After ErrHungUp it is closed, and the place may stay; after other errors it is open.
func (s *Sink) Forget(ctx context.Context) error {
	const op = "forget"
	if s.options.Keep == 0 || s.closed.Load() {
		return s.Close()
	}
	s.acks.flush()
	err := s.sayLeave(ctx)
	if err == nil {
		return s.Close()
	}
	if errors.Is(err, ErrHungUp) {
		_ = s.Close()
	}
	return opError(op, s.where, err)
}

// moveOn notes that the message that was given out last is done: the next one is asked for.
func (s *Sink) moveOn() {
	if s.in.given > 0 && !s.options.Ack && s.options.acknowledges() {
		s.acks.note(s.in.given, s.options.Share != "")
		s.in.given = 0
	}
}

// doneBefore notes that all before the message that was given out last is done: its own turn was left.
func (s *Sink) doneBefore() {
	if s.in.given > 0 && !s.options.Ack && s.options.acknowledges() {
		s.acks.note(s.in.given-1, s.options.Share != "")
	}
}

// checkEpoch is for a sink whose program has written down a place: in another epoch it means nothing, and what is to be done then
// the program decides.
func (s *Sink) checkEpoch(epoch uint64) error {
	if was := s.options.From.Epoch; was != 0 && epoch != was {
		return fmt.Errorf("%w: the position is of epoch %x, and the channel's is %x", ErrEpoch, was, epoch)
	}
	if s.options.Ack && s.in.epoch != 0 && epoch != s.in.epoch {
		return fmt.Errorf("%w: it was %x, and is %x", ErrEpoch, s.in.epoch, epoch)
	}
	return nil
}
