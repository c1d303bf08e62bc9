// SPDX-License-Identifier: Apache-2.0

//go:build ring_watch

package ring

import (
	"slices"
	"strings"
	"unsafe"

	"github.com/msgmux/msgmux/broker/ring/mem"
	"github.com/msgmux/msgmux/internal/view"
)

// class is what a store is to a successor that finds it made, or not made, and nothing else.
type class string

const (
	readers  class = "a sequence word, for readers in the same process: a successor clears it"
	unread   class = "no successor looks there before the phase says so"
	unborn   class = "no successor looks there, whatever the phase: behind head, an entry that is free, a ring without its magic"
	redone   class = "within an operation, which a successor does again: it sets both"
	again    class = "what is published when a broker begins: nobody has a ring to read from whose predecessor is dead but one that stands still"
	anywhere class = ""

	// Where the kernel writes.
	received   class = "what a receive is to find untouched: no successor looks there in another operation"
	sending    class = "what a send is to find untouched: no successor looks there in another operation"
	greeting   class = "what a greeting is to find untouched: no successor looks there in another operation"
	registered class = "what taking a registration is to find untouched: no successor looks there in another operation"
)

// lookers are the operations that look at what is of a class, as their seams name them. "" is every one.
var lookers = map[class][]string{
	unread: {""}, received: {"recv", "take"}, sending: {"send"}, greeting: {"greet"}, registered: {"consume"}, again: {},
}

// unseen says whether a store of a class may be made before that of a site, since nobody looks there then.
func (c class) unseen(before site) bool {
	of, known := lookers[c]
	return known && !slices.ContainsFunc(of, func(op string) bool { return strings.Contains(string(before), `r.done("`+op) })
}

// classOf says what a store is at the moment at which it is made.
func (w *world) classOf(t *twin, s *mem.Store) class {
	g, off := w.geo, int64(t.find(s.At))
	state := off - ringOffset - int64(g.Size)
	sec := g.sections()
	c := at[control](t.f.state, sec.control)
	within := func(from int64, size uintptr) bool { return state >= from && state < from+int64(size) }
	in := func(p unsafe.Pointer, size uintptr) bool {
		return uintptr(s.At) >= uintptr(p) && uintptr(s.At) < uintptr(p)+size
	}
	for _, h := range []*header{at[header](t.f.header, 0), at[header](t.f.state, 0)} {
		if in(unsafe.Pointer(&h.Magic), unsafe.Sizeof(h.Magic)) {
			return anywhere
		}
	}
	if t.level == 0 && !w.published() {
		return unborn
	}
	if p := at[published](t.f.header, view.PublishedAt); in(unsafe.Pointer(p), unsafe.Sizeof(*p)) {
		if t.level > 0 || in(unsafe.Pointer(p), unsafe.Offsetof(p.Head)) {
			return again
		}
		return anywhere
	}
	if in(unsafe.Pointer(&c.Word), 4) {
		return readers
	}
	if size := unsafe.Sizeof(cursorEntry{}); within(sec.cursors, uintptr(sec.sinks-sec.cursors)) {
		e := at[cursorEntry](t.f.state, sec.cursors+(state-sec.cursors)/int64(size)*int64(size))
		if in(unsafe.Pointer(&e.Word), 4) {
			return readers
		}
		if e.State.Load() == free && !in(unsafe.Pointer(&e.State), 4) {
			return unborn
		}
	}
	if size := unsafe.Sizeof(sinkEntry{}); within(sec.sinks, uintptr(sec.clients-sec.sinks)) {
		e := at[sinkEntry](t.f.state, sec.sinks+(state-sec.sinks)/int64(size)*int64(size))
		if e.State.Load() == free && !in(unsafe.Pointer(&e.State), 4) {
			return unborn
		}
	}
	if size := unsafe.Sizeof(clientEntry{}); within(sec.clients, uintptr(sec.origins-sec.clients)) {
		e := at[clientEntry](t.f.state, sec.clients+(state-sec.clients)/int64(size)*int64(size))
		if e.State.Load() == free && !in(unsafe.Pointer(&e.State), 4) {
			return unborn
		}
	}
	head := c.Head.Pos.Load()
	if at := uint64(off - ringOffset); off >= ringOffset && at < g.Size && (at-head)&(g.Size-1) < g.Size-(head-c.Tail.Pos.Load()) {
		return unborn
	}
	if size := unsafe.Sizeof(piece{}); within(sec.index, uintptr(sec.cursors-sec.index)) {
		n := uint64(g.index())
		k := uint64((state - sec.index) / int64(size))
		if (k-(head+pieceSize-1)/pieceSize)%n < n/2 {
			return unborn
		}
	}
	if in(unsafe.Pointer(&c.Log.Phase), 4) {
		return anywhere
	}
	if c.Log.Phase.Load() != phaseIdle {
		return redone
	}
	slots := c.Slots.Load()
	waits := slots.next() < slots.landed()
	switch {
	case in(unsafe.Pointer(&c.Log.Fields), unsafe.Sizeof(c.Log.Fields)):
		return unread
	case !waits && (within(sec.recv, uintptr(sec.send-sec.recv)) || within(sec.landing, uintptr(sec.end-sec.landing))):
		return received
	case within(sec.send, uintptr(sec.consume-sec.send)):
		return sending
	case within(sec.consume, uintptr(sec.greet-sec.consume)):
		return registered
	case within(sec.greet, uintptr(sec.landing-sec.greet)):
		return greeting
	}
	return anywhere
}
