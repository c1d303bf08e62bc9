// SPDX-License-Identifier: Apache-2.0

package msgmux

import (
	"context"
	"errors"
	"net"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/test"
	"github.com/msgmux/msgmux/internal/wire"
)

// keepingSink is a connected sink with a processor of its own, and the broker's end of its connection.
func keepingSink(t *testing.T) (s *Sink, broker int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fds[1]) })
	s = newSink("", SinkOptions{})
	s.framed, s.conn = true, connectionOf(t, fds[0])
	t.Cleanup(func() { s.Close() })
	if err := errors.Join(s.in.use(s.conn), s.in.keep.prepare(s.conn)); err != nil {
		t.Fatal(err)
	}
	return s, fds[1]
}

// give has the sink get a message with that number.
func give(t *testing.T, broker int, seq uint64) {
	t.Helper()
	packet := make([]byte, wire.SinkHeader)
	wire.PutSinkHeader(packet, seq, 0)
	if _, err := unix.Write(broker, wire.AppendRecord(packet, []byte("a message"))); err != nil {
		t.Error(err)
	}
}

// withProcessors has the test run with so many.
func withProcessors(t *testing.T, n int) {
	t.Helper()
	before := runtime.GOMAXPROCS(n)
	t.Cleanup(func() { runtime.GOMAXPROCS(before) })
}

// TestOwnProcessor: a sink that keeps its processor gets its messages, keeps it no longer than a moment when none come, and is ended by its
// context and by Close as any other.
func TestOwnProcessor(t *testing.T) {
	withProcessors(t, 4)
	s, broker := keepingSink(t)
	go func() {
		for seq := range uint64(100) {
			give(t, broker, seq+1)
			time.Sleep(time.Millisecond)
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for seq := range uint64(100) {
		if m, err := s.Receive(ctx); err != nil || m.Seq != seq+1 {
			t.Fatalf("message %d, %v, want %d", m.Seq, err, seq+1)
		}
	}

	short, end := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer end()
	began := time.Now()
	if _, err := s.Receive(short); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 5*time.Second {
		t.Errorf("%v after %v, with a deadline of 20 ms", err, time.Since(began))
	}

	received := make(chan error)
	receive := func() {
		go func() {
			_, err := s.Receive(ctx)
			received <- err
		}()
		test.Eventually(t, "the processor is given back", func() bool { return kept.Load() == 0 && len(s.turn) == 1 })
		time.Sleep(2 * keepFor)
		if n := kept.Load(); n != 0 {
			t.Errorf("%d processors are kept by who has waited for long", n)
		}
	}
	receive()
	give(t, broker, 101)
	if err := <-received; err != nil {
		t.Errorf("what comes late: %v", err)
	}
	receive()
	s.Close()
	if err := <-received; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Close ends it with %v", err)
	}
}

// TestHalfOfTheProcessors: sinks keep half of a program's processors at most, and of one none.
func TestHalfOfTheProcessors(t *testing.T) {
	withProcessors(t, 4)
	most := int32(0)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan bool)
	const sinks = 6
	for range sinks {
		s, broker := keepingSink(t)
		go func() {
			for seq := uint64(1); ctx.Err() == nil; seq++ {
				give(t, broker, seq)
				_, _ = s.Receive(ctx)
				short, end := context.WithTimeout(ctx, time.Millisecond)
				_, _ = s.Receive(short) // in vain
				end()
			}
			ended <- true
		}()
	}
	for until := time.Now().Add(200 * time.Millisecond); time.Now().Before(until); time.Sleep(100 * time.Microsecond) {
		most = max(most, kept.Load())
	}
	cancel()
	for range sinks {
		<-ended
	}
	if most == 0 || most > 2 || kept.Load() != 0 {
		t.Errorf("%d of 4 processors were kept, and %d are at the end", most, kept.Load())
	}

	withProcessors(t, 1)
	if s, _ := keepingSink(t); s.in.keep.begin() {
		t.Error("the only processor is kept")
	}
}

// TestInterruptedKeeping: who was interrupted leaves the waiting to the poller for a moment, and not each time.
func TestInterruptedKeeping(t *testing.T) {
	k := keeping{most: 1}
	for again := range 2 {
		if !k.begin() {
			t.Fatal("it keeps no processor")
		}
		if k.end(true); k.calm.IsZero() != (again > 0) {
			t.Errorf("interrupted for the time %d: the poller has its turn until %v", again+1, k.calm)
		}
		if again == 0 && k.begin() {
			t.Error("it goes on in the poller's turn")
		}
		k.calm = k.calm.Add(-calmFor) // it is over
	}
	if kept.Load() != 0 {
		t.Errorf("%d processors are kept at the end", kept.Load())
	}
}
