// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"cmp"
	"sync/atomic"

	"github.com/msgmux/msgmux/internal/wire"
)

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
	ID          uint64
	Cursor      uint64 // the id of the cursor that it reads from: its own, or a share's
	Kind        Kind
	Label       string // at most 64 bytes
	Address     string // as a registration has it: @name or /path; at most 112 bytes
	UID         uint32 // owner
	Inode       uint32 // of the peer socket, which is its identity; 0 where there is none
	Frames      bool
	Held        bool   // of a registered one: somebody else has made its socket, and UID has proved to hold it
	Meta        bool   // of frames: each packet tells the origins of its messages
	View        bool   // of frames: it is sent none, and reads the ring itself
	Form        Form   // of its messages, if it has no frames
	Credentials bool   // without frames: each message carries the credentials of who has sent it
	Batch       uint32 // of a member of a share that acknowledges: how many messages it gets at once; 0: as many as a packet holds
	Conn        uint64 // see Connection; 0: the first
	Since       int64  // unix seconds
}

// Connection is the number of the connection that a framed sink is on, or was on last: its own id, or one of later on. Its
// descriptor is stored by that number.
func (s *Spec) Connection() uint64 { return cmp.Or(s.Conn, s.ID) }

// asks says whether the sink asks for origins.
func (s *Spec) asks() bool { return s.Meta || s.Credentials }

// Bits of sinkIdentity.Bits.
const (
	bitFrames      = 1 << 0
	bitNoEmpty     = 1 << 1
	endShift       = 2 // from here on, in two bits, a wire.End
	bitMeta        = 1 << 4
	bitCredentials = 1 << 5
	bitView        = 1 << 6
	bitHeld        = 1 << 7
	bitsKnown      = 1<<8 - 1
)

func (s *Spec) identity() (i sinkIdentity) {
	i.ID, i.Cursor, i.Since = s.ID, s.Cursor, s.Since
	i.Inode, i.UID, i.Kind, i.Batch, i.Conn = s.Inode, s.UID, uint8(s.Kind), s.Batch, s.Conn
	i.Bits, i.MaxSize = uint8(s.Form.End)<<endShift, s.Form.MaxSize
	for bit, set := range map[uint8]bool{bitFrames: s.Frames, bitNoEmpty: s.Form.NoEmpty, bitMeta: s.Meta,
		bitCredentials: s.Credentials, bitView: s.View, bitHeld: s.Held} {
		if set {
			i.Bits |= bit
		}
	}
	i.LabelLen = uint8(copy(i.Label[:], s.Label))
	i.AddrLen = uint8(copy(i.Addr[:], s.Address))
	return i
}

// spec reads an identity back. ok is false if its bytes cannot have been written by this program.
func (i *sinkIdentity) spec() (s Spec, ok bool) {
	if i.LabelLen > maxLabel || i.AddrLen > maxAddress || Kind(i.Kind) < Dynamic || Kind(i.Kind) > Framed || i.ID == 0 || i.Cursor == 0 ||
		i.Bits&^bitsKnown != 0 || wire.End(i.Bits>>endShift&3) > wire.EndNone {
		return s, false
	}
	return Spec{ID: i.ID, Cursor: i.Cursor, Kind: Kind(i.Kind), Label: string(i.Label[:i.LabelLen]), Address: string(i.Addr[:i.AddrLen]),
		UID: i.UID, Inode: i.Inode, Frames: i.Bits&bitFrames != 0, Meta: i.Bits&bitMeta != 0, View: i.Bits&bitView != 0, Held: i.Bits&bitHeld != 0, Credentials: i.Bits&bitCredentials != 0,
		Form: Form{NoEmpty: i.Bits&bitNoEmpty != 0, End: wire.End(i.Bits >> endShift & 3), MaxSize: i.MaxSize}, Batch: i.Batch, Conn: i.Conn, Since: i.Since}, true
}

// Sink is a socket that reads from a cursor.
//
// Spec, Cookie, Cursor, Queue, Took, SeenTo and Stall may be used on any goroutine, all else by the data thread alone.
type Sink struct {
	spec    atomic.Pointer[Spec]
	cookie  atomic.Uint64
	stalled atomic.Bool
	queue   atomic.Bool // a POSIX message queue
	seen    atomic.Pointer[Look]
	slot    int
	e       *sinkEntry
	cursor  *Cursor

	frames bool
	form   Form
	meta   bool
	view   bool
	passes bool   // see Spec.Credentials
	asOwn  uint64 // messages before that number go as the broker's own: see refused
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

// Acknowledges says whether it says how far it is done.
func (s *Sink) Acknowledges() bool { return s.cursor.ack }

// Leaving says whether it has said that it leaves for good.
func (s *Sink) Leaving() bool { return s.e.Said.Load()&saidLeave != 0 }

// HasUnderWay says whether it was sent something on its connection that it has not said to be done with.
func (r *Ring) HasUnderWay(s *Sink) bool {
	begin, end := r.underWay(s)
	return begin.Seq < end.Seq
}

// CountUnread writes down that n messages, which s had accepted, lay unread in its socket when that went. One word, so there is
// nothing to log: killed before, they are not counted. They stay accepted.
func (r *Ring) CountUnread(s *Sink, n uint64) {
	if n > 0 {
		s.cursor.e.Unread.Store(s.cursor.e.Unread.Load() + n)
	}
}

// Took is how many messages the socket of s has accepted. It may be used on any goroutine.
func (s *Sink) Took() uint64 { return s.e.Accepted.Load() }

// Look is what somebody saw in the queue of a sink's socket, the other end being there.
type Look struct {
	Took uint64 // what Took was before
	Left int    // unread bytes, as the kernel counts them
	Same bool   // the look before has seen the same: nothing was sent or read in between
}

// SeenTo notes a look. It may be used on any goroutine.
func (s *Sink) SeenTo(took uint64, left int) {
	last := s.seen.Load()
	look := Look{Took: took, Left: left, Same: last != nil && last.Took == took && last.Left == left}
	if last == nil || *last != look {
		news := look // which is allocated here, and not for each look that is the same
		s.seen.Store(&news)
	}
}

// Seen is the last look, nil if there was none.
func (s *Sink) Seen() *Look { return s.seen.Load() }

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
	} else {
		s.cursor.tryAgain()
	}
	s.cursor.connected += by
	if !s.cursor.tap {
		r.receivers += by
	}
}
