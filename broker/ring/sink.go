// SPDX-License-Identifier: Apache-2.0

package ring

import "sync/atomic"

// Kind is how a sink came to be.
type Kind uint8

// The kinds. Their numbers are part of the layout.
const (
	Dynamic Kind = 1 + iota // a datagram socket that was registered at run time
	Static                  // a declared datagram socket or POSIX message queue
	Framed                  // a connection to the subscribe socket
)

func (k Kind) String() string {
	if k < Dynamic || k > Framed {
		return "unknown"
	}
	return [...]string{"dynamic", "static", "framed"}[k-1]
}

// Spec is what a sink is. It is immutable: Update replaces it.
type Spec struct {
	ID      uint64
	Cursor  uint64 // the id of the cursor that it reads from: its own, or a share's
	Kind    Kind
	Label   string // at most 64 bytes
	Address string // as a registration has it: @name or /path; at most 112 bytes
	UID     uint32 // owner
	Inode   uint32 // of the peer socket, which is its identity; 0 where there is none
	Frames  bool
	Since   int64 // unix seconds
}

// Bits of sinkIdentity.Bits.
const bitFrames = 1

func (s *Spec) identity() (i sinkIdentity) {
	i.ID, i.Cursor, i.Since = s.ID, s.Cursor, s.Since
	i.Inode, i.UID, i.Kind = s.Inode, s.UID, uint8(s.Kind)
	if s.Frames {
		i.Bits = bitFrames
	}
	i.LabelLen = uint8(copy(i.Label[:], s.Label))
	i.AddrLen = uint8(copy(i.Addr[:], s.Address))
	return i
}

// spec reads an identity back. ok is false if its bytes cannot have been written by this program.
func (i *sinkIdentity) spec() (s Spec, ok bool) {
	if i.LabelLen > maxLabel || i.AddrLen > maxAddress || Kind(i.Kind) < Dynamic || Kind(i.Kind) > Framed || i.ID == 0 || i.Cursor == 0 {
		return s, false
	}
	return Spec{ID: i.ID, Cursor: i.Cursor, Kind: Kind(i.Kind), Label: string(i.Label[:i.LabelLen]), Address: string(i.Addr[:i.AddrLen]),
		UID: i.UID, Inode: i.Inode, Frames: i.Bits&bitFrames != 0, Since: i.Since}, true
}

// Sink is a socket that reads from a cursor.
//
// Spec, Cookie, Cursor, Queue and Stall may be used on any goroutine, all else by the data thread alone.
type Sink struct {
	spec    atomic.Pointer[Spec]
	cookie  atomic.Uint64
	stalled atomic.Bool
	queue   atomic.Bool // a POSIX message queue
	slot    int
	e       *sinkEntry
	cursor  *Cursor

	frames bool
	self   bool   // its socket is connected
	burst  uint64 // how many datagrams it is offered at once
	cannot uint64 // 1 + the number of the message that its socket can never take: see TooLarge
	room   uint64 // how long the packets are that its socket takes, as far as known
}

// Spec is what the sink is.
func (s *Sink) Spec() *Spec { return s.spec.Load() }

// ID tells the sink from all others, past and future.
func (s *Sink) ID() uint64 { return s.Spec().ID }

// Cursor is the one that it reads from.
func (s *Sink) Cursor() *Cursor { return s.cursor }

// Cookie is what Connect was told, 0 while the socket is not connected.
func (s *Sink) Cookie() uint64 { return s.cookie.Load() }

// Queue says that what the sink's messages go to is a POSIX message queue, and no socket.
func (s *Sink) Queue(yes bool) { s.queue.Store(yes) }

// Stall says, for the snapshot, whether the socket is full.
func (s *Sink) Stall(yes bool) {
	if s.stalled.Load() != yes {
		s.stalled.Store(yes)
	}
}

// Attaching says whether it is a framed client that has not got its ok yet.
func (s *Sink) Attaching() bool { return s.e.State.Load() == attaching }

// Connect says that the socket of s can take messages, or (false) that it cannot just now. The cookie is the kernel's
// for that socket.
func (r *Ring) Connect(s *Sink, yes bool, cookie uint64) {
	s.cookie.Store(cookie)
	if s.self == yes {
		return
	}
	s.self = yes
	by := -1
	if yes {
		by = 1
	}
	s.cursor.connected += by
	if !s.cursor.tap {
		r.receivers += by
	}
}
