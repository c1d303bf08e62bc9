// SPDX-License-Identifier: Apache-2.0

package layout2

import (
	"fmt"
	"time"
)

// Kind is what a sink is.
type Kind uint8

// The kinds of sinks, and what else an entry may be.
const (
	Dynamic Kind = 1 + iota // a datagram socket that was registered at run time
	Static                  // a declared datagram socket or POSIX message queue
	Framed                  // a connection to the subscribe socket
	share
	source
)

// Cursor is where somebody stands: a sink, or a share. Accepted + Lost + what is left up to Totals.Head is what has entered
// since Start.
type Cursor struct {
	Place    Place
	Start    uint64 // the sequence number that it began at
	Lost     uint64
	Owed     time.Duration // its account of patience, or its user's
	Lagging  bool          // no longer waited for
	Catching bool          // began at the tail and has not caught up yet
}

// Accepted is how many messages were accepted from the cursor.
func (c *Cursor) Accepted() uint64 { return c.Place.Seq - c.Start - c.Lost }

// Sink is one socket that takes messages.
type Sink struct {
	ID        uint64
	ShareID   uint64 // the share whose cursor it uses; 0 for none
	Group     string // the name of that share
	Kind      Kind
	Label     string
	Address   string // @name or /path
	UID       uint32 // owner
	Inode     uint32 // of the peer socket; 0 where there is none
	Tap       bool
	Frames    bool
	Ordinary  bool // has its account in common with its user's others
	Patience  time.Duration
	Since     int64  // unix seconds
	Attaching bool   // has not got its ok yet
	Accepted  uint64 // by this very socket
	Cursor    Cursor // of a sink with a ShareID: zero
}

// Share is a cursor that several sinks have in common; at least one of them is in the table.
type Share struct {
	ID       uint64
	Name     string
	UID      uint32 // owner
	Tap      bool
	Ordinary bool
	Patience time.Duration
	Since    int64 // unix seconds
	Cursor   Cursor
}

// Client is a connected source.
type Client struct {
	ID        uint64
	Label     string
	UID       uint32
	Since     int64 // unix seconds
	Attaching bool  // has not got its ok yet
}

// sound says whether a broker can have written the identity.
func (i *identity) sound() bool {
	return i.LabelLen <= maxLabel && i.GroupLen <= maxLabel && i.AddrLen <= maxAddress &&
		Kind(i.Kind) >= Dynamic && Kind(i.Kind) <= source && i.ID != 0 && i.Patience >= 0
}

// sound says whether the entry's bytes are what a broker has written.
func (e *entry) sound() bool {
	return e.State <= active && e.Identity.sound() && e.Sum == e.Identity.sum()
}

// readTable reads the entries in use. One whose bytes are not what was written is given up, and what it counted goes with it.
func (r *Ring) readTable() error {
	used := make(map[uint64]bool)
	shares := make(map[uint64]bool)
	var members []*entry
	for i := range r.entries {
		e := &r.entries[i]
		if e.State == free {
			continue
		}
		id := e.Identity.ID
		if !e.sound() || used[id] {
			r.Freed++
			continue
		}
		used[id] = true
		r.Totals.NextID = max(r.Totals.NextID, id+1)
		switch kind := Kind(e.Identity.Kind); {
		case e.Identity.Share != 0:
			members = append(members, e)
			continue
		case kind == source:
			r.Clients = append(r.Clients, e.client())
			continue
		case !r.boundaryAt(e.Cursor) || e.Start > e.Cursor.Seq || e.Lost > e.Cursor.Seq-e.Start:
			return fmt.Errorf("cursor %d/%d of sink %d", e.Cursor.Pos, e.Cursor.Seq, id)
		case kind == share:
			shares[id] = false
			r.Shares = append(r.Shares, e.share())
		default:
			r.Sinks = append(r.Sinks, e.sink())
		}
	}
	r.readMembers(members, shares)
	return nil
}

// readMembers reads those that use the cursor of a share. Shares that have none are given up as Remove gives them up: the
// last member went, or the first never came.
func (r *Ring) readMembers(members []*entry, shares map[uint64]bool) {
	for _, e := range members {
		if _, there := shares[e.Identity.Share]; !there {
			r.Freed++
			continue
		}
		shares[e.Identity.Share] = true
		r.Sinks = append(r.Sinks, e.sink())
	}
	kept := r.Shares[:0]
	for _, s := range r.Shares {
		if shares[s.ID] {
			kept = append(kept, s)
			continue
		}
		r.Totals.GoneAccepted += s.Cursor.Accepted()
		r.Totals.GoneLost += s.Cursor.Lost
		r.Totals.GoneAbandoned += r.Totals.Head.Seq - s.Cursor.Place.Seq
	}
	r.Shares = kept
}

func (e *entry) cursor() Cursor {
	return Cursor{Place: e.Cursor, Start: e.Start, Lost: e.Lost, Owed: time.Duration(max(0, e.Owed)),
		Lagging: e.Flags&flagLagging != 0, Catching: e.Flags&flagCatching != 0}
}

func (e *entry) sink() Sink {
	s := e.Identity.sink()
	s.Attaching = e.State == attaching
	if s.Accepted = e.Accepted; s.ShareID == 0 {
		s.Cursor = e.cursor()
		s.Accepted = s.Cursor.Accepted()
	}
	return s
}

// sink is what an identity says of a sink. Preconditions: it is sound.
func (i *identity) sink() Sink {
	return Sink{ID: i.ID, ShareID: i.Share, Group: string(i.Group[:i.GroupLen]), Kind: Kind(i.Kind),
		Label: string(i.Label[:i.LabelLen]), Address: string(i.Addr[:i.AddrLen]), UID: i.UID, Inode: i.Inode,
		Tap: i.Bits&bitTap != 0, Frames: i.Bits&bitFrames != 0, Ordinary: i.Bits&bitOrdinary != 0,
		Patience: time.Duration(i.Patience), Since: i.Since}
}

func (e *entry) share() Share {
	s := e.Identity.sink()
	return Share{ID: s.ID, Name: s.Group, UID: s.UID, Tap: s.Tap, Ordinary: s.Ordinary, Patience: s.Patience, Since: s.Since,
		Cursor: e.cursor()}
}

func (e *entry) client() Client {
	s := e.Identity.sink()
	return Client{ID: s.ID, Label: s.Label, UID: s.UID, Since: s.Since, Attaching: e.State == attaching}
}
