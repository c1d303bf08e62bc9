// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/broker/ring/mem"
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
	if err := guard(stateFD); err != nil {
		return nil, err
	}
	f, err := mapFiles(g, dataFD, stateFD, o)
	if err != nil {
		return nil, err // its header could be mapped, so the files are not to blame
	}
	r := newRing(g, f, o)
	if err := r.takeOver(); err != nil {
		r.files.unmap()
		return nil, fmt.Errorf("%w: %w", ErrBroken, err)
	}
	return r, nil
}

// guard locks a state file, so that no other broker works with it. One that is about to die is given busyRetry.
func guard(stateFD int) error {
	for deadline := time.Now().Add(busyRetry); ; time.Sleep(20 * time.Millisecond) {
		holder, err := sys.Guard(stateFD, lockOffset)
		switch {
		case err == nil:
			return nil
		case err != unix.EAGAIN:
			return unusable("lock the state", err)
		case time.Now().After(deadline):
			return busy(holder)
		}
	}
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

// takeOver makes a ring of what a predecessor has left in the files.
func (r *Ring) takeOver() error {
	r.bind()
	r.ops.Seam("recover.begin")
	if err := r.recover(); err != nil {
		return err
	}
	r.begin()
	if err := r.adoptAll(); err != nil {
		return err
	}
	r.ops.Seam("recover.done")
	return nil
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
		if h[i].Layout != layout {
			return g, fmt.Errorf("%w: layout %d, this program knows %d", ErrBroken, h[i].Layout, layout)
		}
		if want := []int64{g.DataBytes(), g.StateBytes()}[i]; size != want {
			return g, fmt.Errorf("%w: file of %d bytes instead of %d", ErrBroken, size, want)
		}
	}
	d, s := &h[0], &h[1]
	switch {
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

// recover finishes the operation that the predecessor was in. It checks every value before it is used, because bits
// may have fallen; afterwards the whole ring is checked.
func (r *Ring) recover() error {
	settle(&r.c.Word)
	for i := range r.cursorsInUse() {
		settle(&r.cursorTable[i].Word)
	}
	r.dirty, r.heard = len(r.recv.Hdr), len(r.acks.Hdr)
	if !r.opt.IgnoreRecords {
		if err := r.redo(); err != nil {
			return err
		}
	}
	if err := r.check(); err != nil {
		return err
	}
	r.c.Log.Phase.Store(phaseIdle)
	return nil
}

// settle ends what change began, if the predecessor died in it.
func settle(word *mem.Uint32) {
	if word.Load()&1 != 0 {
		word.Store(0)
	}
}

// checkPlaces looks at the positions of a ring of size bytes by themselves.
func checkPlaces(size uint64, head, tail, delivered Place) error {
	switch {
	case tail.Pos > delivered.Pos || delivered.Pos > head.Pos || head.Pos-tail.Pos > size:
		return fmt.Errorf("tail %d, delivered %d, head %d bytes", tail.Pos, delivered.Pos, head.Pos)
	case tail.Seq > delivered.Seq || delivered.Seq > head.Seq || head.Seq-tail.Seq > size/wire.RecordHeader:
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
	if err := checkPlaces(r.geo.Size, head, tail, delivered); err != nil {
		return err
	}
	s := c.Slots.Load()
	switch {
	case s.landed() > uint32(r.batch) || s.next() > s.landed():
		return fmt.Errorf("landed %d, next %d of %d", s.landed(), s.next(), r.batch)
	case c.NextID.Load() == 0:
		return fmt.Errorf("no next id")
	case c.Clock.Load() < 0:
		return fmt.Errorf("clock %d", c.Clock.Load())
	}
	if err := r.walk(head, tail); err != nil {
		return err
	}
	if !r.isPlace(delivered) {
		return fmt.Errorf("delivered %d is not where record %d begins", delivered.Pos, delivered.Seq)
	}
	r.checkOrigins(head)
	return r.checkLanded()
}

// walk goes from record to record and compares with the index.
func (r *Ring) walk(head, tail Place) error {
	for p := tail; p != head; {
		n := uint64(r.length(p.Pos))
		if p.Pos >= head.Pos || n > r.geo.MaxMessage || wire.Padded(n) > head.Pos-p.Pos {
			return fmt.Errorf("record %d of %d bytes at %d, head %d/%d", p.Seq, n, p.Pos, head.Pos, head.Seq)
		}
		next := r.next(p)
		for at := (p.Pos + pieceSize - 1) &^ (pieceSize - 1); at < next.Pos; at += pieceSize {
			if first := r.piece(at).First.Load(); first != p {
				return fmt.Errorf("record %d is at %d, and the index says %d/%d", p.Seq, p.Pos, first.Seq, first.Pos)
			}
		}
		p = next
	}
	return nil
}

// checkLanded looks at what waits in the landing zone.
func (r *Ring) checkLanded() error {
	if !r.Landed() {
		return nil
	}
	c, s := r.c, r.c.Slots.Load()
	offset, land := c.Offset.Load(), c.Land.Load()
	if kind := land.kind(); kind != Datagrams && !land.packet() {
		return fmt.Errorf("landed kind %d", kind)
	}
	for i := s.next(); i < s.landed(); i++ {
		if n := r.recv.Hdr[i].Len(); n == sys.Untouched || r.landedLen(i) > uint64(r.geo.room()) {
			return fmt.Errorf("landed slot %d of %d bytes", i, n)
		}
	}
	n := r.landedLen(s.next())
	if land.packet() && s.landed() != 1 || offset > n {
		return fmt.Errorf("%d packets, %d of %d bytes have entered", s.landed(), offset, n)
	}
	if window := land.inRing(); window > 0 {
		begin, inRing := c.Head.Pos.Load()-offset, min(n, window)
		if !land.packet() || window != r.geo.window() || n > window && offset > 0 || begin+inRing-c.Tail.Pos.Load() > r.geo.Size {
			return fmt.Errorf("packet of %d bytes, %d of them in the ring, behind head", n, window)
		}
	}
	if offset == 0 {
		return nil
	}
	packet, fits := r.slot(s.next())
	if !land.packet() || !fits || r.checkPacket(packet) != nil {
		return fmt.Errorf("offset %d in what is no packet", offset)
	}
	for at := 0; at < packet.len(); at += wire.Padded(int(getLength(packet.first[at:]))) {
		if uint64(at) == offset {
			return nil
		}
	}
	return fmt.Errorf("offset %d in a packet is not where a record begins", offset)
}

// adoptAll takes over the entries in use. An entry whose bytes are not what was written is freed, and what it counted
// goes with it: the caller finds its descriptor without an entry.
func (r *Ring) adoptAll() error {
	cursors := make(map[uint64]*Cursor)
	for i := range r.cursorsInUse() {
		e := &r.cursorTable[i]
		if e.State.Load() == free {
			continue
		}
		id := e.Identity.Load()
		spec, ok := id.spec()
		if !ok || e.Sum.Load() != sumOf(&id) || e.State.Load() != active || cursors[spec.ID] != nil {
			r.giveUp(&e.State)
			continue
		}
		r.Reserve(spec.ID)
		at := e.Done.load()
		if start := e.Start.Load(); !r.isPlace(at) || start > at.Seq || e.Lost.Load() > at.Seq-start || e.LeftOut.Load() > e.Lost.Load() {
			return fmt.Errorf("cursor %d at %d/%d", spec.ID, at.Pos, at.Seq)
		}
		if sent := e.Sent.load(); spec.Ack && (sent.Seq < at.Seq || !r.isPlace(sent)) {
			return fmt.Errorf("cursor %d at %d/%d has been sent up to %d/%d", spec.ID, at.Pos, at.Seq, sent.Pos, sent.Seq)
		}
		if e.Owed.Load() < 0 {
			e.Owed.Store(0)
		}
		cursors[spec.ID] = r.adoptCursor(i, spec)
	}
	for i := range r.sinksInUse() {
		e := &r.sinkTable[i]
		if e.State.Load() == free {
			continue
		}
		id := e.Identity.Load()
		spec, ok := id.spec()
		c := cursors[spec.Cursor]
		if !ok || e.Sum.Load() != sumOf(&id) || e.State.Load() > active || r.sinkByID[spec.ID] != nil {
			r.giveUp(&e.State)
			continue
		}
		if c == nil { // it went with another sink: see RemoveAll
			e.State.Store(free)
			continue
		}
		r.Reserve(spec.ID)
		r.Reserve(spec.Conn)
		begin, end := r.underWay(r.adoptSink(i, spec, c))
		if c.ack && (!r.isPlace(begin) || !r.isPlace(end)) {
			return fmt.Errorf("sink %d has %d/%d to %d/%d under way", spec.ID, begin.Pos, begin.Seq, end.Pos, end.Seq)
		}
	}
	for i := range r.clientsInUse() {
		e := &r.clientTable[i]
		if e.State.Load() == free {
			continue
		}
		id := e.Identity.Load()
		spec, ok := id.spec()
		if !ok || e.Sum.Load() != sumOf(&id) || e.State.Load() > active || r.clientByID[spec.ID] != nil {
			r.giveUp(&e.State)
			continue
		}
		r.Reserve(spec.ID)
		r.Reserve(spec.Conn)
		r.adoptClient(i, spec)
	}
	r.findFree()
	// A cursor goes with its last sink, so one without any is one whose first never came.
	for _, c := range slices.Clone(r.cursors) {
		if len(c.members) == 0 {
			r.removeOrphan(c)
		}
	}
	return nil
}

// giveUp frees an entry whose bytes are not sound.
func (r *Ring) giveUp(state *mem.Uint32) {
	r.freed++
	state.Store(free)
}

// Freed is how many entries Open had to give up because their bytes were not sound.
func (r *Ring) Freed() int { return r.freed }

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
