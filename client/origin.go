// SPDX-License-Identifier: Apache-2.0

package msgmux

import (
	"time"

	"github.com/msgmux/msgmux/internal/wire"
)

// Origin is who sent a message, as the kernel attested it at the moment of sending, and when the broker received it. The
// zero Origin: the message was received before any sink asked for that.
type Origin struct {
	// Known says that PID, UID and GID are the sender's, or those of the process that made its connection. They are not
	// known of what was sent before a sink asked for origins, and of what came through a message queue. Root may name
	// others' (unix(7)).
	Known bool

	PID      int       // in the broker's namespace, 0 if it has none there; by now it may be another's
	UID, GID uint32    // in the broker's user namespace
	Received time.Time // when the broker received it, by the wall clock, with what else one receive brought; zero: not known
	Source   int       // SourceSocket.Number of what it came by; 0: a connection, or not known
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
