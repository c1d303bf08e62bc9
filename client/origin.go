// SPDX-License-Identifier: Apache-2.0

package msgmux

import (
	"time"

	"github.com/msgmux/msgmux/internal/wire"
)

// Origin is who sent a message, as the kernel attested it at the moment of sending, and when the broker received it. The
// zero Origin says that nothing is known: the sink did not ask (SinkOptions.Origin), or the message was received before
// anybody did.
type Origin struct {
	// Known says that PID, UID and GID are the sender's. They are not known of a message that was sent before a sink asked
	// for origins, or that came through a POSIX message queue. Of one that came by a connection they are those of the process
	// that connected.
	Known bool

	// PID is the sender's process id, in the broker's pid namespace; 0 if it has none there. The process may have ended, and
	// the number be another's by now.
	PID int

	// UID and GID are the sender's user and group, in the broker's user namespace. Root may send others' (SCM_CREDENTIALS,
	// unix(7)), and a PID that is not its own.
	UID, GID uint32

	// Received is when the broker received the message, by the wall clock, which is read once for all that one receive
	// takes. It is the zero Time if that is not known.
	Received time.Time

	// Source is which of the channel's own sockets and queues the message came by, by its number in the status; 0 is a
	// connection, or not known.
	Source int
}

// originOf is the origin at the beginning of b.
func originOf(b []byte) Origin {
	_, w := wire.ParseOrigin(b)
	o := Origin{Known: w.Known, PID: int(w.PID), UID: w.UID, GID: w.GID, Source: int(w.Source)}
	if w.Time != 0 {
		o.Received = time.Unix(0, w.Time)
	}
	return o
}
