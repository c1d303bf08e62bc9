// SPDX-License-Identifier: Apache-2.0

package wire

// What an Event is about. A tap, and a sink without patience, is never said to be lagging: nobody waited for it.
const (
	EventAdded     = "added"     // a sink is in the table; connected or not
	EventRemoved   = "removed"   // it is forgotten
	EventLagging   = "lagging"   // it is no longer waited for, and loses the oldest messages
	EventRecovered = "recovered" // it has caught up, and is waited for again
)

// Event is something that happened to a sink, told to whoever watches the channel. It is a hint and not a record: who
// is slow to take events misses some, and what holds is what the channel's status says.
type Event struct {
	Kind     string
	ID       uint64 // of the sink; never used again for another
	Label    string
	SinkKind string // as in Sink.Kind
	UID      uint32
	Waiting  uint64 // messages between its cursor and the head; when removed: those that it was never sent
	Lost     uint64 // messages, since it began
}
