// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/msgmux/msgmux/internal/wire"
)

// Watchers are those that are notified of what happens to the sinks, such as the object on the bus. Notifying them takes
// no lock and never blocks: an event that finds a watcher's channel full is dropped and counted.
type Watchers struct {
	mu  sync.Mutex // held while the list is replaced
	all atomic.Pointer[[]*watcher]
}

type watcher struct {
	events  chan wire.Event
	dropped atomic.Uint64
}

// Watch returns a channel with room for so many events, a count of those that found no room, and what ends it. The channel
// is never closed: after stop nothing comes any more. All of it may be called from any goroutine.
func (ws *Watchers) Watch(room int) (events <-chan wire.Event, dropped func() uint64, stop func()) {
	w := &watcher{events: make(chan wire.Event, room)}
	ws.change(func(all []*watcher) []*watcher { return append(all, w) })
	return w.events, w.dropped.Load, func() {
		ws.change(func(all []*watcher) []*watcher {
			return slices.DeleteFunc(all, func(x *watcher) bool { return x == w })
		})
	}
}

// change replaces the list by another one: somebody may be reading the old one.
func (ws *Watchers) change(f func([]*watcher) []*watcher) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	var all []*watcher
	if old := ws.all.Load(); old != nil {
		all = slices.Clone(*old)
	}
	all = f(all)
	ws.all.Store(&all)
}

// Notify passes an event to all watchers. It does not block.
func (ws *Watchers) Notify(e wire.Event) {
	all := ws.all.Load()
	if all == nil {
		return
	}
	for _, w := range *all {
		select {
		case w.events <- e:
		default:
			w.dropped.Add(1)
		}
	}
}
