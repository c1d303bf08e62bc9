// SPDX-License-Identifier: Apache-2.0

package msgmux

import "github.com/msgmux/msgmux/internal/wire"

// Start is where a sink begins. The zero Start is now: with what no sink of the channel has had yet, and what comes from
// then on. No Start passes over a message that no sink has had.
type Start struct{ at wire.Start }

// Oldest begins with the oldest message that the channel has kept.
func Oldest() Start { return Start{wire.StartOldest} }

// Last begins with the last n messages that came, as far as the channel has kept them.
func Last(n uint64) Start { return Start{wire.StartLast(n)} }

// At begins with the message of that number (Message.Seq), or with the oldest one kept if that is gone.
func At(seq uint64) Start { return Start{wire.StartAt(0, seq)} }
