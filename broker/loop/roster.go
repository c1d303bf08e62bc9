// SPDX-License-Identifier: Apache-2.0

package loop

import (
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/msgmux/msgmux/broker/journal"
	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/broker/store"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// Roster is who is in the channel: the ring with its sinks and clients, their sockets, their labels, and how many each user
// has. To hold one is to be on the data thread, so none of its methods blocks or locks, and none may be kept for later.
//
// A sink's life: Reserve, Enter, Open; then retire, if its socket is found dead, or Drop, if somebody wants it gone.
type Roster struct {
	ring   *ring.Ring
	ops    sys.Ops
	store  *store.Store
	log    *journal.Log
	limits Limits

	ep       *sys.Epoll
	wake     *sys.Eventfd
	limiter  journal.Limiter // of lines that sinks and sources cause
	verdicts journal.Limiter // of those about patience

	sources    map[uint64]*source // by key
	queue      []*source          // those that may have something, in the order of their turns
	ownSources uint64             // how many are no connections
	outlets    []*outlet
	byID       map[uint64]*outlet // by the sink's id
	labels     map[string]uint64  // to ids; each sink has one of its own
	perUser    map[uint32]int     // sinks

	// Published for other goroutines.
	blocked    blockages
	blockedFor atomic.Int64 // ns, in all, the blockage of now left out
	lagging    sync.Map     // of id to time.Time: since when; an entry goes with the state, or with the sink
	vacated    Signal
}

// Reserve checks the limits for one more sink of a user, and returns an id for it that nobody else has or will have. Nothing is
// kept for it: the table may be full when it is entered. Sinks that are absent count: nobody asks when they are back.
func (r *Roster) Reserve(uid uint32) (id uint64, refusal *wire.Error) {
	switch n := len(r.labels) + 1; {
	case uint64(n) > r.ring.Geometry().MaxSinks:
		return 0, wire.Refuse(wire.CodeQuota, "there are %d sinks already, as many as --max-sinks allows", n-1)
	case uint64(n)*r.limits.QueueBytes > r.limits.QueueTotal:
		return 0, wire.Refuse(wire.CodeQuota, "%d sinks with %d bytes of queue each are all that --queue-total allows", n-1, r.limits.QueueBytes)
	case r.limits.Ordinary(uid) && r.perUser[uid] >= r.limits.PerUser:
		return 0, wire.Refuse(wire.CodeQuota, "user %d has %d sinks already, as many as --max-sinks-per-user allows", uid, r.perUser[uid])
	}
	return r.ring.NewID(), nil
}

// ReserveSource is Reserve for a connected source.
func (r *Roster) ReserveSource(uid uint32) (id uint64, refusal *wire.Error) {
	all, own := 0, 0
	for c := range r.ring.Clients {
		if all++; c.Spec().UID == uid {
			own++
		}
	}
	switch {
	case uint64(all) >= r.ring.Geometry().MaxClients:
		return 0, wire.Refuse(wire.CodeQuota, "there are %d connected sources already, as many as --max-clients allows", all)
	case r.limits.Ordinary(uid) && own >= r.limits.PerUser:
		return 0, wire.Refuse(wire.CodeQuota, "user %d has %d connected sources already, as many as --max-sinks-per-user allows", uid, own)
	}
	return r.ring.NewID(), nil
}

// Wish is how a sink wants to read. Asked says that its patience was asked for, and is not the channel's: then a share that it
// joins gets it.
type Wish struct {
	ring.Reading
	Asked bool
}

// Enter puts a sink into the table, from where a successor finds it. A connection is entered attaching: it gets nothing before
// Greet.
func (r *Roster) Enter(spec ring.Spec, how Wish) (*ring.Sink, *wire.Error) {
	spec.Since = time.Now().Unix()
	spec.Label = r.unique(spec.Label, spec.ID)
	s, err := r.ring.Add(spec, how.Reading, spec.Kind == ring.Framed)
	if errors.Is(err, ring.ErrTableFull) {
		return nil, wire.Refuse(wire.CodeQuota, "the sink table is full; raise --max-sinks")
	}
	if c := s.Cursor(); how.Asked && how.Patience != c.Spec().Patience {
		r.ring.SetPatience(c, how.Patience)
	}
	r.count(&spec)
	r.log.Event(slog.LevelDebug, journal.EventSinkAdded, "sink added", slog.String("sink", spec.Label),
		slog.String("address", spec.Address), slog.Uint64("uid", uint64(spec.UID)))
	r.log.Watchers.Notify(sinkEvent(wire.EventAdded, &spec, 0, 0))
	return s, nil
}

// EnterSource is Enter for a connected source, which is attaching.
func (r *Roster) EnterSource(spec ring.ClientSpec) (*ring.Client, *wire.Error) {
	spec.Since = time.Now().Unix()
	c, err := r.ring.AddClient(spec)
	if err != nil {
		return nil, wire.Refuse(wire.CodeQuota, "the table is full; raise --max-clients")
	}
	return c, nil
}

// count takes a sink that is in the table into the books.
func (r *Roster) count(spec *ring.Spec) {
	r.labels[spec.Label] = spec.ID
	r.perUser[spec.UID]++
}

// Open makes a connected datagram socket or, if queue, a message queue the outlet of s. cookie is the kernel's for the
// socket, 0 if that is not known. The descriptor is the roster's from then on.
func (r *Roster) Open(s *ring.Sink, fd int, cookie uint64, queue bool) {
	s.Queue(queue)
	r.open(s, fd, cookie).queue = queue
}

// HasSocket says whether s is connected.
func (r *Roster) HasSocket(s *ring.Sink) bool { return r.byID[s.ID()] != nil }

// Disconnect makes a static sink absent, and finishes with its socket. Its place in the order stays.
func (r *Roster) Disconnect(s *ring.Sink) {
	if o := r.byID[s.ID()]; o != nil {
		r.shut(o)
		r.store.Finish(o.fd, "")
	}
}

// Renew gives a sink new options. What it is, its place in the order and its share stay. A share keeps its patience, unless
// another one was asked for: it is one for all of its sinks. named says that spec.Label was asked for; otherwise the sink keeps
// the one it has.
func (r *Roster) Renew(s *ring.Sink, spec ring.Spec, how Wish, named bool) *wire.Error {
	old, reads := s.Spec(), s.Cursor().Spec()
	if how.Tap != reads.Tap || spec.Frames != old.Frames || how.Share != reads.Share {
		return wire.Refuse(wire.CodeBadOption, "tap, frames and share of a sink stay as they are: remove it first")
	}
	spec.ID = old.ID
	if !named {
		spec.Label = old.Label
	}
	if spec.Label != old.Label {
		delete(r.labels, old.Label)
		spec.Label = r.unique(spec.Label, spec.ID)
		r.labels[spec.Label] = spec.ID
	}
	if reads.Share != "" && !how.Asked {
		how.Patience = reads.Patience
	}
	r.ring.Update(s, spec, how.CursorSpec)
	return nil
}

// Drop removes a sink that somebody wants gone, and finishes with its socket.
func (r *Roster) Drop(s *ring.Sink) {
	spec := s.Spec()
	if o := r.byID[spec.ID]; o != nil {
		r.shut(o)
		defer r.store.Finish(o.fd, store.Name(spec))
	}
	r.forget(s)
}

// RetireID is for whoever finds out that the socket of the sink with that id is closed at the other end.
func (r *Roster) RetireID(id uint64) {
	if o := r.byID[id]; o != nil {
		r.retire(o, errClosed)
	}
}

// retire finishes with a socket that is dead: its sink is gone with it, unless it is a static one.
func (r *Roster) retire(o *outlet, why syscall.Errno) {
	spec := o.sink.Spec()
	r.shut(o)
	r.log.Event(slog.LevelDebug, journal.EventSinkGone, "sink is gone", slog.String("sink", spec.Label), slog.String("why", why.Error()))
	if spec.Kind == ring.Static {
		r.store.Finish(o.fd, "")
		r.vacated.Raise()
		return
	}
	r.forget(o.sink)
	r.store.Finish(o.fd, store.Name(spec))
}

// forget takes a sink out of the table.
func (r *Roster) forget(s *ring.Sink) {
	spec := s.Spec()
	if r.labels[spec.Label] == spec.ID {
		delete(r.labels, spec.Label)
	}
	if r.perUser[spec.UID]--; r.perUser[spec.UID] <= 0 {
		delete(r.perUser, spec.UID)
	}
	c := s.Cursor()
	lost := c.Lost()
	r.log.Watchers.Notify(sinkEvent(wire.EventRemoved, spec, r.ring.Remove(s), lost))
	if c.Gone() {
		r.lagging.Delete(c.ID())
	}
}

// MaxMessage is the size of the largest message that the ring takes, in bytes.
func (r *Roster) MaxMessage() uint64 { return r.ring.Geometry().MaxMessage }

// Consume is ring.Ring.Consume.
func (r *Roster) Consume(fd int) { r.ring.Consume(fd) }
