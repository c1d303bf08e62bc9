// SPDX-License-Identifier: Apache-2.0

package msgmux_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/internal/wire"
)

// sizes lists the sizes of the messages in a packet, which must be one that a broker takes.
func sizes(t testing.TB, packet []byte) (sizes []int) {
	t.Helper()
	if _, err := wire.CheckRecords(packet, msgmux.MaxMessage); err != nil {
		t.Fatal(err)
	}
	wire.EachRecord(packet, func(payload []byte) bool { sizes = append(sizes, len(payload)); return true })
	return sizes
}

// TestBatchFillsPackets up to the last byte that one may have, and sends what is larger alone.
func TestBatchFillsPackets(t *testing.T) {
	const most = wire.MaxPacket - wire.RecordHeader // of one message, in a packet of the size that several may have
	channel := folder(t)
	source, broker := dialled(t, channel, listen(t, channel, "publish"))
	for _, test := range []struct {
		messages []int
		packets  [][]int
	}{
		{[]int{0}, [][]int{{0}}},
		{[]int{0, 1, 2, 3, 4, 5}, [][]int{{0, 1, 2, 3, 4, 5}}},
		{[]int{most, 0}, [][]int{{most}, {0}}},
		{[]int{most - 4, 0}, [][]int{{most - 4, 0}}},
		{[]int{0, most - 4, 0}, [][]int{{0, most - 4}, {0}}},
		{[]int{most - 8, 1, 0}, [][]int{{most - 8, 1}, {0}}},
		{[]int{most - 7, 1, 0}, [][]int{{most - 7}, {1, 0}}},
		{[]int{most - 8, 0, 0}, [][]int{{most - 8, 0, 0}}},
		{[]int{1, most + 1, 1}, [][]int{{1}, {most + 1}, {1}}},
		{[]int{5, 150_000, 180_000, 6}, [][]int{{5}, {150_000}, {180_000}, {6}}},
		{slices.Repeat([]int{0}, wire.MaxPacket/4+1), [][]int{make([]int, wire.MaxPacket/4), {0}}},
	} {
		// Whoever is at the other end reads while packets are sent.
		sent := make(chan error, 1)
		go func() {
			batch := source.Batch()
			var err error
			for _, size := range test.messages {
				fits, before := batch.Fits(size), batch.Len()
				err = errors.Join(err, batch.Add(inTime(t), make([]byte, size)))
				if want := before + 1; fits != (batch.Len() == want) && before > 0 {
					t.Errorf("%v: Fits said %v, and Len went from %d to %d", test.messages, fits, before, batch.Len())
				}
			}
			err = errors.Join(err, batch.Flush(inTime(t)), batch.Flush(inTime(t)), batch.TryFlush())
			if batch.Len() != 0 {
				t.Errorf("after Flush there are %d", batch.Len())
			}
			sent <- err
		}()
		for _, want := range test.packets {
			if got := sizes(t, broker.packet(t)); !slices.Equal(got, want) {
				t.Errorf("%.40s: a packet has %.40s, want %.40s", fmt.Sprint(test.messages), fmt.Sprint(got), fmt.Sprint(want))
			}
		}
		if err := <-sent; err != nil {
			t.Error(err)
		}
	}
}

// TestBatchKeepsWhatIsNotSent through a deadline and a hang-up, and sends it once.
func TestBatchKeepsWhatIsNotSent(t *testing.T) {
	channel := folder(t)
	listener := listen(t, channel, "publish")
	source, broker := dialled(t, channel, listener)
	filled := fill(t, source)
	batch := source.Batch()
	for _, text := range []string{"one", "two"} {
		if err := batch.Add(inTime(t), []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), shortly)
	defer cancel()
	if err := batch.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if err := batch.TryFlush(); !errors.Is(err, msgmux.ErrWouldBlock) {
		t.Errorf("got %v", err)
	}
	if err := batch.Add(ctx, make([]byte, wire.MaxPacket-8)); !errors.Is(err, context.DeadlineExceeded) || batch.Len() != 2 {
		t.Errorf("what did not fit: got %v, and there are %d", err, batch.Len())
	}
	for range filled {
		broker.packet(t)
	}
	broker.Close()
	flushed := make(chan error, 1)
	go func() { flushed <- batch.Flush(inTime(t)) }()
	broker = admit(t, listener, "ok id=8\n")
	if err := <-flushed; err != nil || batch.Len() != 0 {
		t.Errorf("got %v, and there are %d", err, batch.Len())
	}
	if got := sizes(t, broker.packet(t)); !slices.Equal(got, []int{3, 3}) {
		t.Errorf("the packet has %v", got)
	}
}

// TestBatchOfDatagrams goes one by one, leaves out what the host cannot send, and keeps the rest.
func TestBatchOfDatagrams(t *testing.T) {
	channel := folder(t)
	receiver := bindDatagram(t, channel, "source")
	source := dial(t, channel)
	batch := source.Batch()
	texts := []string{"one", "", "three"}
	for _, text := range texts {
		if err := batch.Add(inTime(t), []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := batch.Flush(inTime(t)); err != nil || batch.Len() != 0 {
		t.Errorf("got %v, and there are %d", err, batch.Len())
	}
	for _, want := range texts {
		if got, _ := next(t, receiver); string(got) != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}

	filled := fill(t, source)
	for _, text := range texts {
		if err := batch.Add(inTime(t), []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	next(t, receiver)
	brief, cancel := context.WithTimeout(context.Background(), shortly)
	defer cancel()
	if err := batch.Flush(brief); !errors.Is(err, context.DeadlineExceeded) || batch.Len() >= 3 {
		t.Errorf("room for some: got %v, and there are %d", err, batch.Len())
	}
	flushed := make(chan error, 1)
	go func() { flushed <- batch.Flush(inTime(t)) }()
	for range filled - 1 {
		next(t, receiver)
	}
	for _, want := range texts {
		if got, _ := next(t, receiver); string(got) != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if err := <-flushed; err != nil {
		t.Error(err)
	}
	if err := batch.Add(inTime(t), make([]byte, msgmux.MaxMessage+1)); !errors.Is(err, msgmux.ErrTooLarge) || batch.Len() != 0 {
		t.Errorf("more than any channel takes: got %v", err)
	}
}

// TestBatchAllocatesNothing once it has its packet.
func TestBatchAllocatesNothing(t *testing.T) {
	channel := folder(t)
	source, broker := dialled(t, channel, listen(t, channel, "publish"))
	message, buffer := []byte(strings.Repeat("m", 100)), make([]byte, wire.MaxPacket)
	ctx, batch := inTime(t), source.Batch()
	broker.SetReadDeadline(time.Now().Add(soon))
	if n := testing.AllocsPerRun(100, func() {
		for range 100 {
			if err := batch.Add(ctx, message); err != nil {
				t.Fatal(err)
			}
		}
		if err := batch.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := broker.Read(buffer); err != nil {
			t.Fatal(err)
		}
		if err := source.Send(ctx, message); err != nil {
			t.Fatal(err)
		}
		if n, err := broker.Read(buffer); err != nil || !bytes.Equal(buffer[wire.RecordHeader:n], message) {
			t.Fatalf("got %d bytes and %v", n, err)
		}
	}); n > 0 {
		t.Errorf("%v allocations for a packet", n)
	}
}

// TestBatchMakeLendsThePacket for what the caller writes, as far as it fits, and nothing beyond.
func TestBatchMakeLendsThePacket(t *testing.T) {
	channel := folder(t)
	source, broker := dialled(t, channel, listen(t, channel, "publish"))
	batch := source.Batch()
	make1 := func(size int, fill byte) error {
		payload, err := batch.Make(inTime(t), size)
		if err == nil && (len(payload) != size || cap(payload) != size) {
			t.Errorf("asked for %d bytes, got %d and room for %d", size, len(payload), cap(payload))
		}
		for i := range payload {
			payload[i] = fill
		}
		return err
	}
	// The second round meets the bytes of the first in the batch's memory.
	for _, fill := range []byte{'x', 'y'} {
		var want []byte
		for _, size := range []int{5, 0, 3, 60000} {
			if err := make1(size, fill); err != nil {
				t.Fatal(err)
			}
			want = wire.AppendRecord(want, bytes.Repeat([]byte{fill}, size))
		}
		if batch.Len() != 4 || batch.Fits(6000) {
			t.Errorf("there are %d, and more fits: %v", batch.Len(), batch.Fits(6000))
		}
		// What does not fit sends what is there; what is larger than a packet travels alone.
		sent := make(chan error, 1)
		go func() { sent <- errors.Join(make1(100_000, fill), batch.Flush(inTime(t))) }()
		if got := broker.packet(t); !bytes.Equal(got, want) {
			t.Errorf("a packet of %d bytes is not the records that were made", len(got))
		}
		if got := broker.packet(t); !bytes.Equal(got, wire.AppendRecord(nil, bytes.Repeat([]byte{fill}, 100_000))) {
			t.Errorf("a packet of %d bytes is not the large message", len(got))
		}
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
	}

	if err := make1(msgmux.MaxMessage+1, 0); !errors.Is(err, msgmux.ErrTooLarge) || batch.Len() != 0 {
		t.Errorf("too large: got %v, and there are %d", err, batch.Len())
	}
	fill(t, source)
	if err := make1(5, 'z'); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), shortly)
	defer cancel()
	if payload, err := batch.Make(ctx, wire.MaxPacket-8); !errors.Is(err, context.DeadlineExceeded) || payload != nil || batch.Len() != 1 {
		t.Errorf("no room, and none comes: got %v and %d bytes, and there are %d", err, len(payload), batch.Len())
	}
}

// TestSendMakesARecord of every size, with its padding.
func TestSendMakesARecord(t *testing.T) {
	channel := folder(t)
	source, broker := dialled(t, channel, listen(t, channel, "publish"))
	for _, size := range []int{0, 1, 2, 3, 4, 5, 4096, 4097, 100_001} {
		message := bytes.Repeat([]byte{'m'}, size)
		sent := make(chan error, 1)
		go func() { sent <- source.Send(inTime(t), message) }()
		if got := broker.packet(t); !bytes.Equal(got, wire.AppendRecord(nil, message)) {
			t.Errorf("%d bytes: a packet of %d bytes is not their record", size, len(got))
		}
		if err := <-sent; err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}
