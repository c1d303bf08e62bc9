// SPDX-License-Identifier: Apache-2.0

package store

import (
	"time"

	"github.com/msgmux/msgmux/activation"
	"github.com/msgmux/msgmux/broker/journal"
	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/internal/sys"
)

// barrierTimeout is how long the service manager may take to read its mail.
const barrierTimeout = 10 * time.Second

// Store is the descriptor store of one channel. Its methods may be called from any goroutine; each says whether it can block.
type Store struct {
	notifier   *activation.Notifier
	log        *journal.Log
	ops        sys.Ops
	keepRights bool
	refuses    bool            // every socket that is received from refuses descriptors; set by Open
	closing    chan struct{}   // one token for each Discard in progress
	settling   chan settlement // descriptors that are finished with
}

// Config says what a Store is made of.
type Config struct {
	Notifier *activation.Notifier // nil without a service manager
	Log      *journal.Log
	Ops      sys.Ops
	Room     int // how many descriptors may wait to be closed in the order in which they came

	// KeepRights is for tests of kernels before 6.16, where no socket can refuse the descriptors that are sent to it.
	KeepRights bool
}

// New makes a Store. It has no descriptors and no goroutines of its own: Run does its work.
func New(c Config) *Store {
	return &Store{notifier: c.Notifier, log: c.Log, ops: c.Ops, keepRights: c.KeepRights,
		closing: make(chan struct{}, maxClosing), settling: make(chan settlement, c.Room)}
}

// Name is what the descriptor of a sink is called in the store; "" if it is not kept there.
func Name(spec *ring.Spec) string {
	switch spec.Kind {
	case ring.Dynamic:
		return activation.SinkName(activation.DatagramSink, spec.ID)
	case ring.Framed:
		return activation.SinkName(activation.ConnectedSink, spec.ID)
	}
	return ""
}

// ClientName is what the descriptor of a connected source is called in the store.
func ClientName(id uint64) string { return activation.SinkName(activation.ConnectedSource, id) }

// Put gives the store a copy of fd. That it is there is certain only after Barrier. It may block.
func (s *Store) Put(name string, fd int) error { return s.notifier.Store(name, fd) }

// Barrier blocks until the service manager has done what it was sent before, for 10 s at most.
func (s *Store) Barrier() error { return s.notifier.Barrier(barrierTimeout) }
