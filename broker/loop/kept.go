// SPDX-License-Identifier: Apache-2.0

package loop

import (
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/msgmux/msgmux/broker/journal"
	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/broker/store"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// Kept sinks and marked sources: what stays in the table when a connection goes, until it is back or the time is over. It is as with
// a static sink that is absent; only who may come back for it differs.
//
// The time begins anew with each broker: nobody can come back while none runs.

// keep notes down that what is kept under that id has nobody now, and stays for d.
func (r *Roster) keep(id uint64, d time.Duration) {
	if d != wire.Forever {
		at := time.Now().Add(d)
		r.expiries.Store(id, at)
		r.expireBy(at)
	}
}

// expireBy has expire called by then. The others are not gone through: all that are kept may go away at once.
func (r *Roster) expireBy(at time.Time) {
	if r.nextExpiry.IsZero() || at.Before(r.nextExpiry) {
		r.nextExpiry = at
	}
}

// unkeep is for who is back, or gone. If it was the first to expire, expire finds that out.
func (r *Roster) unkeep(id uint64) { r.expiries.Delete(id) }

// expire removes what was kept for its time.
func (r *Roster) expire(now time.Time) {
	r.nextExpiry = time.Time{}
	r.expiries.Range(func(id, at any) bool {
		switch t := at.(time.Time); {
		case t.After(now):
			r.expireBy(t)
		default:
			r.expiries.Delete(id)
			r.expireOne(id.(uint64))
		}
		return true
	})
}

func (r *Roster) expireOne(id uint64) {
	if c := r.ring.Client(id); c != nil && r.sources[id] == nil {
		spec := c.Spec()
		r.log.Limited(r.verdicts, spec.UID, "over:"+spec.Label, slog.LevelInfo, journal.EventKeptOver, "marked source has not come back in time: its mark is forgotten", slog.String("source", spec.Label),
			slog.Uint64("mark", c.Mark()))
		r.ring.RemoveClient(c)
		return
	}
	if c := r.cursor(id); c != nil && !c.Connected() {
		r.log.Limited(r.verdicts, c.Spec().UID, "over:"+c.Name(), slog.LevelWarn, journal.EventKeptOver, "kept sink has not come back in time: what it has not done is abandoned",
			slog.String("sink", c.Name()), slog.Uint64("abandoned", r.ring.Head().Seq-c.Place().Seq), slog.Uint64("lost", c.Lost()))
		r.forgetAll(c)
	}
}

// cursor is the one with that id, or nil. Most are those of one sink, which has the same id; only for a share all are looked through.
func (r *Roster) cursor(id uint64) *ring.Cursor {
	if s := r.ring.Sink(id); s != nil {
		return s.Cursor()
	}
	for c := range r.ring.Cursors {
		if c.ID() == id {
			return c
		}
	}
	return nil
}

// disconnect finishes with the connection of a sink. A sink with acknowledgements that is kept stays, and so does one of a share that
// leaves something undone while others are there to take it.
func (r *Roster) disconnect(o *outlet) {
	s, spec := o.sink, o.sink.Spec()
	r.shut(o)
	r.leave(s)
	r.store.Finish(o.fd, store.Name(spec))
}

// leave is for a sink whose connection has gone: it stays without one, or nothing is kept for it.
func (r *Roster) leave(s *ring.Sink) {
	c := s.Cursor()
	reads := c.Spec()
	switch {
	case !s.Acknowledges():
		r.forget(s)
		return
	case reads.Keep == 0 && (reads.Share == "" || !c.Connected()):
		r.forgetAll(c) // with what others of the share had left undone
		return
	}
	r.ring.Leave(s)
	if !c.Connected() {
		r.keep(c.ID(), reads.Keep)
		r.log.Limited(r.verdicts, reads.UID, "away:"+c.Name(), slog.LevelInfo, journal.EventAbsent, "kept sink is away",
			slog.String("sink", c.Name()), slog.String("keep", wire.FormatPatience(reads.Keep)))
	}
	r.prune(c)
}

// prune removes the members of a share with acknowledgements that are away and have left nothing undone; the last one stays for the share.
func (r *Roster) prune(c *ring.Cursor) {
	if !c.Spec().Ack || c.Sole() != nil || !c.HasAbsent() {
		return
	}
	c.Members(func(s *ring.Sink) bool {
		if c.Size() > 1 && r.byID[s.ID()] == nil && !s.Attaching() && !r.ring.HasUnderWay(s) {
			r.forget(s)
		}
		return true
	})
}

// Kept is the sink that is kept under that label for a user, nil if there is none. A refusal: somebody else has the label.
func (r *Roster) Kept(label string, uid uint32) (*ring.Sink, *wire.Error) {
	id, taken := r.labels[label]
	s := r.ring.Sink(id)
	switch {
	case !taken:
		return nil, nil
	case s != nil && s.Spec().Kind == ring.Static:
		return nil, r.refuseDeclared(label, uid)
	case s == nil || s.Spec().UID != uid || s.Cursor().Sole() == nil || s.Cursor().Spec().Keep == 0:
		return nil, wire.Refuse(wire.CodeInUse, "another sink is called %q", label)
	}
	return s, nil
}

// refuseDeclared is for somebody who wants the name of a declared sink kept. He may have had it before that was declared: what is kept
// has another name since, which he is told, and not given: it might be what he himself calls another one.
func (r *Roster) refuseDeclared(label string, uid uint32) *wire.Error {
	var also strings.Builder
	for s := range r.ring.Sinks {
		spec := s.Spec()
		if number, ok := strings.CutPrefix(spec.Label, label+"-"); ok && spec.UID == uid && s.Cursor().Spec().Keep > 0 {
			if _, err := strconv.ParseUint(number, 10, 32); err == nil {
				fmt.Fprintf(&also, "; %q is kept for you, and is what had that name if the journal says so: come back by it", spec.Label)
			}
		}
	}
	return wire.Refuse(wire.CodeInUse, "a declared sink is called %q%s", label, &also)
}

// ReserveKept is Reserve for a sink that is to be kept. If it is kept already, id is of its new connection alone. With replace a
// connection that it has does not matter.
func (r *Roster) ReserveKept(spec ring.Spec, how Wish, replace bool) (id uint64, refusal *wire.Error) {
	label := spec.Label
	s, refusal := r.Kept(label, spec.UID)
	switch {
	case refusal != nil:
		return 0, refusal
	case s == nil:
		return r.Reserve(spec.UID, spec.View)
	case r.checkFrom(how.From) != nil:
		return 0, r.checkFrom(how.From)
	case !replace && (r.hears(s) || s.Attaching()):
		return 0, wire.Refuse(wire.CodeInUse, "sink %q is connected; replace=yes takes its place", label)
	}
	o := r.byID[s.ID()] // its page goes when the new connection comes
	if refusal := r.checkSinks(spec.UID, request{memory: spec.View && (o == nil || o.view == nil)}); refusal != nil {
		return 0, refusal
	}
	return r.ring.NewID(), nil
}

// hears says whether somebody has the connection of s. Whose process was killed may be back before its end is noticed.
func (r *Roster) hears(s *ring.Sink) bool {
	o := r.byID[s.ID()]
	return o != nil && !sys.IsHungUp(o.fd)
}

// Rejoin puts a kept sink on a new connection, conn, on which it gets nothing before Greet, and what spec says of how. One that it has
// is told, and ended.
func (r *Roster) Rejoin(s *ring.Sink, conn uint64, spec ring.Spec, how Wish) {
	old, name := r.byID[s.ID()], store.Name(s.Spec())
	if old != nil {
		r.hearAll(old)
		r.shut(old)
	}
	r.ring.Leave(s)
	r.ring.AdvanceTo(s, r.doneBy(how.From)) // before it is back: a successor that finds it attaching tells it where it goes on
	r.ring.Rejoin(s, conn, spec, how.CursorSpec)
	r.attest()
	r.unkeep(s.ID())
	if old != nil {
		r.tell(old, wire.Refuse(wire.CodeInUse, "another connection has taken the place of this one"))
		r.store.Finish(old.fd, name)
	}
}

// doneBy is the number before which everything is done, as a sink says of what it knows in another epoch or in this one. In another
// epoch it has had nothing of this one.
func (r *Roster) doneBy(from wire.Position) uint64 {
	if from.Epoch != r.ring.Epoch() {
		return 0
	}
	return from.Seq
}

// checkFrom refuses what has not been yet.
func (r *Roster) checkFrom(from wire.Position) *wire.Error {
	if head := r.ring.Head().Seq; r.doneBy(from) > head {
		return wire.Refuse(wire.CodeBadOption, "from=%s is beyond the newest message, before %d", from, head)
	}
	return nil
}

// marked is the marked source that is known under that label for a user, nil if there is none.
func (r *Roster) marked(label string, uid uint32) *ring.Client {
	for c := range r.ring.Clients {
		if spec := c.Spec(); spec.Marks && spec.Label == label && spec.UID == uid {
			return c
		}
	}
	return nil
}

// ReserveMarked is ReserveSource for a marked source. If its mark is kept, id is of its new connection alone. Its ok tells how far it
// has come, so what it has sent on the connection before has to be in the ring first.
func (r *Roster) ReserveMarked(label string, uid uint32, replace, stage bool) (id uint64, refusal *wire.Error) {
	c := r.marked(label, uid)
	if c == nil {
		return r.ReserveSource(uid, stage)
	}
	s := r.sources[c.ID()]
	switch {
	case c.Attaching(), s != nil && !s.hushed && !sys.IsHungUp(s.fd):
		if !replace {
			return 0, wire.Refuse(wire.CodeInUse, "source %q is connected; replace=yes takes its place", label)
		}
		if s != nil {
			r.hushSource(s, wire.Refuse(wire.CodeInUse, "another connection has taken the place of this one"))
		}
		return 0, errDraining(label)
	case s != nil, r.ring.Landed() && r.ring.LandedFrom() == c.ID():
		if s != nil {
			r.enqueue(s)
		}
		return 0, errDraining(label)
	}
	if refusal := r.checkSources(uid, request{memory: stage}); refusal != nil {
		return 0, refusal
	}
	return r.ring.NewID(), nil
}

func errDraining(label string) *wire.Error {
	return wire.Refuse(wire.CodeBusy, "what source %q has sent on another connection is still being taken in", label)
}

// hushSource ends a connected source as soon as what it has sent is in.
func (r *Roster) hushSource(s *source, why *wire.Error) {
	s.hushed = true
	sys.Reply(s.fd, wire.Reply{Err: why}.Append(nil))
	r.hushIn(s)
}

// hushIn has everything fail that a source sends from now on. What it has sent is taken in still.
func (r *Roster) hushIn(s *source) {
	sys.Hush(s.fd)
	if s.stage != nil {
		s.stage.words.End()
		s.close()
	}
	r.enqueue(s) // asked once more, whatever epoll has told
}

// rejoinSource puts a marked source on a new connection, the number of which is spec.ID.
func (r *Roster) rejoinSource(c *ring.Client, spec ring.ClientSpec) {
	old := c.Spec()
	spec.Conn, spec.ID, spec.Since = spec.ID, old.ID, old.Since
	r.ring.RejoinClient(c, spec)
	r.unkeep(c.ID())
}

// forgetSource finishes with the entry of a source whose connection has gone. One that is kept stays.
func (r *Roster) forgetSource(c *ring.Client, leaves bool) {
	spec := c.Spec()
	if leaves || !spec.Marks || spec.Keep == 0 {
		r.ring.RemoveClient(c)
		return
	}
	r.ring.LeaveClient(c)
	r.keep(c.ID(), spec.Keep)
}
