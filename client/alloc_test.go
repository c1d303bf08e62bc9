// SPDX-License-Identifier: Apache-2.0

//go:build !race

package msgmux_test

import (
	"errors"
	"testing"
	"time"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/internal/wire"
)

// TestFramesAreLentWithoutAllocations, whatever the name of the socket at the other end. (The race detector makes
// pools forget.)
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
