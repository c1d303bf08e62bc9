// SPDX-License-Identifier: Apache-2.0

//go:build ring_watch

package ring

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"unsafe"

	"github.com/msgmux/msgmux/broker/ring/mem"
	"github.com/msgmux/msgmux/internal/view"
	"github.com/msgmux/msgmux/internal/wire"
)

// Two stores a and b that change places make one new state of the files, b without a, in which the broker may be killed; the states
// before both and after both are there anyway. Where what a successor makes of the new state is, byte for byte, what it makes of one
// of those, the kill is as one a store earlier or later, and nobody can tell. So it is with most stores, and what must not be is that
// it is taken for granted: it is tried for each pair, each time that it comes about.
//
// Others than a successor look at some of the words while the broker lives. Sinks in view see what is published: a successor may take
// nothing of it back, two stores that they both see may not change places at all, and one to the bytes of a record that is published may
// only where all three states come to the same. Readers of the status rely on the sequence words: see guard. With a call of the kernel
// between them, two stores are no pair of this kind.

// made is a store that has been made, with what was there before.
type made struct {
	site  site
	words []patch // in the order of their making
	event int     // of sameness, when the first of it was made
}

// patch is a part of the files with what it held and holds.
type patch struct {
	span
	was, is []byte
	at      unsafe.Pointer // in the twin's mapping
}

// note writes down what one store of a, which is about to be made, will change.
func (a *made) note(w *world, level int, s *mem.Store) {
	if len(a.words) == 0 {
		a.event = w.events
	}
	t := w.twins[level]
	parts := [][]byte{s.Value}
	if s.Kind == mem.Payload && len(s.Value) > 8 { // any part of a copy may be there
		parts = [][]byte{s.Value[:len(s.Value)/2], s.Value[len(s.Value)/2:]}
	}
	p := s.At
	for _, value := range parts {
		for _, piece := range t.pieces(span{t.find(p), len(value), false}) {
			a.words = append(a.words, patch{piece, slices.Clone(t.bytes[piece.off:][:piece.n]), slices.Clone(value[:piece.n]), p})
			value, p = value[piece.n:], unsafe.Add(p, piece.n)
		}
	}
}

// sameness compares what successors make of states that changed places would make.
type sameness struct {
	w      *world
	part   int // of the pairs in a successor one in so many is looked at; 0: none
	turn   int
	differ map[[2]site]string // what was found of a pair that may make a difference
	tried  [levels]int        // states
}

// result is what a successor makes of a state.
type result struct {
	what  string       // no ring, broken, or how many entries were given up
	bytes map[int]byte // what it has in the places that may differ
}

// compare looks at the states that would come about if b was made before a, which have been made.
func (c *sameness) compare(level int, a, b *made) {
	pair := [2]site{a.site, b.site}
	if c.differ[pair] != "" || level+1 >= len(c.w.twins) {
		return
	}
	if a.event != c.w.events {
		c.differ[pair] = "the kernel comes between"
		return
	}
	if level == 0 {
		if what := c.w.unguarded(a, b); what != "" {
			c.differ[pair] = what
			return
		}
	} else if c.part == 0 {
		return
	} else if c.turn++; c.turn%c.part != 0 {
		return
	}
	if what := c.w.entangled(level, a, b); what != "" {
		c.differ[pair] = what
		return
	}
	strict := c.w.seen(level, a) || c.w.seen(level, b)
	// b is made word by word, without a; and then a.
	for i := range len(b.words) + len(a.words) - 1 {
		var undone, all []patch // in the order in which they were made
		if i < len(b.words) {
			undone = append(slices.Clone(a.words), b.words[i+1:]...)
		} else {
			undone = a.words[i-len(b.words)+1:]
		}
		all = append(slices.Clone(a.words), b.words...)
		is := c.after(level, all, undone)
		c.tried[level]++
		later := b.words[min(i+1, len(b.words)):] // both are made, as far as b was
		if what := c.unlike(level, is, c.after(level, all, later)); what != "" {
			if strict {
				c.differ[pair] = "seen by readers, and " + what
				return
			}
			if c.unlike(level, is, c.after(level, all, all)) != "" {
				c.differ[pair] = what
				return
			}
		} else if strict {
			if what := c.unlike(level, is, c.after(level, all, all)); what != "" {
				c.differ[pair] = "seen by readers, and " + what
				return
			}
		}
	}
}

// after is what a successor makes of the files without what is undone; all are what may be.
func (c *sameness) after(level int, all, undone []patch) (is result) {
	w := c.w
	above, t := w.twins[level], w.twins[level+1]
	set := func(p *patch, to []byte) {
		copy(above.bytes[p.off:], to)
		t.stale = append(t.stale, p.span)
	}
	for i := len(undone) - 1; i >= 0; i-- {
		set(&undone[i], undone[i].was)
	}
	t.sync(above)
	w.quiet++
	w.mutation.pause(true)
	is.what = c.takeOver(t)
	w.mutation.pause(false)
	w.quiet--
	defer func() {
		for i := range undone {
			set(&undone[i], undone[i].is)
		}
	}()
	if is.what == noRing {
		return is
	}
	is.bytes = make(map[int]byte)
	// When something was received is asked of the clock: by the dead broker or by who has taken over, and both are right.
	received := t.find(unsafe.Pointer(&at[control](t.f.state, w.geo.sections().control).Received))
	for i := range 8 {
		if t.bytes[received+i] != 0 {
			for i := range 8 {
				is.bytes[received+i] = 1
			}
			break
		}
	}
	for _, s := range t.stale {
		for i := s.off; i < s.off+s.n; i++ {
			if t.bytes[i] != above.bytes[i] && (i < received || i >= received+8) {
				is.bytes[i] = t.bytes[i]
			}
		}
	}
	for i := range all {
		for k := all[i].off; k < all[i].off+all[i].n; k++ {
			if k < received || k >= received+8 {
				is.bytes[k] = t.bytes[k]
			}
		}
	}
	return is
}

func (c *sameness) takeOver(t *twin) (what string) {
	defer func() {
		if p := recover(); p != nil {
			what = fmt.Sprint("panic: ", p)
		}
	}()
	if at[header](t.f.header, 0).Magic.Load() != magic || at[header](t.f.state, 0).Magic.Load() != magic {
		return noRing
	}
	r := newRing(c.w.geo, t.f, Options{Ops: silent{}})
	before := seenIn(t)
	if err := r.takeOver(); err != nil {
		return "broken ring: " + err.Error()
	}
	v := verdict{before.judge(r)}
	c.w.books.judgeWords(&v, r)
	return fmt.Sprintf("%d given up%s", r.Freed(), strings.Join(v.problems, ", "))
}

const noRing = "no ring"

// unlike says in what two results differ, of which the second is what lies below the level.
func (c *sameness) unlike(level int, x, y result) string {
	if x.what != y.what {
		return fmt.Sprintf("%s, and %s", x.what, y.what)
	}
	if x.what == noRing {
		return ""
	}
	above, t := c.w.twins[level], c.w.twins[level+1]
	value := func(r result, i int) byte {
		if b, ok := r.bytes[i]; ok {
			return b
		}
		return above.bytes[i]
	}
	for _, r := range []result{x, y} {
		for i := range r.bytes {
			if value(x, i) != value(y, i) && !c.w.idle(t, i) {
				return fmt.Sprintf("byte %d of the files is %x or %x", i, value(x, i), value(y, i))
			}
		}
	}
	return ""
}

// changed are the words of a that it has changed.
func (a *made) changed(yield func(*patch) bool) {
	for i := range a.words {
		if p := &a.words[i]; !slices.Equal(p.was, p.is) && !yield(p) {
			return
		}
	}
}

// covers says whether a has written to the 4 bytes at off, and what was and is there.
func (a *made) covers(off int) (was, is uint32, yes bool) {
	for i := range a.words {
		if p := &a.words[i]; off >= p.off && off+4 <= p.off+p.n {
			return binary.NativeEndian.Uint32(p.was[off-p.off:]), binary.NativeEndian.Uint32(p.is[off-p.off:]), true
		}
	}
	return 0, 0, false
}

// entangled says why two stores that a successor may find the one or the other way must not be taken for independent.
func (w *world) entangled(level int, a, b *made) string {
	publishing := [2]bool{}
	inRing := [2]bool{}
	for i, m := range []*made{a, b} {
		for p := range m.changed {
			publishing[i] = publishing[i] || w.isPublished(level, p)
			inRing[i] = inRing[i] || p.off >= ringOffset && p.off < ringOffset+int(w.geo.Size)
		}
	}
	if publishing[0] && (publishing[1] || inRing[1]) || publishing[1] && inRing[0] {
		return "readers see both"
	}
	for i := range a.words {
		for k := range b.words {
			if p, q := &a.words[i], &b.words[k]; p.off < q.off+q.n && q.off < p.off+p.n {
				return "both are to the same place"
			}
		}
	}
	return ""
}

// isPublished says whether sinks in view read that word.
func (w *world) isPublished(level int, p *patch) bool {
	return w.published() && p.off >= view.PublishedAt && p.off < view.PublishedAt+int(unsafe.Sizeof(published{}))
}

// seen says whether a store is to the bytes of records that are published.
func (w *world) seen(level int, a *made) bool {
	pub := publishedIn(w.twins[level])
	if pub == nil || !w.published() {
		return false
	}
	tail, mask := pub.Tail.Load(), w.geo.Size-1
	for p := range a.changed {
		if at := p.off - ringOffset; at >= 0 && at < int(w.geo.Size) {
			if (uint64(at)-tail)&mask < pub.Head.Load()-tail || (tail-uint64(at))&mask < uint64(p.n) && pub.Head.Load() > tail {
				return true
			}
		}
	}
	return false
}

// idle says whether what is at off means nothing to anybody in a ring at rest: what is written there before it is read. Scenes in which
// kills are tried have garbage there.
func (w *world) idle(t *twin, off int) bool {
	g, sec := w.geo, w.geo.sections()
	c := at[control](t.f.state, sec.control)
	state := int64(off) - ringOffset - int64(g.Size)
	within := func(from, to int64) bool { return state >= from && state < to }
	field := func(p unsafe.Pointer, n uintptr) bool { k := t.find(p); return off >= k && off < k+int(n) }
	slots, head, tail := c.Slots.Load(), c.Head.Pos.Load(), c.Tail.Pos.Load()
	waits, land := slots.next() < slots.landed(), c.Land.Load()
	length := func(slot uint32) uint64 { // of what has landed
		n := uint64(at[recvArea](t.f.state, sec.recv).Hdr[slot].Len())
		if land.kind() == Marked {
			n -= min(n, wire.MarkSize)
		}
		return n
	}
	switch {
	case off >= ringOffset && state < 0: // behind head, and behind what has landed there
		behind := (uint64(off-ringOffset) - head) & (g.Size - 1)
		if waits && land.inRing() > 0 && behind+c.Offset.Load() < min(length(0), land.inRing()) {
			return false
		}
		return behind < g.Size-(head-tail)
	case within(sec.landing, sec.end):
		slot := uint64(state-sec.landing) / uint64(g.stride())
		in := uint64(state-sec.landing) % uint64(g.stride())
		live := waits && slot >= uint64(slots.next()) && slot < uint64(slots.landed()) && in >= land.inRing() && in < length(uint32(slot))
		return !live
	case field(unsafe.Pointer(&c.Log.Fields), unsafe.Sizeof(c.Log.Fields)), field(unsafe.Pointer(&c.Word), unsafe.Sizeof(c.Word)):
		return true // of the sequence words nothing counts but that they are even
	case field(unsafe.Pointer(&c.Offset), unsafe.Sizeof(c.Offset)), field(unsafe.Pointer(&c.Land), unsafe.Sizeof(c.Land)),
		field(unsafe.Pointer(&c.From), unsafe.Sizeof(c.From)), field(unsafe.Pointer(&c.Received), unsafe.Sizeof(c.Received)),
		field(unsafe.Pointer(&c.Sender), unsafe.Sizeof(c.Sender)),
		within(sec.recv, sec.recv+int64(unsafe.Sizeof(recvArea{}))):
		return !waits
	case within(sec.index, sec.cursors): // pieces that begin behind head
		n := uint64(g.index())
		k := uint64(state-sec.index) / uint64(unsafe.Sizeof(piece{}))
		return k < n && (k-(head+pieceSize-1)/pieceSize)%n < n/2
	case within(sec.cursors, sec.sinks):
		word := (state-sec.cursors)%int64(unsafe.Sizeof(cursorEntry{})) < int64(unsafe.Sizeof(mem.Uint32{}))
		return word || freeEntry[cursorEntry](t, state, sec.cursors)
	case within(sec.sinks, sec.clients):
		return freeEntry[sinkEntry](t, state, sec.sinks)
	case within(sec.clients, sec.origins):
		return freeEntry[clientEntry](t, state, sec.clients)
	case within(sec.origins, sec.recv): // runs that are not there yet, or not any more
		n := uint64(g.runs())
		k, runs := uint64(state-sec.origins)/uint64(unsafe.Sizeof(run{})), c.Runs.Load()
		oldest := max(runs, n-MaxBatch) - (n - MaxBatch)
		return k < n && (k-oldest)%n >= runs-oldest
	case within(sec.send, sec.landing): // what the kernel reads and writes, made ready before each call
		return true
	}
	return false
}

// freeEntry says whether a part of a table is of an entry that is free, and not its state.
func freeEntry[T cursorEntry | sinkEntry | clientEntry](t *twin, at, table int64) bool {
	var e *T
	size := int64(unsafe.Sizeof(*e))
	begin := table + (at-table)/size*size
	state := int64(0)
	if _, cursor := any(e).(*cursorEntry); cursor {
		state = int64(unsafe.Offsetof(cursorEntry{}.State))
	}
	return *(*uint32)(unsafe.Pointer(&t.f.state[begin+state])) == free && at >= begin+state+4
}

// guard is the sequence word under which a word that readers of the status look at must be changed, -1 for none.
func (w *world) guard(off int) int {
	t, r, sec := w.twins[0], w.r, w.geo.sections()
	if r == nil || !w.published() {
		return -1
	}
	in := func(p unsafe.Pointer, n uintptr) bool { k := t.find(p); return off >= k && off < k+int(n) }
	word := func(p *mem.Uint32) int { return t.find(unsafe.Pointer(p)) }
	c := r.c
	if in(unsafe.Pointer(&c.Head), 3*unsafe.Sizeof(place{})) || in(unsafe.Pointer(&c.Refused), unsafe.Sizeof(c.Refused)) {
		return word(&c.Word)
	}
	state := int64(off) - ringOffset - int64(w.geo.Size)
	switch {
	case state >= sec.cursors && state < sec.sinks:
		i := int((state - sec.cursors) / int64(unsafe.Sizeof(cursorEntry{})))
		for s := range r.Sinks {
			if e := s.cursor.e; s.cursor.slot == i && (in(unsafe.Pointer(&e.Done), 2*unsafe.Sizeof(place{})) || in(unsafe.Pointer(&e.Lost), 8) || in(unsafe.Pointer(&e.LeftOut), 8)) {
				return word(&e.Word)
			}
		}
	case state >= sec.sinks && state < sec.clients:
		i := int((state - sec.sinks) / int64(unsafe.Sizeof(sinkEntry{})))
		if i < len(r.sinks) {
			if s := r.sinks[i].Load(); s != nil && in(unsafe.Pointer(&s.e.From), 2*unsafe.Sizeof(place{})) {
				return word(&s.cursor.e.Word)
			}
		}
	}
	return -1
}

// guarded says whether a store of the broker may be made: readers of the status must not see half of a change.
func (w *world) guarded(off int) bool {
	g := w.guard(off)
	return g < 0 || binary.NativeEndian.Uint32(w.twins[0].bytes[g:])&1 == 1
}

// unguarded says what readers of the status would see if b was made before a.
func (w *world) unguarded(a, b *made) string {
	for p := range b.changed {
		if g := w.guard(p.off); g >= 0 {
			word := binary.NativeEndian.Uint32(w.twins[0].bytes[g:])
			if was, _, yes := a.covers(g); yes {
				word = was
			}
			if word&1 == 0 {
				return "readers of the status may see a half"
			}
		}
	}
	for p := range a.changed {
		if g := w.guard(p.off); g >= 0 && binary.NativeEndian.Uint32(w.twins[0].bytes[g:])&1 == 0 {
			return "readers of the status may see a half"
		}
	}
	return ""
}
