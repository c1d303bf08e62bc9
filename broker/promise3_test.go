// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/broker"
	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/test"
	"github.com/msgmux/msgmux/internal/wire"
)

// writable asks poll(2) whether a source may send, and waits for that for at most d.
func writable(t *testing.T, s *brokertest.Source, d time.Duration) bool {
	t.Helper()
	raw, err := s.Conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var revents int16
	raw.Control(func(fd uintptr) {
		set := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		for deadline := time.Now().Add(d); ; {
			_, err := unix.Poll(set, int(max(0, time.Until(deadline)).Milliseconds()))
			if err != unix.EINTR {
				break
			}
		}
		revents = set[0].Revents
	})
	return revents&unix.POLLOUT != 0
}

// queueLength is how many datagrams wait in a socket's queue before its senders have to.
func queueLength(t *testing.T) uint64 {
	t.Helper()
	b, err := os.ReadFile("/proc/sys/net/unix/max_dgram_qlen")
	if err != nil {
		t.Fatal(err)
	}
	var n uint64
	fmt.Sscan(string(b), &n)
	return n + 1
}

// TestPromise3_NoSink: with nobody who could take a message the broker reads none; senders block, or get EAGAIN and are
// told by poll when to go on. Then everything arrives.
func TestPromise3_NoSink(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		who  func(*testing.T, *brokertest.Broker)
	}{
		{"nobody", func(*testing.T, *brokertest.Broker) {}},
		{"a tap", func(t *testing.T, b *brokertest.Broker) { brokertest.NewSink(t, b.Dir, "tap=yes") }},
		{"a framed tap", func(t *testing.T, b *brokertest.Broker) { brokertest.NewSubscriber(t, b.Dir, "tap=yes") }},
		{"an absent sink", func(t *testing.T, b *brokertest.Broker) {
			// An entry that nobody listens to.
			brokertest.NewSocket(t, b.Dir+"/sinks/absent").Close()
			unix.Mknod(b.Dir+"/sinks/absent", unix.S_IFSOCK|0o600, 0)
			test.Eventually(t, "absent", func() bool { return b.Channel.Status().Sinks.Absent == 1 })
		}},
		{"one that left", func(t *testing.T, b *brokertest.Broker) {
			s := brokertest.NewSubscriber(t, b.Dir)
			s.Close()
			gone(t, b, s.ID)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := brokertest.Start(t)
			test.who(t, b)
			source, framed := brokertest.NewSource(t, b.Dir), brokertest.NewPublisher(t, b.Dir)
			n := sendUntilFull(t, source, 1, 0, 300)
			if n != queueLength(t) {
				t.Errorf("%d messages were taken; the queue has room for %d", n, queueLength(t))
			}
			if writable(t, source, 0) {
				t.Error("poll says that a full channel takes messages")
			}
			for i := range uint64(5) {
				if err := framed.TrySend(stamped(2, 2*i, 20), stamped(2, 2*i+1, 200)); err != nil {
					t.Fatal(err)
				}
			}
			st := b.Channel.Status()
			if st.Received+st.Landed != 0 || !st.Sources.Blocked || st.Sources.Why != "no sink" {
				t.Errorf("received %d, landed %d, sources %+v", st.Received, st.Landed, st.Sources)
			}
			blocked := make(chan error, 1)
			go func() { blocked <- source.Send(stamped(1, n, 300)) }()
			select {
			case err := <-blocked:
				t.Fatalf("a blocking send returned (%v)", err)
			case <-time.After(50 * time.Millisecond):
			}

			sink := brokertest.NewSink(t, b.Dir)
			if err := <-blocked; err != nil {
				t.Error(err)
			}
			if !writable(t, source, brokertest.Within) {
				t.Error("poll does not say when to go on")
			}
			next := make(map[uint32]uint64)
			for range n + 1 + 10 {
				m, err := sink.Receive()
				if err != nil {
					t.Fatal(err)
				}
				src, seq, ok := stamp(m)
				if !ok || seq != next[src] {
					t.Fatalf("message %d of source %d instead of %d (whole: %v)", seq, src, next[src], ok)
				}
				next[src]++
			}
			receivesNothing(t, sink, "the sink")
			if b.Channel.Status().Sources.Blocked {
				t.Error("the status says still that sources are blocked")
			}
		})
	}
}

// TestPromise3_OnlySink: the only sink is waited for however long it takes; nothing is lost to it, even with no
// patience.
func TestPromise3_OnlySink(t *testing.T) {
	for _, options := range [][]string{nil, {"patience=0"}, {"start=oldest"}} {
		t.Run(strings.Join(options, ","), func(t *testing.T) {
			t.Parallel()
			b := brokertest.Start(t, func(cfg *broker.Config) { cfg.Patience = 100 * time.Millisecond })
			sink := brokertest.NewSink(t, b.Dir, options...)
			brokertest.NewSink(t, b.Dir, "tap=yes") // is no company
			source := brokertest.NewSource(t, b.Dir)
			n := sendUntilFull(t, source, 1, 0, 1000)
			time.Sleep(400 * time.Millisecond)
			st := b.Channel.Status()
			if s := sinkOf(t, b, sink.ID); s.Lost != 0 || s.State != "stalled" || !st.Sources.Blocked || st.Sources.Sink != s.Label {
				t.Errorf("sink %+v, sources %+v", s, st.Sources)
			}
			if st.Used < st.Buffer/2 {
				t.Errorf("%d bytes of the ring are used", st.Used)
			}
			receiveSeq(t, sink, 1, 0, n)
			receivesNothing(t, sink, "the sink")
		})
	}
}

// TestPromise3_Succession: what a sink had not accepted when it died, the next one gets; and nothing that it had.
func TestPromise3_Succession(t *testing.T) {
	b := brokertest.Start(t)
	source := brokertest.NewSource(t, b.Dir)
	first := brokertest.NewSink(t, b.Dir)
	n := sendUntilFull(t, source, 1, 0, 2000)
	accepted := sinkOf(t, b, first.ID).Accepted
	if accepted == 0 || accepted == n {
		t.Fatalf("the first sink accepted %d of %d", accepted, n)
	}
	first.Close()
	second := brokertest.NewSink(t, b.Dir)
	receiveSeq(t, second, 1, accepted, n)
	receivesNothing(t, second, "the second sink")
	gone(t, b, first.ID)
	if st := b.Channel.Status(); st.Lost != 0 || st.Abandoned == 0 {
		t.Errorf("lost %d, abandoned %d", st.Lost, st.Abandoned)
	}
	// With the last one gone, the channel stops at once.
	second.Close()
	if err := source.Send(stamped(1, n, 20)); err != nil {
		t.Fatal(err)
	}
	gone(t, b, second.ID)
	third := brokertest.NewSink(t, b.Dir)
	receiveSeq(t, third, 1, n, n+1)
}

// TestPromise3_AcceptedByOne: a message that one sink has accepted is not given to those who come later, as one that
// nobody has is.
func TestPromise3_AcceptedByOne(t *testing.T) {
	b := brokertest.Start(t)
	source, sink := brokertest.NewSource(t, b.Dir), brokertest.NewSink(t, b.Dir)
	for i := range uint64(5) {
		if err := source.Send(stamped(1, i, 20)); err != nil {
			t.Fatal(err)
		}
	}
	receiveSeq(t, sink, 1, 0, 5)
	late, oldest := brokertest.NewSink(t, b.Dir), brokertest.NewSink(t, b.Dir, "start=oldest")
	receivesNothing(t, late, "a sink that came late")
	receiveSeq(t, oldest, 1, 0, 5)
}

// smallBuffers is the kernel, with small send buffers for some sinks: what happens by itself to a broker that may not
// raise them.
type smallBuffers struct {
	sys.Kernel
	bytes int // as the kernel counts them
	mu    sync.Mutex
	names map[string]bool // of the sinks
	seen  map[int]bool
}

func (k *smallBuffers) Sendmmsg(seam string, fd int, vec []sys.Mmsghdr) (int, unix.Errno) {
	k.mu.Lock()
	name, _ := sys.PeerName(fd)
	if k.names[name] && !k.seen[fd] {
		k.seen[fd] = true
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, k.bytes/2)
	}
	k.mu.Unlock()
	return k.Kernel.Sendmmsg(seam, fd, vec)
}

func withSmallBuffers(k *smallBuffers) func(*broker.Config) {
	k.names, k.seen = make(map[string]bool), make(map[int]bool)
	return func(cfg *broker.Config) { cfg.Ops = k }
}

// small registers a sink that gets a small buffer.
func (k *smallBuffers) small(t *testing.T, b *brokertest.Broker, options ...string) *brokertest.Sink {
	t.Helper()
	s := brokertest.NewSocket(t, brokertest.Name())
	k.mu.Lock()
	k.names[s.Name] = true
	k.mu.Unlock()
	r := brokertest.Register(t, b.Dir, append([]string{s.Name}, options...)...)
	if r.Err != nil {
		t.Fatal(r.Err)
	}
	s.ID = r.ID
	return s
}

// TestPromise3_TooLargeForASink: what a sink's socket can never take is its counted loss, also when it is the only
// sink, and the channel goes on.
func TestPromise3_TooLargeForASink(t *testing.T) {
	for _, alone := range []bool{false, true} {
		t.Run(fmt.Sprintf("alone=%v", alone), func(t *testing.T) {
			k, log := &smallBuffers{bytes: 32 << 10}, &keptLog{}
			b := brokertest.Start(t, withSmallBuffers(k), keepLog(log))
			small := k.small(t, b)
			var other *brokertest.Sink
			if !alone {
				other = brokertest.NewSink(t, b.Dir)
			}
			source := brokertest.NewSource(t, b.Dir)
			// More than the ring holds.
			lost := uint64(0)
			for i := range uint64(300) {
				size := 20
				if i%3 > 0 {
					size, lost = 40<<10, lost+1
				}
				if err := source.Send(stamped(1, i, size)); err != nil {
					t.Fatal(err)
				}
				if i%3 == 0 {
					receiveSeq(t, small, 1, i, i+1)
				}
				if other != nil {
					receiveSeq(t, other, 1, i, i+1)
				}
			}
			test.Eventually(t, "all that are too large are counted", func() bool { return sinkOf(t, b, small.ID).Lost == lost })
			if s := sinkOf(t, b, small.ID); s.Accepted != 100 || s.Waiting != 0 {
				t.Errorf("small sink: %+v", s)
			}
			if other != nil && sinkOf(t, b, other.ID).Lost != 0 {
				t.Error("the other sink has lost messages, too")
			}
			log.logged(t, 1, "sink-too-large", "wmem_max")
		})
	}
}

// TestPromise3_RingFullOfTooLarge: the only sink can take nothing of what fills the ring.
func TestPromise3_RingFullOfTooLarge(t *testing.T) {
	k := &smallBuffers{bytes: 32 << 10}
	b := brokertest.Start(t, withSmallBuffers(k))
	source := brokertest.NewSource(t, b.Dir)
	hung := k.small(t, b)
	// First it is stalled, so that the ring fills; then it comes to what it can never take.
	var first uint64
	for ; first < 40; first++ {
		if err := source.TrySend(stamped(1, first, 1000)); err != nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	n := sendUntilFull(t, source, 1, first, 100<<10)
	if st := b.Channel.Status(); st.Used < 9*st.Buffer/10 {
		t.Fatalf("%d bytes of the ring are used", st.Used)
	}
	receiveSeq(t, hung, 1, 0, first)
	for range 30 {
		if err := source.Send(stamped(1, 1000, 100<<10)); err != nil {
			t.Fatal(err)
		}
	}
	if err := source.Send([]byte("the end")); err != nil {
		t.Fatal(err)
	}
	if m, err := hung.Receive(); err != nil || !bytes.Equal(m, []byte("the end")) {
		t.Fatalf("%d bytes, %v", len(m), err)
	}
	if s := sinkOf(t, b, hung.ID); s.Lost != n+30 {
		t.Errorf("lost %d of %d", s.Lost, n+30)
	}
}

// TestPromise3_PacketTooLargeForASink: a sink that takes packets loses no message because a packet of many is larger
// than its socket takes.
func TestPromise3_PacketTooLargeForASink(t *testing.T) {
	b := brokertest.Start(t, func(cfg *broker.Config) { cfg.Queue, cfg.Geometry.MaxMessage = 8<<10, 2000 })
	source := brokertest.NewSource(t, b.Dir)
	packed, framed := brokertest.NewSink(t, b.Dir, "frames=yes"), brokertest.NewSubscriber(t, b.Dir)
	const total = 300
	go func() {
		for i := range uint64(total) {
			source.Send(stamped(1, i, 1000))
		}
	}()
	time.Sleep(200 * time.Millisecond) // so that much is waiting
	for kind, receive := range map[string]func() ([]byte, error){"packed": packed.Receive, "framed": framed.ReceivePacket} {
		for next := uint64(0); next < total; {
			raw, err := receive()
			if err != nil {
				t.Fatalf("%s: %v behind %d", kind, err, next)
			}
			p, err := wire.ParseSinkPacket(raw)
			if err != nil || p.First != next || p.Lost != 0 {
				t.Fatalf("%s: record %d, lost %d, %v; want %d", kind, p.First, p.Lost, err, next)
			}
			wire.EachRecord(p.Records, func([]byte) bool { next++; return true })
		}
	}
}
