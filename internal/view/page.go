// SPDX-License-Identifier: Apache-2.0

package view

import (
	"fmt"
	"sync/atomic"

	"github.com/msgmux/msgmux/internal/sys"
)

// Page is the page of a sink, mapped. What the other end writes there is whatever it likes.
type Page struct {
	memory []byte

	done, sleep, ask, given, start, startSeq, over *atomic.Uint64
}

// NewPage makes a page, and the file that it is in, whose size nobody can change. The caller owns the descriptor.
func NewPage() (p *Page, fd int, err error) {
	if fd, err = sys.CreateMemfd("msgmux-view", PageSize); err != nil {
		return nil, -1, err
	}
	if p, err = OpenPage(fd); err != nil {
		sys.Close(fd)
		return nil, -1, err
	}
	return p, fd, nil
}

// OpenPage maps the page in the file fd, which stays the caller's.
func OpenPage(fd int) (*Page, error) {
	if size, err := sys.FileSize(fd); err != nil || size != PageSize || !sys.IsFixed(fd) {
		return nil, fmt.Errorf("cannot use descriptor %d as a page: want a sealed memfd of %d bytes (%d, %w)", fd, PageSize, size, err)
	}
	m, err := sys.Map(fd, 0, PageSize)
	if err != nil {
		return nil, fmt.Errorf("cannot map a page: %w", err)
	}
	word := func(at int) *atomic.Uint64 { return sys.Word(m, at) }
	return &Page{m, word(DoneAt), word(SleepAt), word(AskAt), word(GivenAt), word(StartAt), word(StartSeqAt), word(OverAt)}, nil
}

// Close unmaps it. Nobody may use it any more.
func (p *Page) Close() { sys.Unmap(p.memory) }

// Done is how far the sink says that it is done. Another load may say something else.
func (p *Page) Done() uint64 { return p.done.Load() }

// Sleeps is the number with which the sink has gone to sleep, 0 if it has not.
func (p *Page) Sleeps() uint64 { return p.sleep.Load() }

// Ask asks the sink to send an acknowledgement when it has stored Done next. What it has stored before may be there by now: the
// caller looks again.
func (p *Page) Ask() { publish(p.ask, p.ask.Load()+1) }

// Given is the generation of the ring that the sink has been sent, as far as that is known.
func (p *Page) Given() uint64 { return p.given.Load() }

// Give notes that it has been sent.
func (p *Page) Give(generation uint64) { p.given.Store(generation) }

// End tells a sink that is busy, and does not look, that its connection is over.
func (p *Page) End() { publish(p.over, 1) }

// Begin says where the sink begins. Everything before is done.
func (p *Page) Begin(pos, seq uint64) {
	p.start.Store(pos)
	p.startSeq.Store(seq)
	p.done.Store(seq)
}
