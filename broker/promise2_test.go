// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/broker"
	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/internal/wire"
)

// sizes are those at which something changes, up to the largest message.
func sizes(largest int) []int {
	all := []int{0, 1, 2, 3, 4, 5, 7, 8, 63, 64, 255, 256, 4091, 4092, 4096, 65511, 65512, 65515, 65516, 65517, 65532,
		65533, 65536, 65537, 131072, 212960, 262143, 262144, 1 << 20, 1<<20 + 1, 2 << 20, 4<<20 - 1, 4 << 20}
	all = slices.DeleteFunc(all, func(n int) bool { return n > largest })
	return append(all, largest-1, largest, 0)
}

// TestPromise2_Whole: every size from 0 to the largest arrives byte for byte, as one unit, from sources of both kinds
// at sinks of every kind. What is larger is refused whole, and counted.
func TestPromise2_Whole(t *testing.T) {
	for _, test := range []struct {
		name    string
		largest int
		buffer  uint64
	}{
		{"usual", 256 << 10, 1 << 20},
		{"odd", 1021, 1 << 20},
		{"largest", 4 << 20, 8 << 20},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := brokertest.Start(t, func(cfg *broker.Config) {
				cfg.Geometry.MaxMessage, cfg.Geometry.Size = uint64(test.largest), test.buffer
			})
			plain, packed := brokertest.NewSink(t, b.Dir), brokertest.NewSink(t, b.Dir, "frames=yes")
			framed := brokertest.NewSubscriber(t, b.Dir)
			for _, r := range []interface{ Expect(int) }{plain, packed, framed} {
				r.Expect(test.largest)
			}
			source, publisher := brokertest.NewSource(t, b.Dir), brokertest.NewPublisher(t, b.Dir)
			arrives := func(want []byte, from string) {
				t.Helper()
				got, err := plain.Receive()
				if err != nil || !bytes.Equal(got, want) {
					t.Fatalf("%d bytes from a %s source, datagram sink: %d bytes, %v", len(want), from, len(got), err)
				}
				for kind, receive := range map[string]func() ([]byte, error){"packed": packed.Receive, "framed": framed.ReceivePacket} {
					raw, err := receive()
					if err != nil {
						t.Fatalf("%d bytes from a %s source, %s sink: %v", len(want), from, kind, err)
					}
					p, err := wire.ParseSinkPacket(raw)
					var messages [][]byte
					wire.EachRecord(p.Records, func(m []byte) bool { messages = append(messages, m); return true })
					if err != nil || len(messages) != 1 || !bytes.Equal(messages[0], want) {
						t.Fatalf("%d bytes from a %s source, %s sink: %d messages in %d bytes of records, %v",
							len(want), from, kind, len(messages), len(p.Records), err)
					}
				}
			}
			for i, size := range sizes(test.largest) {
				message := make([]byte, size)
				fill(message, uint64(i))
				if err := source.Send(message); err != nil {
					t.Fatalf("%d bytes: %v", size, err)
				}
				arrives(message, "plain")
				if err := publisher.Send(message); err != nil {
					t.Fatalf("%d bytes: %v", size, err)
				}
				arrives(message, "framed")
			}
			if test.largest == 4<<20 {
				return // what is larger cannot be sent
			}
			// The source goes on after what was refused; a framed one is told and closed.
			for n := range 3 {
				if err := source.Send(make([]byte, test.largest+1+n*7)); err != nil {
					t.Fatal(err)
				}
			}
			if err := source.Send([]byte("behind it")); err != nil {
				t.Fatal(err)
			}
			arrives([]byte("behind it"), "plain")
			if err := publisher.Send(make([]byte, test.largest+1)); err != nil {
				t.Fatal(err)
			}
			if r := refusalOf(t, publisher); r.Code != wire.CodeTooLarge {
				t.Errorf("a record over the limit: %v", r)
			}
			st := b.Channel.Status()
			if st.Refused["too-large"] != 4 || st.Received != st.Entered+4 {
				t.Errorf("received %d, entered %d, refused %v; want 4 too large", st.Received, st.Entered, st.Refused)
			}
			receivesNothing(t, plain, "the sink")
		})
	}
}

// TestPromise2_ManySizesInABatch: messages of all sizes in one batch, some too large, keep to themselves.
func TestPromise2_ManySizesInABatch(t *testing.T) {
	b := brokertest.Start(t, func(cfg *broker.Config) { cfg.Geometry.MaxMessage = 5000 })
	source := brokertest.NewSource(t, b.Dir)
	// Nobody is there yet, so they are received as a batch when the sink comes.
	var want [][]byte
	for i, size := range []int{0, 5000, 5001, 3, 0, 7000, 4999, 1, 5000, 0} {
		m := make([]byte, size)
		fill(m, uint64(i))
		if err := source.TrySend(m); err != nil {
			t.Fatal(err)
		}
		if size <= 5000 {
			want = append(want, m)
		}
	}
	sink := brokertest.NewSink(t, b.Dir)
	for _, w := range want {
		if got, err := sink.Receive(); err != nil || !bytes.Equal(got, w) {
			t.Fatalf("%d bytes instead of %d, %v", len(got), len(w), err)
		}
	}
	if n := b.Channel.Status().Refused["too-large"]; n != 2 {
		t.Errorf("%d were refused, want 2", n)
	}
}

// refusalOf reads packets until the broker says error, and then the end of the connection.
func refusalOf(t *testing.T, c *brokertest.Client) wire.Error {
	t.Helper()
	b, err := c.ReceivePacket()
	if err != nil {
		t.Fatalf("no error packet: %v", err)
	}
	r, err := wire.ParseReply(b)
	if err != nil || r.Err == nil {
		t.Fatalf("%q instead of an error packet", b)
	}
	closed(t, c)
	return *r.Err
}

// closed waits for the end of a connection.
func closed(t *testing.T, c *brokertest.Client) {
	t.Helper()
	if b, err := c.ReceivePacket(); err == nil || errors.Is(err, unix.ETIMEDOUT) || len(b) > 0 {
		t.Errorf("%q, %v instead of the end of the connection", b, err)
	}
}
