// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/msgmux/msgmux/broker"
	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/internal/test"
)

// TestPromise5_SilentJournal: a user with many labels and many reasons does not silence what is said about others.
func TestPromise5_SilentJournal(t *testing.T) {
	needRoot(t)
	log := &keptLog{}
	b := brokertest.Start(t, keepLog(log), withPatience(50*time.Millisecond), func(cfg *broker.Config) {
		cfg.Geometry.MaxSinks, cfg.SinksPerUser = 1024, 1024
	})
	openToAll(t, b.Dir)
	stop := make(chan struct{})
	reader := brokertest.NewSink(t, b.Dir)
	got := drained(reader, stop, nil)
	sent := flood(brokertest.NewSource(t, b.Dir), 1, 1000, stop)
	// 600 sinks that hang, one name each: more than the limiter knows.
	for i := range 600 {
		s := strangersSocket(t, brokertest.Name())
		if r := registerAs(t, b.Dir, stranger, nil, s.Name, fmt.Sprintf("label=loud-%d", i), "patience=1ms"); r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	test.Eventually(t, "they are left behind", func() bool { return b.Channel.Status().Sinks.Lagging > 550 })
	victim := brokertest.NewSink(t, b.Dir, "label=victim")
	lagging(t, b, victim.ID)
	test.Eventually(t, "the journal says that root's sink is left behind", func() bool { return len(log.grep("sink-lagging", "sink=victim")) > 0 })
	close(stop)
	<-sent
	<-got
}
