// SPDX-License-Identifier: Apache-2.0

package writer

import (
	"errors"
	"sync/atomic"
	"time"
)

// ErrTableFull means that the table has no entry left.
var ErrTableFull = errors.New("sink table full")

// Kind is what a sink is.
type Kind uint8

// The kinds. Their numbers are part of the layout.
const (
	Dynamic Kind = 1 + iota // a datagram socket that was registered at run time
	Static                  // a declared datagram socket or POSIX message queue
	Framed                  // a connection to the subscribe socket
	Share                   // not a socket: the cursor that the members of a share have in common
	Source                  // not a sink: a connection to the publish socket
)

func (k Kind) String() string {
	if k < Dynamic || k > Source {
		return "unknown"
	}
	return [...]string{"dynamic", "static", "framed", "share", "source"}[k-1]
}

// Spec is what a sink is, apart from where its cursor stands. It is immutable: Update replaces it.
type Spec struct {
	ID       uint64
	Kind     Kind
	Label    string // at most 64 bytes
	Address  string // as a registration has it: @name or /path; at most 112 bytes
	UID      uint32 // owner
	Inode    uint32 // of the peer socket, which is its identity; 0 where there is none
	Group    string // name of the share; "" for none
	ShareID  uint64 // id of the share's own entry; 0 for none
	Tap      bool
	Frames   bool
	Ordinary bool // a dynamic sink of neither root nor the broker's user: it has its account in common with its user's others
	Patience time.Duration
	Since    int64 // unix seconds
}

// Bits of identity.Bits.
const (
	bitTap = 1 << iota
	bitFrames
	bitOrdinary
)

func (s *Spec) identity() (i identity) {
	i.ID, i.Share, i.Since, i.Patience = s.ID, s.ShareID, s.Since, int64(s.Patience)
	i.Inode, i.UID, i.Kind = s.Inode, s.UID, uint8(s.Kind)
	for bit, set := range map[uint8]bool{bitTap: s.Tap, bitFrames: s.Frames, bitOrdinary: s.Ordinary} {
		if set {
			i.Bits |= bit
		}
	}
	i.LabelLen = uint8(copy(i.Label[:], s.Label))
	i.GroupLen = uint32(copy(i.Group[:], s.Group))
	i.AddrLen = uint8(copy(i.Addr[:], s.Address))
	return i
}

// spec reads an identity back. ok is false if its bytes cannot have been written by this program.
func (i *identity) spec() (s Spec, ok bool) {
	if i.LabelLen > maxLabel || i.GroupLen > maxLabel || i.AddrLen > maxAddress ||
		Kind(i.Kind) < Dynamic || Kind(i.Kind) > Source || i.ID == 0 || i.Patience < 0 {
		return s, false
	}
	return Spec{ID: i.ID, Kind: Kind(i.Kind), Label: string(i.Label[:i.LabelLen]), Address: string(i.Addr[:i.AddrLen]),
		UID: i.UID, Inode: i.Inode, Group: string(i.Group[:i.GroupLen]), ShareID: i.Share,
		Tap: i.Bits&bitTap != 0, Frames: i.Bits&bitFrames != 0, Ordinary: i.Bits&bitOrdinary != 0,
		Patience: time.Duration(i.Patience), Since: i.Since}, true
}

// Sink is an entry of the table in use.
type Sink struct {
	spec  atomic.Pointer[Spec]
	queue atomic.Bool // a POSIX message queue
	slot  int
	e     *entry

	// The data thread's own view; readers of the snapshot use none of it.
	cursor    *Sink // whose cursor it uses: itself, or its share
	connected int   // how many sockets can take messages for this cursor just now
	members   int   // of a share
	tap       bool
	frames    bool
	lagging   bool
	catching  bool
	self      bool   // this socket is connected
	burst     uint64 // how many datagrams it is offered at once
}

// Spec is what the sink is. It may be read from any goroutine.
func (s *Sink) Spec() *Spec { return s.spec.Load() }

// Queue says that what the sink's messages go to is a POSIX message queue, and no socket.
func (s *Sink) Queue(yes bool) { s.queue.Store(yes) }

// ID tells the sink from all others, past and future.
func (s *Sink) ID() uint64 { return s.Spec().ID }

// NewID is an id that was never used before, and never will be again, whatever happens.
func (r *Ring) NewID() uint64 {
	id := r.c.NextID.Load()
	r.c.NextID.Store(id + 1)
	return id
}

// Reserve makes sure that NewID never returns id: it is in use already.
func (r *Ring) Reserve(id uint64) {
	if r.c.NextID.Load() <= id {
		r.c.NextID.Store(id + 1)
	}
}

// Add enters a sink into the table. Its cursor begins at delivered, so that it also gets what nobody has had, or with
// oldest at the tail. A sink with a Group uses the cursor of that share; the share's own entry is made with the first
// member. A sink that is Attaching gets nothing before Attach.
//
// The entry's state is its commit record: until it is written, last, there is no such sink.
func (r *Ring) Add(spec Spec, oldest, attach bool) (*Sink, error) {
	need := 1
	var share *Sink
	if spec.Group != "" {
		if share = r.share(spec.Group, spec.UID); share == nil {
			need++
		}
	}
	if len(r.freeSlot) < need {
		return nil, ErrTableFull
	}
	if spec.Group != "" && share == nil {
		common := spec
		common.Kind, common.ID, common.Inode, common.Address = Share, r.NewID(), 0, ""
		common.Label = spec.Group
		share = r.add(common, oldest, false)
	}
	if share != nil {
		spec.ShareID = share.ID()
	}
	return r.add(spec, oldest, attach), nil
}

func (r *Ring) add(spec Spec, oldest, attach bool) *Sink {
	slot := r.freeSlot[len(r.freeSlot)-1]
	r.freeSlot = r.freeSlot[:len(r.freeSlot)-1]
	e := &r.entries[slot]
	start := r.c.Delivered.load()
	flags := uint32(0)
	if oldest && r.c.Tail.Seq.Load() < start.Seq {
		start, flags = r.c.Tail.load(), flagCatching
	}
	e.Cursor.store(start)
	e.Start.Store(start.Seq)
	e.Lost.Store(0)
	e.Accepted.Store(0)
	e.Owed.Store(0)
	e.Flags.Store(flags)
	id := spec.identity()
	e.Identity.Store(id)
	e.Sum.Store(id.sum())
	r.ops.Seam("add.filled")
	state := uint32(active)
	if attach {
		state = attaching
	}
	e.State.Store(state)
	r.ops.Seam("add.done")
	return r.adopt(int(slot), spec)
}

// adopt makes the heap's side of an entry in use.
func (r *Ring) adopt(slot int, spec Spec) *Sink {
	e := &r.entries[slot]
	flags := e.Flags.Load()
	s := &Sink{slot: slot, e: e, burst: MaxSend, tap: spec.Tap, frames: spec.Frames,
		lagging: flags&flagLagging != 0, catching: flags&flagCatching != 0}
	s.cursor = s
	s.spec.Store(&spec)
	if spec.Kind == Source {
		r.byID[spec.ID] = s
		r.table[slot].Store(s)
		return s
	}
	if share := r.byID[spec.ShareID]; share != nil && spec.ShareID != 0 {
		s.cursor = share
		share.members++
	} else {
		r.cursors = append(r.cursors, s)
	}
	r.byID[spec.ID] = s
	r.table[slot].Store(s)
	return s
}

// share finds the share of that name and user.
func (r *Ring) share(name string, uid uint32) *Sink {
	for _, s := range r.cursors {
		if sp := s.Spec(); sp.Kind == Share && sp.UID == uid && sp.Group == name {
			return s
		}
	}
	return nil
}

// Connect says that the socket of s can take messages, or (false) that it cannot just now.
func (r *Ring) Connect(s *Sink, yes bool) {
	if s.self == yes {
		return
	}
	s.self = yes
	by := -1
	if yes {
		by = 1
	}
	s.cursor.connected += by
}

// Find is the sink with that id, or nil.
func (r *Ring) Find(id uint64) *Sink { return r.byID[id] }

func (r *Ring) setFlag(s *Sink, flag uint32, on bool) {
	f := s.e.Flags.Load() &^ flag
	if on {
		f |= flag
	}
	s.e.Flags.Store(f)
	s.lagging, s.catching = f&flagLagging != 0, f&flagCatching != 0
}
