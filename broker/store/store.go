// SPDX-License-Identifier: Apache-2.0

package store

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/msgmux/msgmux/activation"
	"github.com/msgmux/msgmux/broker/journal"
	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/internal/sys"
)

// Store is the descriptor store of one channel. Its methods may be called from any goroutine; each says whether it can block.
type Store struct {
	notifier   *activation.Notifier // nil without a service manager
	log        *journal.Log
	ops        sys.Ops
	keepRights bool
	refuses    bool          // every socket that is received from refuses descriptors; set by Open
	closing    chan struct{} // one token for each Discard in progress
	finished   chan int      // descriptors to be closed
	aside      *setAside     // what Commit does; nil: nothing

	proven  bool        // set by Open: the service manager has kept a descriptor for us, so it is worth talking to
	trusted atomic.Bool // as far as is known, it keeps what it is given
	changed chan struct{}
	telling sync.Mutex // held while the service manager is told of one name

	mu     sync.Mutex          // guards what follows
	wanted map[string]*kept    // by name: what the store should hold
	told   map[string]*kept    // what it was told to hold, and may hold therefore
	stale  map[string]struct{} // names of which wanted and told may differ

	witnesses // of the goroutine of Run; before and after it, of whoever runs Open and Settle
}

// kept is a descriptor that the store should hold, or may hold. Whoever is to close it calls Finish first.
type kept struct {
	fd int

	// A file of the ring: it stays open for as long as anybody tells of it, and must not be duplicated, because the guard's lock
	// falls with the first duplicate that is closed (see sys.Guard).
	ring bool
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
		closing: make(chan struct{}, maxClosing), finished: make(chan int, c.Room), changed: make(chan struct{}, 1),
		wanted: make(map[string]*kept), told: make(map[string]*kept), stale: make(map[string]struct{})}
}

// Name is what the descriptor of a sink is called in the store; "" if it is not kept there.
func Name(spec *ring.Spec) string {
	switch spec.Kind {
	case ring.Dynamic:
		return activation.SinkName(activation.DatagramSink, spec.ID)
	case ring.Framed:
		return activation.SinkName(activation.ConnectedSink, spec.Connection())
	}
	return ""
}

// PageName is what the page of a sink in view, or the stage of a source, is called in the store, by the number of its connection.
func PageName(conn uint64) string {
	return activation.SinkName(activation.ViewPage, conn)
}

// ClientName is what the descriptor of a connected source is called in the store.
func ClientName(spec *ring.ClientSpec) string {
	return activation.SinkName(activation.ConnectedSource, spec.Connection())
}

// barrierTimeout is how long the service manager may take to read its mail.
const barrierTimeout = 10 * time.Second

// Put has the store keep a copy of fd, from now until Finish or Forget. That it is there is certain only after Barrier. It may
// block. With an error the service manager does not know of it yet: it is wanted all the same, so that whoever gives it up has
// to call Forget.
//
// While nothing shows that the service manager keeps anything, it is not asked to: what is wanted is stored once it does.
func (s *Store) Put(name string, fd int) error { return s.put(name, kept{fd: fd}) }

func (s *Store) put(name string, k kept) error {
	s.want(name, k)
	if !s.trusted.Load() {
		return nil
	}
	return s.tell(name)
}

// Barrier blocks until the service manager has done what it was sent before, for 10 s at most.
func (s *Store) Barrier() error {
	if !s.trusted.Load() {
		return nil
	}
	return s.notifier.Barrier(barrierTimeout)
}
