// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"testing"
	"time"

	"github.com/msgmux/msgmux/broker/brokertest"
)

// TestShareHasOnePatience: a share waits as its sinks were last asked to, and all of them show the same.
func TestShareHasOnePatience(t *testing.T) {
	b := brokertest.Start(t)
	first := brokertest.NewSink(t, b.Dir, "label=first", "share=workers", "patience=forever")
	shows := func(want string, ids ...uint64) {
		t.Helper()
		for _, id := range ids {
			if got := sinkOf(t, b, id).Patience; got != want {
				t.Errorf("sink %d shows a patience of %s, want %s", id, got, want)
			}
		}
	}
	second := brokertest.NewSink(t, b.Dir, "label=second", "share=workers") // it does not ask
	shows("forever", first.ID, second.ID)
	if r := brokertest.Register(t, b.Dir, first.Name, "label=first", "share=workers"); r.Err != nil {
		t.Fatal(r.Err) // nor does this
	}
	shows("forever", first.ID, second.ID)
	third := brokertest.NewSink(t, b.Dir, "label=third", "share=workers", "patience=100ms")
	shows("100ms", first.ID, second.ID, third.ID)
	if r := brokertest.Register(t, b.Dir, first.Name, "label=first", "share=workers", "patience=0"); r.Err != nil {
		t.Fatal(r.Err)
	}
	shows("0s", first.ID, second.ID, third.ID)
	if refusal := b.Channel.SetPatience(0, "second", time.Minute); refusal != nil {
		t.Fatal(refusal)
	}
	shows("1m0s", first.ID, second.ID, third.ID)
	if r := brokertest.Register(t, b.Dir, third.Name, "label=third", "share=workers", "patience=0"); r.Err != nil {
		t.Fatal(r.Err)
	}

	// And it holds: nobody reads the share's messages, and nobody waits for that.
	fast := brokertest.NewSink(t, b.Dir, "label=fast")
	stop := make(chan struct{})
	got := drained(fast, stop, nil)
	src := brokertest.NewSource(t, b.Dir)
	const many = 3000 // of 10,000 bytes: more than the ring holds
	sent := make(chan error, 1)
	go func() {
		for i := range uint64(many) {
			if err := src.Send(stamped(1, i, 10_000)); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	select {
	case err := <-sent:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Errorf("blocked: %+v", b.Channel.Status().Sources)
	}
	close(stop)
	<-got
}
