// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/internal/wire"
)

// watchers are those who want to know what happens to the sinks, such as the object on the bus. The data thread tells
// them and waits for none: an event that finds a watcher's channel full is dropped and counted.
type watchers struct {
	mu  sync.Mutex // of those who come and go; whoever tells takes no lock
	all atomic.Pointer[[]*watcher]
}

type watcher struct {
	events  chan wire.Event
	dropped atomic.Uint64
}

// Watch returns a channel with room for so many events, how many found no room so far, and what ends it. The channel is
// never closed: after stop nothing comes any more. All of it may be called from any goroutine.
func (c *Channel) Watch(room int) (events <-chan wire.Event, dropped func() uint64, stop func()) {
	w := &watcher{events: make(chan wire.Event, room)}
	ws := &c.journal.watchers
	ws.change(func(all []*watcher) []*watcher { return append(all, w) })
	return w.events, w.dropped.Load, func() {
		ws.change(func(all []*watcher) []*watcher {
			return slices.DeleteFunc(all, func(x *watcher) bool { return x == w })
		})
	}
}

// change replaces the list by another one: somebody may be reading the old one.
func (ws *watchers) change(f func([]*watcher) []*watcher) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	var all []*watcher
	if old := ws.all.Load(); old != nil {
		all = slices.Clone(*old)
	}
	all = f(all)
	ws.all.Store(&all)
}

// tell tells everybody. It does not wait.
func (ws *watchers) tell(kind string, s *ring.Spec, waiting, lost uint64) {
	all := ws.all.Load()
	if all == nil || len(*all) == 0 {
		return
	}
	e := wire.Event{Kind: kind, ID: s.ID, Label: s.Label, SinkKind: s.Kind.String(), UID: s.UID, Waiting: waiting, Lost: lost}
	for _, w := range *all {
		select {
		case w.events <- e:
		default:
			w.dropped.Add(1)
		}
	}
}
