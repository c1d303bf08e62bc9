// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/msgmux/msgmux/broker/ring/mem"
	"github.com/msgmux/msgmux/internal/wire"
)

// ErrTableFull means that the table has no entry left.
var ErrTableFull = errors.New("table full")

// slotList are the free entries of a table, the one to be used next last.
type slotList []int32

func (l *slotList) take() int {
	n := len(*l) - 1
	slot := (*l)[n]
	*l = (*l)[:n]
	return int(slot)
}

func (l *slotList) give(slot int) { *l = append(*l, int32(slot)) }

// tables are the three of the state, as they are on the heap.
type tables struct {
	sinks   []atomic.Pointer[Sink]   // by slot; readers of the snapshot load it
	clients []atomic.Pointer[Client] // likewise
	cursors []*Cursor                // those in use, in no order

	sinkByID   map[uint64]*Sink
	clientByID map[uint64]*Client
	accounts   map[uint32]*Account // of ordinary users, by uid

	freeCursors, freeSinks, freeClients slotList

	// removals is odd while a sink goes: what it counted is in the table or among the totals, and a reader may find it in both.
	removals atomic.Uint32
}

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

// Reading is how a new sink reads: from a cursor of its own, or from that of a share.
type Reading struct {
	CursorSpec            // ID and Since are those of the sink, or of the share that there is
	Start      wire.Start // where to begin; before what nobody has had
	Knows      bool       // the reader knows the order: it has done everything before Had. What the ring has not is lost to it
	Had        uint64
}

// Add enters a sink into the table. A sink of a share uses the share's cursor, which is made with the first one and then has
// its options; what a later one asks for is not looked at. A new cursor begins at delivered, so that it also gets what nobody
// has had, or before that, where Start says. A sink that is attaching gets nothing before Greet.
//
// An entry's state is its commit record: until it is written, last, there is no such sink. A cursor that is left without a
// sink is removed by the successor.
//
// The error is ErrTableFull.
//
// Preconditions: if there is a share of that name, its sinks acknowledge if this one does.
func (r *Ring) Add(spec Spec, how Reading, attach bool) (*Sink, error) {
	var c *Cursor
	if how.Share != "" {
		c = r.Share(how.Share, how.UID)
	}
	if len(r.freeSinks) == 0 || c == nil && len(r.freeCursors) == 0 {
		return nil, ErrTableFull
	}
	if c == nil {
		how.ID, how.Since = spec.ID, spec.Since
		if how.Share != "" {
			how.ID = r.NewID()
		}
		c = r.addCursor(how)
	}
	spec.Cursor = c.ID()
	slot := r.freeSinks.take()
	e := &r.sinkTable[slot]
	e.Accepted.Store(0)
	e.Acked.Store(0)
	e.Said.Store(0)
	e.From.store(Place{})
	e.To.store(Place{})
	if len(c.members) == 0 && how.Knows {
		r.advanceTo(c, slot, how.Had) // before there is the sink: its successor's broker tells it where it begins
	}
	c.e.Left.Store(0)
	seal(&e.Identity, &e.Sum, spec.identity())
	r.ops.Seam("add.filled")
	e.State.Store(entryState(attach))
	r.ops.Seam("add.done")
	return r.adoptSink(slot, spec, c), nil
}

func (r *Ring) addCursor(how Reading) *Cursor {
	slot := r.freeCursors.take()
	e := &r.cursorTable[slot]
	start, flags := r.startAt(how.Start), uint32(0)
	if start.Seq < r.c.Delivered.Seq.Load() {
		flags = flagCatching
	}
	e.Done.store(start)
	e.Sent.store(start)
	had := start.Seq
	if how.Knows {
		had = min(how.Had, had)
	}
	e.Start.Store(had)
	e.Lost.Store(start.Seq - had)
	e.LeftOut.Store(0)
	e.Unread.Store(0)
	e.Owed.Store(0)
	e.Known.Store(0)
	e.Flags.Store(flags)
	seal(&e.Identity, &e.Sum, how.CursorSpec.identity())
	r.ops.Seam("add.cursor")
	e.State.Store(active)
	c := r.adoptCursor(slot, how.CursorSpec)
	c.joined = r.clock
	return c
}

// AddClient enters a connected source, which is attaching. The error is ErrTableFull.
func (r *Ring) AddClient(spec ClientSpec) (*Client, error) { return r.addClient(spec, true) }

// AddAttached is AddClient for one that has had its ok: from the broker of a ring that was set aside.
func (r *Ring) AddAttached(spec ClientSpec) (*Client, error) { return r.addClient(spec, false) }

func (r *Ring) addClient(spec ClientSpec, attach bool) (*Client, error) {
	if len(r.freeClients) == 0 {
		return nil, ErrTableFull
	}
	slot := r.freeClients.take()
	e := &r.clientTable[slot]
	e.Mark.Store(spec.Mark)
	e.Taken.Store(spec.Taken)
	e.Left.Store(0)
	seal(&e.Identity, &e.Sum, spec.identity())
	e.State.Store(entryState(attach))
	r.ops.Seam("add.client")
	return r.adoptClient(slot, spec), nil
}

// seal writes an identity and the sum over it.
func seal[T any](identity *mem.Value[T], sum *mem.Value[uint64], v T) {
	identity.Store(v)
	sum.Store(sumOf(&v))
}

func entryState(attach bool) uint32 {
	if attach {
		return attaching
	}
	return active
}

// adoptCursor makes the heap's side of an entry in use.
func (r *Ring) adoptCursor(slot int, spec CursorSpec) *Cursor {
	e := &r.cursorTable[slot]
	flags := e.Flags.Load()
	c := &Cursor{slot: slot, e: e, tap: spec.Tap, ack: spec.Ack, lagging: flags&flagLagging != 0, catching: flags&flagCatching != 0,
		account: r.account(&spec, time.Duration(e.Owed.Load()))}
	c.spec.Store(&spec)
	r.cursors = append(r.cursors, c)
	return c
}

func (r *Ring) adoptSink(slot int, spec Spec, c *Cursor) *Sink {
	s := &Sink{slot: slot, e: &r.sinkTable[slot], cursor: c, frames: spec.Frames, meta: spec.Meta, view: spec.View, passes: spec.Credentials, form: spec.form(), burst: MaxSend, room: wire.MaxPacket}
	s.spec.Store(&spec)
	if c.members = append(c.members, s); c.Spec().Share == "" {
		c.sole = s
	}
	r.askFor(&spec, 1)
	r.sinkByID[spec.ID] = s
	r.sinks[slot].Store(s)
	return s
}

func (r *Ring) adoptClient(slot int, spec ClientSpec) *Client {
	c := &Client{slot: slot, e: &r.clientTable[slot]}
	c.spec.Store(&spec)
	r.clientByID[spec.ID] = c
	r.clients[slot].Store(c)
	return c
}

// Sinks calls yield for every sink, in no order, until it returns false. It may be called on any goroutine.
func (r *Ring) Sinks(yield func(*Sink) bool) {
	for i := range r.sinks {
		if s := r.sinks[i].Load(); s != nil && !yield(s) {
			return
		}
	}
}

// Clients calls yield for every connected source, in no order, until it returns false. It may be called on any goroutine.
func (r *Ring) Clients(yield func(*Client) bool) {
	for i := range r.clients {
		if c := r.clients[i].Load(); c != nil && !yield(c) {
			return
		}
	}
}

// Cursors calls yield for every cursor, in no order, until it returns false. yield may remove it.
func (r *Ring) Cursors(yield func(*Cursor) bool) {
	for _, c := range slices.Clone(r.cursors) {
		if !yield(c) {
			return
		}
	}
}

// Sink is the one with that id, or nil.
func (r *Ring) Sink(id uint64) *Sink { return r.sinkByID[id] }

// Client is the one with that id, or nil.
func (r *Ring) Client(id uint64) *Client { return r.clientByID[id] }
