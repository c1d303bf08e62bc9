// SPDX-License-Identifier: Apache-2.0

package broker

import "time"

const (
	// drainFor is how long a broker that nobody comes after goes on delivering when it is stopped.
	drainFor = 2 * time.Second
	// drainEvery is how often it looks whether it is done.
	drainEvery = 5 * time.Millisecond
)

// drain is the end of a channel that nobody comes after: nothing is received any more, and for 2 s sinks get what they take.
func (c *Channel) drain() {
	c.thread.StopReceiving()
	for end := time.Now().Add(drainFor); !c.thread.IsIdle() && time.Now().Before(end); {
		time.Sleep(drainEvery)
	}
}
