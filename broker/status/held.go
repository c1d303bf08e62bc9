// SPDX-License-Identifier: Apache-2.0

package status

import (
	"log/slog"

	"github.com/msgmux/msgmux/broker/journal"
)

// SayHeld logs what is left in the ring or on its way there, and how long it lives: messages that no sink has, and, counted for
// each sink, those that it has not been sent. kept says that the service manager keeps them; unread is how many datagrams and
// packets were left in the sockets and are given up. It says whether there was anything to log.
func (b *Board) SayHeld(kept bool, unread uint64) bool {
	t, numbers := b.c.Thread.Snapshot(nil)
	nobody, waiting := t.Head.Seq-t.Delivered.Seq+b.c.Thread.Landed(), uint64(0)
	counted := make(map[uint64]bool)
	for i := range numbers {
		if n := &numbers[i]; !n.Reading.Tap && !counted[n.Reading.ID] {
			counted[n.Reading.ID] = true // a share once
			waiting += n.Waiting
		}
	}
	if nobody == 0 && waiting == 0 && unread == 0 {
		return false
	}
	text := "messages that no sink has"
	if nobody == 0 && unread == 0 {
		text = "messages that some sinks have not been sent"
	}
	if kept {
		text += "; a restart keeps them, a stop does not before systemd 254"
	} else {
		text += ": lost with this process"
	}
	attrs := []slog.Attr{slog.Uint64("messages", nobody), slog.Uint64("waiting", waiting)}
	if unread > 0 {
		attrs = append(attrs, slog.Uint64("unread", unread))
	}
	b.c.Log.Event(slog.LevelWarn, journal.EventHeld, text, attrs...)
	return true
}
