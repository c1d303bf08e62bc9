// SPDX-License-Identifier: Apache-2.0

package loop

import (
	"log/slog"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/broker/journal"
	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/broker/store"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/view"
	"github.com/msgmux/msgmux/internal/wire"
)

// stagedLoop is a data thread that does not run, with a sink.
func stagedLoop(t *testing.T) *loop { t.Helper(); return stagedLoopOf(t, 1) }

// stagedLoopOf is stagedLoop with so many sinks.
func stagedLoopOf(t *testing.T, sinks int) *loop {
	t.Helper()
	l := idleLoop(t, sinks)
	l.log = journal.New(slog.DiscardHandler)
	t.Cleanup(l.log.Close)
	l.store = store.New(store.Config{Log: l.log, Ops: sys.Kernel{}, Room: 64})
	t.Cleanup(l.store.Drain)
	l.limits = Limits{PerUser: 1000, QueueBytes: 1, QueueTotal: 1000}
	return l
}

// connection is a connected source's: the broker's end, and that of the source.
func connection(t *testing.T) (fd, peer int) {
	t.Helper()
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(ends[1]) })
	return ends[0], ends[1] // the roster closes the first one
}

// stager is a source with a stage, and its end of that.
func stager(t *testing.T, l *loop, spec ring.ClientSpec) (s *source, w *view.Writer, peer int) {
	t.Helper()
	stage, refusal := NewStage(1024)
	if refusal != nil {
		t.Fatal(refusal)
	}
	w, err := view.NewWriter(stage.FD())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	fd, peer := connection(t)
	spec.ID, spec.Stage = l.ring.NewID(), true
	c, err := l.ring.AddClient(spec)
	if err != nil {
		t.Fatal(err)
	}
	if !l.greetSource(c, fd, stage) {
		t.Fatal("it is not greeted")
	}
	for heard(t, peer) > 0 { // its ok, and the stage
	}
	return l.sources[c.ID()], w, peer
}

// heard takes a packet from a connection, and says how many bytes that had; 0: there was none.
func heard(t *testing.T, fd int) int {
	t.Helper()
	n, _, err := unix.Recvfrom(fd, make([]byte, 1024), unix.MSG_DONTWAIT)
	if err != nil && err != unix.EAGAIN {
		t.Fatal(err)
	}
	return max(0, n)
}

// TestStageDismissed: a source that is dropped in the turn in which it has woken the broker is gone then, and so is its stage.
func TestStageDismissed(t *testing.T) {
	l := stagedLoop(t)
	s, w, peer := stager(t, l, ring.ClientSpec{})
	if done, _ := w.Put(wire.AppendRecord(nil, []byte("x")), 0, false); !done {
		t.Fatal("there is no room")
	}
	unix.Write(peer, []byte{0})
	s.rung = true
	s.effort.over, s.effort.since = overCalls, l.now-2*overFor
	l.queue, s.queued = nil, false
	if n, _ := l.takeTurn(s); n != 0 || len(l.sources) != 0 || len(l.queue) != 0 || l.stages != 0 {
		t.Errorf("%d messages, %d sources, %d turns, %d stages", n, len(l.sources), len(l.queue), l.stages)
	}
}

// TestStageWokenTwice: a source may wake the broker more than once before epoll is asked: whenever something has come while the broker
// was about to sleep. All of these packets are taken, or they would fill the connection in the course of time, and there would be no
// room for the one that is needed.
func TestStageWokenTwice(t *testing.T) {
	l := stagedLoop(t)
	s, _, peer := stager(t, l, ring.ClientSpec{})
	l.receive()
	for range 1000 {
		for range 3 {
			if _, err := unix.Write(peer, []byte{0}); err != nil {
				t.Fatalf("the broker cannot be woken: %v", err)
			}
		}
		l.poll(0)
		for l.receive() {
		}
	}
	if n, err := sys.InQueue(s.fd); err != nil || n != 0 {
		t.Errorf("%d bytes are left, %v", n, err)
	}
}

// TestStageToldByTheNext: a broker that is killed when it has taken everything, and has not told the source that waits for room, has a
// successor that does.
func TestStageToldByTheNext(t *testing.T) {
	l := stagedLoop(t)
	stage, refusal := NewStage(1024)
	if refusal != nil {
		t.Fatal(refusal)
	}
	stage.words.Give()
	w, err := view.NewWriter(stage.FD())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	fd, peer := connection(t)
	c, err := l.ring.AddAttached(ring.ClientSpec{ID: l.ring.NewID(), Stage: true})
	if err != nil {
		t.Fatal(err)
	}
	w.Want(100)
	if !l.reattachSource(c, fd, stage) {
		t.Fatal("it is not put to work")
	}
	for l.receive() {
	}
	if d := l.timeout(); d < 0 || d > noWakeup {
		t.Errorf("it looks again in %v", d)
	}
	l.poll(0)
	if heard(t, peer) != 1 {
		t.Error("the source is not told of room")
	}
	if heard(t, peer) != 0 || l.timeout() >= 0 {
		t.Error("it is told again")
	}
}

// TestStageOfOneThatHasGone: a broker that is killed when it has sent a source its stage, and has not noted that, has a successor that
// takes what was written there, though the source has gone and cannot be sent it again.
func TestStageOfOneThatHasGone(t *testing.T) {
	l := stagedLoop(t)
	stage, refusal := NewStage(1024)
	if refusal != nil {
		t.Fatal(refusal)
	}
	w, err := view.NewWriter(stage.FD())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	fd, peer := connection(t)
	c, err := l.ring.AddAttached(ring.ClientSpec{ID: l.ring.NewID(), Stage: true})
	if err != nil {
		t.Fatal(err)
	}
	w.Put(wire.AppendRecord(nil, []byte("x")), 0, false)
	unix.Shutdown(peer, unix.SHUT_RDWR)
	l.reattachSource(c, fd, stage)
	for begun := time.Now(); len(l.sources) > 0 && time.Since(begun) < 10*time.Second; {
		l.poll(0)
		for l.receive() {
		}
	}
	if head := l.ring.Head(); head.Seq != 1 {
		t.Errorf("%d messages have come of one", head.Seq)
	}
}

// TestStageSetBack: a source that has gone, while nobody receives, may have left its stage to a process that writes there. Whatever that
// says, the source goes when somebody receives, with what it had written before it went or without.
func TestStageSetBack(t *testing.T) {
	for name, head := range map[string]uint64{"to the beginning": 0, "on": 16, "to where no record is": 4, "far back": 1<<64 - 1<<20, "far on": 1 << 40} {
		for _, before := range []bool{false, true} {
			l := stagedLoopOf(t, 0)
			s, w, peer := stager(t, l, ring.ClientSpec{})
			w.Put(wire.AppendRecord(nil, []byte("x")), 0, false)
			words, err := sys.Map(s.stage.fd, 0, view.PageSize)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { sys.Unmap(words) })
			if before {
				sys.Word(words, view.StageHeadAt).Store(head)
			}
			unix.Shutdown(peer, unix.SHUT_RDWR)
			l.poll(0)
			sys.Word(words, view.StageHeadAt).Store(head)
			for range 3 {
				l.publishBlocked()
				l.poll(0)
			}
			sink, err := l.ring.Add(ring.Spec{ID: l.ring.NewID(), Kind: ring.Dynamic}, ring.Reading{}, false)
			if err != nil {
				t.Fatal(err)
			}
			ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { unix.Close(ends[0]); unix.Close(ends[1]) })
			l.open(sink, ends[0], 1, nil)
			for range 3 {
				l.poll(0)
				for l.receive() {
				}
			}
			if len(l.sources) != 0 || l.stages != 0 {
				t.Errorf("head set %s (before it went: %t): the source is still there", name, before)
			}
		}
	}
}

// TestStageLeft: what is left in a stage at the end is counted by messages. A mark is none.
func TestStageLeft(t *testing.T) {
	l := stagedLoop(t)
	s, w, _ := stager(t, l, ring.ClientSpec{Marks: true})
	for i := range uint64(3) {
		w.Put(wire.AppendRecord(wire.AppendRecord(nil, []byte("a")), []byte("b")), i, true)
	}
	if n := s.unstaged(); n != 6 {
		t.Errorf("%d messages are left of 6", n)
	}
}
