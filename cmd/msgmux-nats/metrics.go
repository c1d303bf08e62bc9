// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"sync"

	"github.com/msgmux/msgmux/broker/control"
)

// serveMetrics answers on the metrics socket, in the way of a broker, until ctx ends; others waits for it.
func (b *bridge) serveMetrics(ctx context.Context, address string, others *sync.WaitGroup) error {
	l, err := control.ListenMetricsAt(address)
	if err != nil {
		return err
	}
	others.Go(func() { control.NewMetricsOf(l, b.metrics).Serve(ctx) })
	return nil
}

// metrics are what the bridge shows of itself.
func (b *bridge) metrics() []control.Metric {
	r, joined := b.report, 0.0
	if r.isJoined() {
		joined = 1
	}
	all := []control.Metric{
		{Name: "msgmux_nats_joined", Value: joined, Help: "1 while the bridge is connected to the stream and to the channel."},
		{Name: "msgmux_nats_attempts", Counter: true, Value: float64(r.attempts.Load()), Help: "How often it has begun: more than once after each end of a connection."},
		{Name: "msgmux_nats_messages", Counter: true, Value: float64(r.records.Load()), Help: "Messages of the channel that were carried and acknowledged."},
		{Name: "msgmux_nats_stream_messages", Counter: true, Value: float64(r.messages.Load()), Help: "Messages of the stream that they were carried in."},
		{Name: "msgmux_nats_carried_bytes", Unit: "bytes", Counter: true, Value: float64(r.bytes.Load()), Help: "Bytes that were carried."},
		{Name: "msgmux_nats_lost_messages", Counter: true, Value: float64(r.lost.Load()), Help: "Messages of the channel that are missing in the stream."},
		{Name: "msgmux_nats_refused", Counter: true, Value: float64(r.refused.Load()), Help: "How often the stream has ended with another message than was known."},
		{Name: "msgmux_nats_own_messages", Counter: true, Value: float64(r.echoes.Load()), Help: "Messages that were left aside, because they began on the side that they were for."},
		{Name: "msgmux_nats_lag_messages", Value: float64(r.lag.Load()), Help: "What waits to be carried: messages of the channel outwards, of the stream inwards."},
	}
	for i := range all {
		all[i].Labels = []string{"bridge", b.Name, "direction", b.direction}
	}
	return all
}
