// SPDX-License-Identifier: Apache-2.0

package writer

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/msgmux/msgmux/broker/ring/mem"
	"github.com/msgmux/msgmux/internal/sys"
)

// Options of a Ring that are not part of its shape.
type Options struct {
	Ops sys.Ops // nil: the kernel

	// Unpublished makes Create leave the files without their magic, until Publish: a successor does not take them for
	// a ring before.
	Unpublished bool
}

// Ring is one ring and its table of sinks, mapped into this process. The data thread calls its methods.
type Ring struct {
	geo   Geometry
	opt   Options
	ops   sys.Ops
	mask  uint64
	batch int

	files   files
	data    mem.Bytes // twice the ring
	head    *header
	c       *control
	index   []indexEntry
	entries []entry
	recv    *recvArea
	send    *sendArea
	consume *consumeArea
	greet   *greetArea
	landing mem.Bytes

	table    []atomic.Pointer[Sink] // by slot; readers of the snapshot load it
	cursors  []*Sink                // those with a cursor of their own, shares included
	byID     map[uint64]*Sink
	freeSlot []int32

	built struct{ first, count uint64 } // the send array holds records first .. first+count-1, from slot 0 on
	dirty int                           // headers of the receive area whose length is not Untouched

	clock time.Duration
	full  bool // the next landed record does not fit
	freed int  // entries that a successor gave up
}

// Create makes a new pair of files with an empty ring of shape g. generation must be larger than that of any pair
// before it. The Ring owns the descriptors.
func Create(g Geometry, generation uint64, o Options) (*Ring, error) {
	if err := g.Check(); err != nil {
		return nil, err
	}
	dataFD, err := sys.CreateMemfd("msgmux-data", g.DataBytes())
	if err != nil {
		return nil, fmt.Errorf("cannot create the ring: %w", err)
	}
	stateFD, err := sys.CreateMemfd("msgmux-state", g.StateBytes())
	if err != nil {
		sys.Close(dataFD)
		return nil, fmt.Errorf("cannot create the state: %w", err)
	}
	f, err := mapFiles(g, dataFD, stateFD)
	if err != nil {
		sys.Close(dataFD)
		sys.Close(stateFD)
		return nil, err
	}
	r := newRing(g, f, o)
	for role, b := range map[uint32][]byte{roleData: f.header, roleState: f.state} {
		h := at[header](b, 0)
		h.Layout.Store(layout)
		h.Role.Store(role)
		h.Generation.Store(generation)
		h.Geometry.Store(g)
	}
	r.c.Since.Store(time.Now().Unix())
	r.c.NextID.Store(1)
	r.c.Land.Store(newLand(Datagrams, 0))
	for i := range r.recv.Hdr {
		r.recv.Hdr[i].Preset()
	}
	r.bind()
	if !o.Unpublished {
		r.Publish()
	}
	r.begin()
	return r, nil
}

// Publish makes the pair valid by its magic. Data first: a state is of no use without its data.
func (r *Ring) Publish() {
	at[header](r.files.header, 0).Magic.Store(magic)
	r.head.Magic.Store(magic)
}

// files are the two files of a ring, mapped into this process.
type files struct {
	dataFD, stateFD int
	header          []byte // the first page of the data
	twice           []byte // the ring behind it, twice
	state           []byte
}

// mapFiles maps the files; it checks nothing but that the mappings can be had. All of the state is made present.
func mapFiles(g Geometry, dataFD, stateFD int) (f files, err error) {
	f = files{dataFD: dataFD, stateFD: stateFD}
	if f.header, err = sys.Map(dataFD, 0, headerSize); err == nil {
		if f.twice, err = sys.MapTwice(dataFD, headerSize, int(g.Size)); err == nil {
			f.state, err = sys.Map(stateFD, 0, int(g.StateBytes()))
		}
	}
	if err != nil {
		f.unmap()
		return files{}, fmt.Errorf("cannot map the ring, which takes %d MiB of addresses: %w", (2*g.Size+uint64(g.StateBytes()))>>20, err)
	}
	sys.Populate(f.state)
	return f, nil
}

// unmap releases the mappings. The descriptors stay open: closing the state's would drop the guard's lock, and both
// end with the process.
func (f *files) unmap() {
	if f.header != nil {
		sys.Unmap(f.header)
	}
	if f.twice != nil {
		sys.UnmapTwice(f.twice)
	}
	if f.state != nil {
		sys.Unmap(f.state)
	}
	f.header, f.twice, f.state = nil, nil, nil
}

// newRing is a ring over files whose headers have been looked at, or are to be written.
func newRing(g Geometry, f files, o Options) *Ring {
	if o.Ops == nil {
		o.Ops = sys.Kernel{}
	}
	s := g.sections()
	return &Ring{
		geo: g, opt: o, ops: o.Ops, mask: g.Size - 1, batch: g.batch(),
		files:   f,
		data:    mem.Over(f.twice),
		head:    at[header](f.state, 0),
		c:       at[control](f.state, s.control),
		index:   slice[indexEntry](f.state, s.index, int(g.entries())),
		entries: slice[entry](f.state, s.table, g.slots()),
		recv:    at[recvArea](f.state, s.recv),
		send:    at[sendArea](f.state, s.send),
		consume: at[consumeArea](f.state, s.consume),
		greet:   at[greetArea](f.state, s.greet),
		landing: mem.Over(f.state[s.landing:s.end]),
		table:   make([]atomic.Pointer[Sink], g.slots()),
		byID:    make(map[uint64]*Sink),
	}
}

// begin makes ready what lives on the heap, once the state is sound.
func (r *Ring) begin() {
	r.clock = time.Duration(r.c.Clock.Load())
	r.c.Starts.Store(r.c.Starts.Load() + 1)
	for i := len(r.entries) - 1; i >= 0; i-- {
		if r.entries[i].State.Load() == free {
			r.freeSlot = append(r.freeSlot, int32(i))
		}
	}
}

// Retire unmaps a ring that is no longer used and closes its descriptors, which drops the guard. No method may be
// called afterwards, nor a Sink or Snapshot of it be used.
func (r *Ring) Retire() {
	r.files.unmap()
	sys.Close(r.files.dataFD)
	sys.Close(r.files.stateFD)
}

// Geometry is the ring's shape.
func (r *Ring) Geometry() Geometry { return r.geo }

// Generation tells this pair of files from the ones before it.
func (r *Ring) Generation() uint64 { return r.head.Generation.Load() }

// Descriptors are those of the data and the state file. They stay the Ring's: the caller may send them to somebody
// else, but must neither duplicate nor close them (see sys.Guard).
func (r *Ring) Descriptors() (data, state int) { return r.files.dataFD, r.files.stateFD }

// Head is where the next record goes.
func (r *Ring) Head() Place { return r.c.Head.load() }

// Delivered is the furthest place that a cursor, no tap's, has reached by accepting.
func (r *Ring) Delivered() Place { return r.c.Delivered.load() }

// Tail is the oldest record kept.
func (r *Ring) Tail() Place { return r.c.Tail.load() }

// Advance moves the channel's clock on by d, which the caller has limited with Step.
func (r *Ring) Advance(d time.Duration) {
	r.clock += d
	r.c.Clock.Store(int64(r.clock))
}

// ms is the channel's clock as the index stores it.
func (r *Ring) ms() uint32 { return uint32(r.clock / time.Millisecond) }

// length is the payload length of the record at pos.
func (r *Ring) length(pos uint64) uint32 { return r.data.Uint32(pos & r.mask) }
