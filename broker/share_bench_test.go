// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/msgmux/msgmux/broker/brokertest"
	"github.com/msgmux/msgmux/internal/wire"
)

// BenchmarkShareOfWorkers is how much of their time workers of a share work, the rest being spent on waiting for the next message:
// each gets one message at a time, is at it for a millisecond, and acknowledges it. There is always more to do.
func BenchmarkShareOfWorkers(b *testing.B) {
	for _, workers := range []int{1, 4} {
		b.Run(map[int]string{1: "one", 4: "four"}[workers], func(b *testing.B) {
			dir := brokertest.Start(b).Dir
			source := brokertest.NewPublisher(b, dir)
			var left atomic.Int64
			var worked, waited atomic.Int64
			left.Store(int64(b.N))
			clients := make([]*brokertest.Client, workers)
			for i := range clients {
				clients[i] = brokertest.NewSubscriber(b, dir, "share=work", "ack=yes", "batch=1")
			}
			b.ResetTimer()
			var all sync.WaitGroup
			for _, c := range clients {
				all.Go(func() {
					for asked := time.Now(); ; {
						p, err := c.Receive()
						began := time.Now()
						if err != nil || left.Add(-int64(p.Count)) < 0 {
							return
						}
						time.Sleep(time.Millisecond)
						waited.Add(int64(began.Sub(asked)))
						asked = time.Now()
						worked.Add(int64(asked.Sub(began)))
						if c.SendPacket(wire.AppendAck(nil, p.First+uint64(p.Count))) != nil {
							return
						}
					}
				})
			}
			for range b.N + workers {
				if err := source.Send([]byte("a piece of work")); err != nil {
					b.Fatal(err)
				}
			}
			all.Wait()
			b.ReportMetric(float64(worked.Load())/float64(worked.Load()+waited.Load()), "busy")
		})
	}
}
