// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"fmt"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/sys"
)

// TestUnusedEntriesTakeNoMemory: the tables take the memory that their entries in use need, whatever they have room for, also after a
// restart and a move, which look through them.
func TestUnusedEntriesTakeNoMemory(t *testing.T) {
	shape := Geometry{Size: MinSize, MaxMessage: 1000, MaxSinks: 4096, MaxClients: 4096}
	g := newRig(t, shape)
	spared := func(when string, r *Ring) {
		t.Helper()
		var st unix.Stat_t
		if err := unix.Fstat(r.files.stateFD, &st); err != nil {
			t.Fatal(err)
		}
		s := shape.sections()
		if there, tables := st.Blocks*512, s.recv-s.cursors; tables < 3<<20 || there > s.end-tables+int64(16*unix.Getpagesize()) {
			t.Errorf("%s: %d of %d bytes are there, of which the tables may have %d", when, there, s.end, tables)
		}
	}
	for i := range 3 {
		g.enter([]byte{byte(i)})
		g.add(wish{Kind: Dynamic, Label: fmt.Sprint(i), Address: fmt.Sprint("@", i)}, true)
	}
	spared("new", g.r)
	n, err := g.moved(shape)
	if err != nil {
		t.Fatal(err)
	}
	spared("moved", n)
	spared("opened", g.reopen())
}

// TestEntriesInUseAreFound: wherever in their tables entries are, and though some lie in two pages of which one was not written to, a
// restart and a move find them all.
func TestEntriesInUseAreFound(t *testing.T) {
	shape := Geometry{Size: MinSize, MaxMessage: 1000, MaxSinks: 1000, MaxClients: 100}
	g := newRig(t, shape)
	var want []uint64
	for i := range 1000 {
		s := g.add(wish{Kind: Dynamic, Label: fmt.Sprint(i), Address: fmt.Sprint("@", i)}, false)
		if i%37 == 5 || i == 999 {
			want = append(want, s.ID())
		}
	}
	for _, s := range slices.Collect(g.r.Sinks) {
		if !slices.Contains(want, s.ID()) {
			g.r.Remove(s)
		}
	}
	found := func(when string, r *Ring) {
		t.Helper()
		var got []uint64
		for s := range r.Sinks {
			got = append(got, s.ID())
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("%s: %d sinks instead of %d", when, len(got), len(want))
		}
		if used, want := len(r.cursorTable)-len(r.freeCursors), len(want); used != want {
			t.Errorf("%s: %d cursors are taken instead of %d", when, used, want)
		}
	}
	n, err := g.moved(shape)
	if err != nil {
		t.Fatal(err)
	}
	found("moved", n)
	found("opened", g.reopen())
}

// TestInUseByPages: what lies in a page that was written to may be in use, with the entries of which a part does.
func TestInUseByPages(t *testing.T) {
	const size = 264
	page := unix.Getpagesize()
	fd, err := sys.CreateMemfd("tables", int64(16*page))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sys.Close(fd) })
	f, table := files{stateFD: fd}, make([][size]byte, 6*page/size+10) // from page 1 into page 7
	look := func(pages ...int) {
		t.Helper()
		var want []int
		for i := range table {
			first, last := 1+i*size/page, 1+(i*size+size-1)/page
			if slices.Contains(pages, first) || slices.Contains(pages, last) {
				want = append(want, i)
			}
		}
		if got := slices.Collect(inUse(f, int64(page), table)); !slices.Equal(got, want) {
			t.Errorf("entries %v instead of %v", got, want)
		}
	}
	write := func(n int) {
		t.Helper()
		if _, err := unix.Pwrite(fd, []byte{1}, int64(n*page)); err != nil {
			t.Fatal(err)
		}
	}
	look()
	write(0) // in front of the table
	write(9) // behind it
	look()
	write(2)
	look(2)
	write(1)
	look(1, 2)
	write(7)
	look(1, 2, 7)
	for i := range inUse(f, int64(page), table) {
		if i != 0 {
			t.Errorf("entry %d comes after the end", i)
		}
		break
	}
}

// TestTheSameLook: a look that says what the last one did makes no garbage: the sinks of an idle channel are looked at all the time.
func TestTheSameLook(t *testing.T) {
	s := newRig(t, small()).add(wish{Kind: Dynamic, Label: "a"}, false)
	s.SeenTo(1, 768)
	if first := *s.Seen(); first.Same {
		t.Errorf("the first look has seen what another one had: %+v", first)
	}
	s.SeenTo(1, 768)
	if n := testing.AllocsPerRun(100, func() { s.SeenTo(1, 768) }); n > 0 {
		t.Errorf("%v allocations for each", n)
	}
	if again := *s.Seen(); !again.Same {
		t.Errorf("nobody has noted that it was the same again: %+v", again)
	}
	if s.SeenTo(2, 0); *s.Seen() != (Look{Took: 2}) {
		t.Errorf("%+v was not noted", *s.Seen())
	}
}
