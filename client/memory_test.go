// SPDX-License-Identifier: Apache-2.0

package msgmux_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	msgmux "github.com/msgmux/msgmux/client"
)

// footprint is what many sinks cost their process, in bytes.
type footprint struct {
	Heap     uint64 // of Go's, after a collection
	Resident int64  // all of the process, after a lot of garbage
	Cycles   uint32 // collections while the sinks were made
}

// beCrowd is a program with as many sinks as word says, each of which gets a message. It makes garbage beside them, and
// prints its footprint.
func beCrowd(ctx context.Context, channel msgmux.Channel, word string) error {
	var n int
	if _, err := fmt.Sscan(word, &n); err != nil {
		return err
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var sinks []*msgmux.Sink
	for range n {
		sink, err := channel.Subscribe(ctx, msgmux.SinkOptions{Patience: new(time.Duration(0))})
		if err != nil {
			return err
		}
		sinks = append(sinks, sink)
	}
	runtime.ReadMemStats(&after)
	f := footprint{Cycles: after.NumGC - before.NumGC}
	source, err := channel.Dial(ctx, msgmux.SourceOptions{})
	if err != nil {
		return err
	}
	if err := source.Send(ctx, []byte("for all")); err != nil {
		return err
	}
	for _, sink := range sinks {
		if _, err := sink.Receive(ctx); err != nil {
			return err
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	f.Heap = after.HeapAlloc - min(before.HeapAlloc, after.HeapAlloc)
	garbage(2 << 30)
	f.Resident = resident()
	runtime.KeepAlive(sinks)
	return json.NewEncoder(os.Stdout).Encode(f)
}

var dropped []byte

// garbage allocates so many bytes, touches and drops them.
func garbage(bytes int) {
	for ; bytes > 0; bytes -= 64 << 10 {
		dropped = make([]byte, 64<<10)
		for i := 0; i < len(dropped); i += 4096 {
			dropped[i] = 1
		}
	}
}

// resident is what this process has of memory.
func resident() int64 {
	var all, here int64
	text, _ := os.ReadFile("/proc/self/statm")
	fmt.Sscan(string(text), &all, &here)
	return here * int64(os.Getpagesize())
}

// TestBuffersGrowWithWhatComes, and what they could not hold is not cut off.
func TestBuffersGrowWithWhatComes(t *testing.T) {
	channel := folder(t)
	sink, broker := subscribed(t, channel, listen(t, channel, "subscribe"), msgmux.SinkOptions{})
	if err := broker.SetWriteBuffer(4 << 20); err != nil {
		t.Fatal(err)
	}
	seq := uint64(0)
	for _, size := range []int{1, 4096 - 20, 4096 - 19, 4096 - 16, 65515, 1, 65516, 65517, 200_000, 10, 1 << 20, 4<<20 - 1000, 3} {
		if size > largest(t) {
			continue
		}
		message := make([]byte, size)
		for i := range message {
			message[i] = byte(i * 7 / 3)
		}
		broker.deliver(t, seq, 0, string(message))
		got, err := sink.Receive(inTime(t))
		if err != nil || got.Seq != seq || string(got.Payload) != string(message) {
			t.Errorf("%d bytes: got %d, number %d, and %v", size, len(got.Payload), got.Seq, err)
		}
		seq++
	}
}
