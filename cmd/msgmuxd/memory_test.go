// SPDX-License-Identifier: Apache-2.0

package main

import (
	"math"
	"testing"

	"github.com/msgmux/msgmux/broker"
	"github.com/msgmux/msgmux/broker/ring"
)

// TestMemoryIsSharedOut: ring, queues of sinks and stages of sources together take no more than the limit, if that is more than they need
// to be there at all; without a limit, or with a large one, all is as it was asked for.
func TestMemoryIsSharedOut(t *testing.T) {
	const asked = 1 << 30
	g := ring.Geometry{Size: 1 << 20, MaxMessage: 256 << 10, MaxSinks: 4096, MaxClients: 1024}
	for _, limit := range []uint64{math.MaxUint64, 8 << 30, 2 << 30, 1 << 30, 200 << 20, 64 << 20, fixedMemory(g) + 1, fixedMemory(g)} {
		cfg := broker.Config{Geometry: g, Queue: 512 << 10, QueueTotal: asked}
		boundQueues(&cfg, limit, "the file")
		if limit >= 8<<30 {
			if cfg.QueueTotal != asked || cfg.Stages != 0 || cfg.QueueBound != "" {
				t.Errorf("%d MiB: %d of queues, %d stages, by %q", limit>>20, cfg.QueueTotal, cfg.Stages, cfg.QueueBound)
			}
			continue
		}
		if cfg.QueueTotal < cfg.QueueBytes() || cfg.Stages < 1 || cfg.QueueTotal > asked || cfg.QueueBound == "" {
			t.Errorf("%d MiB: %d of queues, %d stages, by %q", limit>>20, cfg.QueueTotal, cfg.Stages, cfg.QueueBound)
		}
		most := max(limit, fixedMemory(g)+cfg.QueueBytes()+cfg.StageBytes())
		if sum := fixedMemory(g) + cfg.QueueTotal + cfg.Stages*cfg.StageBytes(); sum > most {
			t.Errorf("%d MiB: %d of queues and %d stages make %d MiB", limit>>20, cfg.QueueTotal, cfg.Stages, sum>>20)
		}
	}
}
