// SPDX-License-Identifier: Apache-2.0

package msgmux_test

// What calls leave behind that end early, of goroutines and of watches on their contexts: nothing.

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/internal/test"
)

// watched is a context that counts who watches it. The context package uses AfterFunc where it is there.
type watched struct {
	context.Context
	watches *atomic.Int64
}

func (w watched) AfterFunc(f func()) (stop func() bool) {
	w.watches.Add(1)
	gone := sync.OnceFunc(func() { w.watches.Add(-1) })
	end := context.AfterFunc(w.Context, func() {
		gone()
		f()
	})
	return func() bool {
		gone()
		return end()
	}
}

// TestCallsThatEndEarlyLeaveNothingBehind: each of them ends by a deadline, a cancel, Close or the broker, in every
// place where it can wait.
func TestCallsThatEndEarlyLeaveNothingBehind(t *testing.T) {
	var watches atomic.Int64
	brief := func() (context.Context, context.CancelFunc) {
		ctx, cancel := context.WithTimeout(context.Background(), shortly)
		return watched{ctx, &watches}, cancel
	}
	cancelled := func() (context.Context, context.CancelFunc) {
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(shortly, cancel)
		return watched{ctx, &watches}, cancel
	}
	endless := func() (context.Context, context.CancelFunc) {
		ctx, cancel := context.WithCancel(context.Background())
		return watched{ctx, &watches}, cancel
	}
	over := map[string]error{"deadline": context.DeadlineExceeded, "cancel": context.Canceled, "Close": net.ErrClosed}

	// Each makes what it needs and returns the calls that are to end with over.
	places := map[string]func(t *testing.T, channel msgmux.Channel) (calls []func(context.Context) error, closeAll func()){
		"a broker that says nothing": func(t *testing.T, channel msgmux.Channel) ([]func(context.Context) error, func()) {
			var calls []func(context.Context) error
			for name, join := range clients(channel) {
				listen(t, channel, name)
				calls = append(calls, join)
			}
			return calls, nil
		},
		"a full channel, and an empty one": func(t *testing.T, channel msgmux.Channel) ([]func(context.Context) error, func()) {
			source, _ := dialled(t, channel, listen(t, channel, "publish"))
			fill(t, source)
			sink, _ := subscribed(t, channel, listen(t, channel, "subscribe"), msgmux.SinkOptions{})
			batch := source.Batch()
			if err := batch.Add(inTime(t), nil); err != nil {
				t.Fatal(err)
			}
			return []func(context.Context) error{
				func(ctx context.Context) error { return source.Send(ctx, nil) },
				func(ctx context.Context) error { return batch.Flush(ctx) }, // waits for its turn
				func(ctx context.Context) error { _, err := sink.Receive(ctx); return err },
				func(ctx context.Context) error { return each(ctx, sink, nil) },
			}, func() { source.Close(); sink.Close() }
		},
		"a broker that has gone": func(t *testing.T, channel msgmux.Channel) ([]func(context.Context) error, func()) {
			publish := listen(t, channel, "publish")
			source, broker := dialled(t, channel, publish)
			sink, other := subscribed(t, channel, listen(t, channel, "subscribe"), msgmux.SinkOptions{Reconnect: true})
			broker.Close()
			other.Close()
			return []func(context.Context) error{
				func(ctx context.Context) error { return source.Send(ctx, nil) },
				func(ctx context.Context) error { _, err := sink.Receive(ctx); return err },
			}, func() { source.Close(); sink.Close() }
		},
		"an inherited socket": func(t *testing.T, channel msgmux.Channel) ([]func(context.Context) error, func()) {
			sink, _ := inherit(t, msgmux.InheritedOptions{})
			return []func(context.Context) error{
				func(ctx context.Context) error { _, err := sink.Receive(ctx); return err },
			}, func() { sink.Close() }
		},
	}
	before := runtime.NumGoroutine()
	for name, place := range places {
		for how, end := range map[string]func() (context.Context, context.CancelFunc){"deadline": brief, "cancel": cancelled, "Close": endless} {
			t.Run(fmt.Sprint(name, ", ", how), func(t *testing.T) {
				calls, closeAll := place(t, folder(t))
				if how == "Close" && closeAll == nil {
					return
				}
				ended := make(chan error, len(calls))
				for _, call := range calls {
					ctx, cancel := end()
					defer cancel()
					go func() { ended <- call(ctx) }()
				}
				if how == "Close" {
					time.Sleep(shortly)
					closeAll()
				}
				for range calls {
					select {
					case err := <-ended:
						if !errors.Is(err, over[how]) {
							t.Errorf("got %v", err)
						}
					case <-time.After(2 * soon):
						t.Fatal("a call does not end")
					}
				}
				if n := watches.Load(); n != 0 {
					t.Errorf("%d watches are left", n)
				}
			})
		}
	}
	// By here all that the tests above had open is closed.
	test.Eventually(t, "as many goroutines as before", func() bool { return runtime.NumGoroutine() <= before })
}

// TestErrorsHaveOneClass, and all are an OpError that says what was tried, and where.
func TestErrorsHaveOneClass(t *testing.T) {
	classes := map[string]error{
		"no broker": msgmux.ErrNoBroker, "refused": msgmux.ErrRefused, "would block": msgmux.ErrWouldBlock,
		"too large": msgmux.ErrTooLarge, "not found": msgmux.ErrNotFound, "hung up": msgmux.ErrHungUp, "bad option": msgmux.ErrBadOption,
		"closed": net.ErrClosed, "deadline": context.DeadlineExceeded, "cancel": context.Canceled,
	}
	channel := realChannel(t)
	over, cancel := context.WithCancel(context.Background())
	cancel()
	late, end := context.WithTimeout(context.Background(), -1)
	defer end()
	source, sink := dial(t, channel), subscribe(t, channel, msgmux.SinkOptions{})
	inherited, _ := inherit(t, msgmux.InheritedOptions{})
	closed, shut := dial(t, channel), subscribe(t, channel, msgmux.SinkOptions{})
	closed.Close()
	shut.Close()
	dropped := subscribe(t, channel, msgmux.SinkOptions{Label: "dropped"})
	if err := channel.Drop(inTime(t), "dropped"); err != nil {
		t.Fatal(err)
	}
	elsewhere := folder(t)
	full := dial(t, realChannel(t))
	fill(t, full)
	batch := full.Batch()
	if err := batch.Add(inTime(t), []byte("x")); err != nil {
		t.Fatal(err)
	}
	subscribing := func(ctx context.Context, channel msgmux.Channel, options msgmux.SinkOptions) error {
		_, err := channel.Subscribe(ctx, options)
		return err
	}
	receiving := func(ctx context.Context, sink *msgmux.Sink) error {
		_, err := sink.Receive(ctx)
		return err
	}
	looping := func(ctx context.Context, sink *msgmux.Sink) (last error) {
		for _, err := range sink.Messages(ctx) {
			last = err
		}
		return last
	}
	dialling := func(ctx context.Context, channel msgmux.Channel, options msgmux.SourceOptions) error {
		_, err := channel.Dial(ctx, options)
		return err
	}
	finding := func(name string) error {
		_, err := msgmux.Inherited(name, msgmux.InheritedOptions{})
		return err
	}
	status := func(ctx context.Context, channel msgmux.Channel) error {
		_, err := channel.Status(ctx)
		return err
	}
	for class, errs := range map[string][]error{
		"no broker": {
			dialling(inTime(t), elsewhere, msgmux.SourceOptions{}), subscribing(inTime(t), elsewhere, msgmux.SinkOptions{}),
			status(inTime(t), elsewhere), elsewhere.Drop(inTime(t), "x"),
		},
		"refused":     {}, // by a broker and by a mode: TestRefusedHello
		"would block": {full.TrySend(nil), batch.TryFlush()},
		"too large": {
			source.Send(inTime(t), make([]byte, 5<<20)), source.TrySend(make([]byte, 300<<10)), batch.Add(inTime(t), make([]byte, 300<<10)),
		},
		"not found": {channel.Drop(inTime(t), "nobody"), channel.SetPatience(inTime(t), "nobody", time.Second), finding("nobody")},
		"hung up":   {receiving(inTime(t), dropped), looping(inTime(t), dropped)},
		"bad option": {
			dialling(inTime(t), channel, msgmux.SourceOptions{Label: "a b"}), subscribing(inTime(t), channel, msgmux.SinkOptions{Share: "a b"}),
			channel.SetPatience(inTime(t), "x", -1), status(inTime(t), msgmux.Channel{}),
		},
		"closed": {
			closed.Send(inTime(t), nil), closed.TrySend(nil), closed.Close(), shut.Close(), receiving(inTime(t), shut), looping(inTime(t), shut),
		},
		"deadline": {
			dialling(late, channel, msgmux.SourceOptions{}), subscribing(late, channel, msgmux.SinkOptions{}), source.Send(late, nil),
			receiving(late, sink), receiving(late, inherited), sink.Leave(late), status(late, channel), looping(late, sink), batch.Flush(late),
		},
		"cancel": {
			dialling(over, channel, msgmux.SourceOptions{}), dialling(over, channel, msgmux.SourceOptions{Datagrams: true}),
			subscribing(over, channel, msgmux.SinkOptions{}),
			source.Send(over, nil), receiving(over, sink), receiving(over, inherited), sink.Leave(over), status(over, channel), looping(over, sink),
		},
	} {
		for i, err := range errs {
			var failed *msgmux.OpError
			if !errors.As(err, &failed) || failed.Op == "" || failed.Err == nil {
				t.Errorf("%s, error %d is %T: %v", class, i, err, err)
			} else if failed.Path == "" && class != "bad option" {
				t.Errorf("%s, error %d does not say where: %v", class, i, err)
			}
			for other, e := range classes {
				if errors.Is(err, e) != (other == class) {
					t.Errorf("%s, error %d, is %s: %v; %v", class, i, other, errors.Is(err, e), err)
				}
			}
		}
	}
}

// TestReconnectingLeavesNoDescriptors, neither of connections whose broker has gone, nor of those that were refused.
func TestReconnectingLeavesNoDescriptors(t *testing.T) {
	// The collector would close what nobody refers to any more.
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	channel := folder(t)
	publish, subscribe := listen(t, channel, "publish"), listen(t, channel, "subscribe")
	open := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	source, broker := dialled(t, channel, publish)
	sink, other := subscribed(t, channel, subscribe, msgmux.SinkOptions{Reconnect: true})
	const rounds = 3 // more of them take a second each: that is how long a sink waits
	before := open()
	for range rounds {
		broker.Close()
		other.Close()
		sent, received := make(chan error, 1), make(chan error, 1)
		go func() { sent <- source.Send(inTime(t), []byte("x")) }()
		go func() {
			_, err := sink.Receive(inTime(t))
			received <- err
		}()
		admit(t, publish, "error quota 64 are enough\n").Close()
		if err := <-sent; !errors.Is(err, msgmux.ErrRefused) {
			t.Errorf("got %v", err)
		}
		go func() { sent <- source.Send(inTime(t), []byte("x")) }()
		broker = admit(t, publish, "ok id=7\n")
		other = admit(t, subscribe, "ok id=7\n")
		other.deliver(t, 0, 0, "x")
		if err := errors.Join(<-sent, <-received); err != nil {
			t.Error(err)
		}
	}
	if after := open(); after > before {
		t.Errorf("%d descriptors were open, and after connecting %d times again %d are", before, rounds, after)
	}
}
