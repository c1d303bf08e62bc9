// SPDX-License-Identifier: Apache-2.0

package msgmux_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	msgmux "github.com/msgmux/msgmux/client"
)

// dial opens the channel.
func dial(t testing.TB, channel msgmux.Channel) *msgmux.Source {
	t.Helper()
	source, err := channel.Dial(inTime(t), msgmux.SourceOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { source.Close() })
	return source
}

// fill sends until the channel takes no more, and returns how many it took.
func fill(t testing.TB, source *msgmux.Source) int {
	t.Helper()
	for n := 0; ; n++ {
		switch err := source.TrySend(fmt.Appendf(nil, "filling %d", n)); {
		case errors.Is(err, msgmux.ErrWouldBlock):
			if n == 0 {
				t.Fatal("the channel was full from the beginning")
			}
			return n
		case err != nil:
			t.Fatal(err)
		}
	}
}

// TestMessagesOfAnySizeArriveWhole sends from nothing to the largest, beyond what a socket's first buffer holds.
func TestMessagesOfAnySizeArriveWhole(t *testing.T) {
	channel := folder(t)
	receiver := bindDatagram(t, channel, "source")
	source := dial(t, channel)
	for _, size := range []int{0, 1, 4096, 200_000, 256 << 10, 1 << 20, msgmux.MaxMessage} {
		if size > largest(t) {
			t.Logf("this host makes no datagrams of %d bytes", size)
			continue
		}
		message := make([]byte, size)
		for i := range message {
			message[i] = byte(rand.Uint32())
		}
		if err := source.Send(inTime(t), message); err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		if got, _ := next(t, receiver); !bytes.Equal(got, message) {
			t.Errorf("%d bytes arrived as %d other ones", size, len(got))
		}
	}
	for _, err := range []error{
		source.Send(inTime(t), make([]byte, msgmux.MaxMessage+1)), source.TrySend(make([]byte, msgmux.MaxMessage+1)),
	} {
		if !errors.Is(err, msgmux.ErrTooLarge) {
			t.Errorf("one byte more than any channel takes: got %v", err)
		}
	}
}

// TestSendWaitsForRoom fills a channel and sends: with a deadline, with a cancel, and until somebody reads.
func TestSendWaitsForRoom(t *testing.T) {
	channel := folder(t)
	receiver := bindDatagram(t, channel, "source")
	source := dial(t, channel)
	filled := fill(t, source)
	for _, message := range [][]byte{[]byte("late"), {}} {
		ctx, cancel := context.WithTimeout(context.Background(), shortly)
		if err := source.Send(ctx, message); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a deadline: got %v", err)
		}
		cancel()
		ctx, cancel = context.WithCancel(context.Background())
		time.AfterFunc(shortly, cancel)
		if err := source.Send(ctx, message); !errors.Is(err, context.Canceled) {
			t.Errorf("a cancel: got %v", err)
		}
		if err := source.Send(ctx, message); !errors.Is(err, context.Canceled) {
			t.Errorf("a context that was over before: got %v", err)
		}
	}

	began, cpu := time.Now(), cpuTime(t)
	sent := make(chan error, 2)
	for range 2 {
		go func() { sent <- source.Send(context.Background(), nil) }()
	}
	select {
	case err := <-sent:
		t.Fatalf("a send into a full channel returned %v", err)
	case <-time.After(4 * shortly):
	}
	if used := cpuTime(t) - cpu; used > time.Since(began)/2 {
		t.Errorf("waiting took %v of CPU time in %v", used, time.Since(began))
	}
	for i := range filled {
		if got, _ := next(t, receiver); string(got) != fmt.Sprintf("filling %d", i) {
			t.Fatalf("message %d is %q: what could not be sent in time was sent, or something was lost", i, got)
		}
	}
	for range 2 {
		if err := <-sent; err != nil {
			t.Error(err)
		}
		if got, _ := next(t, receiver); len(got) != 0 {
			t.Errorf("the empty message arrived as %q", got)
		}
	}
}

// TestSendersShareASource sends from several goroutines through one source that is mostly full.
func TestSendersShareASource(t *testing.T) {
	const senders, each = 4, 200
	channel := folder(t)
	receiver := bindDatagram(t, channel, "source")
	source := dial(t, channel)
	ctx := inTime(t)
	var all sync.WaitGroup
	for s := range senders {
		all.Go(func() {
			for i := range each {
				if err := source.Send(ctx, fmt.Appendf(nil, "%d %d", s, i)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	var wanted [senders]int
	for range senders * each {
		var s, i int
		text, _ := next(t, receiver)
		if _, err := fmt.Sscan(string(text), &s, &i); err != nil || s >= senders || wanted[s] != i {
			t.Fatalf("%q came where sender %d was at %d", text, s, wanted[s])
		}
		wanted[s]++
	}
	all.Wait()
}

// TestNobodyListens tells the two ways in which a broker can be absent from a refusal.
func TestNobodyListens(t *testing.T) {
	channel := folder(t)
	if _, err := channel.Dial(inTime(t), msgmux.SourceOptions{}); !errors.Is(err, msgmux.ErrNoBroker) {
		t.Errorf("no socket: got %v", err)
	}
	receiver := bindDatagram(t, channel, "source")
	source := dial(t, channel)
	receiver.Close()
	if err := source.Send(inTime(t), []byte("x")); !errors.Is(err, msgmux.ErrNoBroker) {
		t.Errorf("the reader is gone: got %v", err)
	}
	if _, err := channel.Dial(inTime(t), msgmux.SourceOptions{}); !errors.Is(err, msgmux.ErrNoBroker) {
		t.Errorf("a socket that nobody has open: got %v", err)
	}
	var failed *msgmux.OpError
	if err := source.TrySend(nil); !errors.As(err, &failed) || failed.Op != "send" || failed.Path != filepath.Join(channel.RuntimeDir, "source") {
		t.Errorf("got %#v", err)
	}
}

// TestSendFindsTheNextBroker goes on where the socket was made anew, also from the middle of a wait.
func TestSendFindsTheNextBroker(t *testing.T) {
	channel := folder(t)
	first := bindDatagram(t, channel, "source")
	source := dial(t, channel)
	fill(t, source)
	sent := make(chan error, 1)
	go func() { sent <- source.Send(context.Background(), []byte("waited")) }()
	time.Sleep(shortly)
	second := bindDatagram(t, channel, "source")
	first.Close()
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if got, _ := next(t, second); string(got) != "waited" {
		t.Errorf("got %q", got)
	}
	third := bindDatagram(t, channel, "source")
	second.Close()
	if err := source.TrySend([]byte("again")); err != nil {
		t.Fatal(err)
	}
	if got, _ := next(t, third); string(got) != "again" {
		t.Errorf("got %q", got)
	}
}

// TestSourceOfAnotherGroupIsRefused dials a socket that its mode closes.
func TestSourceOfAnotherGroupIsRefused(t *testing.T) {
	channel := folder(t)
	bindDatagram(t, channel, "source")
	for path, mode := range map[string]os.FileMode{channel.RuntimeDir: 0o755, filepath.Join(channel.RuntimeDir, "source"): 0o600} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	dial(t, channel)
	asNobody(t, func() {
		if _, err := channel.Dial(context.Background(), msgmux.SourceOptions{}); !errors.Is(err, msgmux.ErrRefused) || !errors.Is(err, os.ErrPermission) {
			t.Errorf("got %v", err)
		}
	})
}

// TestCloseEndsASend closes a source while a goroutine waits in it and another for it.
func TestCloseEndsASend(t *testing.T) {
	channel := folder(t)
	bindDatagram(t, channel, "source")
	source := dial(t, channel)
	fill(t, source)
	sent := make(chan error, 2)
	for range 2 {
		go func() { sent <- source.Send(context.Background(), []byte("x")) }()
	}
	time.Sleep(shortly)
	if err := source.Close(); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := <-sent; !errors.Is(err, net.ErrClosed) {
			t.Errorf("a send that waited: got %v", err)
		}
	}
	for _, err := range []error{source.Send(inTime(t), nil), source.TrySend(nil), source.Close()} {
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("after Close: got %v", err)
		}
	}
}

// TestSendAllocatesNothing holds for messages that find room.
func TestSendAllocatesNothing(t *testing.T) {
	channel := folder(t)
	receiver := bindDatagram(t, channel, "source")
	source := dial(t, channel)
	message, buffer := []byte("a message"), make([]byte, 100)
	ctx := inTime(t)
	if n := testing.AllocsPerRun(100, func() {
		if err := source.Send(ctx, message); err != nil {
			t.Fatal(err)
		}
		if _, err := receiver.Read(buffer); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations a message", n)
	}
}

// TestWokenWhileSomeIsLeft: who waits for room goes on before the broker has received all that he has sent, and has nothing to do.
func TestWokenWhileSomeIsLeft(t *testing.T) {
	channel := folder(t)
	source, broker := dialled(t, channel, listen(t, channel, "publish"))
	batch, packets := source.Batch(), 0
	var err error
	for ; err == nil; packets++ {
		if err = batch.Add(inTime(t), make([]byte, 65_000)); err == nil {
			err = batch.TryFlush()
		}
	}
	if packets--; !errors.Is(err, msgmux.ErrWouldBlock) {
		t.Fatalf("after %d packets: %v", packets, err)
	}
	sent := make(chan error, 1)
	go func() { sent <- batch.Flush(inTime(t)) }()
	time.Sleep(shortly) // until it waits
	for left := packets; ; left-- {
		select {
		case err := <-sent:
			if err != nil || left == 0 {
				t.Errorf("of %d packets %d are left to be received when the next is sent: %v", packets, left, err)
			}
			return
		case <-time.After(4 * shortly):
			if left == 0 {
				t.Fatal("it waits though all is received")
			}
			broker.packet(t)
		}
	}
}
