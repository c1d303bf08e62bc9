// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/msgmux/msgmux/broker/ring/mem"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/view"
	"github.com/msgmux/msgmux/internal/wire"
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

	// Lock keeps the state in memory (mlock), but for pages of the tables that are not in use. LockError is told when that fails; the
	// ring is used all the same.
	Lock      bool
	LockError func(error)

	// Owner says which user an ordinary user's sinks are charged to: himself, or whose subordinate uid that is. It must not
	// block. nil: himself.
	Owner func(uid uint32) uint32

	// Credentials says that this process may send others' credentials (see sys.LackedForCredentials). If not, sinks that want them
	// get its own.
	Credentials bool

	// Unpublished makes Create leave the files without their magic, until Publish: a successor does not take them for
	// a ring before.
	Unpublished bool

	// IgnoreRecords makes recovery ignore the operation log and the kernel's commit records. Only tests set it, to
	// see that without them messages are lost and doubled.
	IgnoreRecords bool
}

// Ring is one ring with its cursors, sinks and clients, mapped into this process. What may be used on any goroutine says so; all else
// the data thread calls.
type Ring struct {
	geo   Geometry
	opt   Options
	ops   sys.Ops
	mask  uint64
	batch int

	files     files
	data      mem.Bytes // twice the ring
	head      *header
	published *published
	c         *control
	index     []piece
	recv      *recvArea
	send      *sendArea
	acks      *ackArea
	consume   *consumeArea
	greet     *greetArea
	landing   mem.Bytes

	cursorTable []cursorEntry
	sinkTable   []sinkEntry
	clientTable []clientEntry
	runs        []run
	tables

	put   []byte // what a message queue is given that has an end of its own
	ended ended  // what the sinks with an end of their own are sent
	signs signs  // the credentials that what is sent carries

	cuts  []Place                       // see packetEnd
	built struct{ first, count uint64 } // the send array holds records first .. first+count-1, from slot 0 on
	dirty int                           // headers of the receive area whose length is not Untouched
	heard int                           // likewise of the area of acknowledgements

	presence []bool // by chunk of the ring: a packet may be received there

	staged staged // what is to enter from a stage

	last   origin                                  // of the last run
	askers int                                     // sinks that ask for origins
	meta   [wire.MaxOrigins * wire.OriginSize]byte // the origins of the packet that is being sent

	patience  Patience
	standings []Standing
	verdicts  []Verdict
	clock     time.Duration
	full      bool          // the next landed record does not fit
	freed     int           // entries that Open gave up
	waiting   atomic.Uint32 // Landed - Next, for the snapshot
	receivers int           // connected sockets of sinks that are no taps
	sentBytes uint64        // of the ring, by the last Send that returned messages
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
	f, err := mapFiles(g, dataFD, stateFD, o)
	if err != nil {
		sys.Close(dataFD)
		sys.Close(stateFD)
		return nil, err
	}
	r := newRing(g, f, o)
	if _, err := sys.Guard(stateFD, lockOffset); err != nil {
		r.Retire()
		return nil, fmt.Errorf("cannot lock the state: %w", err)
	}
	for role, b := range map[uint32][]byte{roleData: f.header, roleState: f.state} {
		h := at[header](b, 0)
		h.Layout.Store(layout)
		h.Role.Store(role)
		h.Generation.Store(generation)
		h.Geometry.Store(g)
	}
	r.c.Since.Store(time.Now().Unix())
	r.c.NextID.Store(1)
	r.c.Epoch.Store(rand.Uint64())
	r.dirty, r.heard = len(r.recv.Hdr), len(r.acks.Hdr)
	r.bind()
	r.preset()
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
	header          []byte // the pages of the data in front of the ring
	twice           []byte // the ring behind it, twice
	state           []byte
}

// mapFiles maps the files; it checks nothing but that the mappings can be had. What the kernel writes to, of the state, is made present.
// The tables are not: most of their pages are never used.
func mapFiles(g Geometry, dataFD, stateFD int, o Options) (f files, err error) {
	f = files{dataFD: dataFD, stateFD: stateFD}
	if f.header, err = sys.Map(dataFD, 0, ringOffset); err == nil {
		if f.twice, err = sys.MapTwice(dataFD, ringOffset, int(g.Size)); err == nil {
			f.state, err = sys.Map(stateFD, 0, int(g.StateBytes()))
		}
	}
	if err != nil {
		f.unmap()
		return files{}, fmt.Errorf("cannot map the ring, which takes %d MiB of addresses: %w", (2*g.Size+uint64(g.StateBytes()))>>20, err)
	}
	sys.SmallPages(f.state)
	s := g.sections()
	for _, b := range [][]byte{f.state[:s.cursors], f.state[s.recv:]} {
		sys.Populate(b)
		if o.Lock && err == nil {
			err = sys.Lock(b)
		}
	}
	if o.Lock && err == nil {
		err = sys.LockUsed(f.state[s.cursors:s.recv])
	}
	if err != nil && o.LockError != nil {
		o.LockError(err)
	}
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
		files:       f,
		data:        mem.Over(f.twice),
		head:        at[header](f.state, 0),
		published:   at[published](f.header, view.PublishedAt),
		c:           at[control](f.state, s.control),
		index:       slice[piece](f.state, s.index, g.index()),
		cursorTable: slice[cursorEntry](f.state, s.cursors, g.cursors()),
		sinkTable:   slice[sinkEntry](f.state, s.sinks, g.sinks()),
		clientTable: slice[clientEntry](f.state, s.clients, g.clients()),
		runs:        slice[run](f.state, s.origins, g.runs()),
		tables: tables{
			sinks:      make([]atomic.Pointer[Sink], g.sinks()),
			clients:    make([]atomic.Pointer[Client], g.clients()),
			sinkByID:   make(map[uint64]*Sink),
			clientByID: make(map[uint64]*Client),
			accounts:   make(map[uint32]*Account),
		},
		recv:     at[recvArea](f.state, s.recv),
		send:     at[sendArea](f.state, s.send),
		acks:     at[ackArea](f.state, s.acks),
		consume:  at[consumeArea](f.state, s.consume),
		greet:    at[greetArea](f.state, s.greet),
		landing:  mem.Over(f.state[s.landing:s.end]),
		presence: make([]bool, g.Size/chunk),
		cuts:     make([]Place, g.Size/cutEvery),
	}
}

// begin makes ready what lives on the heap, once the state is sound.
func (r *Ring) begin() {
	r.clock = time.Duration(r.c.Clock.Load())
	r.c.Starts.Store(r.c.Starts.Load() + 1)
	r.last = r.lastOrigin()
	r.publish()
	r.findFree()
}

// findFree lists the entries of the tables that are free: the first ones are taken first.
func (r *Ring) findFree() {
	r.freeCursors, r.freeSinks, r.freeClients = nil, nil, nil
	taken := make([]bool, len(r.cursorTable))
	for _, c := range r.cursors {
		taken[c.slot] = true
	}
	for i, used := range slices.Backward(taken) {
		if !used {
			r.freeCursors.give(i)
		}
	}
	for i := len(r.sinks) - 1; i >= 0; i-- {
		if r.sinks[i].Load() == nil {
			r.freeSinks.give(i)
		}
	}
	for i := len(r.clients) - 1; i >= 0; i-- {
		if r.clients[i].Load() == nil {
			r.freeClients.give(i)
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

// Epoch names one life of the numbering: it stays as long as the sequence numbers go on.
func (r *Ring) Epoch() uint64 { return r.c.Epoch.Load() }

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
