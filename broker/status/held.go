// SPDX-License-Identifier: Apache-2.0

package status

import (
	"log/slog"

	"github.com/msgmux/msgmux/broker/journal"
)

// SayHeld logs what is left in the ring, and how long it lives: messages that no sink has, and, counted for each sink,
// those that it has not been sent. It says whether there was anything to log.
func (b *Board) SayHeld() bool {
	t, numbers := b.c.Thread.Snapshot(nil)
	nobody, waiting := t.Head.Seq-t.Delivered.Seq, uint64(0)
	counted := make(map[uint64]bool)
	for i := range numbers {
		if n := &numbers[i]; !n.Reading.Tap && !counted[n.Reading.ID] {
			counted[n.Reading.ID] = true // a share once
			waiting += n.Waiting
		}
	}
	if nobody == 0 && waiting == 0 {
		return false
	}
	text := "messages that no sink has"
	if nobody == 0 {
		text = "messages that some sinks have not been sent"
	}
	if b.c.Notifier != nil {
		text += "; a restart keeps them, a stop does not before systemd 254"
	} else {
		text += ": lost with this process"
	}
	b.c.Log.Event(slog.LevelWarn, journal.EventHeld, text, slog.Uint64("messages", nobody), slog.Uint64("waiting", waiting))
	return true
}
