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
		if there, tables := st.Blocks*512, s.recv-s.cursors; tables < 3<<20 || there > s.end-tables+64<<10 {
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
	const size, n = 264, 100
	fd, err := sys.CreateMemfd("tables", 16*int64(sys.PageSize))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sys.Close(fd) })
	f, table, at := files{stateFD: fd}, make([][size]byte, n), int64(sys.PageSize)
	numbers := func(first, last int) (all []int) {
		for i := first; i <= last; i++ {
			all = append(all, i)
		}
		return all
	}
	look := func(want []int) {
		t.Helper()
		if got := slices.Collect(inUse(f, at, table)); !slices.Equal(got, want) {
			t.Errorf("entries %v instead of %v", got, want)
		}
	}
	write := func(page int64) {
		t.Helper()
		if _, err := unix.Pwrite(fd, []byte{1}, page*int64(sys.PageSize)); err != nil {
			t.Fatal(err)
		}
	}
	look(nil)
	write(0) // in front of the table
	write(9) // behind it
	look(nil)
	write(2)
	look(numbers(15, 31)) // bytes 4096 to 8191 of the table
	write(1)
	look(numbers(0, 31))
	write(7)
	look(append(numbers(0, 31), numbers(93, 99)...))
	for i := range inUse(f, at, table) {
		if i != 0 {
			t.Errorf("entry %d comes after the end", i)
		}
		break
	}
}

// TestTheSameLook: a look that says what the last one did makes no garbage: the sinks of an idle channel are looked at all the time.
func TestTheSameLook(t *testing.T) {
	s := newRig(t, small()).add(wish{Kind: Dynamic, Label: "a"}, false)
	s.SeenTo(Look{Took: 1, Left: 768})
	if n := testing.AllocsPerRun(100, func() { s.SeenTo(Look{Took: 1, Left: 768}) }); n > 0 {
		t.Errorf("%v allocations for each", n)
	}
	if s.SeenTo(Look{Took: 2}); *s.Seen() != (Look{Took: 2}) {
		t.Errorf("%+v was not noted", *s.Seen())
	}
}
