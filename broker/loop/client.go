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
// disconnected. The descriptor is the roster's from then on.
func (r *Roster) Greet(s *ring.Sink, fd int) {
	if !r.greet(s, fd) {
		r.store.Finish(fd, store.Name(s.Spec()))
	}
}

// greet says whether the client is at work; otherwise it is out of the table, and the descriptor is the caller's.
func (r *Roster) greet(s *ring.Sink, fd int) bool {
	r.store.Skip(fd) // the hello, if it is still there: nothing else can be, without an ok
	r.ops.Seam("attach.taken")
	ok := wire.Reply{ID: s.ID(), Label: s.Spec().Label, Epoch: r.ring.Epoch(), Next: s.Cursor().Start(), MaxMessage: r.MaxMessage()}
	if r.ring.Greet(s, fd, ok.Append(nil)) == 0 && r.openConnection(s, fd) {
		return true
	}
	r.forget(s)
	return false
}

// GreetSource is Greet for a connected source.
func (r *Roster) GreetSource(c *ring.Client, fd int) {
	if !r.greetSource(c, fd) {
		r.store.Finish(fd, store.ClientName(c.ID()))
	}
}

func (r *Roster) greetSource(c *ring.Client, fd int) bool {
	r.store.Skip(fd)
	r.ops.Seam("attach.taken")
	ok := wire.Reply{ID: c.ID(), MaxMessage: r.MaxMessage()}.Append(nil)
	if r.ring.GreetClient(c, fd, ok) == 0 && r.addSource(fd, c.ID(), ring.Packets, c) == nil {
		return true
	}
	r.ring.RemoveClient(c)
	return false
}

// reattach puts a connection to work that a predecessor stored; false if it is of no use, and the entry is gone.
func (r *Roster) reattach(s *ring.Sink, fd int) bool {
	if s.Attaching() {
		return r.greet(s, fd)
	}
	if !r.openConnection(s, fd) {
		r.forget(s)
		return false
	}
	return true
}

// reattachSource is reattach for a connected source.
func (r *Roster) reattachSource(c *ring.Client, fd int) bool {
	if c.Attaching() {
		return r.greetSource(c, fd)
	}
	if r.addSource(fd, c.ID(), ring.Packets, c) != nil {
		r.ring.RemoveClient(c)
		return false
	}
	return true
}

// openConnection puts an attached sink to work; false if epoll cannot watch it.
func (r *Roster) openConnection(s *ring.Sink, fd int) bool {
	cookie, _ := sys.SocketCookie(fd)
	o := r.open(s, fd, cookie)
	if !o.watched {
		r.shut(o) // nobody would notice its end
	}
	return o.watched
}

// end finishes with a connected source that has hung up, or (why) that sent what is no packet: then it is told why.
func (r *Roster) end(s *source, why *wire.Error) {
	spec := s.client.Spec()
	if why != nil {
		sys.Reply(s.fd, wire.Reply{Err: why}.Append(nil))
		r.log.Outcomes.Add(why.Code)
		r.log.Limited(r.limiter, spec.UID, "packet:"+why.Code, slog.LevelWarn, journal.EventRefused, "connected source is disconnected: its packet was refused",
			slog.Uint64("uid", uint64(spec.UID)), slog.String("source", spec.Label), slog.String("code", why.Code), slog.String("reason", why.Text))
	}
	r.dropSource(s)
	r.ring.RemoveClient(s.client)
	r.store.Finish(s.fd, store.ClientName(spec.ID))
}
