// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"errors"
	"fmt"
	"iter"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/broker/ring/mem"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/view"
	"github.com/msgmux/msgmux/internal/wire"
)

// The two files.
//
//	data    | header | published |    room    | ring: Geometry.Size bytes                                             |
//	         0        4096                     65536 \__ mapped twice, back to back: no record is ever split ________/
//
//	state   | header | control | index | cursors | sinks | clients | origins | receive | send | acks, consume, greet | landing zone |
//	                  positions, place   entry     entry   entry     run       mmsghdr   mmsghdr                      batch slots of a
//	                  log,       /4 KiB  /cursor   /sink   /client   /KiB of   iovec     iovec                        message or packet
//	                  totals     of ring                             ring      control   ends
//
// Every section of the state begins on a page of 4096. The ring begins at 65536, for kernels with pages of 16 and 64 KiB map
// nothing in between. Where a section is follows from the geometry alone, so there are no offsets to get wrong. What the
// kernel writes to, after its point of no return, is made present at start and locked: a page that it missed there would lose a
// datagram or deliver it twice. The tables, from the cursors to the origins, only this program writes to. Their pages come, and are
// locked, as they are used: one that cannot be had ends the broker between two stores.
//
// A record in the ring:
//
//	| u32 length | payload ... | pad to 4 |      little-endian; the same bytes that framed peers exchange
//
// A position is a byte offset into the endless sequence of records, with a sequence number beside it. Both only grow;
// position & (Size-1) is the offset in the ring.

const (
	magic      = 0x7875_6d67_736d_0a0d // "\r\nmsgmux", little-endian
	roleData   = 1
	roleState  = 2
	headerSize = 4096
	ringOffset = 64 << 10 // of the ring in the data file

	// MaxBatch is how many datagrams one receive takes at most.
	MaxBatch = 64
	// landingBytes is what the landing zone may take: MaxBatch messages of the default maximum.
	landingBytes = 16 << 20
	// colour is added to each landing slot, so that slots of a power of two do not all fall into the same cache sets.
	colour = 5 * 64

	// MaxSend is how many datagrams one send gives a sink at most: longer bursts wake a sink less often, and beyond
	// 256 nothing more was gained.
	MaxSend = 256
	// sendSlots is the length of the send array: twice MaxSend, so that sinks that are a little apart can share what
	// was built for one of them.
	sendSlots = 2 * MaxSend

	// pieceSize is the part of the ring that has one entry in the index.
	pieceSize = 4096
	// runSize is the part of the ring for which there is one run of origins.
	runSize = 1024
)

// header is the first page of both files. Its shape never changes, whatever the layout.
type header struct {
	Magic      mem.Uint64          // written last: a file without it was never finished
	Layout     mem.Value[uint32]   // of everything behind this page
	Role       mem.Value[uint32]   // data or state
	Generation mem.Value[uint64]   // the two files of a ring carry the same one
	Lock       mem.Value[uint64]   // never written: the byte that the guard's record lock is on
	Geometry   mem.Value[Geometry] // in both files; they must agree
}

const lockOffset = 24 // of header.Lock

// published is what sinks in view read, of other users and without a lock: see package view. Head and tail are those of control.
type published struct {
	Magic      mem.Uint64 // written last
	Ring       mem.Uint64 // where in the file it begins
	Size       mem.Uint64
	Generation mem.Uint64
	Epoch      mem.Uint64
	_          [24]byte

	Head mem.Uint64
	_    [56]byte

	Tail      mem.Uint64
	TailSeq   mem.Uint64
	TailAgain mem.Uint64
}

// Geometry says how large everything is. It is fixed when a ring is made.
type Geometry struct {
	Size       uint64 // of the ring, in bytes: a power of two, at least MinSize
	MaxMessage uint64 // the largest payload taken, in bytes
	MaxSinks   uint64 // how many sinks the table must hold
	MaxClients uint64 // and how many connected sources
}

// Limits of a Geometry, in bytes.
const (
	MinSize        = 1 << 20
	MaxSize        = 1 << 30
	MaxMaxMessage  = 4 << 20
	minMaxMessage  = 1
	maxMaxSinks    = 1 << 20
	sharesPerTable = 4 // one cursor more for every so many sinks, and 64 more
)

// Check says what is wrong with g, or nil.
func (g Geometry) Check() error {
	switch {
	case g.Size < MinSize || g.Size > MaxSize || g.Size&(g.Size-1) != 0:
		return fmt.Errorf("buffer of %d bytes: not a power of two from 1M to 1G", g.Size)
	case g.MaxMessage < minMaxMessage || g.MaxMessage > MaxMaxMessage || g.MaxMessage > g.Size/2:
		return fmt.Errorf("maximum message of %d bytes: not from 1 to 4M and half the buffer", g.MaxMessage)
	case g.MaxSinks < 1 || g.MaxSinks > maxMaxSinks:
		return fmt.Errorf("maximum of %d sinks: not from 1 to %d", g.MaxSinks, maxMaxSinks)
	case g.MaxClients > maxMaxSinks:
		return fmt.Errorf("maximum of %d connected sources: not from 0 to %d", g.MaxClients, maxMaxSinks)
	}
	return nil
}

func (g Geometry) batch() int   { return int(min(MaxBatch, max(1, landingBytes/g.MaxMessage))) }
func (g Geometry) pieces() int  { return int(g.Size / pieceSize) }
func (g Geometry) index() int   { return 2 * g.pieces() } // the pieces with tail and head are two, also when the ring is full
func (g Geometry) runs() int    { return int(g.Size / runSize) }
func (g Geometry) sinks() int   { return int(g.MaxSinks) + spareSlots }
func (g Geometry) cursors() int { return int(g.MaxSinks+g.MaxSinks/sharesPerTable) + spareSlots }
func (g Geometry) clients() int { return int(g.MaxClients) + spareSlots }
func (g Geometry) stride() int  { return (g.room()+63)/64*64 + colour }

// spareSlots is how many more entries a table has than it is asked for: for what is on its way in or out.
const spareSlots = 64

// room is what a landing slot holds: the largest message, or the largest packet of a framed source.
func (g Geometry) room() int { return max(wire.Padded(int(g.MaxMessage)), wire.MaxPacket) }

// window is how much of the ring behind head a packet is received into, if there is room.
func (g Geometry) window() uint64 { return min(uint64(g.room()), max(wire.MaxPacket, g.Size/16)) }

// piece is the index entry of 4 KiB of records, at position / pieceSize modulo their number.
type piece struct {
	First mem.Value[Place]  // the record that the piece's first byte belongs to, which may begin before it
	At    mem.Value[uint32] // channel time in ms, modulo 2^32, when a sink last was the first to accept something in it
	_     uint32
}

// place is a position with the sequence number of the record that begins there. Readers of the snapshot read it while the
// data thread, the only writer, changes it.
type place struct {
	Pos mem.Uint64
	Seq mem.Uint64
}

// Place is a position and the sequence number of the record that begins there.
type Place struct{ Pos, Seq uint64 }

func (p *place) load() Place { return Place{p.Pos.Load(), p.Seq.Load()} }

func (p *place) store(v Place) {
	p.Pos.Store(v.Pos)
	p.Seq.Store(v.Seq)
}

// control is the second page of the state: what the data thread changes all the time. Up to Slots its words have their
// places and meanings in every layout, for older programs: see CountGivenUp.
type control struct {
	Word      mem.Uint32 // odd while positions change: readers try again
	_         uint32
	Head      place            // where the next record goes
	Tail      place            // the oldest record kept
	Delivered place            // the furthest cursor, taps left out, that accepting has moved
	Clock     mem.Int64        // channel time in ns: stands still while no broker runs
	NextID    mem.Uint64       // advanced before an id is used; ids are never used again
	Starts    mem.Uint64       // how many brokers have opened this ring
	Since     mem.Value[int64] // when the ring was made, unix seconds; immutable

	Slots  mem.Value[slots]  // which slots of the landing zone wait
	Offset mem.Value[uint64] // bytes of the first of them that are in the ring already; only a packet is taken in parts
	Land   mem.Value[land]   // what is in them
	From   mem.Value[uint64] // the id of the client that it came from; 0: of none

	// Epoch names one life of the numbering: other sequence numbers, another epoch. Immutable.
	Epoch mem.Value[uint64]

	Runs     mem.Value[uint64] // how many runs of origins there have been; number i is in slot i modulo their number
	Received mem.Value[int64]  // when what is landed was received, unix ns; 0: nobody asked for its origin
	Sender   mem.Value[Sender] // and by whom

	// Totals of the channel. Refused counts what never entered, by reason; Gone what removed sinks leave behind.
	Refused       [numReasons]mem.Uint64
	GoneAccepted  mem.Uint64
	GoneLost      mem.Uint64
	GoneAbandoned mem.Uint64
	Uncertain     mem.Uint64

	// Attempts counts brokers that have begun with the registration at the head of the queue. The registrar is its
	// only writer, but for CONSUME, which clears it.
	Attempts mem.Uint32
	_        uint32

	Log opLog

	// Sources are sums of the names of the channel's own sources; 0: free. The number of one is its place here, and 1.
	Sources [MaxSources]mem.Uint64

	GoneLeftOut mem.Uint64 // of GoneLost

	// AsOwn counts what went with the broker's own credentials to sinks that want the senders'.
	AsOwn mem.Uint64

	GoneUnread mem.Uint64 // of GoneAccepted: see cursorEntry.Unread
}

// slots says which slots of the landing zone wait to enter the ring: those from next to landed. Nothing is received while
// there are any. One word, so that it is true at any time.
type slots uint64

func newSlots(next, landed uint32) slots { return slots(next)<<32 | slots(landed) }
func (s slots) landed() uint32           { return uint32(s) }
func (s slots) next() uint32             { return uint32(s >> 32) }

// land says what the landing zone holds: the kind (Datagrams or Packets) in its low half, and above it how many bytes of slot 0
// lie in the ring instead, from Offset bytes before head on; 0 for none.
type land uint64

func newLand(kind, inRing uint32) land { return land(inRing)<<32 | land(kind) }
func (l land) kind() uint32            { return uint32(l) }
func (l land) packet() bool            { return IsPacket(l.kind()) }
func (l land) inRing() uint64          { return uint64(l >> 32) }

// Of control, what never changes.
const (
	deliveredOffset = 40
	slotsOffset     = 88
)

// Reason is why a message was refused.
type Reason int

// The reasons. Their names are in Reason.String.
const (
	TooLarge  Reason = iota // larger than MaxMessage
	BadPacket               // a packet of a framed source that is not records
	numReasons
)

func (r Reason) String() string { return [...]string{"too-large", "bad-packet"}[r] }

// What lies in the landing zone; a source has one of these.
const (
	Datagrams = 1 // each slot is one message
	Packets   = 2 // each slot is a packet of records
	Queues    = 3 // a source only: messages of a POSIX queue, which land like datagrams
	Marked    = 4 // the slot is a packet of records; the mark in front of it is elsewhere, see recvArea
)

// State of an entry.
const (
	free      = iota
	attaching // a connected client that has not got its ok yet
	active
)

// Flags of an entry that change while it is in use.
const (
	flagLagging  = 1 << iota // no longer waited for
	flagCatching             // began at the tail and has not caught up yet: no patience
)

const (
	maxLabel   = 64
	maxAddress = 112
)

// IsPacket says whether what a source sends is packets of records.
func IsPacket(kind uint32) bool { return kind == Packets || kind == Marked }

// said are the things beside its place that a sink with acknowledgements has said.
type said uint32

const (
	saidLeave   said = 1 << iota // it leaves for good
	saidGarbage                  // what is no acknowledgement
)

// cursorEntry is a place in the order that is kept for somebody. Identity is written while State is free and sealed by Sum;
// State, stored last, brings it into being.
type cursorEntry struct {
	Word  mem.Uint32 // odd while the numbers below change: readers try again
	State mem.Uint32
	Flags mem.Uint32
	_     uint32

	Done  place             // everything before it is done with: accepted, acknowledged or lost. It holds the tail
	Sent  place             // of one that acknowledges: how far it was offered on the present connection. Done <= Sent
	Start mem.Value[uint64] // the sequence number it began at; immutable
	Lost  mem.Uint64        // messages
	Owed  mem.Int64         // its account of patience, ns
	Left  mem.Int64         // of a kept one: when its connection went, unix ns; 0: it is there
	Known mem.Uint64        // of a kept one: what it had lost when its connection went

	Identity mem.Value[cursorIdentity]
	Sum      mem.Value[uint64]
	LeftOut  mem.Uint64 // of Lost: messages that were not wanted
	Unread   mem.Uint64 // of what was accepted: what lay unread in sockets that went, see CountUnread
	_        [40]byte
}

// cursorIdentity is what a cursor is, apart from where it stands.
type cursorIdentity struct {
	ID       uint64
	Since    int64  // unix seconds
	Patience int64  // ns
	Keep     int64  // how long it stays when its connection has gone, ns
	UID      uint32 // owner
	Bits     uint32
	NameLen  uint64
	Name     [maxLabel]byte // of the share; none for the cursor of one sink
}

// sinkEntry is a socket that reads from a cursor.
type sinkEntry struct {
	State    mem.Uint32
	Said     mem.Value[said]   // what one that acknowledges has said besides
	Accepted mem.Uint64        // messages, by this very socket
	Acked    mem.Value[uint64] // how far it says that it is done, as it came: see DONE
	From, To place             // of an acknowledging member of a share: what it has under way

	Identity mem.Value[sinkIdentity]
	Sum      mem.Value[uint64]
	_        [64]byte
}

// sinkIdentity is what a sink is.
type sinkIdentity struct {
	ID       uint64
	Cursor   uint64 // its id: of a sink with a cursor of its own the same
	Since    int64  // unix seconds
	Inode    uint32 // of the peer socket; 0 where there is none
	UID      uint32 // owner
	Kind     uint8
	Bits     uint8
	LabelLen uint8
	AddrLen  uint8
	Batch    uint32 // of an acknowledging member of a share: how many messages it gets at once; 0: as many as a packet holds
	Label    [maxLabel]byte
	Addr     [maxAddress]byte
	Conn     uint64 // of a framed one: which connection it is on; its descriptor is stored by that number
	MaxSize  uint32 // of the messages that it wants, bytes; 0: of any
	_        uint32
}

// clientEntry is a connected source.
type clientEntry struct {
	State mem.Uint32
	_     uint32
	Mark  mem.Uint64 // how far it has come in its own input, as of its last packet
	Taken mem.Uint64 // how far its stage has been taken
	Left  mem.Int64  // as of a cursor

	Identity mem.Value[clientIdentity]
	Sum      mem.Value[uint64]
	_        [64]byte
}

// clientIdentity is what a connected source is.
type clientIdentity struct {
	ID       uint64
	Since    int64 // unix seconds
	Keep     int64 // ns
	UID      uint32
	Bits     uint32
	LabelLen uint64
	Label    [maxLabel]byte
	Conn     uint64 // which connection it is on
}

// run is the origin of consecutive messages of one sender in one receive.
type run struct {
	First  mem.Value[uint64] // the sequence number from which on it holds
	Origin mem.Value[origin]
}

// sumOf is FNV-1a over the bytes of an identity: it tells a bit that fell from one that stands.
func sumOf[T any](v *T) uint64 {
	h := uint64(14695981039346656037)
	for _, b := range unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v)) {
		h = (h ^ uint64(b)) * 1099511628211
	}
	return h
}

// controlSpace is room for the credentials of a sender, and for the descriptors that hostile sources send along: without it the
// kernel would close them inside recvmmsg, which can take seconds.
const controlSpace = (sys.ControlSpace + 63) / 64 * 64

// recvArea is what recvmmsg writes into, the landing zone left out.
type recvArea struct {
	Hdr     [MaxBatch]mem.Header
	Iov     [MaxBatch]mem.Iovec
	Control [MaxBatch]mem.Value[[controlSpace]byte]

	// Priority[i] is written by mq_timedreceive for the message that it puts into slot i.
	Priority [MaxBatch]mem.Value[uint32]

	// PacketIov is where a packet goes, slot 0: its mark, if it has one; into the ring, and what has no place there into the
	// landing zone.
	PacketIov [3]mem.Iovec
	Mark      mem.Value[[wire.MarkSize]byte]
}

// sendArea is what sendmmsg reads and writes. Ends[i] is where a cursor stands once slot i was accepted.
type sendArea struct {
	Hdr  [sendSlots]mem.Header
	Iov  [sendSlots]mem.Iovec
	Ends [sendSlots]mem.Value[Place]

	// A framed sink gets one packet a turn: a header, the origins if it asked for them, and a piece of the ring.
	Packet       [1]mem.Header
	PacketIov    [3]mem.Iovec
	PacketEnd    [1]mem.Value[Place]
	PacketHeader mem.Value[[wire.MetaHeader]byte]
}

// maxAcks is how many acknowledgements are taken at once. Only the last one counts.
const maxAcks = 16

// ackArea is what taking acknowledgements reads and writes.
type ackArea struct {
	Hdr     [maxAcks]mem.Header
	Iov     [maxAcks]mem.Iovec
	Control [maxAcks]mem.Value[[controlSpace]byte]
	Buf     [maxAcks]mem.Value[[2 * wire.AckSize]byte] // more than an acknowledgement has, so that a longer packet shows
}

// consumeArea is what taking a registration from its socket writes into.
type consumeArea struct {
	Hdr     [1]mem.Header
	Iov     [1]mem.Iovec
	Control mem.Value[[controlSpace]byte]
	Buf     mem.Value[[8]byte] // a registration that is consumed has been read already
}

// greetArea is what telling a client that it is attached reads and writes.
type greetArea struct {
	Hdr [1]mem.Header
	Iov [1]mem.Iovec
	Buf mem.Value[[maxGreeting]byte] // the last: it may have another size in another version
}

// sections of the state, in bytes from the start of the file.
type sections struct {
	control, index, cursors, sinks, clients, origins, recv, send, acks, consume, greet, landing, end int64
}

func pages(n uintptr) int64 { return (int64(n) + headerSize - 1) / headerSize * headerSize }

func (g Geometry) sections() (s sections) {
	s.control = headerSize
	s.index = s.control + pages(unsafe.Sizeof(control{}))
	s.cursors = s.index + pages(uintptr(g.index())*unsafe.Sizeof(piece{}))
	s.sinks = s.cursors + pages(uintptr(g.cursors())*unsafe.Sizeof(cursorEntry{}))
	s.clients = s.sinks + pages(uintptr(g.sinks())*unsafe.Sizeof(sinkEntry{}))
	s.origins = s.clients + pages(uintptr(g.clients())*unsafe.Sizeof(clientEntry{}))
	s.recv = s.origins + pages(uintptr(g.runs())*unsafe.Sizeof(run{}))
	s.send = s.recv + pages(unsafe.Sizeof(recvArea{}))
	s.acks = s.send + pages(unsafe.Sizeof(sendArea{}))
	s.consume = s.acks + pages(unsafe.Sizeof(ackArea{}))
	s.greet = s.consume + pages(unsafe.Sizeof(consumeArea{}))
	s.landing = s.greet + pages(unsafe.Sizeof(greetArea{}))
	s.end = s.landing + pages(uintptr(g.batch()*g.stride()))
	return s
}

// DataBytes is the size of the data file.
func (g Geometry) DataBytes() int64 { return ringOffset + int64(g.Size) }

// StateBytes is the size of the state. All of it but pages of the tables that are not in use is locked in memory.
func (g Geometry) StateBytes() int64 { return g.sections().end }

// Layouts that others depend on; a change must raise the layout number.
const (
	_ = -(unsafe.Offsetof(header{}.Lock) ^ lockOffset)
	_ = -(unsafe.Offsetof(control{}.Delivered) ^ deliveredOffset)
	_ = -(unsafe.Offsetof(control{}.Slots) ^ slotsOffset)
	_ = -(unsafe.Offsetof(published{}.Magic) ^ view.MagicAt)
	_ = -(unsafe.Offsetof(published{}.Ring) ^ view.RingAt)
	_ = -(unsafe.Offsetof(published{}.Size) ^ view.SizeAt)
	_ = -(unsafe.Offsetof(published{}.Generation) ^ view.GenerationAt)
	_ = -(unsafe.Offsetof(published{}.Epoch) ^ view.EpochAt)
	_ = -(unsafe.Offsetof(published{}.Head) ^ view.HeadAt)
	_ = -(unsafe.Offsetof(published{}.Tail) ^ view.TailAt)
	_ = -(unsafe.Offsetof(published{}.TailSeq) ^ view.TailSeqAt)
	_ = -(unsafe.Offsetof(published{}.TailAgain) ^ view.TailAgainAt)
)

// at is the object of type T at offset off of b.
func at[T any](b []byte, off int64) *T { return (*T)(unsafe.Pointer(&b[off])) }

// slice is n objects of type T at offset off of b.
func slice[T any](b []byte, off int64, n int) []T {
	return unsafe.Slice((*T)(unsafe.Pointer(&b[off])), n)
}

// inUse are the numbers of those entries of a table that may be in use; the table begins at offset at of the state. A page that nobody has
// written to is not there, and all its entries are free; to look at them would make it.
func inUse[T any](f files, at int64, table []T) iter.Seq[int] {
	return func(yield func(int) bool) {
		size := int64(unsafe.Sizeof(table[0]))
		end := at + int64(len(table))*size
		for next, from := 0, at; from < end; {
			begin, behind, err := sys.NextData(f.stateFD, from)
			if errors.Is(err, unix.ENXIO) {
				return
			} else if err != nil { // that cannot be told
				begin, behind = from, end
			}
			from = behind
			for next = max(next, int((begin-at)/size)); next < len(table) && at+int64(next)*size < behind; next++ {
				if !yield(next) {
					return
				}
			}
		}
	}
}

func (r *Ring) cursorsInUse() iter.Seq[int] {
	return inUse(r.files, r.geo.sections().cursors, r.cursorTable)
}
func (r *Ring) sinksInUse() iter.Seq[int] { return inUse(r.files, r.geo.sections().sinks, r.sinkTable) }
func (r *Ring) clientsInUse() iter.Seq[int] {
	return inUse(r.files, r.geo.sections().clients, r.clientTable)
}

// bind points the kernel's structures to where the mapping is in this process. It does not touch any length: recovery
// has yet to read them.
func (r *Ring) bind() {
	recv, send, stride := r.recv, r.send, r.geo.stride()
	for i := range r.batch {
		recv.Iov[i].Set(r.landing.Slice(uint64(i*stride), r.geo.MaxMessage))
		recv.Hdr[i].Bind(recv.Iov[i:i+1], recv.Control[i].ForKernel()[:])
	}
	for i := range send.Hdr {
		send.Hdr[i].Bind(send.Iov[i:i+1], nil)
	}
	send.Packet[0].Bind(send.PacketIov[:], nil)
	for i := range r.acks.Hdr {
		a := r.acks
		a.Iov[i].Set(a.Buf[i].ForKernel()[:])
		a.Hdr[i].Bind(a.Iov[i:i+1], a.Control[i].ForKernel()[:])
	}
	c := r.consume
	c.Iov[0].Set(c.Buf.ForKernel()[:])
	c.Hdr[0].Bind(c.Iov[:], c.Control.ForKernel()[:])
	g := r.greet
	g.Iov[0].Set(g.Buf.ForKernel()[:])
	g.Hdr[0].Bind(g.Iov[:], nil)
}
