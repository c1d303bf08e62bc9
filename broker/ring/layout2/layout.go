// SPDX-License-Identifier: Apache-2.0

package layout2

import "fmt"

// The two files.
//
//	data    | header page | ring: Geometry.Size bytes                                                     |
//	         \__ page ___/ \__ mapped twice, back to back: no record and no packet is ever split ________/
//
//	state   | header page | control page | index | table | receive | send | consume, greet | landing zone |
//	                       positions,      u32+u32 entry   headers   headers           batch slots of a
//	                       log, totals     /record /sink             ends              message or packet
//
// Every section begins on a page, and where it is follows from the geometry alone. A record in the ring:
//
//	| u32 length | payload ... | pad to 4 |      little-endian
//
// A position is a byte offset into the endless sequence of records, with a sequence number beside it; position & (Size-1)
// is the offset in the ring.

const (
	magic     = 0x7875_6d67_736d_0a0d // "\r\nmsgmux", little-endian
	number    = 2                     // of the layout
	roleData  = 1
	roleState = 2
	page      = 4096

	minSize       = 1 << 20
	maxSize       = 1 << 30
	maxMaxMessage = 4 << 20
	maxMaxSinks   = 1 << 20

	bytesPerEntry = 256      // the index has one entry for so many bytes of the ring
	maxBatch      = 64       // datagrams in one receive
	landingBytes  = 16 << 20 // what the landing zone may take
	colour        = 5 * 64   // added to each landing slot
	maxPacket     = 64 << 10 // of a framed source
	recordHeader  = 4
	sendSlots     = 512
	controlSpace  = 2048 // of control data, for each datagram
	sinkHeader    = 16   // of a packet to a sink
	maxGreeting   = 64
	maxLabel      = 64
	maxAddress    = 112
	numReasons    = 2

	// untouched is what a message's length is preset to: any other value was written by the kernel.
	untouched = 0xffffffff
)

// header is the first page of both files.
type header struct {
	Magic      uint64 // written last: a file without it was never finished
	Layout     uint32
	Role       uint32
	Generation uint64
	Lock       uint64 // the byte that the guard's record lock is on (sys.Guard)
	Geometry   Geometry
}

// LockOffset is the byte of the state file that the guard's record lock is on; see sys.Guard.
const LockOffset = 24

// Geometry says how large everything is.
type Geometry struct {
	Size       uint64 // of the ring, in bytes: a power of two
	MaxMessage uint64 // the largest payload taken, in bytes
	MaxSinks   uint64 // how many sinks the table holds
	MaxClients uint64 // and how many connected sources
}

func (g Geometry) check() error {
	switch {
	case g.Size < minSize || g.Size > maxSize || g.Size&(g.Size-1) != 0:
		return fmt.Errorf("buffer of %d bytes", g.Size)
	case g.MaxMessage < 1 || g.MaxMessage > maxMaxMessage || g.MaxMessage > g.Size/2:
		return fmt.Errorf("maximum message of %d bytes", g.MaxMessage)
	case g.MaxSinks < 1 || g.MaxSinks > maxMaxSinks:
		return fmt.Errorf("maximum of %d sinks", g.MaxSinks)
	case g.MaxClients > maxMaxSinks:
		return fmt.Errorf("maximum of %d connected sources", g.MaxClients)
	}
	return nil
}

func (g Geometry) batch() uint64   { return min(maxBatch, max(1, landingBytes/g.MaxMessage)) }
func (g Geometry) entries() uint64 { return g.Size / bytesPerEntry }
func (g Geometry) slots() uint64   { return g.MaxSinks + g.MaxSinks/4 + 64 + g.MaxClients }
func (g Geometry) stride() uint64  { return (g.room()+63)/64*64 + colour }

// room is what a landing slot holds: the largest message, or the largest packet of a framed source.
func (g Geometry) room() uint64 { return max(padded(uint32(g.MaxMessage)), maxPacket) }

// padded is the size of a record whose payload has n bytes.
func padded(n uint32) uint64 { return (recordHeader + uint64(n) + 3) &^ 3 }

// Place is a position, in bytes, and the sequence number of the record that begins there. Both only grow.
type Place struct{ Pos, Seq uint64 }

// indexEntry is one record, at sequence number & (entries-1).
type indexEntry struct {
	Words uint32 // position / 4, modulo 2^32
	At    uint32 // channel time in ms, modulo 2^32, when a sink first accepted it; valid once delivered is past it
}

// control is the second page of the state.
type control struct {
	Word      uint32
	_         uint32
	Head      Place // where the next record goes
	Tail      Place // the oldest record kept
	Delivered Place // the furthest cursor, taps left out, that accepting has moved
	Clock     int64 // ns
	NextID    uint64
	Starts    uint64
	Since     int64

	// The landing zone: slots wait in [Next, Landed).
	Landed uint32
	Next   uint32
	Offset uint64 // bytes of slot Next that are in the ring already; only a framed packet is taken in parts
	Land   land

	Refused       [numReasons]uint64
	GoneAccepted  uint64
	GoneLost      uint64
	GoneAbandoned uint64
	Uncertain     uint64
	Attempts      uint32
	_             uint32

	Log    opLog
	Staged identity // UPDATE: what the entry's identity will be
}

// land says what lies in the landing zone: the kind in its low half, and above it the split: how many bytes of slot 0 the
// kernel puts into the ring, from Offset bytes before head on, instead of into the landing zone; 0 for none.
type land uint64

func newLand(kind, split uint32) land { return land(split)<<32 | land(kind) }
func (l land) kind() uint32           { return uint32(l) }
func (l land) split() uint64          { return uint64(l >> 32) }

// opLog is the operation log: one entry, of absolute values that hold once the operation is over.
type opLog struct {
	Phase uint32
	Slot  uint32 // the entry that changes; of a send the one with the cursor
	By    uint32 // SEND, PUT: the sink that takes the messages: a member of a share, or Slot itself
	First uint32 // SEND: the first slot of the send array
	Count uint32 // SEND: how many slots
	Kind  uint32 // SEND: datagrams or a packet
	Base  uint64 // SEND, PUT: what By had accepted before
	From  uint64 // SEND: the sequence number that the cursor stood at

	Place Place  // APPEND: head. SKIP, PUT: the cursor. TAIL: tail
	Other Place  // TAIL: delivered. PUT: where the cursor stood
	Lost  uint64 // SKIP: what the sink has lost. REMOVE: GoneLost
	Acc   uint64 // REMOVE: GoneAccepted
	Left  uint64 // REMOVE: GoneAbandoned
	Maybe uint64 // TAKE, PUT: what Uncertain will be if the outcome is not known

	Next    uint32 // APPEND: where the landing zone goes on
	_       uint32
	Offset  uint64
	Refused [numReasons]uint64
}

// State of an entry.
const (
	free      = 0
	attaching = 1 // a connected client that has not got its ok yet
	active    = 2
)

// Flags of an entry.
const (
	flagLagging  = 1
	flagCatching = 2
)

// entry is one sink, one client, or one share.
type entry struct {
	Word  uint32
	State uint32
	Flags uint32
	_     uint32

	Cursor   Place
	Start    uint64
	Lost     uint64
	Accepted uint64 // kept for members of a share only
	Owed     int64  // ns

	Identity identity
	Sum      uint64
}

// identity is what an entry is, apart from where its cursor stands.
type identity struct {
	ID       uint64
	Share    uint64
	Since    int64
	Patience int64
	Inode    uint32
	UID      uint32
	Kind     uint8
	Bits     uint8
	LabelLen uint8
	AddrLen  uint8
	GroupLen uint32
	Label    [maxLabel]byte
	Group    [maxLabel]byte
	Addr     [maxAddress]byte
}

// Bits of identity.Bits.
const (
	bitTap = 1 << iota
	bitFrames
	bitOrdinary
)

// message is struct mmsghdr of recvmmsg(2). Its addresses mean nothing here, and are only numbers.
type message struct {
	_     [40]byte // name, iov, control
	_     uint64   // length of the control data
	Flags int32
	_     uint32
	Len   uint32 // what the kernel wrote, or untouched
	_     uint32
}

type iovec [2]uint64

// receiving is what recvmmsg writes into, the landing zone left out.
type receiving struct {
	Hdr       [maxBatch]message
	_         [maxBatch]iovec
	_         [maxBatch][controlSpace]byte
	Priority  [maxBatch]uint32 // written by mq_timedreceive for the message in each slot
	PacketIov [2]iovec
}

// sending is what sendmmsg reads and writes. Ends[i] is where a cursor stands once slot i was accepted.
type sending struct {
	Hdr       [sendSlots]message
	_         [sendSlots]iovec
	Ends      [sendSlots]Place
	Packet    [1]message
	_         [2]iovec
	PacketEnd [1]Place
	_         [sinkHeader]byte
}

// consuming is what taking a registration from its socket writes into.
type consuming struct {
	Hdr message
	_   iovec
	_   [controlSpace]byte
	_   [8]byte
}

// greeting is what telling a client that it is attached reads and writes.
type greeting struct {
	Hdr message
	_   iovec
	_   [maxGreeting]byte
}
