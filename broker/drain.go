// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"time"

	"github.com/msgmux/msgmux/broker/loop"
)

const (
	// drainFor is how long a broker that nobody comes after goes on delivering when it is stopped.
	drainFor = 2 * time.Second
	// drainEvery is how often it looks whether it is done.
	drainEvery = 5 * time.Millisecond
)

// drain is the end of a channel that nobody comes after. Of sockets that are its own (unlink takes their names away, nil: they are
// not) or end with its holder (held), it first takes in what they hold: nobody can send any more, so that is everything whose sending
// has succeeded. Then sinks get what they take. Together that takes 2 s at most. unread is how many datagrams and packets are left in
// the sockets then.
func drain(thread *loop.Thread, unlink func() error, held bool) (unread uint64) {
	end := time.Now().Add(drainFor)
	until := func(done func() bool) {
		for !done() && time.Now().Before(end) {
			time.Sleep(drainEvery)
		}
	}
	if unlink == nil && !held {
		thread.StopReceiving() // what the sockets hold the service manager keeps
		until(thread.IsIdle)
		return 0
	}
	if unlink != nil {
		_ = unlink() // a name that stays leads to nobody
	}
	thread.Hush()
	until(thread.IsDry)
	thread.StopReceiving()
	until(thread.IsIdle)
	return thread.Unread()
}
