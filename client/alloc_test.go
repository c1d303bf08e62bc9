// SPDX-License-Identifier: Apache-2.0

//go:build !race

package msgmux_test

// What sinks take of memory. The race detector has a shadow of all of it, and makes pools forget.

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/msgmux/msgmux/broker"
	"github.com/msgmux/msgmux/broker/brokertest"
	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/internal/wire"
)

// TestFramesAreLentWithoutAllocations, whatever the name of the socket at the other end.
func TestFramesAreLentWithoutAllocations(t *testing.T) {
	channel := folder(t)
	sink, broker := subscribed(t, channel, listen(t, channel, "subscribe"), msgmux.SinkOptions{})
	packet := make([]byte, wire.SinkHeader)
	for range 100 {
		packet = wire.AppendRecord(packet, []byte("a message"))
	}
	enough := errors.New("enough")
	first, seen := uint64(0), 0
	send := func() {
		wire.PutSinkHeader(packet, first, 0)
		first += 100
		if _, err := broker.Write(packet); err != nil {
			t.Fatal(err)
		}
	}
	broker.SetWriteDeadline(time.Now().Add(soon))
	n := testing.AllocsPerRun(1, func() {
		seen = 0
		send()
		if err := each(inTime(t), sink, func(m msgmux.Message) error {
			switch seen++; {
			case seen == 100_000:
				return enough
			case seen%100 == 0:
				send()
			}
			return nil
		}); !errors.Is(err, enough) {
			t.Fatal(err)
		}
	})
	if n > 30 { // what the watch for the context's end needs
		t.Errorf("%v allocations for 1,000 packets of 100 messages", n)
	}
}

// TestManySinksAreLight: 200 of them, in one process. With a buffer for the largest message each would have 4.25 MiB that
// the collector counts, so that garbage grows to as much before it is looked for.
func TestManySinksAreLight(t *testing.T) {
	const n = 200
	b := brokertest.Start(t, func(c *broker.Config) {
		c.Geometry.MaxSinks, c.SinksPerUser, c.QueueTotal = 2*n, 2*n, 1<<40
	})
	var of [2]footprint
	for i, sinks := range []int{1, n} {
		for try := range 5 { // a collector that gets no processor leaves garbage, tens of MiB of it
			out := startClient(t, "crowd", msgmux.Channel{RuntimeDir: b.Dir}, sinks).out
			var f footprint
			if err := json.NewDecoder(out).Decode(&f); err != nil {
				t.Fatal(err)
			}
			if try == 0 || f.Resident < of[i].Resident {
				of[i] = f
			}
		}
	}
	heap, all := (of[1].Heap-min(of[0].Heap, of[1].Heap))/(n-1), (of[1].Resident-of[0].Resident)/(n-1)
	t.Logf("a sink has %d KiB of heap; %d MiB for one, %d MiB for %d; %d collections", heap>>10, of[0].Resident>>20, of[1].Resident>>20, n, of[1].Cycles)
	if heap > 32<<10 {
		t.Errorf("a sink takes %d bytes of heap", heap)
	}
	if all > 128<<10 {
		t.Errorf("a sink takes %d bytes of memory", all)
	}
	if of[1].Cycles > n/10 {
		t.Errorf("%d collections for %d sinks", of[1].Cycles, n)
	}
}
