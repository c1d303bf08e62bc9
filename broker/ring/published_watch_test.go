// SPDX-License-Identifier: Apache-2.0

//go:build ring_watch

package ring

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/msgmux/msgmux/broker/ring/mem"
	"github.com/msgmux/msgmux/internal/view"
	"github.com/msgmux/msgmux/internal/wire"
)

// reading is what a sink in view may rely on at any moment, whoever is killed: looked at with each store.
type reading struct {
	head uint64 // the position up to where everything was compared
	seq  uint64 // and the number there
	tail Place  // the last pair that was whole
}

// publishedIn are the words that a twin publishes; nil before it does.
func publishedIn(t *twin) *published {
	if p := at[published](t.f.header, view.PublishedAt); p.Magic.Load() == view.Magic {
		return p
	}
	return nil
}

// begin is for a ring that is watched from now on.
func (v *reading) begin(r *Ring) {
	head := r.c.Head.load()
	v.head, v.seq, v.tail = head.Pos, head.Seq, r.c.Tail.load()
}

// overwrites says whether n bytes at p, of a twin's files, are a part of what it publishes: somebody may be reading it, and would
// not know.
func (w *world) overwrites(t *twin, p unsafe.Pointer, n int, from []byte) {
	pub, at := publishedIn(t), t.find(p)-ringOffset
	if pub == nil || n == 0 || at < 0 || at >= t.size {
		return
	}
	tail, mask := pub.Tail.Load(), uint64(t.size-1)
	there := pub.Head.Load() - tail
	if there == 0 || bytes.Equal(unsafe.Slice((*byte)(p), n), from) {
		return // a successor may copy once more what is there
	}
	if (uint64(at)-tail)&mask < there || (tail-uint64(at))&mask < uint64(n) {
		w.wrong(fmt.Sprintf("%s: %d bytes at %d are overwritten, and %d to %d are published", w.where, n, at, tail, tail+there))
	}
}

// publishes looks at a store to what is published, when it has been made.
func (w *world) publishes(t *twin, s *mem.Store) {
	pub := publishedIn(t)
	begin := uintptr(unsafe.Pointer(pub))
	if pub == nil || uintptr(s.At) < begin || uintptr(s.At) >= begin+unsafe.Sizeof(*pub) || w.r == nil || !w.published() {
		return
	}
	v, r := &w.reading, w.r
	if t.level > 0 && w.quiet > 0 {
		return
	}
	if t.level > 0 {
		// A successor brings to its end what its predecessor was in: what was whole before, or what control says.
		got := Place{pub.Tail.Load(), pub.TailSeq.Load()}
		is := at[control](t.f.state, w.geo.sections().control).Tail.load()
		if got.Pos == pub.TailAgain.Load() && got != v.tail && got != is {
			w.wrong(fmt.Sprintf("%s: level %d: record %d is said to be at %d; before it was %+v, and the tail is %+v", w.where, t.level, got.Seq, got.Pos, v.tail, is))
		}
		return
	}
	for head := pub.Head.Load(); v.head < head; {
		n := uint64(r.length(v.head))
		if size := uint64(wire.Padded(int(n))); size > head-v.head || v.seq >= uint64(len(w.books.entering)) ||
			!bytes.Equal(r.data.Slice(v.head&r.mask+wire.RecordHeader, n), w.books.entering[v.seq]) {
			w.wrong(fmt.Sprintf("%s: record %d at %d is published, and is not there", w.where, v.seq, v.head))
			v.head = head
			return
		} else {
			v.head, v.seq = v.head+size, v.seq+1
		}
	}
	if tail := pub.Tail.Load(); tail == pub.TailAgain.Load() {
		for v.tail.Pos < tail {
			v.tail = r.next(v.tail)
		}
		if (v.tail != Place{tail, pub.TailSeq.Load()}) {
			w.wrong(fmt.Sprintf("%s: record %d is said to be at %d, and %d is at %d", w.where, pub.TailSeq.Load(), tail, v.tail.Seq, v.tail.Pos))
		}
	}
}

// seen is what somebody may have seen before a successor has taken over: it must not take back any of it.
type seen struct{ head, tail uint64 }

func seenIn(t *twin) (s seen) {
	if p := publishedIn(t); p != nil {
		s = seen{p.Head.Load(), p.Tail.Load()}
	}
	return s
}

// judge compares what was published with what a successor makes of it.
func (s seen) judge(r *Ring) (problems []string) {
	if head := r.Head().Pos; s.head > head {
		problems = append(problems, fmt.Sprintf("records up to %d were published, and there are some up to %d", s.head, head))
	}
	if tail := r.Tail().Pos; s.tail > tail {
		problems = append(problems, fmt.Sprintf("the tail was published to be at %d, and is at %d", s.tail, tail))
	}
	return problems
}

// judgePublished compares what a ring publishes, when no operation is going on, with what it is.
func judgePublished(v *verdict, r *Ring, level int) {
	p, epoch := r.published, r.Epoch()
	if level == 0 {
		epoch = p.Epoch.Load() // the scene may have written into control what a successor is to keep
	}
	got := [...]uint64{p.Magic.Load(), p.Ring.Load(), p.Size.Load(), p.Generation.Load(), p.Epoch.Load(), p.Head.Load(), p.Tail.Load(), p.TailSeq.Load(), p.TailAgain.Load()}
	tail := r.Tail()
	want := [...]uint64{view.Magic, ringOffset, r.geo.Size, r.Generation(), epoch, r.Head().Pos, tail.Pos, tail.Seq, tail.Pos}
	if got != want {
		v.say("published is %x instead of %x", got, want)
	}
}

// TestPublishingIsNoticed breaks on purpose what readers rely on: head or tail is not published, or a pair is whole before its number is.
// Each is noticed, at the store itself or by what takes over.
func TestPublishingIsNoticed(t *testing.T) {
	i := slices.IndexFunc(scenes(), func(s scene) bool { return s.play != nil && s.name == "full, bytes" })
	s, m := scenes()[i], counting()
	play(t, s, 1, m)
	var of [4]site // the stores of APPEND and TAIL
	for at := range m.stores {
		for i, name := range []string{"r.published.Head.Store(pos) } < op_append", "p.Tail.Store(tail.Pos) < op_tail", "p.TailSeq.Store(tail.Seq) < op_tail", "p.TailAgain.Store(tail.Pos) < op_tail"} {
			if strings.Contains(string(at), name) {
				of[i] = at
			}
		}
	}
	broken := map[string]*mutation{"the pair is whole before its number": {swap: [2]site{of[2], of[3]}}}
	for i, at := range of {
		if at == "" {
			t.Fatalf("store %d was not found", i)
		}
		broken["without "+string(at)] = &mutation{drop: at}
	}
	for name, m := range broken {
		noticed := play(t, s, 1, m).problems
		if m.made == 0 || len(noticed) == 0 {
			t.Errorf("%s: made %d times, and nobody notices", name, m.made)
		}
		for p := range noticed {
			t.Logf("%s: %s", name, p)
			break
		}
	}
}
