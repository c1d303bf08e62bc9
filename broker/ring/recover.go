// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// busyRetry is how long Open waits for a predecessor that is about to die.
const busyRetry = 5 * time.Second

// Open maps a ring that another process has left, and brings it to where that process would have been after the
// operation that it was in. The Ring owns the descriptors; with an error they stay the caller's.
//
// The errors are ErrBusy, which names the holder, after busyRetry; ErrBroken, with what is wrong, if the files do not hold
// a ring that this program can go on with; and others, if the ring may be sound and there is no room for it now. Dying in
// the middle of Open is harmless: every step sets absolute values.
func Open(dataFD, stateFD int, o Options) (*Ring, error) {
	g, err := readGeometry(dataFD, stateFD)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(busyRetry); ; time.Sleep(20 * time.Millisecond) {
		holder, err := sys.Guard(stateFD, lockOffset)
		if err == nil {
			break
		}
		if err != unix.EAGAIN {
			return nil, unusable("lock the state", err)
		}
		if time.Now().After(deadline) {
			return nil, busy(holder)
		}
	}
	r, err := mapRing(g, dataFD, stateFD, o)
	if err != nil {
		return nil, err // its header could be mapped, so the files are not to blame
	}
	r.bind()
	r.ops.Seam("recover.begin")
	if err := r.recover(); err != nil {
		r.unmap()
		return nil, fmt.Errorf("%w: %w", ErrBroken, err)
	}
	r.begin()
	if err := r.adoptAll(); err != nil {
		r.unmap()
		return nil, fmt.Errorf("%w: %w", ErrBroken, err)
	}
	r.ops.Seam("recover.done")
	return r, nil
}

// busy is ErrBusy with who holds the ring. A process that was killed holds it for as long as one of its threads does not come
// back from the kernel, and nobody can do anything about that but end what the thread waits for.
func busy(holder int) error {
	if sys.Dying(holder) {
		return fmt.Errorf("%w by process %d, which was killed and cannot end: it waits in the kernel for a file system that does not answer, see /proc/%d/task/*/stack",
			ErrBusy, holder, holder)
	}
	return fmt.Errorf("%w by process %d", ErrBusy, holder)
}

// readGeometry reads the two header pages and checks that they belong together and to this program.
func readGeometry(dataFD, stateFD int) (g Geometry, err error) {
	type headed struct {
		Layout, Role uint32
		Generation   uint64
		Geometry     Geometry
	}
	var h [2]headed
	for i, fd := range []int{dataFD, stateFD} {
		size, err := sys.FileSize(fd)
		if err != nil {
			return g, fmt.Errorf("%w: %w", ErrBroken, err)
		}
		if size < headerSize {
			return g, fmt.Errorf("%w: file of %d bytes", ErrBroken, size)
		}
		b, err := sys.Map(fd, 0, headerSize)
		if err != nil {
			return g, unusable("map a header", err)
		}
		p := at[header](b, 0)
		valid := p.Magic.Load() == magic
		h[i] = headed{p.Layout.Load(), p.Role.Load(), p.Generation.Load(), p.Geometry.Load()}
		sys.Unmap(b)
		if !valid {
			return g, fmt.Errorf("%w: no magic", ErrBroken)
		}
		g = h[i].Geometry
		if err := g.Check(); err != nil {
			return g, fmt.Errorf("%w: %w", ErrBroken, err)
		}
		if want := []int64{g.DataBytes(), g.StateBytes()}[i]; size != want {
			return g, fmt.Errorf("%w: file of %d bytes instead of %d", ErrBroken, size, want)
		}
	}
	d, s := &h[0], &h[1]
	switch {
	case d.Layout != s.Layout || !readable(s.Layout):
		return g, fmt.Errorf("%w: layout %d, this program knows %d", ErrBroken, s.Layout, layout)
	case d.Role != roleData || s.Role != roleState:
		return g, fmt.Errorf("%w: roles %d and %d", ErrBroken, d.Role, s.Role)
	case d.Generation != s.Generation:
		return g, fmt.Errorf("%w: generations %d and %d", ErrBroken, d.Generation, s.Generation)
	case d.Geometry != s.Geometry:
		return g, fmt.Errorf("%w: geometries differ", ErrBroken)
	}
	return g, nil
}

// unusable tells a file that is not what it should be, such as one that is open for reading only, from a want of memory or
// locks, which passes.
func unusable(what string, err error) error {
	if errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENOLCK) || errors.Is(err, unix.ENFILE) {
		return fmt.Errorf("cannot %s: %w", what, err)
	}
	return fmt.Errorf("%w: cannot %s: %w", ErrBroken, what, err)
}

// readable says whether this program can read a layout: its own and the one before. Layout 2 differs from 1 in Split and
// PacketIov, where 1 has nothing but zeros, which says that no packet lies in the ring; bind makes the latter. When a layout
// changes more than that, what reads the one before belongs here.
func readable(n uint32) bool { return n == layout || n == layout-1 && n > 0 }

// recover finishes the operation that the predecessor was in. It checks every value before it is used, because bits
// may have fallen; afterwards the whole ring is checked.
func (r *Ring) recover() error {
	c := r.c
	c.Word.Store(0)
	land := c.Land.Load()
	if kind := land.kind(); kind != Datagrams && kind != Packets {
		return fmt.Errorf("landed kind %d", kind)
	}
	if split := land.split(); split > 0 && land.kind() != Packets || split > uint64(r.geo.room()) {
		return fmt.Errorf("%d bytes of what is landed in the ring", split)
	}
	r.dirty = len(r.recv.Hdr)
	if !r.opt.IgnoreRecords {
		if err := r.redo(); err != nil {
			return err
		}
	}
	if err := r.check(); err != nil {
		return err
	}
	c.Log.Phase.Store(phaseIdle)
	return nil
}

// checkPlaces looks at the positions of a ring by themselves: size is its bytes, entries how many messages it holds at most.
func checkPlaces(size, entries uint64, head, tail, delivered Place) error {
	switch {
	case tail.Pos > delivered.Pos || delivered.Pos > head.Pos || head.Pos-tail.Pos > size:
		return fmt.Errorf("tail %d, delivered %d, head %d bytes", tail.Pos, delivered.Pos, head.Pos)
	case tail.Seq > delivered.Seq || delivered.Seq > head.Seq || head.Seq-tail.Seq > entries:
		return fmt.Errorf("tail %d, delivered %d, head %d messages", tail.Seq, delivered.Seq, head.Seq)
	case head.Pos%4 != 0 || tail.Pos%4 != 0:
		return fmt.Errorf("tail %d or head %d not aligned", tail.Pos, head.Pos)
	}
	return nil
}

// check looks at everything that later code relies on.
func (r *Ring) check() error {
	c := r.c
	head, tail, delivered := c.Head.load(), c.Tail.load(), c.Delivered.load()
	if err := checkPlaces(r.geo.Size, uint64(len(r.index)), head, tail, delivered); err != nil {
		return err
	}
	landed, next := c.Landed.Load(), c.Next.Load()
	switch {
	case landed > uint32(r.batch) || next > landed:
		return fmt.Errorf("landed %d, next %d of %d", landed, next, r.batch)
	case c.NextID.Load() == 0:
		return fmt.Errorf("no next id")
	case c.Clock.Load() < 0:
		return fmt.Errorf("clock %d", c.Clock.Load())
	}
	if err := r.walk(head, tail); err != nil {
		return err
	}
	if !r.boundaryAt(delivered) {
		return fmt.Errorf("delivered %d is not where record %d begins", delivered.Pos, delivered.Seq)
	}
	return r.checkLanded()
}

// walk goes from record to record and compares with the index.
func (r *Ring) walk(head, tail Place) error {
	p := tail
	for p.Seq < head.Seq {
		n := r.length(p.Pos)
		if uint64(n) > r.geo.MaxMessage || uint64(wire.Padded(int(n))) > head.Pos-p.Pos {
			return fmt.Errorf("record %d of %d bytes", p.Seq, n)
		}
		if r.index[p.Seq&uint64(len(r.index)-1)].Words.Load() != uint32(p.Pos/4) {
			return fmt.Errorf("record %d is not where the index says", p.Seq)
		}
		p = Place{p.Pos + uint64(wire.Padded(int(n))), p.Seq + 1}
	}
	if p != head {
		return fmt.Errorf("records end at %d instead of %d", p.Pos, head.Pos)
	}
	return nil
}

// boundaryAt says whether p is the beginning of a record in the ring, or its head. Preconditions: walk was content.
func (r *Ring) boundaryAt(p Place) bool {
	head, tail := r.c.Head.load(), r.c.Tail.load()
	return p.Seq >= tail.Seq && p.Seq <= head.Seq && r.place(tail, p.Seq) == p
}

// checkLanded looks at what waits in the landing zone.
func (r *Ring) checkLanded() error {
	c := r.c
	if !r.Landed() {
		return nil
	}
	landed, next, offset, land := c.Landed.Load(), c.Next.Load(), c.Offset.Load(), c.Land.Load()
	for i := next; i < landed; i++ {
		if r.recv.Hdr[i].Len() == sys.Untouched {
			return fmt.Errorf("landed slot %d was never received", i)
		}
	}
	if split := land.split(); split > 0 {
		n, begin := uint64(r.recv.Hdr[0].Len()), c.Head.Pos.Load()-offset
		if landed != 1 || n > split || offset > n || begin+n-c.Tail.Pos.Load() > r.geo.Size {
			return fmt.Errorf("packet of %d bytes, %d of them in the ring, behind head", n, offset)
		}
	}
	if offset == 0 {
		return nil
	}
	packet := r.slot(next)
	if _, err := wire.CheckRecords(packet, int(r.geo.MaxMessage)); land.kind() != Packets || err != nil {
		return fmt.Errorf("offset %d in what is no packet", offset)
	}
	for at := 0; at < len(packet); at += wire.Padded(int(getLength(packet[at:]))) {
		if uint64(at) == offset {
			return nil
		}
	}
	return fmt.Errorf("offset %d in a packet is not where a record begins", offset)
}

// adoptAll takes over the entries in use. An entry whose bytes are not what was written is freed, and what it counted
// goes with it: the caller finds its descriptor without an entry.
func (r *Ring) adoptAll() error {
	var members []int
	for i := range r.entries {
		e := &r.entries[i]
		e.Word.Store(0)
		if e.State.Load() == free {
			continue
		}
		id := e.Identity.Load()
		spec, ok := id.spec()
		if !ok || e.Sum.Load() != id.sum() || e.State.Load() > active || r.byID[spec.ID] != nil {
			r.freed++
			e.State.Store(free)
			continue
		}
		r.Reserve(spec.ID)
		if spec.ShareID != 0 {
			members = append(members, i)
			continue
		}
		if spec.Kind == Source {
			r.adopt(i, spec)
			continue
		}
		cur := e.Cursor.load()
		if start := e.Start.Load(); !r.boundaryAt(cur) || start > cur.Seq || e.Lost.Load() > cur.Seq-start {
			return fmt.Errorf("cursor %d/%d of sink %d", cur.Pos, cur.Seq, spec.ID)
		}
		if e.Owed.Load() < 0 {
			e.Owed.Store(0)
		}
		r.adopt(i, spec)
	}
	for _, i := range members {
		id := r.entries[i].Identity.Load()
		spec, _ := id.spec()
		if share := r.byID[spec.ShareID]; share == nil || share.Spec().Kind != Share {
			r.freed++
			r.entries[i].State.Store(free)
			continue
		}
		r.adopt(i, spec)
	}
	r.freeSlot = r.freeSlot[:0]
	for i := len(r.entries) - 1; i >= 0; i-- {
		if r.entries[i].State.Load() == free {
			r.freeSlot = append(r.freeSlot, int32(i))
		}
	}
	// A share whose last member went, or whose first never came.
	for i := range r.table {
		if s := r.table[i].Load(); s != nil && s.Spec().Kind == Share && s.members == 0 {
			r.Remove(s)
		}
	}
	return nil
}

// Freed is how many entries Open had to give up because their bytes were not sound.
func (r *Ring) Freed() int { return r.freed }

// Salvage reads what can be known of the sinks from a state file that Open has called broken: the specs of all entries
// whose sums hold. It changes nothing. A newer layout, after a downgrade, gives as much as it has kept of this one's shape:
// the size of the file and the sum of each entry tell.
func Salvage(stateFD int) (specs []Spec) {
	size, err := sys.FileSize(stateFD)
	if err != nil || size < headerSize {
		return nil
	}
	b, err := sys.Map(stateFD, 0, int(size))
	if err != nil {
		return nil
	}
	defer sys.Unmap(b)
	h := at[header](b, 0)
	g := h.Geometry.Load()
	if g.Check() != nil || g.StateBytes() != size {
		return nil
	}
	for i, n := 0, g.slots(); i < n; i++ {
		e := &slice[entry](b, g.sections().table, n)[i]
		if e.State.Load() != active {
			continue // free, or a client without its ok: it will connect again
		}
		id := e.Identity.Load()
		if spec, ok := id.spec(); ok && e.Sum.Load() == id.sum() && spec.Kind != Share {
			specs = append(specs, spec)
		}
	}
	return specs
}

// GenerationOf reads the generation from the header of one file of a ring; ok is false if it has none.
func GenerationOf(fd int) (generation uint64, ok bool) {
	if size, err := sys.FileSize(fd); err != nil || size < headerSize {
		return 0, false
	}
	b, err := sys.Map(fd, 0, headerSize)
	if err != nil {
		return 0, false
	}
	defer sys.Unmap(b)
	h := at[header](b, 0)
	return h.Generation.Load(), h.Magic.Load() == magic
}
