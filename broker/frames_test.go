// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/broker"
	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/test"
	"github.com/msgmux/msgmux/internal/wire"
)

// Bad input on publish and subscribe: that client gets an error packet and is hung up on; it is counted, and logged once
// a minute; nothing of a broken packet enters the ring; everybody else is served.

// works says that the channel still does what it is for, with a source and a sink that come now.
func works(t *testing.T, dir string) {
	t.Helper()
	began := time.Now()
	sub, pub := brokertest.NewSubscriber(t, dir), brokertest.NewPublisher(t, dir)
	defer sub.Close()
	defer pub.Close()
	want := []byte(fmt.Sprint("it works ", began.UnixNano()))
	if err := pub.Send(want); err != nil {
		t.Fatal(err)
	}
	for found := false; !found; {
		p, err := sub.Receive()
		if err != nil {
			t.Fatal(err)
		}
		wire.EachRecord(p.Records, func(m []byte) bool { found = found || bytes.Equal(m, want); return true })
	}
	if took := time.Since(began); took > brokertest.Within {
		t.Errorf("it took %s to come, send and receive", took)
	}
}

// TestBadHello: what is no hello is answered with an error that says what to do, and the connection is closed.
func TestBadHello(t *testing.T) {
	log := &keptLog{}
	b := brokertest.Start(t, keepLog(log))
	rnd := rand.New(rand.NewPCG(3, 4))
	garbage := make([]byte, 300)
	for i := range garbage {
		garbage[i] = byte(rnd.Uint32())
	}
	count := make(map[string]uint64)
	for _, test := range []struct {
		name, hello, code string
	}{
		{"empty", "", wire.CodeBadText},
		{"a word", "hello", wire.CodeBadText},
		{"http", "GET / HTTP/1.0\r\n\r\n", wire.CodeBadText},
		{"random bytes", string(garbage), wire.CodeBadText},
		{"zeros", string(make([]byte, 40)), wire.CodeBadText},
		{"almost", "msgmux/1 \n", wire.CodeUnsupported},
		{"another version", "msgmux/2\n", wire.CodeUnsupported},
		{"an unknown option", "msgmux/1\ncolour=red\n", wire.CodeUnknownOption},
		{"no option", "msgmux/1\ncolour\n", wire.CodeBadText},
		{"a bad value", "msgmux/1\nlabel=a b\n", wire.CodeBadOption},
		{"an escape sequence", "msgmux/1\nlabel=\x1b[31m\n", wire.CodeBadOption},
		{"twice", "msgmux/1\nlabel=a\nlabel=b\n", wire.CodeBadOption},
		{"a registration's option", "msgmux/1\nframes=yes\n", wire.CodeBadOption},
		{"a tap of a share", "msgmux/1\ntap=yes\nshare=a\n", wire.CodeBadOption},
		{"a registration", "@name\nlabel=x\n", wire.CodeBadText},
		{"too long", "msgmux/1\n#" + strings.Repeat("x", wire.MaxHello), wire.CodeTooLarge},
		{"100 kB", strings.Repeat("x", 100<<10), wire.CodeTooLarge},
		{"1 MB", strings.Repeat("msgmux/1\n", 1<<20/9), wire.CodeTooLarge},
	} {
		for _, socket := range []string{"publish", "subscribe"} {
			c := brokertest.Dial(t, b.Dir, socket)
			if err := c.SendPacket([]byte(test.hello)); err != nil {
				t.Fatalf("%s: %v", test.name, err)
			}
			e := refusalOf(t, c)
			if e.Code != test.code || strings.ContainsAny(e.Text, "\x1b\x00\n") || len(e.Text) < 10 {
				t.Errorf("%s on %s: %v, want %s", test.name, socket, e, test.code)
			}
			count[test.code]++
			c.Close()
		}
	}
	works(t, b.Dir)
	st := b.Channel.Status()
	for code, n := range count {
		if st.Registrations[code] != n {
			t.Errorf("%s is counted %d times, not %d", code, st.Registrations[code], n)
		}
		// One line from each of the two sockets.
		log.logged(t, 2, "registration-refused", "code="+code)
	}
	if st.Received != 1 {
		t.Errorf("%+v", st)
	}
	test.Eventually(t, "no sink is left", func() bool { return b.Channel.Status().Sinks.Total == 0 })
}

// TestSilentClients: those who never say hello are told after 5 s and closed; those who say it late are in time until
// then. However many they are, others are served at once meanwhile.
func TestSilentClients(t *testing.T) {
	t.Parallel()
	for _, many := range []int{1000, 3000} {
		t.Run(fmt.Sprint(many), func(t *testing.T) {
			t.Parallel()
			log := &keptLog{}
			b := brokertest.Start(t, keepLog(log))
			began := time.Now()
			var late *brokertest.Client
			if many == 1000 {
				late = brokertest.Dial(t, b.Dir, "subscribe")
			}
			silent := make([]*brokertest.Client, many)
			for i := range silent {
				silent[i] = brokertest.Dial(t, b.Dir, []string{"publish", "subscribe"}[i%2])
			}
			here := time.Since(began) // as long as this machine takes
			for range 5 {
				works(t, b.Dir)
				time.Sleep(100 * time.Millisecond)
			}
			if late != nil {
				time.Sleep(time.Until(began.Add(4500 * time.Millisecond)))
				if err := late.SendPacket([]byte(wire.Protocol)); err != nil {
					t.Fatal(err)
				}
				if p, err := late.ReceivePacket(); err != nil || !bytes.HasPrefix(p, []byte("ok ")) {
					t.Errorf("a late hello: %q, %v", p, err)
				}
			}
			codes := make(map[string]uint64)
			for _, c := range silent {
				codes[refusalOf(t, c).Code]++
			}
			if took := time.Since(began); took < 4*time.Second || took > here+9*time.Second {
				t.Errorf("the last was closed after %s; it was here after %s", took, here)
			}
			if many == 1000 && codes[wire.CodeTimeout] != uint64(many) || codes[wire.CodeTimeout]+codes[wire.CodeBusy] != uint64(many) {
				t.Errorf("they were told %v", codes)
			}
			if many == 3000 && here < 4*time.Second && codes[wire.CodeBusy] < 900 { // later the first have left before the last come
				t.Errorf("%d gave way: that many were kept waiting", codes[wire.CodeBusy])
			}
			st := b.Channel.Status()
			for code, n := range codes {
				if st.Registrations[code] != n {
					t.Errorf("%s is counted %d times, not %d", code, st.Registrations[code], n)
				}
				log.logged(t, 2, "registration-refused", "code="+code)
			}
		})
	}
}

// TestBadPacket: nothing of a packet that is not whole records enters the ring.
func TestBadPacket(t *testing.T) {
	const largest = 200 << 10
	log := &keptLog{}
	b := brokertest.Start(t, keepLog(log), func(cfg *broker.Config) { cfg.Geometry.MaxMessage = largest })
	sink := brokertest.NewSink(t, b.Dir)
	sink.Expect(largest)
	good := wire.AppendRecord(nil, []byte("good"))
	length := func(n uint32) []byte { return binary.LittleEndian.AppendUint32(nil, n) }
	count := make(map[string]uint64)
	tests := []struct {
		name   string
		packet []byte
		code   string
	}{
		{"empty", nil, wire.CodeBadPacket},
		{"a byte", []byte{1}, wire.CodeBadPacket},
		{"three bytes", []byte{0, 0, 0}, wire.CodeBadPacket},
		{"a record beyond the packet", slices.Concat(good, length(5), []byte("four")), wire.CodeBadPacket},
		{"a length of 2^32-1", slices.Concat(good, length(1<<32-1), []byte("rest")), wire.CodeTooLarge},
		{"a length that wraps with its header", slices.Concat(length(1<<32-4), good), wire.CodeTooLarge},
		{"padding missing", slices.Concat(good, length(5), []byte("12345")), wire.CodeBadPacket},
		{"trailing bytes", slices.Concat(good, []byte{0, 0}), wire.CodeBadPacket},
		{"over 64 KiB with several records", slices.Concat(good, wire.AppendRecord(nil, make([]byte, 64<<10))), wire.CodeTooLarge},
		{"over 64 KiB of small records", bytes.Repeat(good, 64<<10/8+1), wire.CodeTooLarge},
		{"a record over the limit", wire.AppendRecord(nil, make([]byte, largest+1)), wire.CodeTooLarge},
		{"a record over the limit behind a good one", slices.Concat(good, length(largest+1), make([]byte, largest+4)), wire.CodeTooLarge},
		{"4 MB", make([]byte, 4<<20), wire.CodeTooLarge},
		{"text", []byte("hello, this is a message"), wire.CodeTooLarge},
		{"a second hello", []byte(wire.Protocol), wire.CodeTooLarge},
	}
	var sent uint64
	for _, test := range tests {
		other := brokertest.NewPublisher(t, b.Dir)
		c := brokertest.NewPublisher(t, b.Dir)
		// What went before it is in, what comes behind it is not.
		if err := c.Send(stamped(1, sent, 20), stamped(1, sent+1, 21)); err != nil {
			t.Fatal(err)
		}
		if err := c.SendPacket(test.packet); err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
		c.TrySend(stamped(9, 9, 20))
		if e := refusalOf(t, c); e.Code != test.code || len(e.Text) < 10 {
			t.Errorf("%s: %v, want %s", test.name, e, test.code)
		}
		count[test.code]++
		if err := other.Send(stamped(1, sent+2, 22)); err != nil {
			t.Fatal(err)
		}
		receiveSeq(t, sink, 1, sent, sent+3)
		sent += 3
		c.Close()
		other.Close()
	}
	receivesNothing(t, sink, "the sink")
	st := b.Channel.Status()
	const empty = 1 // is no message
	if st.Entered != sent || st.Received != sent+uint64(len(tests))-empty {
		t.Errorf("received %d, entered %d of %d", st.Received, st.Entered, sent)
	}
	for code, n := range count {
		messages := n
		if code == wire.CodeBadPacket {
			messages -= empty
		}
		if st.Refused[code] != messages || st.Registrations[code] != n {
			t.Errorf("%s: %d messages and %d clients are counted, not %d", code, st.Refused[code], st.Registrations[code], n)
		}
		log.logged(t, 1, "disconnected", "code="+code)
	}
	works(t, b.Dir)
}

// TestRandomPackets: packets of random bytes, and good packets with a byte changed, end their connection or are good.
func TestRandomPackets(t *testing.T) {
	b := brokertest.Start(t, func(cfg *broker.Config) { cfg.Geometry.MaxMessage = 1000 })
	sink := brokertest.NewSink(t, b.Dir)
	rnd := rand.New(rand.NewPCG(5, 6))
	var want uint64
	for range 300 {
		packet := make([]byte, rnd.IntN(200)+1)
		for i := range packet {
			packet[i] = byte(rnd.Uint32())
		}
		if rnd.IntN(2) == 0 {
			packet = nil
			for range rnd.IntN(5) + 1 {
				packet = wire.AppendRecord(packet, make([]byte, rnd.IntN(50)))
			}
			packet[rnd.IntN(len(packet))] ^= 1 << rnd.IntN(8)
		}
		c := brokertest.NewPublisher(t, b.Dir)
		if err := c.SendPacket(packet); err != nil {
			t.Fatal(err)
		}
		n, err := wire.CheckRecords(packet, 1000)
		if err != nil {
			refusalOf(t, c)
		}
		want += uint64(n)
		c.Close()
		for range n {
			if _, err := sink.Receive(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if st := b.Channel.Status(); st.Entered != want {
		t.Errorf("entered %d of %d", st.Entered, want)
	}
}

// earlyEnd is the kernel where somebody has sent and closed at the one moment: recvmmsg has looked for a packet before, and whether the
// other end is closed after, so it tells of the end first. A connection on which that may be gets it once.
type earlyEnd struct {
	sys.Kernel
	told map[uint64]bool
	n    atomic.Int64
}

func (k *earlyEnd) Recvmmsg(seam string, fd int, vec []sys.Mmsghdr) (int, unix.Errno) {
	cookie, err := sys.SocketCookie(fd)
	if n, failed := sys.InQueue(fd); seam == "recv" && err == nil && failed == nil && n > 0 && sys.IsHungUp(fd) && !k.told[cookie] {
		k.told[cookie] = true
		k.n.Add(1)
		vec[0].Len = 0
		return 1, 0
	}
	return k.Kernel.Recvmmsg(seam, fd, vec)
}

// TestEndToldFirst: what a source sent before it closed is in, also where the kernel tells of the end first, and a source that says
// leave has left.
func TestEndToldFirst(t *testing.T) {
	k := &earlyEnd{told: make(map[uint64]bool)}
	b := brokertest.Start(t, func(cfg *broker.Config) { cfg.Ops = k })
	var all []*brokertest.Client
	for range 10 {
		all = append(all, brokertest.NewPublisher(t, b.Dir))
	}
	marked := brokertest.NewPublisher(t, b.Dir, "label=log", "mark=yes", "keep=10m")
	for i, c := range all { // nobody receives, so it waits in the queues
		if err := c.Send(stamped(1, uint64(i), 20)); err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	if err := errors.Join(marked.SendPacket(binary.LittleEndian.AppendUint64(nil, 7)), marked.SendPacket([]byte(wire.Leave))); err != nil {
		t.Fatal(err)
	}
	marked.Close()
	sink := brokertest.NewSink(t, b.Dir)
	seen := make(map[uint64]bool)
	for range all {
		m, err := sink.Receive()
		if err != nil {
			t.Fatalf("%d of %d came: %v", len(seen), len(all), err)
		}
		if _, seq, ok := stamp(m); ok {
			seen[seq] = true
		}
	}
	if len(seen) != len(all) {
		t.Errorf("%d of %d came", len(seen), len(all))
	}
	test.Eventually(t, "the marked source has gone", func() bool {
		c, ok := brokertest.Greet(t, b.Dir, "publish", "label=log", "mark=yes", "keep=10m")
		defer c.Close()
		return ok.Err == nil && ok.Marked && ok.Mark == 0
	})
	if n := k.n.Load(); n != int64(len(all))+1 {
		t.Errorf("the end was told first of %d connections", n)
	}
}

// TestPublisherDies: what a source sent before it died is in; a packet is wholly in or not at all.
func TestPublisherDies(t *testing.T) {
	b := brokertest.Start(t)
	sub := brokertest.NewSubscriber(t, b.Dir)
	for round := range uint32(30) {
		c := brokertest.NewPublisher(t, b.Dir)
		sent := uint64(0)
		for ; sent < 60; sent += 3 {
			if err := c.TrySend(stamped(round, sent, 500), stamped(round, sent+1, 20), stamped(round, sent+2, 3000)); err != nil {
				break
			}
		}
		c.Close()
		for next := uint64(0); next < sent; {
			p, err := sub.Receive()
			if err != nil {
				t.Fatalf("round %d: %d of %d: %v", round, next, sent, err)
			}
			wire.EachRecord(p.Records, func(m []byte) bool {
				if src, seq, ok := stamp(m); !ok || src != round || seq != next {
					t.Errorf("round %d: %d/%d instead of %d", round, src, seq, next)
				}
				next++
				return true
			})
		}
	}
	if _, err := sub.ReceiveWithin(50 * time.Millisecond); err == nil {
		t.Error("something more came")
	}
}

// TestSubscriberTalks: a sink that sends what it must not, as much as it can, harms nobody, and gets its messages.
func TestSubscriberTalks(t *testing.T) {
	b := brokertest.Start(t)
	c, source := brokertest.NewSubscriber(t, b.Dir), brokertest.NewSource(t, b.Dir)
	n := 0
	for ; n < 10000; n++ {
		if err := c.TrySend(make([]byte, 1000)); err != nil {
			break
		}
	}
	if n == 0 || n == 10000 {
		t.Errorf("it could send %d packets", n)
	}
	for i := range uint64(100) {
		if err := source.Send(stamped(1, i, 100)); err != nil {
			t.Fatal(err)
		}
		p, err := c.Receive()
		if err != nil || p.First != i {
			t.Fatalf("record %d, %v; want %d", p.First, err, i)
		}
	}
	c.Close()
	gone(t, b, c.ID)
	works(t, b.Dir)
}

// TestClientQuotas: there are at most so many connected sources and framed sinks, and one user has at most so many of
// each; those who leave make room.
func TestClientQuotas(t *testing.T) {
	t.Run("all", func(t *testing.T) {
		b := brokertest.Start(t, func(cfg *broker.Config) { cfg.Geometry.MaxClients, cfg.Geometry.MaxSinks = 3, 3 })
		for _, socket := range []string{"publish", "subscribe"} {
			var clients []*brokertest.Client
			for range 3 {
				c, r := brokertest.Greet(t, b.Dir, socket)
				if r.Err != nil {
					t.Fatal(r.Err)
				}
				clients = append(clients, c)
			}
			for range 2 {
				if _, r := brokertest.Greet(t, b.Dir, socket); codeOf(r.Err) != wire.CodeQuota {
					t.Errorf("one more on %s: %+v", socket, r)
				}
			}
			clients[1].Close()
			test.Eventually(t, "there is room on "+socket, func() bool {
				c, r := brokertest.Greet(t, b.Dir, socket)
				if r.Err != nil {
					c.Close()
				}
				return r.Err == nil
			})
		}
	})
	t.Run("user", func(t *testing.T) {
		needRoot(t)
		b := brokertest.Start(t, func(cfg *broker.Config) { cfg.SinksPerUser = 3 })
		openToAll(t, b.Dir)
		for _, socket := range []string{"publish", "subscribe"} {
			answers := strangers(t, b.Dir+"/"+socket, 5)
			ok, quota := 0, 0
			for _, a := range answers {
				switch {
				case strings.HasPrefix(a, "ok "):
					ok++
				case strings.HasPrefix(a, "error quota"):
					quota++
				}
			}
			if ok != 3 || quota != 2 {
				t.Errorf("on %s: %q", socket, answers)
			}
		}
		works(t, b.Dir)
	})
}

// TestFloodingPublisher: a framed source that floods gets no more than its turn: a plain source beside it is served.
func TestFloodingPublisher(t *testing.T) {
	b := brokertest.Start(t)
	sub := brokertest.NewSubscriber(t, b.Dir)
	var stop sync.WaitGroup
	done := make(chan struct{})
	for range 2 {
		p := brokertest.NewPublisher(t, b.Dir)
		full := bytes.Repeat(wire.AppendRecord(nil, make([]byte, 508)), 64<<10/512)
		stop.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					p.Conn.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
					p.Conn.Write(full)
				}
			}
		})
	}
	source := brokertest.NewSource(t, b.Dir)
	stamps := make(chan uint64, 100)
	stop.Go(func() {
		defer close(stamps)
		for {
			p, err := sub.ReceiveWithin(200 * time.Millisecond)
			if err != nil {
				return
			}
			wire.EachRecord(p.Records, func(m []byte) bool {
				if _, seq, ok := stamp(m); ok {
					stamps <- seq
				}
				return true
			})
		}
	})
	var took []time.Duration
	for i := range uint64(50) {
		began := time.Now()
		if err := source.Send(stamped(1, i, 50)); err != nil {
			t.Fatal(err)
		}
		if seq := <-stamps; seq != i {
			t.Fatalf("message %d instead of %d", seq, i)
		}
		took = append(took, time.Since(began))
	}
	close(done)
	stop.Wait()
	slices.Sort(took)
	if median := took[len(took)/2]; median > 100*time.Millisecond {
		t.Errorf("a message took %s beside the flood", median)
	}
	if st := b.Channel.Status(); st.Entered < 10000 {
		t.Errorf("only %d messages entered: there was no flood", st.Entered)
	}
}

// TestHungUpOn: when the broker ends, and when a sink is dropped, its connection ends behind what it was sent.
func TestHungUpOn(t *testing.T) {
	b := brokertest.Start(t)
	dropped, stays := brokertest.NewSubscriber(t, b.Dir), brokertest.NewSubscriber(t, b.Dir)
	if err := brokertest.NewSource(t, b.Dir).Send([]byte("the last")); err != nil {
		t.Fatal(err)
	}
	if p, err := stays.Receive(); err != nil || len(p.Records) != wire.Padded(8) {
		t.Fatal(p, err)
	}
	test.Eventually(t, "the other one has been sent it, too", func() bool { return sinkOf(t, b, dropped.ID).Accepted == 1 })
	if a := brokertest.Ask(t, b.Dir, wire.Request{Op: wire.OpDrop, Sink: fmt.Sprint("#", dropped.ID)}); !a.OK {
		t.Fatal(a.Error)
	}
	for _, c := range []*brokertest.Client{dropped, stays} {
		if c == dropped {
			if p, err := c.Receive(); err != nil || len(p.Records) != wire.Padded(8) {
				t.Fatal(p, err)
			}
		} else {
			b.Stop()
		}
		if _, err := c.ReceivePacket(); !errors.Is(err, io.EOF) {
			t.Errorf("%v instead of the end", err)
		}
		if err := c.TrySend([]byte("x")); !errors.Is(err, unix.EPIPE) {
			t.Errorf("sent to a closed connection: %v", err)
		}
	}
}
