// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/internal/test"
	"github.com/msgmux/msgmux/internal/wire"
)

// TestOnlySinksHaveNames: the id of a connected source, or of a share, names no sink, and so neither can be dropped or
// changed by it; those who are connected go on.
func TestOnlySinksHaveNames(t *testing.T) {
	b := brokertest.Start(t)
	source := brokertest.NewPublisher(t, b.Dir)
	one, two := brokertest.NewSink(t, b.Dir, "share=w"), brokertest.NewSink(t, b.Dir, "share=w")
	share := max(one.ID, two.ID)
	for id := uint64(1); id <= share+1; id++ {
		if id == one.ID || id == two.ID {
			continue
		}
		name := fmt.Sprintf("#%d", id)
		if e := b.Channel.Drop(0, name); codeOf(e) != wire.CodeNotFound {
			t.Errorf("%s was dropped: %v", name, e)
		}
		if e := b.Channel.SetPatience(0, name, time.Second); codeOf(e) != wire.CodeNotFound {
			t.Errorf("%s was changed: %v", name, e)
		}
	}
	if err := source.Send(stamped(1, 0, 100), stamped(1, 1, 100)); err != nil {
		t.Fatal(err)
	}
	for seq := range uint64(2) {
		m, err := one.ReceiveWithin(200 * time.Millisecond)
		if err != nil {
			if m, err = two.Receive(); err != nil {
				t.Fatalf("message %d: %v", seq, err)
			}
		}
		if _, got, ok := stamp(m); !ok || got != seq {
			t.Errorf("message %d instead of %d", got, seq)
		}
	}
	source.Close()
	test.Eventually(t, "new clients come in", func() bool {
		c := brokertest.NewPublisher(t, b.Dir)
		defer c.Close()
		return c.Send(stamped(2, 0, 20)) == nil
	})
	if st := b.Channel.Status(); st.Sinks.Total != 2 {
		t.Errorf("%+v", st.Sinks)
	}
}
