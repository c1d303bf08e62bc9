// SPDX-License-Identifier: Apache-2.0

package msgmux_test

// What waiting in the kernel takes from others.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/msgmux/msgmux/broker/brokertest"
	msgmux "github.com/msgmux/msgmux/client"
)

// busyWithin is how long a busy program lasts.
const busyWithin = 1500 * time.Millisecond

// beBusy is a program with a goroutine for each of its two Ps that is never done, and a sink beside them. It prints how
// much work it has done, during what part of it a call waited in the kernel, and how many messages it got. Word says how
// to wait: "kernel", as ever, or "poller".
func beBusy(ctx context.Context, channel msgmux.Channel, word string) error {
	runtime.GOMAXPROCS(2)
	if word == "poller" {
		msgmux.WaitInThePoller()
	}
	sink, err := channel.Subscribe(ctx, msgmux.SinkOptions{})
	if err != nil {
		return err
	}
	var work, held atomic.Int64
	for range 2 {
		go func() {
			for n := 1; ; n++ {
				if n%10_000 != 0 {
					continue
				}
				work.Add(1)
				if msgmux.WaitInKernel() {
					held.Add(1)
				}
			}
		}()
	}
	ctx, cancel := context.WithTimeout(ctx, busyWithin)
	defer cancel()
	got := 0
	err = sink.Each(ctx, func(msgmux.Message) error {
		got++
		return nil
	})
	if !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	_, err = fmt.Println(work.Load(), held.Load(), got)
	return err
}

// TestSinkLeavesTheProcessorsToTheBusy runs a busy program with a sink that gets 200 messages a second: it is to get
// about as much done as when all waiting is left to the runtime's poller.
func TestSinkLeavesTheProcessorsToTheBusy(t *testing.T) {
	if runtime.NumCPU() < 2 {
		t.Skip("needs two processors")
	}
	broker := brokertest.Start(t)
	channel := msgmux.Channel{RuntimeDir: broker.Dir}
	source, err := channel.Dial(inTime(t))
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	var sent atomic.Int64
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		for tick := time.NewTicker(5 * time.Millisecond); ; {
			select {
			case <-tick.C:
				if source.TrySend([]byte("message")) == nil {
					sent.Add(1)
				}
			case <-stop:
				return
			}
		}
	}()
	run := func(word string) (work, held, got int64) {
		out, err := io.ReadAll(startClient(t, "busy", channel, word).out)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Sscan(string(out), &work, &held, &got); err != nil {
			t.Fatalf("the busy program printed %q: %v", out, err)
		}
		return work, held, got
	}
	poller, held, _ := run("poller")
	if held > 0 {
		t.Error("a call waited in the kernel in spite of being told not to")
	}
	before := sent.Load()
	kernel, held, got := run("kernel")
	// What the program gets done depends on who else is at work on this machine: it is only told.
	t.Logf("work beside a sink: %.2f of what it is with the poller alone; %d of some %d messages",
		float64(kernel)/float64(poller), got, sent.Load()-before)
	// A tenth is usual.
	share := float64(held) / float64(kernel)
	if t.Logf("a P was kept from the busy for %.2f of the time", share); share > 0.5 {
		t.Errorf("a P was kept from the busy for %.2f of the time", share)
	}
	if got == 0 {
		t.Error("no message arrived")
	}
}
