// SPDX-License-Identifier: Apache-2.0

package msgmux_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/test"
	"github.com/msgmux/msgmux/internal/view"
	"github.com/msgmux/msgmux/internal/wire"
)

// give sends what a client shares with a broker, which is the test.
func (p *peer) give(t *testing.T, packet []byte, fds ...int) {
	t.Helper()
	if _, _, err := p.WriteMsgUnix(packet, unix.UnixRights(fds...), nil); err != nil {
		t.Fatal(err)
	}
}

// publishedRing is a ring of 64 KiB that publishes those words, and has zeroes in it: empty messages.
func publishedRing(t *testing.T, words map[int]uint64) (fd int) {
	t.Helper()
	const at, size = 64 << 10, 64 << 10
	fd, err := sys.CreateMemfd("ring", at+size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sys.Close(fd) })
	maps.Copy(words, map[int]uint64{view.MagicAt: view.Magic, view.RingAt: at, view.SizeAt: size, view.GenerationAt: 1})
	for where, word := range words {
		if _, err := unix.Pwrite(fd, binary.LittleEndian.AppendUint64(nil, word), int64(view.PublishedAt+where)); err != nil {
			t.Fatal(err)
		}
	}
	return fd
}

// TestPromise12_RingThatCannotBe: a sink in view whose broker publishes what cannot be, or died over its tail and has no successor, is told
// so: it neither spins nor waits for ever.
func TestPromise12_RingThatCannotBe(t *testing.T) {
	for name, c := range map[string]struct {
		words map[int]uint64
		want  string
	}{
		"less than a length before head": {map[int]uint64{view.HeadAt: 3}, "cannot be"},
		"head behind the sink":           {map[int]uint64{view.HeadAt: 1<<64 - 64}, "cannot be"},
		"a tail without its number":      {map[int]uint64{view.HeadAt: 64, view.TailAt: 32}, msgmux.ErrHungUp.Error()},
	} {
		for _, place := range []bool{false, true} {
			channel := folder(t)
			listener := listen(t, channel, "subscribe")
			ended := make(chan error, 1)
			go func() {
				sink, err := channel.Subscribe(inTime(t), msgmux.SinkOptions{View: true})
				if err == nil {
					defer sink.Close()
					if place {
						err = sink.InPlace(inTime(t), func(msgmux.Packet) error { return errors.New("a packet came") })
					} else {
						_, err = sink.Receive(inTime(t))
					}
				}
				ended <- err
			}()
			p := admit(t, listener, "ok id=7 next=0\n")
			page, fd, err := view.NewPage()
			if err != nil {
				t.Fatal(err)
			}
			defer sys.Close(fd)
			defer page.Close()
			p.give(t, make([]byte, wire.SinkHeader), publishedRing(t, c.words), fd)
			p.Close()
			if err := <-ended; err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s (in place: %t): %v", name, place, err)
			}
		}
	}
}

// TestPromise12_MovedOutOfView: a sink in view that cannot map its ring where that has moved goes on with packets behind what it has had,
// by another connection, although nobody has asked it to connect again; where the channel was stopped meanwhile it is told so.
func TestPromise12_MovedOutOfView(t *testing.T) {
	for _, stopped := range []bool{false, true} {
		t.Run(fmt.Sprint("stopped: ", stopped), func(t *testing.T) {
			t.Parallel() // it waits for a second
			channel := folder(t)
			listener := listen(t, channel, "subscribe")
			came := make(chan *msgmux.Sink, 1)
			go func() {
				sink, err := channel.Subscribe(inTime(t), msgmux.SinkOptions{Label: "db", Keep: time.Minute, View: true})
				if err != nil {
					t.Error(err)
				}
				came <- sink
			}()
			p := admit(t, listener, "ok id=7 label=db epoch=5 next=0\n")
			page, fd, err := view.NewPage()
			if err != nil {
				t.Fatal(err)
			}
			defer sys.Close(fd)
			defer page.Close()
			p.give(t, make([]byte, wire.SinkHeader), publishedRing(t, map[int]uint64{view.HeadAt: 2 * wire.RecordHeader}), fd)
			sink := <-came
			if sink == nil {
				return
			}
			defer sink.Close()
			for seq := range uint64(2) {
				if m, err := sink.Receive(inTime(t)); err != nil || m.Seq != seq {
					t.Fatalf("message %d has the number %d, %v", seq, m.Seq, err)
				}
			}
			if stopped {
				listener.Close()
			}
			p.give(t, make([]byte, wire.SinkHeader), fd, fd) // which is no ring
			if _, err := sink.Receive(inTimeOf(t, shortly)); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("before it may connect: %v", err)
			}
			if stopped {
				if _, err := sink.Receive(inTime(t)); !errors.Is(err, msgmux.ErrHungUp) {
					t.Errorf("without a broker: %v", err)
				}
				return
			}
			got := make(chan error, 1)
			go func() {
				m, err := sink.Receive(inTime(t))
				if err == nil && (m.Seq != 2 || string(m.Payload) != "in a packet") {
					err = fmt.Errorf("message %d is %q", m.Seq, m.Payload)
				}
				got <- err
			}()
			next := admit(t, listener, "ok id=7 label=db epoch=5 next=2\n")
			if h, from := next.hello, (wire.Position{Epoch: 5, Seq: 2}); h.View || !h.Ack || !h.Replace || h.From != from {
				t.Errorf("it comes back with %+v", h)
			}
			next.deliver(t, 2, 0, "in a packet")
			if err := <-got; err != nil {
				t.Error(err)
			}
			if stats := sink.Stats(); stats.View || stats.Messages != 3 || stats.Gaps != 0 {
				t.Errorf("%+v", stats)
			}
		})
	}
}

// TestPromise12_PutBesideTheEnd: a broker that ends a connection says so in the stage, and closes it a moment later. What a source puts
// there in between is not taken, though it can send a packet for it: it is sent once more, by the next connection. Each round gives it one
// chance to come in between.
func TestPromise12_PutBesideTheEnd(t *testing.T) {
	for range 200 {
		t.Run("", func(t *testing.T) {
			putBesideTheEnd(t)
		})
	}
}

func putBesideTheEnd(t *testing.T) {
	channel := folder(t)
	listener := listen(t, channel, "publish")
	sent := make(chan error, 1)
	stop := make(chan struct{})
	go func() {
		source, err := channel.Dial(inTime(t), msgmux.SourceOptions{Stage: true})
		for n := uint64(0); err == nil; n++ {
			err = source.Send(inTime(t), binary.LittleEndian.AppendUint64(nil, n))
			select {
			case <-stop:
				sent <- source.Close()
				return
			default:
			}
		}
		sent <- err
	}()
	next := func() (*peer, *view.Stage) {
		p := admit(t, listener, "ok id=7 max-message=1000\n")
		stage, fd, err := view.NewStage(1 << 20)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { stage.Close(); sys.Close(fd) })
		p.give(t, []byte{0}, fd)
		return p, stage
	}
	p, stage := next()
	test.Eventually(t, "it sends", func() bool { stage.Take(stage.Head()); return stage.Head() > 10_000 })
	const record = wire.RecordHeader + 8
	stage.End()
	last := stage.Head()
	stage.Take(last)
	time.Sleep(5 * time.Millisecond)
	p.Close()
	_, stage = next()
	test.Eventually(t, "it sends", func() bool { return stage.Head() > 0 })
	if n := binary.LittleEndian.Uint64(stage.Bytes(wire.RecordHeader, 8)); n != last/record {
		t.Errorf("message %d is the first of the second connection, and the last of the first one was %d", n, last/record-1)
	}
	close(stop)
	if err := <-sent; err != nil {
		t.Error(err)
	}
}
