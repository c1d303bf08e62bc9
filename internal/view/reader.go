// SPDX-License-Identifier: Apache-2.0

package view

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// Reader is a sink's end. It is for one goroutine at a time, but for Say, which is for another one at a time.
type Reader struct {
	page *Page
	ring ring
	pos  uint64 // what comes next
	seq  uint64

	sleeps   uint64 // how many times it has gone to sleep
	answered uint64 // the last Ask that was answered
	fence    atomic.Uint64
}

// ring is a ring, mapped for reading.
type ring struct {
	header []byte
	twice  []byte

	head, tail, tailSeq, tailAgain *atomic.Uint64
	size, generation               uint64
}

// ErrBroken means that what a ring publishes cannot be.
var ErrBroken = errors.New("what the ring publishes cannot be")

// maxRing is the largest ring that is mapped, in bytes: twice that of addresses are taken.
const maxRing = 1 << 40

func openRing(fd int) (r ring, err error) {
	size, err := sys.FileSize(fd)
	if err != nil || size < PublishedAt+4096 || !sys.IsFixed(fd) {
		return r, fmt.Errorf("cannot map the ring: a file of %d bytes, or not a sealed one (%w)", size, err)
	}
	if r.header, err = sys.MapReadOnly(fd, 0, PublishedAt+4096); err != nil {
		return r, fmt.Errorf("cannot map the ring: %w", err)
	}
	word := func(at int) *atomic.Uint64 { return sys.Word(r.header, PublishedAt+at) }
	at, n := word(RingAt).Load(), word(SizeAt).Load()
	if word(MagicAt).Load() != Magic || n < 4096 || n > maxRing || n&(n-1) != 0 || at%65536 != 0 || at > uint64(size) || n > uint64(size)-at {
		sys.Unmap(r.header)
		return r, fmt.Errorf("%w: %d bytes from %d on, in a file of %d", ErrBroken, n, at, size)
	}
	if r.twice, err = sys.MapTwiceReadOnly(fd, int64(at), int(n)); err != nil {
		sys.Unmap(r.header)
		return r, fmt.Errorf("cannot map the ring, which takes %d MiB of addresses: %w", 2*n>>20, err)
	}
	r.head, r.tail, r.tailSeq, r.tailAgain = word(HeadAt), word(TailAt), word(TailSeqAt), word(TailAgainAt)
	r.size, r.generation = n, word(GenerationAt).Load()
	return r, nil
}

func (r *ring) close() {
	sys.Unmap(r.header)
	sys.UnmapTwice(r.twice)
}

// NewReader maps the ring in the file data and the page in the file page, which stay the caller's, and begins where the page
// says.
func NewReader(data, page int) (*Reader, error) {
	r := &Reader{}
	var err error
	if r.ring, err = openRing(data); err != nil {
		return nil, err
	}
	if r.page, err = OpenPage(page); err != nil {
		r.ring.close()
		return nil, err
	}
	r.pos, r.seq = r.page.start.Load(), r.page.startSeq.Load()
	return r, nil
}

// Move goes on in the ring in the file data, which stays the caller's: a later one with the same numbers and positions, or the same
// one once more.
func (r *Reader) Move(data int) error {
	to, err := openRing(data)
	if err != nil {
		return err
	}
	if to.generation == r.ring.generation {
		to.close()
		return nil
	}
	r.ring.close()
	r.ring = to
	return nil
}

// Stale says whether the broker has sent another ring than this one, which did not come.
func (r *Reader) Stale() bool {
	given := r.page.given.Load()
	return given != 0 && given != r.ring.generation
}

// Over says whether the broker has ended the connection.
func (r *Reader) Over() bool { return r.page.over.Load() != 0 }

// Close unmaps everything.
func (r *Reader) Close() {
	r.ring.close()
	r.page.Close()
}

// Next is the number of the record that comes next.
func (r *Reader) Next() uint64 { return r.seq }

// Head is the position behind the last record that is published.
func (r *Reader) Head() uint64 { return r.ring.head.Load() }

// More says whether there is anything to be read, up to a position.
func (r *Reader) More(limit uint64) bool { return min(r.ring.head.Load(), limit) > r.pos }

// Batch is what Read has copied.
type Batch struct {
	First uint64 // the number of the first record
	Count int
	Size  int    // of the records, in bytes, from the beginning of the buffer on
	Bytes int    // of their payloads
	Lost  uint64 // how many records have been lost before the first, as the sink was left behind
	Need  int    // how long the buffer must be for the next record, if there is one and it is too short for it
}

// Read copies the records that come next into buf, as many as it holds of those before the position limit. None, and no Need: there is
// nothing. The error is ErrBroken.
//
//	load head | copy up to there | fence | load tail: what was copied is believed only if the tail is not beyond its beginning
func (r *Reader) Read(buf []byte, limit uint64) (b Batch, err error) {
	for {
		head := min(r.ring.head.Load(), limit)
		if r.ring.tail.Load() > r.pos {
			lost, sure := r.jump()
			if b.Lost += lost; !sure {
				return b, nil
			}
			continue
		}
		if head == r.pos || head < r.pos && limit < r.pos {
			return b, nil
		}
		there := head - r.pos
		if there > r.ring.size {
			return b, fmt.Errorf("%w: head is at %d, and the sink at %d", ErrBroken, head, r.pos)
		}
		n := min(there, uint64(len(buf)))
		copy(buf[:n], r.ring.twice[r.pos&(r.ring.size-1):])
		if r.overtaken() {
			continue
		}
		return b, r.whole(&b, buf[:n], there)
	}
}

// Peek is Read without the copy: records are where they lie in the ring, at most so many bytes of them or a single one. What is made of
// them counts only if Keep says afterwards that they were not overwritten meanwhile: until then they may change at any time.
func (r *Reader) Peek(limit, most uint64) (b Batch, records []byte, err error) {
	for {
		head := min(r.ring.head.Load(), limit)
		if r.ring.tail.Load() > r.pos {
			lost, sure := r.jump()
			if b.Lost += lost; !sure {
				return b, nil, nil
			}
			continue
		}
		if head == r.pos || head < r.pos && limit < r.pos {
			return b, nil, nil
		}
		there := head - r.pos
		if there > r.ring.size {
			return b, nil, fmt.Errorf("%w: head is at %d, and the sink at %d", ErrBroken, head, r.pos)
		}
		at := r.ring.twice[r.pos&(r.ring.size-1):][:there:there]
		b.First, b.Count, b.Size, b.Bytes = r.seq, 0, 0, 0
		broken := there < wire.RecordHeader
		for rest := at; len(rest) >= wire.RecordHeader; rest = at[b.Size:] {
			n := uint64(binary.LittleEndian.Uint32(rest))
			size := wire.Padded(n)
			if broken = size > uint64(len(rest)); broken || b.Count > 0 && uint64(b.Size)+size > most {
				break
			}
			b.Count, b.Size, b.Bytes = b.Count+1, b.Size+int(size), b.Bytes+int(n)
		}
		switch {
		case r.overtaken():
			continue
		case broken:
			return b, nil, fmt.Errorf("%w: record %d ends beyond head", ErrBroken, r.seq+uint64(b.Count))
		}
		return b, at[:b.Size:b.Size], nil
	}
}

// Keep says whether what Peek has returned is there still, and goes on behind it if so. Otherwise the next Read or Peek tells what has
// been lost.
func (r *Reader) Keep(b Batch) (whole bool) {
	if r.overtaken() {
		return false
	}
	r.pos += uint64(b.Size)
	r.seq += uint64(b.Count)
	return true
}

// overtaken says whether what has been read from pos on may have been overwritten meanwhile.
//
// A load may come before loads that stand in front of it. An atomic store does not (release), nor does an atomic load come before
// an atomic store: on Arm a store with release and LDAR, on x86 an XCHG.
func (r *Reader) overtaken() bool {
	publish(&r.fence, 1)
	return r.ring.tail.Load() > r.pos
}

// whole counts the records of a copy that are there as a whole.
func (r *Reader) whole(b *Batch, buf []byte, there uint64) error {
	b.First = r.seq
	for len(buf)-b.Size >= wire.RecordHeader {
		n := uint64(binary.LittleEndian.Uint32(buf[b.Size:]))
		size := wire.Padded(n)
		if size > there-uint64(b.Size) {
			return fmt.Errorf("%w: record %d of %d bytes ends beyond head", ErrBroken, r.seq, n)
		}
		if size > uint64(len(buf)-b.Size) {
			if b.Count == 0 {
				b.Need = int(size)
			}
			break
		}
		b.Count, b.Size, b.Bytes = b.Count+1, b.Size+int(size), b.Bytes+int(n)
	}
	switch {
	case b.Count > 0 || b.Need > 0:
	case there < wire.RecordHeader:
		return fmt.Errorf("%w: record %d has %d bytes before head", ErrBroken, r.seq, there)
	default:
		b.Need = wire.RecordHeader
	}
	r.pos += uint64(b.Size)
	r.seq += uint64(b.Count)
	return nil
}

// jump goes on at the tail: the sink was left behind. lost is how many records lie between. Not sure: the broker is about to store the
// tail, or has died over it.
//
//	broker  store tail | store number | store tail again
//	reader  load tail again | load number | load tail: if both are the same, the number is that of the record there
func (r *Reader) jump() (lost uint64, sure bool) {
	for range 100 {
		again, seq, tail := r.ring.tailAgain.Load(), r.ring.tailSeq.Load(), r.ring.tail.Load()
		if again == tail && seq >= r.seq {
			lost = seq - r.seq
			r.pos, r.seq = tail, seq
			return lost, true
		}
	}
	return 0, false
}

// Say stores how far the sink is done, and says whether the broker asks to be told by an acknowledgement.
func (r *Reader) Say(done uint64) (asked bool) {
	publish(r.page.done, done)
	ask := r.page.ask.Load()
	asked = ask != r.answered
	r.answered = ask
	return asked
}

// Sleep says in the page that the sink sleeps, and whether it may: nothing has come meanwhile. What it is done with it has said.
func (r *Reader) Sleep() (may bool) {
	r.sleeps++
	publish(r.page.sleep, r.sleeps)
	return r.ring.head.Load() == r.pos
}

// Wake says that the sink does not sleep any more.
func (r *Reader) Wake() { publish(r.page.sleep, 0) }
