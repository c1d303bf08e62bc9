// SPDX-License-Identifier: Apache-2.0

package loop

import (
	"runtime"
	"sync/atomic"
	"time"

	"github.com/msgmux/msgmux/broker/ring"
)

// Blockage is why the sources are blocked: somebody has sent what is not received.
type Blockage struct {
	Since time.Time    // for as long as the whole of it lasts, whoever is waited for
	sink  *ring.Cursor // of the sink that is waited for; nil: there is none
}

// Sink is the label of the sink that is waited for; false if the sources are blocked because there is none.
func (b *Blockage) Sink() (label string, ok bool) {
	if b.sink == nil {
		return "", false
	}
	return b.sink.Name(), true
}

// blockages publishes the blockage of now. With a full ring one begins and ends all the time, so the data thread, which is
// the only writer, allocates nothing for it.
type blockages struct {
	now     Blockage // the data thread's own copy, if waiting
	waiting bool

	word  atomic.Uint32 // odd while the rest changes: readers try again
	on    atomic.Bool
	since atomic.Int64 // ns since epoch
	sink  atomic.Pointer[ring.Cursor]
}

// epoch is what blockages count from: a time.Time cannot be stored in one step, and a number of ns needs a beginning on
// the same clock.
var epoch = time.Now()

func (b *blockages) begin(now Blockage) {
	b.now, b.waiting = now, true
	b.word.Add(1)
	b.on.Store(true)
	b.since.Store(int64(now.Since.Sub(epoch)))
	b.sink.Store(now.sink)
	b.word.Add(1)
}

func (b *blockages) end() {
	b.now, b.waiting = Blockage{}, false
	b.word.Add(1)
	b.on.Store(false)
	b.word.Add(1)
}

// load is the blockage of now, nil if there is none. It may be called from any goroutine.
func (b *blockages) load() *Blockage {
	for {
		before := b.word.Load()
		on, at := b.on.Load(), Blockage{epoch.Add(time.Duration(b.since.Load())), b.sink.Load()}
		switch {
		case before&1 == 1 || b.word.Load() != before:
			runtime.Gosched()
		case on:
			return &at
		default:
			return nil
		}
	}
}

// publishBlocked publishes why the sources are blocked, when that changes.
func (r *Roster) publishBlocked() {
	none := !r.ring.HasReceiver()
	if none && !r.anyWaits() || !none && !r.ring.Full() {
		if r.blocked.waiting {
			r.blockedFor.Add(int64(time.Since(r.blocked.now.Since)))
			r.blocked.end()
		}
		return
	}
	b := Blockage{Since: time.Now()}
	if !none {
		b.sink = r.ring.Blocker()
	}
	if r.blocked.waiting {
		if r.blocked.now.sink == b.sink {
			return
		}
		b.Since = r.blocked.now.Since
	}
	r.blocked.begin(b)
}
