// SPDX-License-Identifier: Apache-2.0

package msgmux_test

// What a sink takes from the program that it is a part of.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"testing"
	"time"

	msgmux "github.com/msgmux/msgmux/client"
)

const (
	hostFor   = 1200 * time.Millisecond // how long a host lasts
	hostSleep = 2 * time.Millisecond    // how long its timers are
)

// beHost is a program with a goroutine less than Ps that is never done, and one that sleeps. Word says how many Ps, and
// whether there is a sink beside them: "2", or "2+sink". It prints by how much a sleep is too long on average, in
// nanoseconds.
func beHost(ctx context.Context, channel msgmux.Channel, word string) error {
	var processors int
	var with string
	if _, err := fmt.Sscanf(word, "%d%s", &processors, &with); err != nil && !errors.Is(err, io.EOF) && with != "" {
		return err
	}
	runtime.GOMAXPROCS(processors)
	ctx, cancel := context.WithTimeout(ctx, hostFor)
	defer cancel()
	if with == "+sink" {
		sink, err := channel.Subscribe(ctx, msgmux.SinkOptions{})
		if err != nil {
			return err
		}
		go func() {
			for range sink.Messages(ctx) {
			}
		}()
	}
	for range processors - 1 {
		go func() {
			for n := 1; ; n++ {
			}
		}()
	}
	began, sleeps := time.Now(), 0
	for ; ctx.Err() == nil; sleeps++ {
		time.Sleep(hostSleep)
	}
	_, err := fmt.Println(int64(time.Since(began))/int64(sleeps) - int64(hostSleep))
	return err
}

// hostLateness is how late the timers of such a program are.
func hostLateness(t *testing.T, channel msgmux.Channel, word string) time.Duration {
	t.Helper()
	out, err := io.ReadAll(startClient(t, "host", channel, word).out)
	if err != nil {
		t.Fatal(err)
	}
	var late time.Duration
	if _, err := fmt.Sscan(string(out), &late); err != nil {
		t.Fatalf("the host printed %q: %v", out, err)
	}
	return late
}

// TestASinkDoesNotMakeItsHostLate: the timers of a busy program with a sink that gets 200 messages a second are about as
// late as those of the same program without one. A processor that is kept from the program's other goroutines for the
// sake of the sink makes them a hundred times as late.
func TestASinkDoesNotMakeItsHostLate(t *testing.T) {
	channel := realChannel(t)
	source := dial(t, channel)
	other, ended := subscribe(t, channel, msgmux.SinkOptions{}), make(chan struct{})
	go func() { // between two hosts, too, somebody takes the messages
		defer close(ended)
		for range other.Messages(context.Background()) {
		}
	}()
	stop := make(chan struct{})
	defer func() { close(stop); other.Close(); <-ended }()
	go func() {
		for tick := time.NewTicker(5 * time.Millisecond); ; {
			select {
			case <-tick.C:
				_ = source.TrySend([]byte("message"))
			case <-stop:
				return
			}
		}
	}()
	for _, processors := range []string{"1", "2", "4"} {
		// The least of several turns: other programs of this machine only add to it.
		without, with := time.Hour, time.Hour
		for try := 0; try < 2 || try < 6 && with > 3*max(without, time.Millisecond); try++ {
			without = min(without, hostLateness(t, channel, processors))
			with = min(with, hostLateness(t, channel, processors+"+sink"))
		}
		t.Logf("GOMAXPROCS=%s: timers are %v late, beside a sink %v", processors, without, with)
		if with > 3*max(without, time.Millisecond) {
			t.Errorf("GOMAXPROCS=%s: timers are %v late beside a sink, and %v without", processors, with, without)
		}
	}
}

// TestDeadlinesAreMet by a Receive about as well as by a timer.
func TestDeadlinesAreMet(t *testing.T) {
	channel := realChannel(t)
	sink := subscribe(t, channel, msgmux.SinkOptions{})
	late := func(wait func(context.Context)) time.Duration {
		var all []time.Duration
		for range 100 {
			ctx, cancel := context.WithTimeout(context.Background(), hostSleep)
			began := time.Now()
			wait(ctx)
			all = append(all, time.Since(began)-hostSleep)
			cancel()
		}
		slices.Sort(all)
		return all[len(all)/4]
	}
	timer := late(func(ctx context.Context) { <-ctx.Done() })
	receive := late(func(ctx context.Context) {
		if _, err := sink.Receive(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
	t.Logf("a timer is %v late, Receive %v", timer, receive)
	if receive > 5*max(timer, hostSleep/4) {
		t.Errorf("Receive misses its deadline by %v, a timer by %v", receive, timer)
	}
}
