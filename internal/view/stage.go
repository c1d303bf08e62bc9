// SPDX-License-Identifier: Apache-2.0

package view

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"

	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// The words of a stage, from the beginning of its file on, little-endian u64. Each has one writer.
const (
	StageHeadAt  = 0  // of the source: the position behind what it has written
	StageWantAt  = 8  // of the source: before it waits for room a number that it has not used before
	StageLeaveAt = 16 // of the source: not 0 if nothing is to be kept for it

	StageMagicAt = 64 // of the broker: StageMagic
	StageRingAt  = 72 // where in the file the stage's ring begins
	StageSizeAt  = 80 // of that: a power of two
	StageGivenAt = 88 // not 0 once the source has been sent the file

	StageTakenAt = 128 // of the broker: the position up to which it has taken what was written
	StageSleepAt = 192 // of the broker: before it sleeps a number that it has not used before
	StageOverAt  = 200 // of the broker: not 0 once it has ended the connection, where the source finds why
)

// StageMagic is the word at StageMagicAt: "muxstag1".
const StageMagic = 0x31_67_61_74_73_78_75_6d

const (
	// stageRing is where the ring of a stage begins: kernels with larger pages can map it there, too.
	stageRing = 65536
	// minStage is the size of the smallest ring of a stage, in bytes.
	minStage = 1 << 20
	// StageMark is, in the place of a record's length, the first word of a mark.
	StageMark = 0xffffffff
	// StageMarkSize is how many bytes a mark takes: StageMark, 4 that mean nothing, and the mark.
	StageMarkSize = 16
)

// stage is a stage as both ends map it.
type stage struct {
	words []byte
	twice []byte // the ring, back to back
	size  uint64

	head, want, leave, given, taken, sleep, over *atomic.Uint64
}

func openStage(fd int, ring func(fd int, at int64, size int) ([]byte, error)) (s stage, err error) {
	size, err := sys.FileSize(fd)
	n := size - stageRing
	if err != nil || n < minStage || n&(n-1) != 0 || !sys.IsFixed(fd) {
		return s, fmt.Errorf("cannot use descriptor %d as a stage: a file of %d bytes, or not a sealed one (%w)", fd, size, err)
	}
	if s.words, err = sys.Map(fd, 0, PageSize); err != nil {
		return s, fmt.Errorf("cannot map a stage: %w", err)
	}
	if s.twice, err = ring(fd, stageRing, int(n)); err != nil {
		sys.Unmap(s.words)
		return s, fmt.Errorf("cannot map a stage, which takes %d MiB of addresses: %w", 2*n>>20, err)
	}
	word := func(at int) *atomic.Uint64 { return sys.Word(s.words, at) }
	s.size = uint64(n)
	s.head, s.want, s.leave = word(StageHeadAt), word(StageWantAt), word(StageLeaveAt)
	s.given, s.taken, s.sleep, s.over = word(StageGivenAt), word(StageTakenAt), word(StageSleepAt), word(StageOverAt)
	return s, nil
}

func (s *stage) close() {
	sys.Unmap(s.words)
	sys.UnmapTwice(s.twice)
}

// Stage is the broker's end of a stage. What the source writes there is whatever it likes, in every word, and may change at any time.
type Stage struct {
	stage
	sleeps, answered uint64
}

// StageSize is the size of the ring of a stage for messages of at most maxMessage bytes: a half holds any, so that a source that waits
// for that much gets it.
func StageSize(maxMessage uint64) int64 {
	n := int64(minStage)
	for uint64(n)/2 < wire.Padded(maxMessage)+StageMarkSize {
		n *= 2
	}
	return n
}

// NewStage makes a stage whose ring has size bytes, and the file that it is in, whose size nobody can change. The caller owns the
// descriptor.
func NewStage(size int64) (s *Stage, fd int, err error) {
	if fd, err = sys.CreateMemfd("msgmux-stage", stageRing+size); err != nil {
		return nil, -1, err
	}
	if s, err = OpenStage(fd); err != nil {
		sys.Close(fd)
		return nil, -1, err
	}
	sys.Word(s.words, StageRingAt).Store(stageRing)
	sys.Word(s.words, StageSizeAt).Store(s.size)
	sys.Word(s.words, StageMagicAt).Store(StageMagic)
	return s, fd, nil
}

// OpenStage maps the stage in the file fd, which stays the caller's.
func OpenStage(fd int) (*Stage, error) {
	s, err := openStage(fd, sys.MapTwiceReadOnly)
	if err != nil {
		return nil, err
	}
	return &Stage{stage: s, sleeps: s.sleep.Load()}, nil
}

// Close unmaps it. Nobody may use it any more.
func (s *Stage) Close() { s.close() }

// Size is how many bytes its ring has.
func (s *Stage) Size() uint64 { return s.size }

// Head is how far the source says that it has written. Another load may say something else.
func (s *Stage) Head() uint64 { return s.head.Load() }

// Bytes are what lies in the ring from pos on, n bytes of at most its size. They may change while they are read.
func (s *Stage) Bytes(pos, n uint64) []byte {
	at := pos & (s.size - 1)
	return s.twice[at : at+n : at+n]
}

// StagedSize is how many bytes a record takes in a stage, or a mark, that begins with b, and which of them it is.
func StagedSize(b []byte) (n uint64, mark bool) {
	if n = uint64(binary.LittleEndian.Uint32(b)); n == StageMark {
		return StageMarkSize, true
	}
	return wire.Padded(n), false
}

// Take says how far the broker has taken what was written: what lies before may be overwritten.
func (s *Stage) Take(pos uint64) { publish(s.taken, pos) }

// Wants says whether the source waits for room and has not been told since that there is some. It is to be called after Take.
func (s *Stage) Wants() bool {
	n := s.want.Load()
	if n == s.answered {
		return false
	}
	s.answered = n
	return n != 0
}

// Sleep says in the stage that the broker sleeps, and whether it may: nothing has come behind pos meanwhile.
func (s *Stage) Sleep(pos uint64) (may bool) {
	s.sleeps++
	publish(s.sleep, s.sleeps)
	return s.head.Load() == pos
}

// Leaves says whether the source wants nothing to be kept for it.
func (s *Stage) Leaves() bool { return s.leave.Load() != 0 }

// Given says whether the source has been sent the file, as far as that is known; Give notes that it has.
func (s *Stage) Given() bool { return s.given.Load() != 0 }

// Give notes that the source has been sent the file.
func (s *Stage) Give() { s.given.Store(1) }

// End tells a source that is busy, and does not look, that its connection is over.
func (s *Stage) End() { publish(s.over, 1) }

// Writer is the source's end of a stage. It is for one goroutine at a time.
type Writer struct {
	stage
	pos, gone    uint64 // behind what has been written, and how much of that has been taken, as of the last look
	woken, wants uint64
}

// NewWriter maps the stage in the file fd, which stays the caller's.
func NewWriter(fd int) (*Writer, error) {
	s, err := openStage(fd, sys.MapTwice)
	if err != nil {
		return nil, err
	}
	w := &Writer{stage: s}
	if at, n := sys.Word(s.words, StageRingAt).Load(), sys.Word(s.words, StageSizeAt).Load(); sys.Word(s.words, StageMagicAt).Load() != StageMagic || at != stageRing || n != s.size {
		s.close()
		return nil, fmt.Errorf("%w: a stage of %d bytes from %d on", ErrBroken, n, at)
	}
	w.pos, w.gone = s.head.Load(), s.taken.Load()
	return w, nil
}

// Close unmaps it. What was written is taken still.
func (w *Writer) Close() { w.close() }

// Most is how many bytes of records can be put at once.
func (w *Writer) Most() int { return int(w.size/2) - StageMarkSize }

// Put writes records, and behind them a mark if marked says so, and publishes them together. It says whether there was room: if not,
// nothing has happened. wake says that the broker sleeps, and is to be sent a packet; or that it ends the connection, which that packet
// tells for certain: then it may not have found what was put.
func (w *Writer) Put(records []byte, mark uint64, marked bool) (done, wake bool) {
	n := uint64(len(records))
	if marked {
		n += StageMarkSize
	}
	if !w.fits(n) {
		return false, false
	}
	at := w.pos & (w.size - 1)
	copy(w.twice[at:], records)
	if marked {
		b := w.twice[at+uint64(len(records)):]
		binary.LittleEndian.PutUint64(b, StageMark)
		binary.LittleEndian.PutUint64(b[8:], mark)
	}
	w.pos += n
	publish(w.head, w.pos)
	if sleeps := w.sleep.Load(); sleeps != w.woken || w.Over() {
		w.woken, wake = sleeps, true
	}
	return true, wake
}

// Unwoken is for when the broker could not be sent the packet: the next Put says so once more.
func (w *Writer) Unwoken() { w.woken-- }

// fits says whether there is room for n bytes.
func (w *Writer) fits(n uint64) bool {
	if w.pos-w.gone+n > w.size {
		w.gone = w.taken.Load()
	}
	return w.pos-w.gone+n <= w.size
}

// Want says in the stage that the source waits for room for n bytes of records, with or without a mark, and whether it has to: there is
// none yet.
func (w *Writer) Want(n int) (must bool) {
	w.wants++
	publish(w.want, w.wants)
	return !w.fits(uint64(n) + StageMarkSize)
}

// Taken says whether everything has been taken.
func (w *Writer) Taken() bool { return w.taken.Load() == w.pos }

// Leave says that nothing is to be kept for the source. Its connection is to be closed after that.
func (w *Writer) Leave() { publish(w.leave, 1) }

// Over says whether the broker has ended the connection.
func (w *Writer) Over() bool { return w.over.Load() != 0 }
