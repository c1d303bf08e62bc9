// SPDX-License-Identifier: Apache-2.0

package loop

import (
	"log/slog"

	"github.com/msgmux/msgmux/broker/journal"
	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/broker/store"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// Greet takes the hello of an attaching connection, sends its ok and puts it to work. A client that cannot be sent its ok is
// disconnected. The descriptor is the roster's from then on, and so is the page of a sink in view; nil for others.
func (r *Roster) Greet(s *ring.Sink, fd int, page *Page) {
	defer r.chargeUser(s.Spec().UID, r.meter())
	if !r.greet(s, fd, page) {
		r.store.Finish(fd, store.Name(s.Spec()))
	}
}

// greet says whether the client is at work; otherwise it is out of the table, and the descriptor is the caller's.
func (r *Roster) greet(s *ring.Sink, fd int, page *Page) bool {
	r.store.Skip(fd) // the hello, if it is still there: nothing else can be, without an ok
	r.ops.Seam("attach.taken")
	c := s.Cursor()
	ok := wire.Reply{ID: s.ID(), Label: s.Spec().Label, Epoch: r.ring.Epoch(), Next: c.Start(), MaxMessage: r.MaxMessage()}
	if s.Acknowledges() && c.Sole() != nil {
		ok.Next, ok.Lost = c.Place().Seq, c.Missed()
	}
	if page != nil {
		at := c.Place()
		page.words.Begin(at.Pos, at.Seq)
	}
	if r.ring.Greet(s, fd, ok.Append(nil)) != 0 {
		finish(r, page, s.Spec().Connection())
	} else if r.openConnection(s, fd, page) {
		return true
	}
	r.vanish(s)
	return false
}

// vanish is for a sink whose connection is of no use. One that has nothing under way takes nothing with it: of a share, others may be
// about to be put to work.
func (r *Roster) vanish(s *ring.Sink) {
	if c := s.Cursor(); c.Size() > 1 && !r.ring.HasUnderWay(s) {
		r.forget(s)
		return
	}
	r.leave(s)
}

// GreetSource is Greet for a connected source. stage is nil for one that has none.
func (r *Roster) GreetSource(c *ring.Client, fd int, stage *Stage) {
	defer r.chargeUser(c.Spec().UID, r.meter())
	if !r.greetSource(c, fd, stage) {
		r.store.Finish(fd, store.ClientName(c.Spec()))
	}
}

func (r *Roster) greetSource(c *ring.Client, fd int, stage *Stage) bool {
	r.store.Skip(fd)
	r.ops.Seam("attach.taken")
	ok := wire.Reply{ID: c.ID(), MaxMessage: r.MaxMessage()}
	if c.Spec().Marks {
		ok.Epoch, ok.Mark, ok.Marked = r.ring.Epoch(), c.Mark(), true
	}
	if r.ring.GreetClient(c, fd, ok.Append(nil)) == 0 && r.openSource(c, fd, stage) {
		return true
	}
	finish(r, stage, c.Spec().Connection())
	r.forgetSource(c, false)
	return false
}

// reattach puts a connection to work that a predecessor stored; false if it is of no use, and the entry is gone.
func (r *Roster) reattach(s *ring.Sink, fd int, page *Page) bool {
	if s.Attaching() {
		return r.greet(s, fd, page)
	}
	if !r.openConnection(s, fd, page) {
		r.vanish(s)
		return false
	}
	r.inherit(r.byID[s.ID()])
	return true
}

// reattachSource is reattach for a connected source.
func (r *Roster) reattachSource(c *ring.Client, fd int, stage *Stage) bool {
	if c.Attaching() {
		return r.greetSource(c, fd, stage)
	}
	if !r.openSource(c, fd, stage) {
		finish(r, stage, c.Spec().Connection())
		r.forgetSource(c, false)
		return false
	}
	return true
}

// openSource puts an attached source to work; false if epoll cannot watch it, or it cannot be sent its stage.
func (r *Roster) openSource(c *ring.Client, fd int, stage *Stage) bool {
	return giveStage(fd, stage) && r.addClient(c, fd, stage) == nil
}

// openConnection puts an attached sink to work; false if epoll cannot watch it.
func (r *Roster) openConnection(s *ring.Sink, fd int, page *Page) bool {
	cookie, _ := sys.SocketCookie(fd)
	o := r.open(s, fd, cookie, page)
	if !o.watched {
		r.shut(o) // nobody would notice its end
	}
	return o.watched
}

// end finishes with a connected source that has hung up, or (why) that sent what is no packet: then it is told why.
func (r *Roster) end(s *source, why *wire.Error) { r.endSource(s, why, false) }

// endSource is end; leaves says that nothing is to be kept for the source.
func (r *Roster) endSource(s *source, why *wire.Error, leaves bool) {
	spec := s.client.Spec()
	if s.stage != nil {
		s.stage.words.End()
	}
	if why != nil {
		sys.Reply(s.fd, wire.Reply{Err: why}.Append(nil))
		r.log.Outcomes.Add(why.Code)
		r.log.Limited(r.limiter, spec.UID, "packet:"+why.Code, slog.LevelWarn, journal.EventRefused, "connected source is disconnected: its packet was refused",
			slog.Uint64("uid", uint64(spec.UID)), slog.String("source", spec.Label), slog.String("code", why.Code), slog.String("reason", why.Text))
	}
	r.dropSource(s)
	r.forgetSource(s.client, leaves) // before its stage goes, in which a successor finds whether it leaves
	finish(r, s.stage, spec.Connection())
	r.store.Finish(s.fd, store.ClientName(spec))
}
