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

	"github.com/msgmux/msgmux/broker/brokertest"
	msgmux "github.com/msgmux/msgmux/client"
)

// TestGoroutinesShareASourceAndASink: each message comes once, to one of the receivers, and the messages of one sender,
// or of one batch, keep their order.
func TestGoroutinesShareASourceAndASink(t *testing.T) {
	const senders, receivers, each = 4, 3, 2000
	channel := realChannel(t)
	for _, datagrams := range []bool{false, true} {
		sink := subscribe(t, channel, msgmux.SinkOptions{Datagrams: datagrams, Patience: new(msgmux.Forever)})
		source, err := channel.DialWith(inTime(t), msgmux.SourceOptions{Datagrams: datagrams})
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
				if count.Add(1) == senders*each {
					cancel()
				}
				return nil
			}
			go func() {
				for err := error(nil); ; {
					if i == 0 { // gives the turn away now and then
						some := 0
						err = sink.Each(ctx, func(m msgmux.Message) error {
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
					_, _, _ = sink.ID(), sink.Lost(), sink.Address()
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
				for n := range uint64(each) {
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
		if len(got) != senders*each {
			t.Errorf("datagrams %v: %d of %d came", datagrams, len(got), senders*each)
		}
		sink.Close()
		source.Close()
	}
}

// TestLeaveEndsAReceive that another goroutine waits in, and one that comes later, but not before what was sent has
// come.
func TestLeaveEndsAReceive(t *testing.T) {
	channel := realChannel(t)
	for _, datagrams := range []bool{false, true} {
		for _, waited := range []time.Duration{shortly / 5, 5 * shortly} { // while it waits in the kernel, and in the poller
			sink := subscribe(t, channel, msgmux.SinkOptions{Datagrams: datagrams})
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
					t.Errorf("datagrams %v: got %v", datagrams, err)
				}
			case <-time.After(soon):
				t.Fatalf("datagrams %v: Receive waits for what will never come", datagrams)
			}
			if _, err := sink.Receive(inTime(t)); !errors.Is(err, io.EOF) {
				t.Errorf("datagrams %v: then got %v", datagrams, err)
			}
			sink.Close()
		}
	}

	// Beside a flood: the end comes behind all that was accepted for it.
	source := dial(t, channel)
	for _, datagrams := range []bool{false, true} {
		before, err := channel.Status(inTime(t))
		if err != nil {
			t.Fatal(err)
		}
		other := subscribe(t, channel, msgmux.SinkOptions{})
		sink := subscribe(t, channel, msgmux.SinkOptions{Datagrams: datagrams})
		ctx, cancel := context.WithCancel(inTime(t))
		var all sync.WaitGroup
		all.Go(func() {
			for source.Send(ctx, []byte("flood")) == nil {
			}
		})
		all.Go(func() {
			other.Each(ctx, func(msgmux.Message) error { return nil })
		})
		got := make(chan uint64, 1)
		go func() {
			n := uint64(0)
			if err := sink.Each(ctx, func(msgmux.Message) error { n++; return nil }); !errors.Is(err, io.EOF) {
				t.Errorf("datagrams %v: got %v", datagrams, err)
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
		brokertest.Eventually(t, "the end of the flood", func() bool {
			_, sinks, err := channel.List(inTime(t))
			return err == nil && len(sinks) == 1 && sinks[0].Waiting == 0
		})
		status, sinks, err := channel.List(inTime(t))
		if err != nil {
			t.Fatal(err)
		}
		// What all sinks accepted, less what the other one did.
		if want := status.Accepted - before.Accepted - sinks[0].Accepted; n != want || n == 0 {
			t.Errorf("datagrams %v: got %d of the %d messages that were accepted for it", datagrams, n, want)
		}
		sink.Close()
		other.Close()
	}
}

// TestLeaveThatFailed may be tried again: only an answer is an answer.
func TestLeaveThatFailed(t *testing.T) {
	channel := folder(t)
	registrar(t, channel, accept)
	sink := subscribe(t, channel, msgmux.SinkOptions{Datagrams: true})
	silent := bindDatagram(t, channel, "register")
	ctx, cancel := context.WithTimeout(context.Background(), shortly)
	defer cancel()
	if err := sink.Leave(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	deliver(t, sink, "it was not told")
	if got, err := sink.Receive(inTime(t)); err != nil || string(got.Payload) != "it was not told" {
		t.Errorf("got %q and %v", got.Payload, err)
	}
	ctx, over := context.WithTimeout(context.Background(), shortly)
	defer over()
	if _, err := sink.Receive(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a sink that has not left: got %v", err)
	}
	silent.Close()
	registrar(t, channel, accept)
	if err := sink.Leave(inTime(t)); err != nil {
		t.Error(err)
	}
	if _, err := sink.Receive(inTime(t)); !errors.Is(err, io.EOF) {
		t.Errorf("got %v", err)
	}
}

// TestCloseInACallback ends the loop, and nothing else.
func TestCloseInACallback(t *testing.T) {
	channel := realChannel(t)
	source := dial(t, channel)
	for _, datagrams := range []bool{false, true} {
		sink := subscribe(t, channel, msgmux.SinkOptions{Datagrams: datagrams})
		if err := source.Send(inTime(t), []byte("x")); err != nil {
			t.Fatal(err)
		}
		err := sink.Each(inTime(t), func(msgmux.Message) error { return sink.Close() })
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("datagrams %v: got %v", datagrams, err)
		}
		failed, _ := errors.AsType[*msgmux.OpError](err)
		if want := fmt.Sprintf("cannot receive: %s: %v", failed.Path, net.ErrClosed); err.Error() != want {
			t.Errorf("the error says %q, want %q", err, want)
		}
	}
}
