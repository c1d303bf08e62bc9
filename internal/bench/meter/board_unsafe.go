// SPDX-License-Identifier: Apache-2.0

package meter

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/histogram"
)

// Layout of the board; c/meter.h draws it.
const (
	tallyOffset = 4096
	tallyStride = 20480

	// BoardFD is the descriptor at which every client finds the board.
	BoardFD = 3
)

// Phase is what the driver asks of the source.
type Phase uint32

// The phases of a run, in order.
const (
	Hold    Phase = iota // send nothing
	Trickle              // sequence 0, one each 5 ms, until every sink has had one
	Warm                 // sequence 0 at the rate of the run
	Run                  // sequences 1, 2, ...: what is measured
	Stop                 // the source ends; sinks go on until they are killed
)

// Head is the part of the board that the driver writes.
type Head struct {
	phase   atomic.Uint32
	Sinks   uint32 // receiving sockets in all processes together
	Size    uint64 // payload bytes, at least 16
	Rate    uint64 // messages a second, 0: as fast as they are taken
	Stamped uint32 // 1: payloads carry the time at which they were sent
	_       uint32
}

// Tally is what one process counts; c/meter.h says what each field is. It has
// one writer, which may store plainly; others read through [Read].
type Tally struct {
	Ready, Warm, WarmGot, Count, Gaps, GapLost, Reordered uint64
	Bad, Closed, Done, Began, Ended                       uint64
	Hist                                                  histogram.Histogram
}

// Read reads a counter that another process is changing.
func Read(p *uint64) uint64 { return atomic.LoadUint64(p) }

// Write stores a counter that another process reads, after all that came before.
func Write(p *uint64, v uint64) { atomic.StoreUint64(p, v) }

// Board is the mapped memfd.
type Board struct {
	*Head
	mem []byte
}

// Phase and SetPhase read and set what is asked of the source.
func (h *Head) Phase() Phase     { return Phase(h.phase.Load()) }
func (h *Head) SetPhase(p Phase) { h.phase.Store(uint32(p)) }

// Create makes a board with tallies for the source and procs sink processes,
// and returns its descriptor, which the caller owns, as well.
func Create(procs int) (*Board, int, error) {
	fd, err := unix.MemfdCreate("bench-board", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, -1, fmt.Errorf("cannot create board: %w", err)
	}
	if err := unix.Ftruncate(fd, tallyOffset+tallyStride*int64(procs+1)); err != nil {
		unix.Close(fd)
		return nil, -1, fmt.Errorf("cannot size board: %w", err)
	}
	b, err := Map(fd)
	if err != nil {
		unix.Close(fd)
		return nil, -1, err
	}
	return b, fd, nil
}

// Map maps the board behind fd, which stays the caller's.
func Map(fd int) (*Board, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("cannot inspect board: %w", err)
	}
	if st.Size < tallyOffset+tallyStride {
		return nil, fmt.Errorf("cannot map board: descriptor %d is no board", fd)
	}
	mem, err := unix.Mmap(fd, 0, int(st.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("cannot map board: %w", err)
	}
	return &Board{Head: (*Head)(unsafe.Pointer(&mem[0])), mem: mem}, nil
}

// Tally is the one of a slot: 0 the source, 1 and up the sink processes.
func (b *Board) Tally(slot int) *Tally {
	at := tallyOffset + tallyStride*slot
	return (*Tally)(unsafe.Pointer(&b.mem[at : at+tallyStride][0]))
}

// Close unmaps the board; no tally may be used afterwards.
func (b *Board) Close() error { return unix.Munmap(b.mem) }
