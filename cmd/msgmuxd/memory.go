// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/msgmux/msgmux/broker"
	"github.com/msgmux/msgmux/broker/ring"
)

// spareMemory is what the process takes beside the ring and its state, in bytes.
const spareMemory = 12 << 20

// fixedMemory is what a broker of that geometry takes, what waits in the kernel left out, in bytes.
func fixedMemory(g ring.Geometry) uint64 { return uint64(g.DataBytes()+g.StateBytes()) + spareMemory }

// checkMemory fails if the control group allows less memory, limit as file says, than the ring and its state need: the kernel would
// kill the broker for it, at the start or, worse, in the middle of its work, and again and again.
func checkMemory(g ring.Geometry, limit uint64, file string) error {
	if need := fixedMemory(g); limit < need {
		return fmt.Errorf("--buffer, --max-message and --max-sinks need %d MiB of memory and the control group's limit is %d MiB (%s): raise MemoryMax, or lower them",
			(need+1<<20-1)>>20, limit>>20, file)
	}
	return nil
}

// boundQueues leaves the queues of all sinks together, and the stages of sources, no more than the control group's limit leaves: what
// waits in the queue of a sink that does not read is the sender's memory, and the sender is the broker (unix(7), the memory controller in
// cgroups(7)); and the pages of a stage are the broker's where it looks at them before their source has written there. One of each there
// is room for, however little that is.
func boundQueues(cfg *broker.Config, limit uint64, file string) {
	left := limit - fixedMemory(cfg.Geometry)
	if left >= cfg.QueueTotal+cfg.Geometry.MaxClients*cfg.StageBytes() {
		return
	}
	cfg.QueueBound = fmt.Sprintf("the control group's memory limit (%d MiB, %s)", limit>>20, file)
	cfg.Stages = max(1, left/4/cfg.StageBytes())
	cfg.QueueTotal = max(cfg.QueueBytes(), min(cfg.QueueTotal, left-min(left, cfg.Stages*cfg.StageBytes())))
}
