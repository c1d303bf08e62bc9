// SPDX-License-Identifier: Apache-2.0

package control

import (
	"slices"
	"sync"
)

// turns lets one guest at a time have an answer made: however many ask, they take no more than one processor from the
// data thread. Next are root and the broker's user, then whoever waits longest of the users that did not have the last
// turn. The zero value is ready.
type turns struct {
	mu      sync.Mutex
	taken   bool
	last    uint32 // the account that had the last turn
	waiting []*turn
}

// turn is one that somebody waits for.
type turn struct {
	guest *guest
	mine  chan struct{} // closed when it has come
}

// take waits for g's turn, which done ends. False: its place went to somebody else meanwhile.
func (t *turns) take(g *guest) bool {
	t.mu.Lock()
	if !t.taken {
		t.taken, t.last = true, g.account
		t.mu.Unlock()
		return true
	}
	w := &turn{g, make(chan struct{})}
	t.waiting = append(t.waiting, w)
	t.mu.Unlock()
	select {
	case <-w.mine:
		return true
	case <-g.gone:
	}
	t.mu.Lock()
	i := slices.Index(t.waiting, w)
	if i >= 0 {
		t.waiting = slices.Delete(t.waiting, i, i+1)
	}
	t.mu.Unlock()
	if i < 0 {
		t.done() // it came at the same moment
	}
	return false
}

// done ends a turn.
func (t *turns) done() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.waiting) == 0 {
		t.taken = false
		return
	}
	next := slices.IndexFunc(t.waiting, func(w *turn) bool { return w.guest.trusted })
	if next < 0 {
		next = max(0, slices.IndexFunc(t.waiting, func(w *turn) bool { return w.guest.account != t.last }))
	}
	w := t.waiting[next]
	t.waiting = slices.Delete(t.waiting, next, next+1)
	t.last = w.guest.account
	close(w.mine)
}
