// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/msgmux/msgmux/broker"
	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/test"
	"github.com/msgmux/msgmux/internal/view"
	"github.com/msgmux/msgmux/internal/wire"
)

// Promise 12, the other end: sources with a stage.

// staging connects a source with a stage.
func staging(t *testing.T, dir string, options ...string) (*brokertest.Stager, wire.Reply) {
	t.Helper()
	s, ok := brokertest.NewStager(t, dir, options...)
	if ok.Err != nil {
		t.Fatalf("%q: %v", options, ok.Err)
	}
	return s, ok
}

// stage puts the numbers from one to another into a stage, a message each.
func stage(t *testing.T, s *brokertest.Stager, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		if err := s.Put(brokertest.Within, uint64(i)+1, fmt.Appendf(nil, "%d", i)); err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
	}
}

// TestPromise12_Staged: what a source writes to its stage comes to every sink, in order and whole, beside what others send, whether the
// broker sleeps or not; of any size.
func TestPromise12_Staged(t *testing.T) {
	b := brokertest.Start(t)
	sink := brokertest.NewSink(t, b.Dir)
	v, _ := viewing(t, b.Dir)
	s, _ := staging(t, b.Dir, "label=log")
	stage(t, s, 0, 10)
	var viewed []string
	expect := func(want ...string) {
		t.Helper()
		viewed = append(viewed, views(t, v, len(want)-len(viewed))...)
		for i, w := range want {
			if m, err := sink.Receive(); err != nil || string(m) != w || viewed[i] != w {
				t.Fatalf("got %.20q and %.20q, %v; want %.20q", m, viewed[i], err, w)
			}
		}
		viewed = viewed[len(want):]
	}
	for i := range 10 {
		expect(fmt.Sprint(i))
	}
	time.Sleep(20 * time.Millisecond) // everybody sleeps
	stage(t, s, 10, 11)
	expect("10")
	large := strings.Repeat("x", 200<<10)
	if err := s.Put(brokertest.Within, 0, []byte("a"), []byte(large[:60000]), nil, []byte("b")); err != nil {
		t.Fatal(err)
	}
	expect("a", large[:60000], "", "b")
	if err := s.Put(brokertest.Within, 0, []byte(large)); err != nil {
		t.Fatal(err)
	}
	if got := views(t, v, 1); got[0] != large {
		t.Errorf("a large one of %d bytes", len(got[0]))
	}
}

// TestPromise12_StageWaits: with nobody to take them the messages stay in the stage; a source that has filled it waits for room, and is
// told of it; what a source that is gone has written is taken to the end.
func TestPromise12_StageWaits(t *testing.T) {
	b := brokertest.Start(t, func(c *broker.Config) { c.Geometry.Size, c.Geometry.MaxMessage = 1<<20, 64<<10 })
	s, _ := staging(t, b.Dir)
	n, message := 0, func(i int) []byte { return fmt.Appendf(make([]byte, 0, 1000), "%0100d", i) }
	for ; ; n++ {
		if err := s.Put(100*time.Millisecond, 0, message(n)); errors.Is(err, os.ErrDeadlineExceeded) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if n < 9000 || n > 12000 {
		t.Errorf("%d messages fit a stage", n)
	}
	if c := b.Channel.Status().Sources; !c.Blocked {
		t.Errorf("with no sink: %+v", c)
	}
	// The ring, of the same size, is full with those and has some more to come. A sink that reads takes everything.
	v, _ := viewing(t, b.Dir)
	went := make(chan error, 1)
	const more = 30000
	go func() {
		for i := n; i < n+more; i++ {
			if err := s.Put(brokertest.Within, 0, message(i)); err != nil {
				went <- fmt.Errorf("message %d: %w", i, err)
				return
			}
		}
		went <- s.Conn.Close()
	}()
	for i := 0; i < n+more; {
		for _, m := range views(t, v, 1) {
			if m != string(message(i)) {
				t.Fatalf("message %d is %q", i, m)
			}
			i++
		}
	}
	if err := <-went; err != nil {
		t.Error(err)
	}
}

// TestPromise12_StageRefused: what a source with a stage cannot be, and what cannot be in a stage: that is the end of its source, which
// is told why, and what was whole before it is in.
func TestPromise12_StageRefused(t *testing.T) {
	b := brokertest.Start(t)
	if _, ok := brokertest.Greet(t, b.Dir, "subscribe", "stage=yes"); ok.Err == nil || ok.Err.Code != wire.CodeBadOption {
		t.Errorf("a sink with a stage: %+v", ok)
	}
	sink := brokertest.NewSink(t, b.Dir)
	length := func(n uint32) []byte { return binary.LittleEndian.AppendUint32(nil, n) }
	for name, lie := range map[string]struct {
		raw  []byte
		code string
		head uint64 // more than was written
	}{
		"a record that ends beyond head":  {raw: length(8), code: wire.CodeBadPacket},
		"one of the largest length":       {raw: length(1<<32 - 2), code: wire.CodeTooLarge},
		"one that is too large":           {raw: wire.AppendRecord(nil, make([]byte, 300<<10)), code: wire.CodeTooLarge},
		"a mark of who does not mark":     {raw: append(length(view.StageMark), make([]byte, 12)...), code: wire.CodeBadPacket},
		"half a record's length":          {head: 2, code: wire.CodeBadPacket},
		"more than there is room for":     {head: 2 << 20, code: wire.CodeBadPacket},
		"much more":                       {head: 1 << 63, code: wire.CodeBadPacket},
		"a position before the beginning": {head: 1<<64 - 64, code: wire.CodeBadPacket},
	} {
		s, _ := staging(t, b.Dir)
		stage(t, s, 0, 1)
		if m, err := sink.Receive(); err != nil || string(m) != "0" {
			t.Fatalf("%s: got %q, %v", name, m, err)
		}
		if lie.head == 0 {
			s.Writer.Put(append(wire.AppendRecord(nil, []byte("before")), lie.raw...), 0, false)
			if lie.code == wire.CodeBadPacket || lie.code == wire.CodeTooLarge {
				_ = s.Wake()
			}
			if m, err := sink.Receive(); err != nil || string(m) != "before" {
				t.Errorf("%s: what stood before it: %q, %v", name, m, err)
			}
		} else {
			words, err := sys.Map(s.Stage, 0, view.PageSize)
			if err != nil {
				t.Fatal(err)
			}
			head := sys.Word(words, view.StageHeadAt)
			head.Store(head.Load() + lie.head)
			sys.Unmap(words)
			_ = s.Wake()
		}
		if err := s.Wait(brokertest.Within); err == nil || !strings.Contains(err.Error(), "error "+lie.code) {
			t.Errorf("%s: %v", name, err)
		}
		if !s.Writer.Over() {
			t.Errorf("%s: a source that does not look hears nothing", name)
		}
	}
}

// TestPromise12_LyingStages: stages that say anything at all, and change while they are read. Only their own sources have to do with
// that: what others send comes whole and in order, and the broker lives.
func TestPromise12_LyingStages(t *testing.T) {
	for name, lie := range map[string]func(r *rand.Rand, words, ring []byte, at uint64) uint64{
		"anything": func(r *rand.Rand, words, ring []byte, at uint64) uint64 {
			binary.LittleEndian.PutUint64(ring[8*r.IntN(len(ring)/8):], r.Uint64())
			sys.Word(words, 8*r.IntN(32)).Store(r.Uint64())
			return at
		},
		"nearly": func(r *rand.Rand, words, ring []byte, at uint64) uint64 {
			n := r.Uint64N(5000) &^ 3
			binary.LittleEndian.PutUint32(ring[at%uint64(len(ring)):], uint32(n)-4*uint32(r.IntN(3)))
			at += n + 4*r.Uint64N(2)
			sys.Word(words, view.StageHeadAt).Store(at)
			return at
		},
		"changing": func(r *rand.Rand, words, ring []byte, at uint64) uint64 {
			// Records of 60 bytes that are whole, and of other lengths in between.
			if taken := sys.Word(words, view.StageTakenAt).Load(); at-taken < uint64(len(ring))/2 {
				for range 100 {
					binary.LittleEndian.PutUint32(ring[at%uint64(len(ring)):], 60)
					at += 64
				}
				sys.Word(words, view.StageHeadAt).Store(at)
			}
			if r.IntN(50) == 0 {
				where := (at - 64*(1+r.Uint64N(100))) % uint64(len(ring))
				binary.LittleEndian.PutUint32(ring[where:], r.Uint32N(1<<uint(r.IntN(20))))
				binary.LittleEndian.PutUint32(ring[where:], 60)
			}
			return at
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := brokertest.Start(t, func(c *broker.Config) { c.Geometry.Size, c.Geometry.MaxMessage = 1<<20, 64<<10 })
			good, _ := viewing(t, b.Dir, "patience=forever")
			source, _ := staging(t, b.Dir)
			stop, over := make(chan struct{}), make(chan int)
			var sent atomic.Uint64
			sent.Store(1 << 62)
			go func() {
				for n := uint64(0); ; n++ {
					select {
					case <-stop:
						sent.Store(n)
						return
					default:
					}
					if err := source.Put(brokertest.Within, 0, stamped(1, n, 700)); err != nil {
						t.Error(err)
						sent.Store(n)
						return
					}
				}
			}()
			go func() {
				random, times := rand.New(rand.NewPCG(1, 2)), 0
				defer func() { over <- times }()
				for ; ; times++ {
					liar, ok := brokertest.NewStager(t, b.Dir)
					if ok.Err != nil && ok.Err.Code == wire.CodeQuota { // those before have left something, and the ring is full
						select {
						case <-stop:
							return
						case <-time.After(time.Millisecond):
						}
						continue
					}
					if ok.Err != nil {
						t.Errorf("the liar: %v", ok.Err)
						return
					}
					words, err := sys.Map(liar.Stage, 0, view.PageSize)
					if err != nil {
						t.Error(err)
						return
					}
					ring, err := sys.Map(liar.Stage, 65536, 1<<20)
					if err != nil {
						t.Error(err)
						return
					}
					for at, n := uint64(0), 0; n < 20_000 && sys.Word(words, view.StageOverAt).Load() == 0; n++ {
						at = lie(random, words, ring, at)
						if n%64 == 0 {
							_ = liar.Wake()
						}
					}
					sys.Unmap(words)
					sys.Unmap(ring)
					liar.Discard()
					select {
					case <-stop:
						return
					default:
					}
				}
			}()
			seen, others := uint64(0), 0
			next := func(d time.Duration) {
				t.Helper()
				some, err := good.Next(d)
				if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Fatal(err)
				}
				for _, m := range some {
					if from, n, whole := stamp(m); !whole || from != 1 {
						others++
					} else if n != seen {
						t.Fatalf("message %d instead of %d", n, seen)
					} else {
						seen++
					}
				}
			}
			for begun := time.Now(); time.Since(begun) < lyingFor(t); {
				next(brokertest.Within)
			}
			close(stop)
			var times int
			for done := false; !done || seen < sent.Load(); {
				select {
				case times = <-over:
					done = true
				default:
				}
				next(10 * time.Millisecond)
			}
			if good.Lost != 0 || times < 2 || seen < 1000 {
				t.Errorf("%d lost, %d liars, %d messages", good.Lost, times, seen)
			}
			t.Logf("%d messages, %d of %d liars", seen, others, times)
		})
	}
}

// TestPromise12_StageInC: the example in C sends every line, empty and long ones, and ends in good order; where it is not let in it says
// why.
func TestPromise12_StageInC(t *testing.T) {
	program := inC(t, "source")
	b := brokertest.Start(t)
	sink := brokertest.NewSubscriber(t, b.Dir)
	lines := []string{"first", "", strings.Repeat("x", 200<<10), "last"}
	for i := range 20_000 {
		lines = append(lines, fmt.Sprint(i, strings.Repeat("y", i%200)))
	}
	cmd := exec.Command(program, b.Dir+"/publish", "label=c")
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	over := make(chan error, 1)
	go func() {
		out, err := cmd.CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		over <- err
	}()
	for i := 0; i < len(lines); {
		p, err := sink.Receive()
		if err != nil {
			t.Fatalf("after %d of %d lines: %v", i, len(lines), err)
		}
		wire.EachRecord(p.Records, func(m []byte) bool {
			if string(m) != lines[i] {
				t.Fatalf("line %d is %.30q instead of %.30q", i, m, lines[i])
			}
			i++
			return true
		})
	}
	if err := <-over; err != nil {
		t.Error(err)
	}
	if out, err := exec.Command(program, b.Dir+"/subscribe").CombinedOutput(); err == nil || !strings.Contains(string(out), "error bad-option") {
		t.Errorf("at the wrong socket: %v, %s", err, out)
	}
}

// TestPromise12_StageInCTooLarge: what is longer than the channel takes is refused by the header for C, and not by the end of the connection,
// although half of the stage has room for it.
func TestPromise12_StageInCTooLarge(t *testing.T) {
	program := inC(t, "source")
	b := brokertest.Start(t, func(c *broker.Config) { c.Geometry.MaxMessage = 64 << 10 })
	sink := brokertest.NewSink(t, b.Dir)
	cmd := exec.Command(program, b.Dir+"/publish")
	largest := strings.Repeat("x", 64<<10)
	cmd.Stdin = strings.NewReader(largest + "\n" + largest + "y\n")
	if out, err := cmd.CombinedOutput(); err == nil || string(out) != "cannot send: Message too long \n" {
		t.Errorf("%v: %s", err, out)
	}
	if m, err := sink.Receive(); err != nil || string(m) != largest {
		t.Errorf("a message of %d bytes, %v", len(m), err)
	}
	if st := b.Channel.Status(); st.Refused[wire.CodeTooLarge] > 0 {
		t.Errorf("the broker has refused %v", st.Refused)
	}
}

// TestPromise12_StageAtTheEnd: a broker that ends closes the stages of those that are still connected, as nobody takes what is there.
func TestPromise12_StageAtTheEnd(t *testing.T) {
	stages := func() (n int) {
		for _, d := range openDescriptors() {
			if strings.Contains(d, "msgmux-stage") {
				n++
			}
		}
		return n
	}
	before := stages()
	b := brokertest.Start(t)
	s, _ := staging(t, b.Dir)
	stage(t, s, 0, 1)
	b.Stop()
	test.Eventually(t, "the test's own descriptor is the only one", func() bool { return stages() == before+1 })
}
