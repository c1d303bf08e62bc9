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

// Roster is who is in the channel: the ring with its sinks and clients, their sockets, and their labels.
// To hold one is to be on the data thread, so none of its methods blocks or locks, and none may be kept for later.
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

	sources   map[uint64]*source // by key
	queue     []*source          // those that may have something, in the order of their turns
	resting   []*source          // those whose bill allows them no turn yet
	own       []OwnSource        // immutable once the thread runs
	attesting bool               // those that are sockets tell who has sent what comes
	outlets   []*outlet
	byID      map[uint64]*outlet // by the sink's id
	labels    map[string]uint64  // to ids; each sink has one of its own
	acks      int                // outlets of sinks with acknowledgements
	views     int                // and of those in view
	stages    int                // how many sources have a stage
	untold    bool               // some of these are to be told of room, and no event says when they can be
	viewFD    int                // the ring's records, for those in view; -1: see viewErr
	viewErr   error              // why nobody can view them
	lookAt    time.Duration      // by the loop's clock: when the next of them is asked how far it is; 0: none is
	bookkeeping
	weights    sys.Weights
	nextExpiry time.Time // the first of expiries, or before it; the zero Time: there is none

	// Published for other goroutines.
	blocked    blockages
	blockedFor atomic.Int64 // ns, in all, the blockage of now left out
	lagging    sync.Map     // of id to time.Time: since when; an entry goes with the state, or with the sink
	expiries   sync.Map     // of id to time.Time: how long what is kept for a sink, share or source that is away stays
	vacated    Signal
}

// Wish is how a sink wants to read. Asked says that its patience was asked for, and is not the channel's: then a share that it
// joins gets it.
type Wish struct {
	ring.Reading
	Asked bool
	From  wire.Position // everything before it is done, as the sink's own books say; zero: it does not say
}

// Enter puts a sink into the table, from where a successor finds it. A connection is entered attaching: it gets nothing before
// Greet.
func (r *Roster) Enter(spec ring.Spec, how Wish) (*ring.Sink, *wire.Error) {
	if refusal := r.checkFrom(how.From); refusal != nil {
		return nil, refusal
	}
	if how.From != (wire.Position{}) {
		how.Start, how.Knows, how.Had = wire.StartAt(how.From.Epoch, how.From.Seq), true, r.doneBy(how.From)
	}
	if refusal := r.checkShare(&how); refusal != nil {
		return nil, refusal
	}
	spec.Since = time.Now().Unix()
	r.label(&spec)
	s, err := r.ring.Add(spec, how.Reading, spec.Kind == ring.Framed)
	if errors.Is(err, ring.ErrTableFull) {
		delete(r.labels, spec.Label)
		return nil, wire.Refuse(wire.CodeQuota, "the sink table is full; raise --max-sinks")
	}
	if c := s.Cursor(); how.Asked && how.Patience != c.Spec().Patience {
		r.ring.SetPatience(c, how.Patience)
	}
	r.unkeep(s.Cursor().ID())
	r.prune(s.Cursor())
	r.attest()
	r.log.Event(slog.LevelDebug, journal.EventSinkAdded, "sink added", slog.String("sink", spec.Label),
		slog.String("address", spec.Address), slog.Uint64("uid", uint64(spec.UID)))
	r.log.Watchers.Notify(sinkEvent(wire.EventAdded, &spec, 0, 0))
	return s, nil
}

// checkShare refuses a sink that would acknowledge in a share whose others do not, or the other way round: they read from one cursor,
// and what is done is known of all of them in one way.
func (r *Roster) checkShare(how *Wish) *wire.Error {
	if how.Share == "" {
		return nil
	}
	switch c := r.ring.Share(how.Share, how.UID); {
	case c == nil || c.Spec().Ack == how.Ack:
		return nil
	case how.Ack:
		return wire.Refuse(wire.CodeBadOption, "the sinks of share %s do not acknowledge: none of them may", how.Share)
	}
	return wire.Refuse(wire.CodeBadOption, "the sinks of share %s acknowledge: connect to subscribe with ack=yes", how.Share)
}

// EnterSource is Enter for a connected source, which is attaching. A marked one that is known already stays what it is: the id is that
// of its new connection alone.
func (r *Roster) EnterSource(spec ring.ClientSpec) (*ring.Client, *wire.Error) {
	if c := r.marked(spec.Label, spec.UID); c != nil && spec.Marks {
		r.rejoinSource(c, spec)
		return c, nil
	}
	spec.Since = time.Now().Unix()
	c, err := r.ring.AddClient(spec)
	if err != nil {
		return nil, wire.Refuse(wire.CodeQuota, "the table is full; raise --max-clients")
	}
	return c, nil
}

// Open makes a connected datagram socket or, if queue, a message queue the outlet of s. cookie is the kernel's for the
// socket, 0 if that is not known. The descriptor is the roster's from then on.
func (r *Roster) Open(s *ring.Sink, fd int, cookie uint64, queue bool) {
	s.Queue(queue)
	r.open(s, fd, cookie, nil).queue = queue
}

// HasSocket says whether s is connected.
func (r *Roster) HasSocket(s *ring.Sink) bool { return r.byID[s.ID()] != nil }

// Disconnect makes a static sink absent, and finishes with its socket. Its place in the order stays. left is how many messages
// lie unread in the socket at most, or in the queue, and certain whether that many do. They are gone with whoever has it open, so those
// of a socket are counted.
func (r *Roster) Disconnect(s *ring.Sink) (left int, certain bool) {
	if o := r.byID[s.ID()]; o != nil {
		left, certain = r.countLeft(o)
		r.shut(o)
		r.store.Finish(o.fd, "")
	}
	return left, certain
}

// Renew gives a sink new options. What it is, its place in the order and its share stay. A share keeps its patience, unless
// another one was asked for: it is one for all of its sinks. named says that spec.Label was asked for; otherwise the sink keeps
// the one it has.
func (r *Roster) Renew(s *ring.Sink, spec ring.Spec, how Wish, named bool) *wire.Error {
	old, reads := s.Spec(), s.Cursor().Spec()
	if how.Tap != reads.Tap || spec.Frames != old.Frames || spec.Meta != old.Meta || how.Share != reads.Share {
		return wire.Refuse(wire.CodeBadOption, "tap, frames, meta and share of a sink stay as they are: remove it first")
	}
	spec.ID = old.ID
	if !named {
		spec.Label = old.Label
	}
	if r.label(&spec); spec.Label != old.Label {
		delete(r.labels, old.Label)
	}
	if reads.Share != "" && !how.Asked {
		how.Patience = reads.Patience
	}
	r.ring.Update(s, spec, how.CursorSpec)
	r.attest()
	return nil
}

// Drop removes a sink that somebody wants gone, and finishes with its socket. What it has under way goes to the others of its share,
// if it has one.
func (r *Roster) Drop(s *ring.Sink) {
	spec := s.Spec()
	if o := r.byID[spec.ID]; o != nil {
		r.shut(o)
		defer r.store.Finish(o.fd, store.Name(spec))
	}
	if s.Acknowledges() && s.Cursor().Size() > 1 {
		r.leave(s)
		return
	}
	r.forget(s)
}

// Replace finishes with a registered sink in whose place another one has come: its socket is dead, only nobody has noticed yet, or has lost
// its name.
func (r *Roster) Replace(s *ring.Sink) {
	if o := r.byID[s.ID()]; o != nil {
		r.retire(o, errClosed)
		return
	}
	r.Drop(s)
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
	if o.ack {
		r.hearAll(o)
		if _, there := r.settle(o); there {
			r.disconnect(o)
		}
		return
	}
	r.bury(o, why)
	r.shut(o)
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
	r.unlabel(s.Spec())
	c := s.Cursor()
	lost := c.Lost()
	r.log.Watchers.Notify(sinkEvent(wire.EventRemoved, s.Spec(), r.ring.Remove(s), lost))
	r.attest()
	if c.Gone() {
		r.forgetCursor(c)
	}
}

// forgetAll takes all sinks of a cursor out of the table. None of them is connected.
func (r *Roster) forgetAll(c *ring.Cursor) {
	var specs []*ring.Spec
	c.Members(func(s *ring.Sink) bool {
		specs = append(specs, s.Spec())
		return true
	})
	abandoned, lost := r.ring.RemoveAll(c), c.Lost()
	r.attest()
	for _, spec := range specs {
		r.unlabel(spec)
		r.log.Watchers.Notify(sinkEvent(wire.EventRemoved, spec, abandoned, lost))
		abandoned, lost = 0, 0 // they are the cursor's, and told once
	}
	r.forgetCursor(c)
}

func (r *Roster) forgetCursor(c *ring.Cursor) {
	r.lagging.Delete(c.ID())
	r.unkeep(c.ID())
}

// unlabel is for a sink that goes.
func (r *Roster) unlabel(spec *ring.Spec) {
	if r.labels[spec.Label] == spec.ID {
		delete(r.labels, spec.Label)
	}
}

// MaxMessage is the size of the largest message that the ring takes, in bytes.
func (r *Roster) MaxMessage() uint64 { return r.ring.Geometry().MaxMessage }

// Consume is ring.Ring.Consume for a registration of that user, on his bill.
func (r *Roster) Consume(fd int, uid uint32) {
	m := r.meter()
	r.ring.Consume(fd)
	r.chargeUser(uid, m)
}
