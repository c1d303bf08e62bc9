// SPDX-License-Identifier: Apache-2.0

package loop

import (
	"syscall"

	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/view"
	"github.com/msgmux/msgmux/internal/wire"
)

// A source with a stage writes its records there. What it sends are packets that wake the broker when it sleeps, of which only that
// they came is looked at, and it is sent some when there is room again: see package view. The broker sleeps for each stage by itself:
// in its turn a source whose stage is empty is not given another one before it has sent such a packet.

// stageTurn is about how many bytes of a stage enter in one turn of its source, with nobody else waiting for one. Each turn may wake every
// sink.
const stageTurn = 256 << 10

// giveStage sends a source its stage, unless it has been sent it. It says whether it has it: one that has written there has, also if a
// predecessor was killed before it noted that, and the source has gone meanwhile.
func giveStage(fd int, s *Stage) bool {
	if s == nil || s.words.Given() {
		return true
	}
	if sys.SendDescriptors(fd, []byte{0}, s.fd) != 0 {
		return s.words.Head() != 0
	}
	s.words.Give()
	return true
}

// close notes that nothing that a source writes to its stage from now on counts: its connection has ended, or is to.
func (s *source) close() {
	if !s.closing {
		s.closing, s.last = true, s.stage.words.Head()
	}
}

// takeStaged is takeTurn for a source with a stage.
func (l *loop) takeStaged(s *source) (n int) {
	// What has woken the broker is taken before what it was woken for: behind that, it would take a processor from the sinks that woke.
	if s.rung && !l.unring(s) {
		return 0
	}
	taken, stage := s.client.Staged(), s.stage.words
	if s.closing && taken-s.last < 1<<63 {
		l.endSource(s, nil, stage.Leaves())
		return 0
	}
	turn := uint64(stageTurn)
	if len(l.queue) > 0 {
		turn = turnBytes
	}
	switch some, bad := l.ring.Stage(s.client, stage, s.from.Sender, turn); {
	case bad != nil:
		l.end(s, bad)
		return 0
	case !some && s.closing: // whatever it had said before
		l.endSource(s, nil, stage.Leaves())
		return 0
	case !some:
		if !s.sleep() || s.rung {
			l.enqueue(s)
		}
		return 0
	}
	n = l.append().Entered
	if l.sources[s.key] == s {
		l.enqueue(s)
		if s.excessive(l.now) {
			l.dismissSource(s)
		}
	}
	return n
}

// unringAtOnce is how many packets that wake the broker are taken in one turn.
const unringAtOnce = 8

// unring takes the packets out of the connection that have woken the broker, and says whether the source is still there. There are
// several if something has come whenever the broker was about to sleep. All go, or they would fill the queue in the course of time,
// and the packet that is needed would find no room.
func (l *loop) unring(s *source) (there bool) {
	most := s.effort.most(unringAtOnce)
	_ = l.costing(&s.effort, 1, func() syscall.Errno {
		n, attached, _ := l.broom.Take(s.fd, most)
		if s.rung = n == most; len(attached) > 0 {
			l.store.Discard(attached)
		}
		return 0
	})
	l.readClock()
	l.audit(&s.effort)
	if s.excessive(l.now) {
		l.dismissSource(s)
		return false
	}
	return true
}

// hasRoom says whether a source waits for room in its stage, and is to be told of it now: half of that is free, so any message has room.
func (s *source) hasRoom() bool {
	stage := s.stage.words
	return stage.Head()-s.client.Staged() <= stage.Size()/2 && stage.Wants()
}

// tellRoom wakes a source that waits for room in its stage, once there is some.
func (l *loop) tellRoom(s *source) {
	if !s.untold && !s.hasRoom() {
		return
	}
	// Where the queue is full (EAGAIN) there are packets that the source has not read: it finds them before it waits.
	errno := l.costing(&s.tells, 1, func() syscall.Errno { return sys.Send(s.fd, []byte{0}) })
	if s.untold = errno == syscall.ENOBUFS || errno == syscall.ENOMEM; s.untold {
		l.untold = true
	}
	l.readClock()
	l.audit(&s.tells)
}

// tellUntold tells those sources of room that could not be told.
func (l *loop) tellUntold() {
	l.untold = false
	for _, s := range l.sources {
		if s.untold {
			l.tellRoom(s)
		}
	}
}

// unstaged is how many records are in the stage of a source, as it says. Marks are none.
func (s *source) unstaged() (n uint64) {
	stage := s.stage.words
	end := stage.Head()
	for at := s.client.Staged(); at < end && end-at <= stage.Size(); {
		size, mark := view.StagedSize(stage.Bytes(at, wire.RecordHeader))
		if at += size; !mark {
			n++
		}
	}
	return n
}
