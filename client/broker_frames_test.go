// SPDX-License-Identifier: Apache-2.0

package msgmux_test

// The framed client beside a real broker.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/internal/test"
)

// TestFramesOfAnySizeArriveWhole from both kinds of source, one by one and in batches, at both kinds of sink.
func TestFramesOfAnySizeArriveWhole(t *testing.T) {
	channel := folder(t)
	runBroker(t, buildBroker(t), channel, "--max-message", "4M")
	sinks := map[string]*msgmux.Sink{
		"first": subscribe(t, channel, msgmux.SinkOptions{}), "second": subscribe(t, channel, msgmux.SinkOptions{}),
	}
	framed := dial(t, channel)
	plain, err := channel.Dial(inTime(t), msgmux.SourceOptions{Datagrams: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { plain.Close() })
	var messages [][]byte
	for _, size := range []int{0, 1, 2, 3, 4, 5, 255, 4096, 65515, 65516, 65517, 65531, 65532, 65533, 100_000, 256 << 10, 1<<20 + 1, msgmux.MaxMessage} {
		if size > largest(t)-64 {
			t.Logf("this host makes no packets of %d bytes", size)
			continue
		}
		message := make([]byte, size)
		for i := range message {
			message[i] = byte(rand.Uint32())
		}
		messages = append(messages, message)
	}
	seq := uint64(0)
	for name, send := range map[string]func(context.Context, []byte) error{
		"frames": framed.Send, "datagrams": plain.Send, "batch": framed.Batch().Add, "datagrams in a batch": plain.Batch().Add,
	} {
		go func() {
			for _, message := range messages {
				if err := send(inTime(t), message); err != nil {
					t.Errorf("%s: %d bytes: %v", name, len(message), err)
				}
			}
			if name == "batch" || name == "datagrams in a batch" {
				// What is left in the batch goes out when there is no room for more.
				if err := send(inTime(t), make([]byte, 65532)); err != nil {
					t.Error(err)
				}
			}
		}()
		for i, want := range messages {
			for kind, sink := range sinks {
				got, err := sink.Receive(inTime(t))
				if err != nil || !bytes.Equal(got.Payload, want) {
					t.Fatalf("%s to %s: message %d of %d bytes: got %d bytes and %v", name, kind, i, len(want), len(got.Payload), err)
				}
				if got.Seq != seq {
					t.Errorf("%s: message %d has number %d, want %d", name, i, got.Seq, seq)
				}
			}
			seq++
		}
	}
	if err := framed.Send(inTime(t), make([]byte, msgmux.MaxMessage+1)); !errors.Is(err, msgmux.ErrTooLarge) {
		t.Errorf("one byte more than any channel takes: got %v", err)
	}
}

// TestTooLargeForTheChannel is told at once, also where the channel may not be asked, and however small its limit is.
func TestTooLargeForTheChannel(t *testing.T) {
	program := buildBroker(t)
	for _, limit := range []int{1000, 64 << 10, 256 << 10} {
		channel := folder(t)
		runBroker(t, program, channel, "--max-message", fmt.Sprint(limit))
		sink := subscribe(t, channel, msgmux.SinkOptions{})
		source := dial(t, channel)
		for _, control := range []bool{true, false} {
			if !control {
				if err := os.Remove(filepath.Join(channel.RuntimeDir, "control")); err != nil {
					t.Fatal(err)
				}
			}
			batch := source.Batch()
			if err := batch.Add(inTime(t), []byte("in the batch")); err != nil {
				t.Fatal(err)
			}
			for _, err := range []error{
				source.Send(inTime(t), make([]byte, limit+1)), source.TrySend(make([]byte, limit+1)),
				batch.Add(inTime(t), make([]byte, limit+1)),
			} {
				if !errors.Is(err, msgmux.ErrTooLarge) {
					t.Errorf("limit %d: got %v", limit, err)
				}
			}
			if err := errors.Join(batch.Flush(inTime(t)), source.Send(inTime(t), make([]byte, limit))); err != nil {
				t.Error(err)
			}
			for _, want := range []int{len("in the batch"), limit} {
				if got, err := sink.Receive(inTime(t)); err != nil || len(got.Payload) != want {
					t.Errorf("limit %d: got %d bytes and %v, want %d", limit, len(got.Payload), err, want)
				}
			}
		}
	}
}

// TestWaitsEndInTime in a channel that takes nothing, and go on when it does.
func TestWaitsEndInTime(t *testing.T) {
	channel := realChannel(t)
	source := dial(t, channel) // and there is no sink
	filled := fill(t, source)
	cpu, began := cpuTime(t), time.Now()
	for range 3 {
		ctx, cancel := context.WithTimeout(context.Background(), shortly)
		if err := source.Send(ctx, []byte("late")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a deadline: got %v", err)
		}
		cancel()
		ctx, cancel = context.WithCancel(context.Background())
		time.AfterFunc(shortly, cancel)
		if err := source.Send(ctx, []byte("late")); !errors.Is(err, context.Canceled) {
			t.Errorf("a cancel: got %v", err)
		}
	}
	waited := make(chan error, 2)
	go func() { waited <- source.Send(context.Background(), []byte("waited")) }()
	time.Sleep(10 * shortly)
	if err := source.TrySend(nil); !errors.Is(err, msgmux.ErrWouldBlock) {
		t.Errorf("beside a Send that waits: got %v", err)
	}
	if used, took := cpuTime(t)-cpu, time.Since(began); used > took/2 {
		t.Errorf("waiting for %v took %v of CPU time", took, used)
	}

	sink := subscribe(t, channel, msgmux.SinkOptions{})
	if err := <-waited; err != nil {
		t.Error(err)
	}
	for i := range filled + 1 {
		want := fmt.Sprintf("filling %d", i)
		if i == filled {
			want = "waited"
		}
		if got, err := sink.Receive(inTime(t)); err != nil || string(got.Payload) != want {
			t.Fatalf("message %d: got %q and %v", i, got.Payload, err)
		}
	}
	for _, loop := range []bool{false, true} {
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(4*shortly, cancel)
		began := time.Now()
		var err error
		if loop {
			err = each(ctx, sink, func(msgmux.Message) error { return nil })
		} else {
			_, err = sink.Receive(ctx)
		}
		if took := time.Since(began); !errors.Is(err, context.Canceled) || took > soon/2 {
			t.Errorf("a cancel: got %v after %v", err, took)
		}
	}
	if err := source.Send(inTime(t), []byte("end")); err != nil {
		t.Error(err)
	}
	if got, err := sink.Receive(inTime(t)); err != nil || string(got.Payload) != "end" {
		t.Errorf("got %q and %v", got.Payload, err)
	}
}

// TestMessagesLookAtTheirContext between two messages of one packet.
func TestMessagesLookAtTheirContext(t *testing.T) {
	channel := realChannel(t)
	sink := subscribe(t, channel, msgmux.SinkOptions{})
	source := dial(t, channel)
	batch := source.Batch()
	for i := range 100 {
		if err := batch.Add(inTime(t), fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := batch.Flush(inTime(t)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	seen := 0
	if err := each(ctx, sink, func(msgmux.Message) error {
		if seen++; seen == 3 {
			cancel()
		}
		return nil
	}); !errors.Is(err, context.Canceled) || seen != 3 {
		t.Errorf("got %v after %d messages", err, seen)
	}
	if got, err := sink.Receive(inTime(t)); err != nil || string(got.Payload) != "3" {
		t.Errorf("then got %q and %v", got.Payload, err)
	}
	for m, err := range sink.Messages(inTime(t)) {
		if err != nil || string(m.Payload) != fmt.Sprint(m.Seq) {
			t.Fatalf("got %q %d and %v", m.Payload, m.Seq, err)
		}
		if m.Seq == 98 {
			break
		}
	}
	seen = 0
	short, over := context.WithTimeout(context.Background(), shortly)
	defer over()
	for m, err := range sink.Messages(short) {
		switch {
		case err == nil && m.Seq == 99 && seen == 0:
		case !errors.Is(err, context.DeadlineExceeded) || seen != 1:
			t.Errorf("turn %d: got %+v and %v", seen, m, err)
		}
		seen++
	}
	if seen != 2 {
		t.Errorf("%d turns", seen)
	}
}

// TestLeaveFramed keeps what has come, and then ends; the broker forgets the sink.
func TestLeaveFramed(t *testing.T) {
	channel := realChannel(t)
	sink := subscribe(t, channel, msgmux.SinkOptions{})
	source := dial(t, channel)
	for i := range 5 {
		if err := source.Send(inTime(t), fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
	}
	test.Eventually(t, "the delivery", func() bool {
		_, sinks, err := channel.Sinks(inTime(t))
		return err == nil && sinks[0].Accepted == 5
	})
	if err := sink.Leave(inTime(t)); err != nil {
		t.Error(err)
	}
	got := 0
	for m, err := range sink.Messages(inTime(t)) {
		if err != nil {
			if !errors.Is(err, io.EOF) {
				t.Errorf("got %v", err)
			}
			break
		}
		if string(m.Payload) != fmt.Sprint(got) {
			t.Errorf("got %q, want %d", m.Payload, got)
		}
		got++
	}
	if _, err := sink.Receive(inTime(t)); !errors.Is(err, io.EOF) || got != 5 {
		t.Errorf("got %d messages and then %v", got, err)
	}
	test.Eventually(t, "the leaving", func() bool {
		_, sinks, err := channel.Sinks(inTime(t))
		return err == nil && len(sinks) == 0
	})
	sink.Close()
}

// TestDroppedSink is told, and comes back if it was asked to.
func TestDroppedSink(t *testing.T) {
	channel := realChannel(t)
	ended, back := subscribe(t, channel, msgmux.SinkOptions{}), subscribe(t, channel, msgmux.SinkOptions{Reconnect: true})
	first := back.ID()
	for _, sink := range []*msgmux.Sink{ended, back} {
		if err := channel.Drop(inTime(t), fmt.Sprintf("#%d", sink.ID())); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := ended.Receive(inTime(t)); !errors.Is(err, msgmux.ErrHungUp) {
		t.Errorf("got %v", err)
	}
	source := dial(t, channel)
	if err := source.Send(inTime(t), []byte("news")); err != nil {
		t.Error(err)
	}
	if got, err := back.Receive(inTime(t)); err != nil || string(got.Payload) != "news" || back.ID() == first {
		t.Errorf("sink %d, before %d: got %q and %v", back.ID(), first, got.Payload, err)
	}
}

// buildBroker builds msgmuxd into a temporary folder and returns its path.
func buildBroker(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "msgmuxd")
	if out, err := exec.Command("go", "build", "-o", program, "../cmd/msgmuxd").CombinedOutput(); err != nil {
		t.Fatalf("cannot build the broker: %v\n%s", err, out)
	}
	return program
}

// runBroker runs a broker in a folder; stop ends it as `systemctl stop` does.
func runBroker(t *testing.T, program string, channel msgmux.Channel, flags ...string) (stop func()) {
	t.Helper()
	cmd := exec.Command(program, append(flags, "--runtime-dir", channel.RuntimeDir)...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		late := time.AfterFunc(soon, func() { cmd.Process.Kill() })
		defer late.Stop()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the broker: %v", err)
		}
	})
	t.Cleanup(stop)
	test.Eventually(t, "the start", func() bool {
		_, err := channel.Status(inTime(t))
		return err == nil
	})
	return stop
}

// TestChannelStoppedAndStarted by hand: the source goes on in its next call, the sink by itself if it was asked to.
func TestChannelStoppedAndStarted(t *testing.T) {
	t.Parallel() // it mostly waits
	channel := folder(t)
	program := buildBroker(t)
	stop := runBroker(t, program, channel)
	source := dial(t, channel)
	var gaps []msgmux.Gap
	sink := subscribe(t, channel, msgmux.SinkOptions{Reconnect: true, OnGap: func(g msgmux.Gap) { gaps = append(gaps, g) }})
	ended := subscribe(t, channel, msgmux.SinkOptions{})
	for i := range 3 {
		text := fmt.Append(nil, "life ", i)
		if err := source.Send(inTime(t), text); err != nil {
			t.Fatal(err)
		}
		if got, err := sink.Receive(inTime(t)); err != nil || !bytes.Equal(got.Payload, text) || got.Seq != 0 {
			t.Fatalf("got %+v and %v", got, err)
		}
		received := make(chan error, 1)
		go func() {
			short, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
			defer cancel()
			_, err := sink.Receive(short)
			received <- err
		}()
		stop()
		if err := source.Send(inTime(t), []byte("nobody")); !errors.Is(err, msgmux.ErrNoBroker) {
			t.Errorf("stopped: got %v", err)
		}
		if err := <-received; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("stopped: got %v", err)
		}
		if i == 0 {
			for _, err := range ended.Messages(inTime(t)) {
				if err != nil && !errors.Is(err, msgmux.ErrHungUp) {
					t.Errorf("stopped: got %v", err)
				}
			}
		}
		stop = runBroker(t, program, channel)
	}
	if len(gaps) != 2 || !gaps[0].Anew || !gaps[1].Anew || sink.Stats().Lost != 0 {
		t.Errorf("was told %+v", gaps)
	}
}

// TestTheClientLeavesNothingRunning: no goroutine outlives a call.
func TestTheClientLeavesNothingRunning(t *testing.T) {
	channel := realChannel(t)
	life := func() {
		sink := subscribe(t, channel, msgmux.SinkOptions{Reconnect: true})
		source := dial(t, channel)
		ctx, cancel := context.WithCancel(context.Background())
		if err := source.Send(ctx, []byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := sink.Receive(ctx); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(time.Millisecond, cancel)
		if err := each(ctx, sink, func(msgmux.Message) error { return nil }); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		sink.Close()
		source.Close()
	}
	life()
	test.Eventually(t, "as many goroutines as before", func() bool {
		before := runtime.NumGoroutine()
		life()
		time.Sleep(10 * time.Millisecond) // the broker, which is in this process, closes its ends
		return runtime.NumGoroutine() <= before
	})
}
