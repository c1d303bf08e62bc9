// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/msgmux/msgmux/broker/ring/mem"
	"github.com/msgmux/msgmux/internal/sys"
)

// ErrBroken means that the two files do not hold a ring that this program can go on with. The sinks may still be
// found by Salvage.
var ErrBroken = errors.New("broken ring")

// ErrBusy means that another process uses the ring.
var ErrBusy = errors.New("ring in use")

// Options of a Ring that are not part of its shape.
type Options struct {
	Ops sys.Ops // nil: the kernel

	// Descriptors makes receives ready for descriptors that a source sends along, and hands them to Closer. It is
	// for kernels where a socket cannot refuse them (before 6.16).
	Descriptors bool
	// Closer is given descriptors to close, and must not block. It may be nil if Descriptors is not set.
	Closer func(fds []int)

	// Lock keeps the state in memory (mlock). LockError is told when that fails; the ring is used all the same.
	Lock      bool
	LockError func(error)

	// Owner says which user an ordinary user's sinks are charged to: himself, or whose subordinate uid that is. It must not
	// block. nil: himself.
	Owner func(uid uint32) uint32

	// Unpublished makes Create leave the files without their magic, until Publish: a successor does not take them for
	// a ring before.
	Unpublished bool

	// IgnoreRecords makes recovery ignore the operation log and the kernel's commit records. Only tests set it, to
	// see that without them messages are lost and doubled.
	IgnoreRecords bool
}

// Ring is one ring and its table of sinks, mapped into this process. The data thread calls its methods; Snapshot and
// Spec values may be used anywhere.
type Ring struct {
	geo   Geometry
	opt   Options
	ops   sys.Ops
	mask  uint64
	batch int

	dataFD, stateFD int
	dataHeader      []byte
	twice           []byte    // what data is over
	data            mem.Bytes // twice the ring
	state           []byte
	head            *header
	c               *control
	index           []indexEntry
	entries         []entry
	recv            *recvArea
	send            *sendArea
	consume         *consumeArea
	greet           *greetArea
	landing         mem.Bytes

	table    []atomic.Pointer[Sink] // by slot; readers of the snapshot load it
	cursors  []*Sink                // those with a cursor of their own, shares included
	byID     map[uint64]*Sink
	freeSlot []int32
	accounts map[uint32]*Account // of ordinary users, by uid

	built struct{ first, count uint64 } // the send array holds records first .. first+count-1, from slot 0 on
	dirty int                           // headers of the receive area whose length is not Untouched

	presence []bool // by chunk of the ring: a packet may be received there

	patience  Patience
	standings []Standing
	judged    []*Sink
	verdicts  []Verdict
	clock     time.Duration
	full      bool          // the next landed record does not fit
	freed     int           // entries that Open gave up
	waiting   atomic.Uint32 // Landed - Next, for the snapshot
	receivers int           // connected sockets of sinks that are no taps
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
	r, err := mapRing(g, dataFD, stateFD, o)
	if err != nil {
		sys.Close(dataFD)
		sys.Close(stateFD)
		return nil, err
	}
	if _, err := sys.Guard(stateFD, lockOffset); err != nil {
		r.Retire()
		return nil, fmt.Errorf("cannot lock the state: %w", err)
	}
	for role, b := range map[uint32][]byte{roleData: r.dataHeader, roleState: r.state} {
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
	at[header](r.dataHeader, 0).Magic.Store(magic)
	r.head.Magic.Store(magic)
}

// mapRing maps the files; it checks nothing but that the mappings can be had.
func mapRing(g Geometry, dataFD, stateFD int, o Options) (*Ring, error) {
	if o.Ops == nil {
		o.Ops = sys.Kernel{}
	}
	r := &Ring{geo: g, opt: o, ops: o.Ops, mask: g.Size - 1, batch: g.batch(), dataFD: dataFD, stateFD: stateFD,
		byID: make(map[uint64]*Sink), accounts: make(map[uint32]*Account)}
	var err error
	if r.dataHeader, err = sys.Map(dataFD, 0, headerSize); err == nil {
		var twice []byte
		if twice, err = sys.MapTwice(dataFD, headerSize, int(g.Size)); err == nil {
			r.data, r.twice = mem.Over(twice), twice
			r.state, err = sys.Map(stateFD, 0, int(g.StateBytes()))
		}
	}
	if err != nil {
		r.unmap()
		return nil, fmt.Errorf("cannot map the ring, which takes %d MiB of addresses: %w", (2*g.Size+uint64(g.StateBytes()))>>20, err)
	}
	sys.Populate(r.state)
	if o.Lock {
		if err := sys.Lock(r.state); err != nil && o.LockError != nil {
			o.LockError(err)
		}
	}
	s := g.sections()
	r.head = at[header](r.state, 0)
	r.c = at[control](r.state, s.control)
	r.index = slice[indexEntry](r.state, s.index, int(g.entries()))
	r.entries = slice[entry](r.state, s.table, g.slots())
	r.recv = at[recvArea](r.state, s.recv)
	r.send = at[sendArea](r.state, s.send)
	r.consume = at[consumeArea](r.state, s.consume)
	r.greet = at[greetArea](r.state, s.greet)
	r.landing = mem.Over(r.state[s.landing:s.end])
	r.table = make([]atomic.Pointer[Sink], g.slots())
	r.presence = make([]bool, g.Size/chunk)
	return r, nil
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

// unmap releases the mappings. The descriptors stay open: closing the state's would drop the guard's lock, and both
// end with the process.
func (r *Ring) unmap() {
	if r.dataHeader != nil {
		sys.Unmap(r.dataHeader)
	}
	if r.twice != nil {
		sys.UnmapTwice(r.twice)
	}
	if r.state != nil {
		sys.Unmap(r.state)
	}
	r.dataHeader, r.data, r.twice, r.state = nil, mem.Bytes{}, nil, nil
}

// Retire unmaps a ring that is no longer used and closes its descriptors, which drops the guard. No method may be
// called afterwards, nor a Sink or Snapshot of it be used.
func (r *Ring) Retire() {
	r.unmap()
	sys.Close(r.dataFD)
	sys.Close(r.stateFD)
}

// Geometry is the ring's shape.
func (r *Ring) Geometry() Geometry { return r.geo }

// Generation tells this pair of files from the ones before it.
func (r *Ring) Generation() uint64 { return r.head.Generation.Load() }

// Descriptors are those of the data and the state file. They stay the Ring's: the caller may send them to somebody
// else, but must neither duplicate nor close them (see sys.Guard).
func (r *Ring) Descriptors() (data, state int) { return r.dataFD, r.stateFD }

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
