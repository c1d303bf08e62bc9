// SPDX-License-Identifier: Apache-2.0

package msgmux_test

// What several goroutines may do with one source and with one sink.

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/internal/test"
)

// TestGoroutinesShareASourceAndASink: each message comes once, to one of the receivers, and the messages of one sender,
// or of one batch, keep their order.
func TestGoroutinesShareASourceAndASink(t *testing.T) {
	const senders, receivers, sends = 4, 3, 2000
	channel := realChannel(t)
	for _, datagrams := range []bool{false, true} {
		sink := subscribe(t, channel, msgmux.SinkOptions{Patience: new(msgmux.Forever)})
		source, err := channel.Dial(inTime(t), msgmux.SourceOptions{Datagrams: datagrams})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(inTime(t))
		defer cancel()

		// The receivers take turns, so what one of them has got is in order, and all of it is there once.
		var count atomic.Int64
		var mu sync.Mutex
		got := make(map[uint64]int)
		ended := make(chan error, receivers)
		for i := range receivers {
			next := make([]uint64, senders)
			take := func(m msgmux.Message) error {
				n := binary.LittleEndian.Uint64(m.Payload)
				if n&0xffffffff < next[n>>32] {
					t.Errorf("message %d of sender %d came after %d", n&0xffffffff, n>>32, next[n>>32])
				}
				next[n>>32] = n & 0xffffffff
				mu.Lock()
				got[n]++
				mu.Unlock()
				if count.Add(1) == senders*sends {
					cancel()
				}
				return nil
			}
			go func() {
				for err := error(nil); ; {
					if i == 0 { // gives the turn away now and then
						some := 0
						err = each(ctx, sink, func(m msgmux.Message) error {
							if some++; some == 10 {
								return errors.Join(take(m), io.EOF)
							}
							return take(m)
						})
					} else {
						var m msgmux.Message
						if m, err = sink.Receive(ctx); err == nil {
							err = take(m)
						}
					}
					_, _, _ = sink.ID(), sink.Stats(), sink.Label()
					if err != nil && !errors.Is(err, io.EOF) {
						ended <- err
						return
					}
				}
			}()
		}
		var all sync.WaitGroup
		for i := range uint64(senders) {
			all.Go(func() {
				batch := source.Batch()
				for n := range uint64(sends) {
					message := binary.LittleEndian.AppendUint64(nil, i<<32|n)
					err := error(nil)
					switch i % 4 {
					case 0:
						err = source.Send(ctx, message)
					case 1:
						for err = source.TrySend(message); errors.Is(err, msgmux.ErrWouldBlock); err = source.TrySend(message) {
							time.Sleep(time.Millisecond)
						}
					case 2:
						if err = batch.Add(ctx, message); n%10 == 9 {
							err = errors.Join(err, batch.Flush(ctx))
						}
					case 3:
						err = batch.Add(ctx, message)
						for n%10 == 9 && batch.Len() > 0 && err == nil {
							if err = batch.TryFlush(); errors.Is(err, msgmux.ErrWouldBlock) {
								err = nil
								time.Sleep(time.Millisecond)
							}
						}
					}
					if err != nil {
						t.Errorf("sender %d: %v", i, err)
						return
					}
				}
			})
		}
		all.Wait()
		for range receivers {
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("a receiver ended with %v", err)
			}
		}
		for n, times := range got {
			if times != 1 {
				t.Errorf("message %d of sender %d came %d times", n&0xffffffff, n>>32, times)
			}
		}
		if len(got) != senders*sends {
			t.Errorf("%d of %d came", len(got), senders*sends)
		}
		sink.Close()
		source.Close()
	}
}

// TestLeaveEndsAReceive that another goroutine waits in, and one that comes later, but not before what was sent has
// come.
func TestLeaveEndsAReceive(t *testing.T) {
	channel := realChannel(t)
	for _, waited := range []time.Duration{0, shortly} {
		sink := subscribe(t, channel, msgmux.SinkOptions{})
		received := make(chan error, 1)
		go func() {
			_, err := sink.Receive(context.Background())
			received <- err
		}()
		time.Sleep(waited)
		if err := sink.Leave(inTime(t)); err != nil {
			t.Error(err)
		}
		select {
		case err := <-received:
			if !errors.Is(err, io.EOF) {
				t.Errorf("got %v", err)
			}
		case <-time.After(soon):
			t.Fatalf("Receive waits for what will never come")
		}
		if _, err := sink.Receive(inTime(t)); !errors.Is(err, io.EOF) {
			t.Errorf("then got %v", err)
		}
		sink.Close()
	}

	// Beside a flood: the end comes behind all that was accepted for it.
	source := dial(t, channel)
	before, err := channel.Status(inTime(t))
	if err != nil {
		t.Fatal(err)
	}
	other := subscribe(t, channel, msgmux.SinkOptions{})
	sink := subscribe(t, channel, msgmux.SinkOptions{})
	ctx, cancel := context.WithCancel(inTime(t))
	var all sync.WaitGroup
	all.Go(func() {
		for source.Send(ctx, []byte("flood")) == nil {
		}
	})
	all.Go(func() {
		each(ctx, other, func(msgmux.Message) error { return nil })
	})
	got := make(chan uint64, 1)
	go func() {
		n := uint64(0)
		if err := each(ctx, sink, func(msgmux.Message) error { n++; return nil }); !errors.Is(err, io.EOF) {
			t.Errorf("got %v", err)
		}
		got <- n
	}()
	time.Sleep(shortly)
	if err := sink.Leave(inTime(t)); err != nil {
		t.Error(err)
	}
	n := <-got
	cancel()
	all.Wait()
	test.Eventually(t, "the end of the flood", func() bool {
		_, sinks, err := channel.Sinks(inTime(t))
		return err == nil && len(sinks) == 1 && sinks[0].Waiting == 0
	})
	status, sinks, err := channel.Sinks(inTime(t))
	if err != nil {
		t.Fatal(err)
	}
	// What all sinks accepted, less what the other one did.
	if want := status.Accepted - before.Accepted - sinks[0].Accepted; n != want || n == 0 {
		t.Errorf("got %d of the %d messages that were accepted for it", n, want)
	}
	sink.Close()
	other.Close()
}

// TestCloseInACallback ends the loop, and nothing else.
func TestCloseInACallback(t *testing.T) {
	channel := realChannel(t)
	source := dial(t, channel)
	sink := subscribe(t, channel, msgmux.SinkOptions{})
	if err := source.Send(inTime(t), []byte("x")); err != nil {
		t.Fatal(err)
	}
	err := each(inTime(t), sink, func(msgmux.Message) error { return sink.Close() })
	if !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
	failed, _ := errors.AsType[*msgmux.OpError](err)
	if want := fmt.Sprintf("cannot receive: %s: %v", failed.Path, net.ErrClosed); err.Error() != want {
		t.Errorf("the error says %q, want %q", err, want)
	}
}
