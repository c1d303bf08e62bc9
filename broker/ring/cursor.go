// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"slices"
	"sync/atomic"
	"time"
)

// Cursor is a place in the order that is kept for somebody: for one sink, or for all of a share. One whose sinks are absent
// stays; one of a tap holds up nobody.
//
// Spec, ID, Name, Sole, Place, Lost and Lagging may be used on any goroutine, all else by the data thread alone.
type Cursor struct {
	spec atomic.Pointer[CursorSpec]
	slot int
	e    *cursorEntry

	account   *Account
	sole      *Sink   // the one that reads from it; nil of a share's
	connected int     // how many sockets can take messages for it just now
	members   []*Sink // that read from it, in no order
	orphans   []*Sink // of a share with acknowledgements: those that have left something undone
	tap       bool
	ack       bool
	lagging   bool
	catching  bool
	joined    time.Duration // the ring's clock when it came; 0 for what a predecessor left
}

// CursorSpec is what a cursor is, apart from where it stands. It is immutable: Update replaces it.
type CursorSpec struct {
	ID       uint64
	Share    string // the name of the share, at most 64 bytes; "" for the cursor of one sink
	UID      uint32 // owner
	Tap      bool   // is never waited for
	Ordinary bool   // of neither root nor the broker's user: it has its account in common with its user's others
	Patience time.Duration
	Ack      bool          // its readers say how far they are done; else what is accepted is done
	Keep     time.Duration // how long it stays when its connection has gone, or that of the last of a share; 0: not
	Since    int64         // unix seconds
}

// Bits of cursorIdentity.Bits.
const (
	bitTap = 1 << iota
	bitOrdinary
	bitShare
	bitAck
)

func (s *CursorSpec) identity() (i cursorIdentity) {
	i.ID, i.Since, i.Patience, i.Keep, i.UID = s.ID, s.Since, int64(s.Patience), int64(s.Keep), s.UID
	for bit, set := range map[uint32]bool{bitTap: s.Tap, bitOrdinary: s.Ordinary, bitShare: s.Share != "", bitAck: s.Ack} {
		if set {
			i.Bits |= bit
		}
	}
	i.NameLen = uint64(copy(i.Name[:], s.Share))
	return i
}

// spec reads an identity back. ok is false if its bytes cannot have been written by this program.
func (i *cursorIdentity) spec() (s CursorSpec, ok bool) {
	if i.NameLen > maxLabel || i.ID == 0 || i.Patience < 0 || i.Keep < 0 || (i.Bits&bitShare != 0) != (i.NameLen > 0) {
		return s, false
	}
	return CursorSpec{ID: i.ID, Since: i.Since, Patience: time.Duration(i.Patience), UID: i.UID, Share: string(i.Name[:i.NameLen]),
		Tap: i.Bits&bitTap != 0, Ordinary: i.Bits&bitOrdinary != 0, Ack: i.Bits&bitAck != 0, Keep: time.Duration(i.Keep)}, true
}

// Spec is what the cursor is.
func (c *Cursor) Spec() *CursorSpec { return c.spec.Load() }

// ID tells the cursor from all others, past and future; that of one sink has the sink's.
func (c *Cursor) ID() uint64 { return c.Spec().ID }

// Sole is the only sink that reads from it, nil of a share's.
func (c *Cursor) Sole() *Sink { return c.sole }

// Name is the label of its sink, or the name of the share.
func (c *Cursor) Name() string {
	if c.sole != nil {
		return c.sole.Spec().Label
	}
	return c.Spec().Share
}

// Gone says whether it has gone with its last sink.
func (c *Cursor) Gone() bool { return len(c.members) == 0 }

// Connected says whether a socket of it can take messages just now.
func (c *Cursor) Connected() bool { return c.connected > 0 }

// HasAbsent says whether some sink that reads from it is not connected.
func (c *Cursor) HasAbsent() bool { return len(c.members) > c.connected }

// Size is how many sinks read from it.
func (c *Cursor) Size() int { return len(c.members) }

// Members calls yield for each sink that reads from it, in no order, until it returns false. yield may remove it.
func (c *Cursor) Members(yield func(*Sink) bool) {
	for _, s := range slices.Clone(c.members) {
		if !yield(s) {
			return
		}
	}
}

// tryAgain forgets which of its sinks could not take what is next (see TooLarge): something else may be next now, and there may be
// nobody else any more who could.
func (c *Cursor) tryAgain() {
	for _, s := range c.members {
		s.cannot = 0
	}
}

// Left is when the connection of a kept one went; the zero Time: it is there.
func (c *Cursor) Left() time.Time { return since(c.e.Left.Load()) }

// Missed is how many messages it has lost and its reader has not been told of: while it was away, or before it began.
func (c *Cursor) Missed() uint64 { return c.e.Lost.Load() - min(c.e.Lost.Load(), c.e.Known.Load()) }

func since(ns int64) (t time.Time) {
	if ns != 0 {
		t = time.Unix(0, ns)
	}
	return t
}

// Place is where it stands.
func (c *Cursor) Place() Place { return c.e.Done.load() }

// Lagging says whether it is no longer waited for.
func (c *Cursor) Lagging() bool { return c.e.Flags.Load()&flagLagging != 0 }

// Lost is how many messages it has lost, those left out that were not wanted.
func (c *Cursor) Lost() uint64 {
	lost := c.e.Lost.Load()
	return lost - min(lost, c.e.LeftOut.Load())
}

func (r *Ring) setFlag(c *Cursor, flag uint32, on bool) {
	f := c.e.Flags.Load() &^ flag
	if on {
		f |= flag
	}
	c.e.Flags.Store(f)
	c.lagging, c.catching = f&flagLagging != 0, f&flagCatching != 0
}

// patience is how long others wait for it: its own, but none before it has caught up after a start at the tail, and none
// for a tap.
func (c *Cursor) patience() time.Duration {
	if c.tap || c.catching {
		return 0
	}
	return c.Spec().Patience
}

// accepted is how many messages it has taken.
func (e *cursorEntry) accepted(at uint64) uint64 { return at - e.Start.Load() - e.Lost.Load() }

// account is the one that a cursor with this spec is charged to.
func (r *Ring) account(spec *CursorSpec, owed time.Duration) *Account {
	if !spec.Ordinary {
		return &Account{Owed: owed}
	}
	user := spec.UID
	if r.opt.Owner != nil {
		user = r.opt.Owner(user)
	}
	a := r.accounts[user]
	if a == nil {
		a = &Account{Shared: true, user: user}
		r.accounts[user] = a
	}
	a.Owed = max(a.Owed, owed)
	return a
}

// Share finds the share of that name and user; nil: there is none.
func (r *Ring) Share(name string, uid uint32) *Cursor {
	for _, c := range r.cursors {
		if sp := c.Spec(); sp.Share != "" && sp.UID == uid && sp.Share == name {
			return c
		}
	}
	return nil
}
