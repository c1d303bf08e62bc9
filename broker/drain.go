// SPDX-License-Identifier: Apache-2.0

package broker

import "time"

const (
	// drainFor is how long a broker that nobody comes after goes on delivering when it is stopped.
	drainFor = 2 * time.Second
	// drainEvery is how often it looks whether it is done.
	drainEvery = 5 * time.Millisecond
)

// drain is the end of a channel that nobody comes after. Of sockets that are its own, or end with its holder, it first takes in what they hold: nobody
// can send any more, so that is everything whose sending has succeeded. Then sinks get what they take. Together that takes 2 s
// at most. unread is how many datagrams and packets are left in the sockets then.
func (c *Channel) drain() (unread uint64) {
	end := time.Now().Add(drainFor)
	until := func(done func() bool) {
		for !done() && time.Now().Before(end) {
			time.Sleep(drainEvery)
		}
	}
	if c.unlink == nil && !c.held {
		c.thread.StopReceiving() // what the sockets hold the service manager keeps
		until(c.thread.IsIdle)
		return 0
	}
	if c.unlink != nil {
		c.unlink()
	}
	c.thread.Hush()
	until(c.thread.IsDry)
	c.thread.StopReceiving()
	until(c.thread.IsIdle)
	return c.thread.Unread()
}
