// SPDX-License-Identifier: Apache-2.0

package loop

import (
	"log/slog"

	"github.com/msgmux/msgmux/activation"
	"github.com/msgmux/msgmux/broker/journal"
	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/broker/store"
	"github.com/msgmux/msgmux/internal/sys"
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
func (r *Roster) Adopt(stored []activation.Stored, salvaged store.Salvaged, look func(fd int, uid uint32) Peer) {
	for s := range r.ring.Sinks {
		r.count(s.Spec())
	}
	known := make(map[uint64]ring.Salvaged, len(salvaged.Sinks))
	for _, old := range salvaged.Sinks {
		known[old.Spec.ID] = old
	}
	// Before anything is entered: the entry of a share needs an id of its own. And a descriptor that is of no use is taken
	// out of the store by its name, sooner or later: nobody else may be stored by that name meanwhile.
	for _, d := range stored {
		r.ring.Reserve(d.ID)
	}
	for _, old := range salvaged.Sinks {
		r.ring.Reserve(old.Spec.ID)
	}
	for _, c := range salvaged.Clients {
		if r.ring.Reserve(c.ID); r.ring.Client(c.ID) == nil {
			_, _ = r.ring.AddAttached(c) // without room for it, its connection ends
		}
	}
	seen := make(map[uint32]bool)
	for _, d := range stored {
		if !r.claim(d, known, seen, look) {
			r.store.Finish(d.FD, d.Name)
		}
	}
	for _, old := range salvaged.Sinks {
		if old.Kind == ring.Static && r.ring.Sink(old.Spec.ID) == nil {
			r.revive(old)
		}
	}
	r.forgetLost()
}

// claim joins a stored descriptor with its entry; false if it is of no use.
func (r *Roster) claim(d activation.Stored, known map[uint64]ring.Salvaged, seen map[uint32]bool, look func(fd int, uid uint32) Peer) bool {
	if c := r.ring.Client(d.ID); c != nil {
		return store.ClientName(d.ID) == d.Name && r.reattachSource(c, d.FD)
	}
	s := r.ring.Sink(d.ID)
	if s == nil {
		if old, ok := known[d.ID]; ok {
			s = r.revive(old)
		}
	}
	return s != nil && store.Name(s.Spec()) == d.Name && r.readopt(s, d.FD, seen, look)
}

// forgetLost removes the entries that have no descriptor any more.
func (r *Roster) forgetLost() {
	for c := range r.ring.Clients {
		if r.sources[c.ID()] == nil {
			r.ring.RemoveClient(c)
		}
	}
	for s := range r.ring.Sinks {
		if s.Spec().Kind != ring.Static && r.byID[s.ID()] == nil {
			r.log.Event(slog.LevelWarn, journal.EventSinkGone, "sink has no descriptor any more", slog.String("sink", s.Spec().Label))
			r.forget(s)
		}
	}
}

// readopt opens an inherited descriptor again for its entry; false if it is of no use, and the entry is gone.
func (r *Roster) readopt(s *ring.Sink, fd int, seen map[uint32]bool, look func(fd int, uid uint32) Peer) bool {
	spec := s.Spec()
	sys.SetSendBuffer(fd, r.limits.SendBuffer()) // it may have to hold more than under the predecessor's options
	switch spec.Kind {
	case ring.Framed:
		return r.reattach(s, fd)
	case ring.Static:
		return false
	}
	peer := look(fd, spec.UID)
	if peer.Dead || peer.Inode != 0 && seen[peer.Inode] {
		r.forget(s)
		return false
	}
	seen[peer.Inode] = true
	if peer.Cookie == 0 {
		peer.Cookie, _ = sys.SocketCookie(fd)
	}
	r.open(s, fd, peer.Cookie)
	return true
}

// revive enters a salvaged sink into the new ring, under its old id: its descriptor is stored by that name.
func (r *Roster) revive(old ring.Salvaged) *ring.Sink {
	s, err := r.ring.Add(old.Spec, old.Reading, false)
	if err != nil {
		return nil
	}
	r.count(&old.Spec)
	return s
}
