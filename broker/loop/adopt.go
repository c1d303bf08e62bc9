// SPDX-License-Identifier: Apache-2.0

package loop

import (
	"log/slog"

	"github.com/msgmux/msgmux/activation"
	"github.com/msgmux/msgmux/broker/journal"
	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/broker/store"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/view"
)

// Peer is what is at the other end of a registered sink's socket. Inode and Cookie are 0 where they are not known.
type Peer struct {
	Inode  uint32
	Cookie uint64 // of the broker's own end
	Dead   bool   // or not what it was: of no use
}

// Adopt joins the descriptors that a predecessor stored with the entries of the table. Each is made to match: a descriptor
// without an entry is taken out of the store and closed; an entry without a descriptor is removed and its account closed; of
// two descriptors for one peer, the second goes. look tells of the socket of a registered sink what it is connected to.
//
// salvaged are the sinks and connected sources of a ring that was set aside: those whose descriptors are there begin anew in the new one, and so
// do static ones, which have none. The folder connects these by and by; what is received until then waits for them.
func (r *Roster) Adopt(stored []activation.Stored, salvaged store.Salvaged, look func(fd int, spec *ring.Spec) Peer) {
	at := entries{make(map[uint64]*ring.Sink), make(map[uint64]*ring.Client), make(map[uint64]ring.Salvaged), make(map[uint64]int)}
	stored = r.adoptPages(stored, at.pages)
	for s := range r.ring.Sinks {
		r.labels[s.Spec().Label] = s.ID()
		at.sinks[s.Spec().Connection()] = s
	}
	for c := range r.ring.Clients {
		at.clients[c.Spec().Connection()] = c
	}
	// Before anything is entered: the entry of a share needs an id of its own. And a descriptor that is of no use is taken
	// out of the store by its name, sooner or later: nobody else may be stored by that name meanwhile.
	for _, d := range stored {
		r.ring.Reserve(d.ID)
	}
	for _, old := range salvaged.Sinks {
		r.ring.Reserve(old.Spec.ID)
		r.ring.Reserve(old.Conn)
		// What acknowledges knows the numbers of the ring that was set aside: it has to connect again, and is told the epoch.
		if !old.Ack {
			at.known[old.Connection()] = old
		}
	}
	for _, c := range salvaged.Clients {
		r.ring.Reserve(c.ID)
		r.ring.Reserve(c.Conn)
		r.reviveClient(c, at)
	}
	seen := make(map[uint32]bool)
	for _, d := range stored {
		if !r.claim(d, at, seen, look) {
			r.store.Finish(d.FD, d.Name)
		}
	}
	for conn, fd := range at.pages {
		r.store.Finish(fd, store.PageName(conn)) // nobody has come for it
	}
	for _, old := range salvaged.Sinks {
		if (old.Kind == ring.Static || old.Keep > 0) && r.ring.Sink(old.Spec.ID) == nil {
			r.revive(old)
		}
	}
	r.forgetLost()
}

// entries are what stored descriptors may belong to, by the number of the connection, or the id of what is none.
type entries struct {
	sinks   map[uint64]*ring.Sink
	clients map[uint64]*ring.Client
	known   map[uint64]ring.Salvaged
	pages   map[uint64]int // descriptors of the pages of sinks in view, and of the stages of sources
}

// adoptPages finds the pages and stages among what was stored, and returns the others.
func (r *Roster) adoptPages(stored []activation.Stored, pages map[uint64]int) (others []activation.Stored) {
	for _, d := range stored {
		if d.Letter != activation.ViewPage {
			others = append(others, d)
			continue
		}
		r.ring.Reserve(d.ID)
		if _, twice := pages[d.ID]; twice {
			r.store.Finish(d.FD, d.Name)
		} else {
			pages[d.ID] = d.FD
		}
	}
	return others
}

// claim joins a stored descriptor with its entry; false if it is of no use.
func (r *Roster) claim(d activation.Stored, at entries, seen map[uint32]bool, look func(fd int, spec *ring.Spec) Peer) bool {
	if c := at.clients[d.ID]; c != nil {
		return store.ClientName(c.Spec()) == d.Name && r.readoptSource(c, d.FD, at.pages)
	}
	s := at.sinks[d.ID]
	if s == nil {
		if old, ok := at.known[d.ID]; ok {
			s = r.revive(old)
		}
	}
	return s != nil && store.Name(s.Spec()) == d.Name && !hasLeft(s) && r.readopt(s, d.FD, at.pages, seen, look)
}

// hasLeft says whether a predecessor has finished with the connection of s, and only the descriptor was still there.
func hasLeft(s *ring.Sink) bool {
	return s.Acknowledges() && s.Cursor().Sole() != nil && !s.Cursor().Left().IsZero()
}

// forgetLost removes the entries that have no descriptor any more.
func (r *Roster) forgetLost() {
	for c := range r.ring.Clients {
		if r.sources[c.ID()] == nil {
			r.forgetSource(c, false)
		}
	}
	for s := range r.ring.Sinks {
		if s.Spec().Kind != ring.Static && r.byID[s.ID()] == nil {
			if s.Cursor().Spec().Keep == 0 {
				r.log.Event(slog.LevelWarn, journal.EventSinkGone, "sink has no descriptor any more", slog.String("sink", s.Spec().Label))
			}
			r.leave(s)
		}
	}
}

// readopt opens an inherited descriptor again for its entry; false if it is of no use, and the entry is gone.
func (r *Roster) readopt(s *ring.Sink, fd int, pages map[uint64]int, seen map[uint32]bool, look func(fd int, spec *ring.Spec) Peer) bool {
	spec := s.Spec()
	sys.SetSendBuffer(fd, r.limits.SendBuffer()) // it may have to hold more than under the predecessor's options
	switch spec.Kind {
	case ring.Framed:
		return r.readoptFramed(s, fd, pages)
	case ring.Static:
		return false
	}
	peer := look(fd, spec)
	if peer.Dead || peer.Inode != 0 && seen[peer.Inode] {
		r.forget(s)
		return false
	}
	seen[peer.Inode] = true
	if peer.Cookie == 0 {
		peer.Cookie, _ = sys.SocketCookie(fd)
	}
	r.inherit(r.open(s, fd, peer.Cookie, nil))
	return true
}

// readoptFramed is readopt for a connection. That of a sink in view is of no use without its page, nor where nobody can view the ring.
func (r *Roster) readoptFramed(s *ring.Sink, fd int, pages map[uint64]int) bool {
	if !s.Spec().View {
		return r.reattach(s, fd, nil)
	}
	conn := s.Spec().Connection()
	if page, there := pages[conn]; there && r.viewErr == nil {
		if p, err := view.OpenPage(page); err == nil {
			delete(pages, conn)
			return r.reattach(s, fd, &Page{p, page})
		}
	}
	r.vanish(s)
	return false
}

// readoptSource opens the connection of a source again; false if it is of no use, and the entry is gone. That of a source with a stage
// is of no use without it.
func (r *Roster) readoptSource(c *ring.Client, fd int, pages map[uint64]int) bool {
	if !c.Spec().Stage {
		return r.reattachSource(c, fd, nil)
	}
	conn := c.Spec().Connection()
	if stage, there := pages[conn]; there {
		if s, err := view.OpenStage(stage); err == nil {
			delete(pages, conn)
			return r.reattachSource(c, fd, &Stage{s, stage})
		}
	}
	r.forgetSource(c, false)
	return false
}

// reviveClient enters a connected source of a ring that was set aside into the new one. A marked one has to connect again, and is
// told the epoch.
func (r *Roster) reviveClient(spec ring.ClientSpec, at entries) {
	switch {
	case r.ring.Client(spec.ID) != nil || spec.Marks && spec.Keep == 0:
	case spec.Marks:
		if c, err := r.ring.AddClient(spec); err == nil {
			r.forgetSource(c, false)
		}
	default:
		if c, err := r.ring.AddAttached(spec); err == nil { // without room for it, its connection ends
			at.clients[spec.Connection()] = c
		}
	}
}

// revive enters a salvaged sink into the new ring, under its old id: its descriptor is stored by that name.
func (r *Roster) revive(old ring.Salvaged) *ring.Sink {
	s, err := r.ring.Add(old.Spec, old.Reading, false)
	if err != nil {
		return nil
	}
	r.labels[old.Label] = old.Spec.ID
	return s
}
