// SPDX-License-Identifier: Apache-2.0

package loop

import (
	"github.com/msgmux/msgmux/broker/store"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/view"
	"github.com/msgmux/msgmux/internal/wire"
)

// Memory is what a client shares with the broker, mapped, and the descriptor of its file. The store keeps that beside the client's
// connection.
type Memory[T mapped] struct {
	words T
	fd    int
}

// mapped is the broker's end of what a client shares with it.
type mapped interface {
	*view.Page | *view.Stage
	End()
	Close()
}

// Page is the page of a sink in view, Stage the stage of a source.
type (
	Page  = Memory[*view.Page]
	Stage = Memory[*view.Stage]
)

// NewPage makes a page. Whoever it is given to owns it.
func NewPage() (*Page, *wire.Error) {
	p, fd, err := view.NewPage()
	if err != nil {
		return nil, wire.Refuse(wire.CodeInternal, "cannot make a page: %v", err)
	}
	return &Page{p, fd}, nil
}

// StageBytes is how much memory a stage for messages of at most so many bytes may take.
func StageBytes(maxMessage uint64) uint64 { return uint64(view.StageSize(maxMessage)) }

// NewStage makes a stage for messages of at most so many bytes. Whoever it is given to owns it.
func NewStage(maxMessage uint64) (*Stage, *wire.Error) {
	s, fd, err := view.NewStage(view.StageSize(maxMessage))
	if err != nil {
		return nil, wire.Refuse(wire.CodeUnsupported, "cannot make a stage: %v", err)
	}
	return &Stage{s, fd}, nil
}

// FD is the descriptor of its file.
func (m *Memory[T]) FD() int { return m.fd }

// Close unmaps it and closes the descriptor. It is for one that no roster has.
func (m *Memory[T]) Close() {
	m.words.Close()
	sys.Close(m.fd)
}

// finish is Close for one that the store has, beside that connection; the client may have it mapped still, and finds there that it is
// over. A nil Memory is none.
func finish[T mapped](r *Roster, m *Memory[T], connection uint64) {
	if m != nil {
		m.words.End()
		m.words.Close()
		r.store.Finish(m.fd, store.PageName(connection))
	}
}
