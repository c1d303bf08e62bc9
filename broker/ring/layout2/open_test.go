// SPDX-License-Identifier: Apache-2.0

package layout2

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/broker/ring/layout2/writer"
	"github.com/msgmux/msgmux/internal/sys"
)

// contents are all bytes of a file.
func contents(t *testing.T, fd int) []byte {
	t.Helper()
	size, err := sys.FileSize(fd)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, size)
	if n, err := unix.Pread(fd, b, 0); n != len(b) || err != nil {
		t.Fatal(n, err)
	}
	return b
}

// TestOpenShowsWhatIsThere reads a ring that was left at rest.
func TestOpenShowsWhatIsThere(t *testing.T) {
	w, _ := live(t, 0)
	data, state := w.Descriptors()
	if !Readable(data, state) {
		t.Fatal("not readable")
	}
	r, err := Open(data, state)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	kind, slots, offset := r.Landed()
	if kind != Datagrams || len(slots) != 2 || slots[0] != nil || string(slots[1]) != "last" || offset != 0 {
		t.Errorf("landed: kind %d, %q, offset %d", kind, slots, offset)
	}
	if len(r.Shares) != 0 || len(r.Clients) != 0 || len(r.Sinks) != 2 || r.Freed != 0 || r.Generation != 7 {
		t.Fatalf("%+v", r)
	}
	a, tap := r.Sinks[0], r.Sinks[1]
	if a.Label != "renamed" || a.Address != "@a" || a.UID != 7 || a.Inode != 99 || !a.Ordinary || a.Patience != 1e9 || a.Accepted != 6 {
		t.Errorf("%+v", a)
	}
	if tap.Label != "tap" || !tap.Tap || !tap.Frames || tap.Kind != Framed || tap.Cursor.Lost+tap.Accepted != tap.Cursor.Place.Seq {
		t.Errorf("%+v", tap)
	}
	if got := string(r.Records(0, 16)); got != "\x0a\x00\x00\x00datagram 0\x00\x00" {
		t.Errorf("record %q", got)
	}
	if n := r.Totals; n.Head.Seq != 8 || n.Delivered != n.Head || n.GoneAccepted != 8 || n.Attempts != 0 || n.Starts != 1 || r.FirstAccepted(6) != 5 {
		t.Errorf("%+v", n)
	}
}

// TestFilesStayAsTheyAre: what recovery does changes nothing in the files, whatever the broker was ended in.
func TestFilesStayAsTheyAre(t *testing.T) {
	redone := 0
	for n := 1; ; n++ {
		w, seam := live(t, n)
		data, state := w.Descriptors()
		before := [][]byte{contents(t, data), contents(t, state)}
		r, err := Open(data, state)
		if err != nil {
			t.Fatalf("%s: %v", seam, err)
		}
		if at[control](r.state, page).Log.Phase != opNone && !bytes.Equal(r.state, before[1]) {
			redone++
		}
		r.Close()
		if !bytes.Equal(contents(t, data), before[0]) || !bytes.Equal(contents(t, state), before[1]) {
			t.Errorf("%s: the files were changed", seam)
		}
		if seam == "" {
			break
		}
	}
	if redone < 10 {
		t.Errorf("only %d times was there something to do", redone)
	}
}

// TestWhatIsNoRing: files that are not what they should be are told apart from a want of memory, and do no harm.
func TestWhatIsNoRing(t *testing.T) {
	const layoutWord, role, generation, geometry = 8, 12, 16, 32
	for _, c := range []struct {
		what     string
		file     int
		off      int64
		b        byte
		readable bool
		why      string
	}{
		{"data without its magic", 0, 0, 0, false, "no magic"},
		{"a state that was not published", 1, 7, 0, false, "no magic"},
		{"the layout before", 0, layoutWord, 1, false, "layouts 1 and 2"},
		{"a layout after", 1, layoutWord, 3, false, "layouts 2 and 3"},
		{"another role", 1, role, roleData, true, "roles"},
		{"another ring's state", 1, generation, 9, true, "generations"},
		{"a shape that cannot be", 1, geometry, 1, true, "buffer"},
		{"another shape", 0, geometry + 24, 3, true, "geometries"},
	} {
		w, _ := live(t, 0)
		data, state := w.Descriptors()
		if _, err := unix.Pwrite([]int{data, state}[c.file], []byte{c.b}, c.off); err != nil {
			t.Fatal(err)
		}
		if got := Readable(data, state); got != c.readable {
			t.Errorf("%s: readable %v", c.what, got)
		}
		if r, err := Open(data, state); r != nil || !errors.Is(err, ErrBroken) || !strings.Contains(err.Error(), c.why) {
			t.Errorf("%s: %v", c.what, err)
		}
	}
	w, _ := live(t, 0)
	data, state := w.Descriptors()
	short, err := sys.CreateMemfd("short", page+100)
	if err != nil {
		t.Fatal(err)
	}
	defer sys.Close(short)
	if _, err := unix.Pwrite(short, contents(t, state)[:page], 0); err != nil {
		t.Fatal(err)
	}
	for _, fds := range [][2]int{{state, data}, {data, short}, {short, state}, {data, -1}, {socketpair(t, unix.SOCK_DGRAM)[0], state}} {
		if r, err := Open(fds[0], fds[1]); r != nil || !errors.Is(err, ErrBroken) {
			t.Errorf("opened %v: %v", fds, err)
		}
		Salvage(fds[1])
	}
}

// TestDamagedEntryIsGivenUp: a bit that fell in an entry costs this entry alone, and its sink alone is not salvaged.
func TestDamagedEntryIsGivenUp(t *testing.T) {
	w, _ := live(t, 0)
	data, state := w.Descriptors()
	label := int64(Geometry(tiny()).sections().table) + 64 + 48 // of the first entry: a
	if _, err := unix.Pwrite(state, []byte{'x'}, label); err != nil {
		t.Fatal(err)
	}
	r, err := Open(data, state)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if r.Freed != 1 || len(r.Sinks) != 1 || r.Sinks[0].Label != "tap" {
		t.Errorf("%d given up, %+v left", r.Freed, r.Sinks)
	}
	if sinks, clients := Salvage(state); len(clients) != 0 || len(sinks) != 1 || sinks[0].Label != "tap" {
		t.Errorf("salvaged %+v, %+v", sinks, clients)
	}
}

// TestSalvage finds sinks and clients of a ring whose positions cannot be.
func TestSalvage(t *testing.T) {
	n := 1
	for ; ; n++ {
		if _, seam := live(t, n); seam == "recv.logged" {
			break
		}
	}
	w, _ := live(t, n)
	data, state := w.Descriptors()
	if _, err := unix.Pwrite(state, []byte{1}, page+8+7); err != nil { // control.Head.Pos
		t.Fatal(err)
	}
	if _, err := Open(data, state); !errors.Is(err, ErrBroken) {
		t.Fatal(err)
	}
	sinks, clients := Salvage(state)
	if len(sinks) != 3 || len(clients) != 1 || clients[0].Label != "client" || clients[0].UID != 9 || clients[0].Attaching {
		t.Fatalf("salvaged %+v, %+v", sinks, clients)
	}
	if m := sinks[1]; m.Label != "m" || m.Group != "g" || m.UID != 8 || m.Cursor != (Cursor{}) || m.Accepted != 0 {
		t.Errorf("salvaged %+v", m)
	}
}

// files are a ring into which dumps are loaded.
func files(t testing.TB) (data, state int) {
	t.Helper()
	r, err := writer.Create(tiny(), 7, writer.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Retire)
	return r.Descriptors()
}

// openDamaged opens a ring of which nothing is known, and says what is wrong with the answer.
func openDamaged(data, state int) error {
	sinks, clients := Salvage(state)
	r, err := Open(data, state)
	switch {
	case err != nil && errors.Is(err, ErrBroken):
		return nil
	case err != nil:
		return err
	}
	defer r.Close()
	if !Readable(data, state) {
		return errors.New("opened what is not readable")
	}
	if k, n := len(sinks)+len(clients), len(r.Sinks)+len(r.Clients)+r.Freed+1; k > n {
		return fmt.Errorf("%d were salvaged of %d", k, n) // one may have been leaving
	}
	return r.consistent()
}

// consistent looks at what the reader of a ring relies on.
func (r *Ring) consistent() error {
	n := &r.Totals
	begins := map[Place]bool{n.Head: true}
	p := n.Tail
	for ; p.Seq < n.Head.Seq; p.Seq++ {
		begins[p] = true
		length := *at[uint32](r.Records(p.Pos, 4), 0)
		r.Records(p.Pos, padded(length))
		r.FirstAccepted(p.Seq)
		p.Pos += padded(length)
	}
	if p != n.Head || !begins[n.Delivered] {
		return fmt.Errorf("from %v to %v, delivered %v", n.Tail, n.Head, n.Delivered)
	}
	var cursors []Cursor
	members := map[uint64]int{0: 1}
	for _, s := range r.Shares {
		cursors = append(cursors, s.Cursor)
		members[s.ID] = 1
	}
	for _, s := range r.Sinks {
		members[s.ShareID]++
		if members[s.ShareID] == 1 || s.ID >= n.NextID {
			return fmt.Errorf("sink %d of share %d", s.ID, s.ShareID)
		}
		if s.ShareID == 0 {
			cursors = append(cursors, s.Cursor)
		}
	}
	for _, s := range r.Shares {
		if members[s.ID] == 1 {
			return fmt.Errorf("share %d has no members", s.ID)
		}
	}
	for _, c := range cursors {
		if !begins[c.Place] || c.Start+c.Lost > c.Place.Seq || c.Owed < 0 {
			return fmt.Errorf("%+v in a ring from %v to %v", c, n.Tail, n.Head)
		}
	}
	kind, slots, offset := r.Landed()
	if kind != Datagrams && kind != Packets || kind == Packets && len(slots) > 1 {
		return fmt.Errorf("%d slots of kind %d", len(slots), kind)
	}
	sum := byte(0)
	for _, s := range slots {
		if uint64(len(s)) < offset {
			return fmt.Errorf("offset %d in %d bytes", offset, len(s))
		}
		for _, b := range s {
			sum += b
		}
	}
	return nil
}

// TestEveryFallenBit takes rings that were left at every seam, and turns bits in them, one at a time.
func TestEveryFallenBit(t *testing.T) {
	data, state := files(t)
	dumps, seams := lives(t)
	if len(dumps) < 40 || !slices.Contains(seams, "skip.cursor") || !slices.Contains(seams, "greet.sent") {
		t.Fatalf("ended at %q only", seams)
	}
	rng := rand.New(rand.NewPCG(1, 0))
	turned := 0
	for i, whole := range dumps {
		load(t, data, state, whole)
		if r, err := Open(data, state); err != nil {
			t.Fatalf("ended at %q: %v", seams[i], err)
		} else {
			r.Close()
		}
		for at := rng.IntN(40); at < len(whole); at += 1 + rng.IntN(40) {
			b := bytes.Clone(whole)
			b[at] ^= 1 << rng.IntN(8)
			load(t, data, state, b)
			if err := openDamaged(data, state); err != nil {
				t.Errorf("ended at %q, a bit of byte %d turned: %v", seams[i], at, err)
			}
			turned++
		}
	}
	t.Logf("%d rings, %d bits turned", len(dumps), turned)
}

// FuzzOpen opens anything: a ring whose broker was ended at some seam, of which the fuzzer has changed what recovery reads.
func FuzzOpen(f *testing.F) {
	data, state := files(f)
	fresh := dump(f, data, state)
	dumps, _ := lives(f)
	for _, b := range dumps {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		load(t, data, state, fresh)
		load(t, data, state, b)
		if err := openDamaged(data, state); err != nil {
			t.Error(err)
		}
	})
}
