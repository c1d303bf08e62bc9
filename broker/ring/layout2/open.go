// SPDX-License-Identifier: Apache-2.0

package layout2

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/sys"
)

// ErrBroken means that the two files do not hold a ring that one can go on with. Its sinks may still be found by Salvage.
var ErrBroken = errors.New("broken ring")

// Ring is what a ring of layout 2 holds after recovery. It may be read from any goroutine.
type Ring struct {
	Geometry   Geometry
	Generation uint64
	Totals     Totals
	Shares     []Share
	Sinks      []Sink   // all that have a socket, members of shares included
	Clients    []Client // connected sources
	Freed      int      // entries of the table that were given up because their bytes were not sound

	twice, state []byte // the mappings

	mask    uint64
	c       *control
	index   []indexEntry
	entries []entry
	recv    *receiving
	send    *sending
	consume *consuming
	greet   *greeting
	landing []byte
}

// Readable says whether both files have headers of a ring of layout 2, finished by whoever made them. Only Open can say
// whether it is sound. It changes nothing and does not block.
func Readable(dataFD, stateFD int) bool {
	for _, fd := range []int{dataFD, stateFD} {
		h, err := readHeader(fd)
		if err != nil || h.Magic != magic || h.Layout != number {
			return false
		}
	}
	return true
}

// Open maps a ring that a broker has left, and brings what it shows to where that broker would have been after the operation
// that it was in; see the package comment for why the files stay as they are. It blocks for as long as reading every length
// in the ring takes. The descriptors stay the caller's.
//
// Preconditions: the caller holds the guard's lock (sys.Guard, LockOffset), so that no other process uses the ring.
//
// The errors are ErrBroken, with what is wrong, if the files do not hold a sound ring of layout 2; and others, if the ring
// may be sound and there is no room for it now.
func Open(dataFD, stateFD int) (*Ring, error) {
	h, err := readHeaders(dataFD, stateFD)
	if err != nil {
		return nil, err
	}
	r := &Ring{Geometry: h.Geometry, Generation: h.Generation}
	if r.twice, err = sys.MapTwice(dataFD, page, int(r.Geometry.Size)); err == nil {
		r.state, err = mapPrivately(stateFD, r.Geometry.stateBytes())
	}
	if err != nil {
		r.Close()
		return nil, unusable("map the ring", err)
	}
	r.lookAt(r.state)
	if err := r.recover(); err != nil {
		r.Close()
		return nil, fmt.Errorf("%w: %w", ErrBroken, err)
	}
	return r, nil
}

// Close releases the mappings. Afterwards only the exported fields may be used, and nothing that Records or Landed returned.
func (r *Ring) Close() {
	if r.twice != nil {
		_ = sys.UnmapTwice(r.twice) // fails only for what is no mapping
	}
	if r.state != nil {
		_ = sys.Unmap(r.state)
	}
	r.twice, r.state = nil, nil
}

// lookAt finds the sections of the state.
func (r *Ring) lookAt(state []byte) {
	g, s := r.Geometry, r.Geometry.sections()
	r.mask = g.Size - 1
	r.c = at[control](state, s.control)
	r.index = slice[indexEntry](state, s.index, g.entries())
	r.entries = slice[entry](state, s.table, g.slots())
	r.recv = at[receiving](state, s.recv)
	r.send = at[sending](state, s.send)
	r.consume = at[consuming](state, s.consume)
	r.greet = at[greeting](state, s.greet)
	r.landing = state[s.landing:s.end]
}

// mapPrivately maps size bytes of fd so that stores to them are this process's alone (MAP_PRIVATE, mmap(2)).
func mapPrivately(fd int, size int64) ([]byte, error) {
	b, err := unix.Mmap(fd, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	return b, os.NewSyscallError("mmap", err)
}

// readHeader reads the header of one file. Preconditions for h: err is nil.
func readHeader(fd int) (h header, err error) {
	size, err := sys.FileSize(fd)
	if err != nil {
		return h, fmt.Errorf("%w: %w", ErrBroken, err)
	}
	if size < page {
		return h, fmt.Errorf("%w: file of %d bytes", ErrBroken, size)
	}
	b, err := mapPrivately(fd, page)
	if err != nil {
		return h, unusable("map a header", err)
	}
	defer sys.Unmap(b)
	return *at[header](b, 0), nil
}

// readHeaders reads both and checks that they belong together and to this layout.
func readHeaders(dataFD, stateFD int) (header, error) {
	var h [2]header
	for i, fd := range []int{dataFD, stateFD} {
		var err error
		if h[i], err = readHeader(fd); err != nil {
			return header{}, err
		}
		g := h[i].Geometry
		if h[i].Magic != magic {
			return header{}, fmt.Errorf("%w: no magic", ErrBroken)
		}
		if err := g.check(); err != nil {
			return header{}, fmt.Errorf("%w: %w", ErrBroken, err)
		}
		size, err := sys.FileSize(fd)
		if want := []int64{g.dataBytes(), g.stateBytes()}[i]; err != nil || size != want {
			return header{}, fmt.Errorf("%w: file of %d bytes instead of %d", ErrBroken, size, want)
		}
	}
	d, s := &h[0], &h[1]
	switch {
	case d.Layout != number || s.Layout != number:
		return header{}, fmt.Errorf("%w: layouts %d and %d", ErrBroken, d.Layout, s.Layout)
	case d.Role != roleData || s.Role != roleState:
		return header{}, fmt.Errorf("%w: roles %d and %d", ErrBroken, d.Role, s.Role)
	case d.Generation != s.Generation:
		return header{}, fmt.Errorf("%w: generations %d and %d", ErrBroken, d.Generation, s.Generation)
	case d.Geometry != s.Geometry:
		return header{}, fmt.Errorf("%w: geometries differ", ErrBroken)
	}
	return *s, nil
}

// unusable tells a file that is not what it should be from a want of memory, which passes.
func unusable(what string, err error) error {
	if errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENFILE) {
		return fmt.Errorf("cannot %s: %w", what, err)
	}
	return fmt.Errorf("%w: cannot %s: %w", ErrBroken, what, err)
}
