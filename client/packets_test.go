// SPDX-License-Identifier: Apache-2.0

package msgmux_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/client/brokertest"
	"github.com/msgmux/msgmux/internal/wire"
)

// TestPacketsGoOnWhole from a sink to another channel, with their messages, their numbers and a mark; what is not a packet is
// refused.
func TestPacketsGoOnWhole(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	here, there := brokertest.Start(t, brokertest.Options{}), brokertest.Start(t, brokertest.Options{})
	sink, err := here.Channel.Subscribe(ctx, msgmux.SinkOptions{Label: "way", Keep: time.Minute, Ack: true})
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	last, err := there.Channel.Subscribe(ctx, msgmux.SinkOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer last.Close()
	from, err := here.Channel.Dial(ctx, msgmux.SourceOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := there.Channel.Dial(ctx, msgmux.SourceOptions{Label: "way", Marks: true, Keep: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	const many = 5000
	collected := from.Batch()
	for i := range many {
		if err := collected.Add(ctx, fmt.Appendf(nil, "message %d", i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := collected.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	batch := to.Batch()
	for next := uint64(0); next < many; {
		p, err := sink.ReceivePacket(ctx)
		if err != nil || p.Seq != next || p.Count == 0 {
			t.Fatalf("packet at %d: %d of %d messages, %v", next, p.Count, p.Seq, err)
		}
		for m := range p.Messages() {
			if string(m.Payload) != fmt.Sprintf("message %d", next) || m.Seq != next {
				t.Fatalf("message %d is %d, %q", next, m.Seq, m.Payload)
			}
			next++
		}
		again, err := msgmux.ParsePacket(p.Records)
		if err != nil || again.Count != p.Count {
			t.Fatalf("the packet is read as %d messages, %v", again.Count, err)
		}
		if err := batch.AddPacket(ctx, again); err != nil {
			t.Fatal(err)
		}
		if err := batch.Mark(next); err != nil {
			t.Fatal(err)
		}
		if err := sink.Ack(next); err != nil {
			t.Fatal(err)
		}
	}
	if err := batch.Flush(ctx); err != nil || to.Mark() != many {
		t.Fatalf("mark %d, %v", to.Mark(), err)
	}
	for i := range many {
		if m, err := last.Receive(ctx); err != nil || string(m.Payload) != fmt.Sprintf("message %d", i) {
			t.Fatalf("message %d arrives as %q, %v", i, m.Payload, err)
		}
	}
	for _, bad := range [][]byte{nil, {1, 0, 0, 0}, {0, 0, 0}, make([]byte, 5)} {
		if _, err := msgmux.ParsePacket(bad); !errors.Is(err, msgmux.ErrBadOption) {
			t.Errorf("%v: %v", bad, err)
		}
	}
	large := msgmux.Packet{Count: 1, Records: append([]byte{0, 0, 8, 0}, make([]byte, 512<<10)...)}
	if err := batch.AddPacket(ctx, large); !errors.Is(err, msgmux.ErrTooLarge) {
		t.Errorf("a message that is too large: %v", err)
	}
}

// TestAddPacketToNoBatch fails as with a source that was closed.
func TestAddPacketToNoBatch(t *testing.T) {
	packet, err := msgmux.ParsePacket(wire.AppendRecord(nil, []byte("x")))
	if err != nil {
		t.Fatal(err)
	}
	var batch msgmux.Batch
	if err := batch.AddPacket(inTime(t), packet); !errors.Is(err, net.ErrClosed) || batch.Len() != 0 {
		t.Errorf("got %v, and %d messages are in it", err, batch.Len())
	}
}
