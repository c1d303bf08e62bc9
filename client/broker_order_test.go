// SPDX-License-Identifier: Apache-2.0

package msgmux_test

// What many clients of one real broker get: the same order, and no loss that they are not told of.

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	msgmux "github.com/msgmux/msgmux/client"
)

// TestAStoppedSinkIsToldExactlyWhatItLost, and the three beside it lose nothing.
func TestAStoppedSinkIsToldExactlyWhatItLost(t *testing.T) {
	channel := realChannel(t)
	const size, healthy = 1000, 3
	patient := 300 * time.Millisecond
	stopped := subscribe(t, channel, msgmux.SinkOptions{Patience: &patient})
	source := dial(t, channel)
	ctx, cancel := context.WithCancel(inTime(t))
	defer cancel()

	var all sync.WaitGroup
	var last [healthy]uint64
	for i := range healthy {
		sink := subscribe(t, channel, msgmux.SinkOptions{OnGap: func(g msgmux.Gap) { t.Errorf("a sink that reads was told of %+v", g) }})
		all.Go(func() {
			next := uint64(0)
			err := each(ctx, sink, func(m msgmux.Message) error {
				n := binary.LittleEndian.Uint64(m.Payload)
				if n != next || m.Seq != n {
					t.Errorf("sink %d: got message %d, number %d, want %d", i, n, m.Seq, next)
				}
				if next++; len(m.Payload) == 8 {
					return io.EOF
				}
				return nil
			})
			if last[i] = next; !errors.Is(err, io.EOF) || sink.Stats().Lost != 0 {
				t.Errorf("sink %d: got %v, and lost %d", i, err, sink.Stats().Lost)
			}
		})
	}
	// Twenty times what the ring holds; the sink that does not read is left behind on the way.
	total := uint64(20 << 20 / size)
	batch, message := source.Batch(), make([]byte, size)
	for n := range total {
		binary.LittleEndian.PutUint64(message, n)
		if n == total-1 {
			message = message[:8]
		}
		if err := batch.Add(ctx, message); err != nil {
			t.Fatal(err)
		}
	}
	if err := batch.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	all.Wait()
	for i, n := range last {
		if n != total {
			t.Errorf("sink %d got %d of %d", i, n, total)
		}
	}

	var received, next, told, missing uint64
	for m, err := range stopped.Messages(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		n := binary.LittleEndian.Uint64(m.Payload)
		if m.Seq != n || n < next {
			t.Fatalf("message %d has number %d, after %d", n, m.Seq, next)
		}
		missing += n - next
		if told = stopped.Stats().Lost; told != missing {
			t.Fatalf("before message %d: told of %d lost, and there are %d", n, told, missing)
		}
		received, next = received+1, n+1
		if next == total {
			break
		}
	}
	if received+told != total || told == 0 {
		t.Errorf("received %d, told of %d lost, sent %d", received, told, total)
	}
	_, sinks, err := channel.Sinks(inTime(t))
	if err != nil {
		t.Fatal(err)
	}
	if i := slices.IndexFunc(sinks, func(s msgmux.SinkStatus) bool { return s.ID == stopped.ID() }); i < 0 || sinks[i].Lost != told {
		t.Errorf("the status says %+v, and the sink was told of %d", sinks, told)
	}
	t.Logf("received %d, lost %d of %d", received, told, total)
}

// TestManyFramedSourcesAndSinks keeps each source's order in one order for all.
func TestManyFramedSourcesAndSinks(t *testing.T) {
	const sources, sinks, each = 4, 4, 3000
	channel := realChannel(t)
	var all sync.WaitGroup
	orders := make([][]uint64, sinks)
	for i := range orders {
		sink := subscribe(t, channel, msgmux.SinkOptions{Patience: new(msgmux.Forever)})
		all.Go(func() {
			for m, err := range sink.Messages(inTime(t)) {
				if err != nil {
					t.Errorf("sink %d: %v", i, err)
					return
				}
				if orders[i] = append(orders[i], binary.LittleEndian.Uint64(m.Payload)); len(orders[i]) == sources*each {
					return
				}
			}
		})
	}
	for i := range uint64(sources) {
		source := dial(t, channel)
		all.Go(func() {
			batch, message := source.Batch(), make([]byte, 8)
			for n := range uint64(each) {
				binary.LittleEndian.PutUint64(message, i<<32|n)
				err := batch.Add(inTime(t), message)
				if n%uint64(i*50+1) == 0 || n == each-1 {
					err = errors.Join(err, batch.Flush(inTime(t)))
				}
				if err != nil {
					t.Errorf("source %d: %v", i, err)
					return
				}
			}
		})
	}
	all.Wait()
	var next [sources]uint64
	for n, got := range orders[0] {
		if got&0xffffffff != next[got>>32] {
			t.Fatalf("message %d is %d of source %d, which was at %d", n, got&0xffffffff, got>>32, next[got>>32])
		}
		next[got>>32]++
	}
	for i := range orders {
		if !slices.Equal(orders[i], orders[0]) {
			t.Errorf("sinks %d and 0 differ", i)
		}
	}
}
