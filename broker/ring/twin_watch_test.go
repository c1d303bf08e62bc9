// SPDX-License-Identifier: Apache-2.0

//go:build ring_watch

package ring

import (
	"bytes"
	"fmt"
	"unsafe"

	"github.com/msgmux/msgmux/broker/ring/mem"
	"github.com/msgmux/msgmux/internal/sys"
)

// twin is one mapping of a ring's two files, and beside it what they hold if nothing but watched stores and the kernel has
// changed them: both files, one after the other.
//
//	level 0   the broker's ring            a kill after each of its stores:
//	level 1   a successor's, on a copy     a kill after each store of its recovery:
//	level 2   that one's successor's
type twin struct {
	level int
	f     files
	size  int // of the ring
	bytes []byte

	// scratch says which words hold what means nothing in another process. A successor finds garbage there.
	scratch []bool
	// bound has a twin keep the addresses that it has written itself, which a thousand successors need not write once more each: for
	// tests of something else.
	bound bool
	// stale is where this twin's files may differ from those of the level above.
	stale []span
	lower *twin
}

// span is a part of both files, one after the other.
type span struct {
	off, n  int
	scratch bool
}

func newTwin(level int, g Geometry, f files) *twin {
	n := int(g.DataBytes() + g.StateBytes())
	return &twin{level: level, f: f, size: int(g.Size), bytes: make([]byte, n), scratch: make([]bool, n/4)}
}

// beneath makes the next twin down, over files of its own.
func (t *twin) beneath(g Geometry) (*twin, error) {
	data, err := sys.CreateMemfd("test-data", g.DataBytes())
	if err != nil {
		return nil, err
	}
	state, err := sys.CreateMemfd("test-state", g.StateBytes())
	if err != nil {
		return nil, err
	}
	f, err := mapFiles(g, data, state, Options{})
	if err != nil {
		return nil, err
	}
	t.lower = newTwin(t.level+1, g, f)
	t.lower.stale = []span{{0, len(t.bytes), false}}
	return t.lower, nil
}

func (t *twin) close() {
	t.f.unmap()
	sys.Close(t.f.dataFD)
	sys.Close(t.f.stateFD)
}

// find is where p lies in the two files, or -1.
func (t *twin) find(p unsafe.Pointer) int {
	in := func(b []byte) (int, bool) {
		at := uintptr(p) - uintptr(unsafe.Pointer(unsafe.SliceData(b)))
		return int(at), at < uintptr(len(b))
	}
	if at, ok := in(t.f.twice); ok {
		return ringOffset + at%t.size
	}
	if at, ok := in(t.f.state); ok {
		return ringOffset + t.size + at
	}
	if at, ok := in(t.f.header); ok {
		return at
	}
	return -1
}

// live is the mapped memory of a span that lies in one piece.
func (t *twin) live(s span) []byte {
	switch at := s.off - ringOffset; {
	case at < 0:
		return t.f.header[s.off:][:s.n]
	case at < t.size:
		return t.f.twice[at:][:s.n]
	default:
		return t.f.state[at-t.size:][:s.n]
	}
}

// pieces cuts a span where the ring begins anew.
func (t *twin) pieces(s span) []span {
	if end := ringOffset + t.size; s.off < end && s.off+s.n > end && s.off >= ringOffset {
		return []span{{s.off, end - s.off, s.scratch}, {ringOffset, s.off + s.n - end, s.scratch}}
	}
	return []span{s}
}

// store makes a store, here and in what the files are to hold, and says whether it changed anything.
func (t *twin) store(s *mem.Store) (changed bool) {
	off := t.find(s.At)
	s.Make()
	value := s.Value
	for _, p := range t.pieces(span{off, len(value), s.Kind == mem.Scratch}) {
		to := t.bytes[p.off:][:p.n]
		changed = changed || !bytes.Equal(to, value[:p.n])
		copy(to, value)
		value = value[p.n:]
		if p.scratch {
			for w := p.off / 4; w < (p.off+p.n)/4; w++ {
				t.scratch[w] = true
			}
		}
		if t.bound && p.scratch {
			t.lower.touched(p)
		} else {
			t.touch(p)
		}
	}
	return changed && s.Kind != mem.Scratch
}

// wrote says that the kernel has written n bytes to p.
func (t *twin) wrote(p unsafe.Pointer, n int) {
	if n == 0 {
		return
	}
	for _, s := range t.pieces(span{t.find(p), n, false}) {
		copy(t.bytes[s.off:][:s.n], t.live(s))
		t.touch(s)
	}
}

func (t *twin) touch(s span) {
	if t.level > 0 {
		t.stale = append(t.stale, s) // it differs from what the level above has
	}
	t.lower.touched(s)
}

// touched says that the level above has changed something.
func (t *twin) touched(s span) {
	if t != nil {
		t.stale = append(t.stale, s)
	}
}

// garbage is what a successor finds where its predecessor had an address.
const garbage = 0x5a

// spread writes all of the state but pages that are nothing and were nothing: those of the tables are not there then, as in a ring in use.
func (t *twin) spread(state []byte) {
	nothing := make([]byte, sys.PageSize)
	for at := 0; at < len(state); at += sys.PageSize {
		news, had := state[at:at+sys.PageSize], t.bytes[ringOffset+t.size+at:][:sys.PageSize]
		if !bytes.Equal(news, nothing) || !bytes.Equal(had, nothing) {
			copy(t.f.state[at:], news)
		}
	}
}

// sync makes the files what those of the level above hold.
func (t *twin) sync(above *twin) {
	stale := t.stale
	t.stale = nil
	for _, s := range stale {
		if s.off == 0 && s.n == len(t.bytes) {
			t.spread(above.bytes[ringOffset+t.size:])
			copy(t.bytes, above.bytes)
			copy(t.f.header, t.bytes)
			copy(t.f.twice[:t.size], t.bytes[ringOffset:])
			copy(t.scratch, above.scratch)
		} else {
			to, live := t.bytes[s.off:][:s.n], t.live(s)
			copy(to, above.bytes[s.off:])
			if s.scratch {
				for i := range to {
					to[i] = garbage
				}
			}
			copy(live, to)
		}
		if t.lower != nil {
			t.lower.stale = append(t.lower.stale, s)
		}
	}
	t.stale = t.stale[:0]
}

// bypassed finds a byte of the files that was changed by something else than a watched store or the kernel.
func (t *twin) bypassed() error {
	for _, part := range []span{{off: 0, n: ringOffset}, {off: ringOffset, n: t.size}, {off: ringOffset + t.size, n: len(t.f.state)}} {
		live, want := t.live(part), t.bytes[part.off:][:part.n]
		if bytes.Equal(live, want) {
			continue
		}
		for i := range live {
			if live[i] != want[i] && !t.scratch[(part.off+i)/4] {
				return fmt.Errorf("byte %d of the files (%d of the part at %d) was changed past the watched stores", part.off+i, i, part.off)
			}
		}
	}
	return nil
}
