// SPDX-License-Identifier: Apache-2.0

package loop

import (
	"slices"

	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// Keys of what epoll watches. An outlet or a connected source has its id.
const (
	keyCommands = 1 << 63
	keySource   = 1 << 62 // and counted on from there: the sources that are no connections
)

// source is a socket that messages come from.
type source struct {
	fd     int
	key    uint64
	kind   uint32       // ring.Datagrams or ring.Packets
	client *ring.Client // a connected source's entry in the table
	fair   int          // how many datagrams were turnBytes in its last turn
	errors int          // receives that failed, in a row
	streak int          // receives that brought something, in a row
	queued bool         // it is in Roster.queue: it was readable, and has not been found empty since
}

// maxErrors is how many receives from a connection may fail in a row before it is taken for broken.
const maxErrors = 3

// AddSource gives the loop a socket to receive from that is the channel's own, and no connection: of kind ring.Datagrams or
// ring.Queues. The descriptor stays the caller's.
func (r *Roster) AddSource(fd int, kind uint32) error {
	if err := r.addSource(fd, keySource+r.ownSources, kind, nil); err != nil {
		return err
	}
	r.ownSources++
	return nil
}

// addSource gives the loop a socket to receive from; client is nil for what is no connection. The socket is
// watched edge-triggered: while sources are not read, those that have something do not wake the loop again and again.
// With an error the loop knows nothing of it.
func (r *Roster) addSource(fd int, key uint64, kind uint32, client *ring.Client) error {
	if err := r.ep.Add(fd, sys.Readable|sys.HungUp|sys.Edge, key); err != nil {
		return err
	}
	s := &source{fd: fd, key: key, kind: kind, client: client}
	r.sources[key] = s
	r.enqueue(s)
	return nil
}

// dropSource takes a connected source out of the loop; the descriptor is the caller's from then on.
func (r *Roster) dropSource(s *source) {
	r.ep.Remove(s.fd)
	delete(r.sources, s.key)
	r.queue = slices.DeleteFunc(r.queue, func(x *source) bool { return x == s })
}

// enqueue gives a source its turn after all that are waiting for theirs.
func (r *Roster) enqueue(s *source) {
	if !s.queued {
		s.queued = true
		r.queue = append(r.queue, s)
	}
}

// id is the client's, 0 of what is no connection.
func (s *source) id() uint64 {
	if s.client == nil {
		return 0
	}
	return s.client.ID()
}

// whyEmpty says what a packet of no bytes means: nil is the end of a connection, which reads the same.
func whyEmpty(fd int) *wire.Error {
	if sys.IsHungUp(fd) {
		return nil
	}
	return wire.Refuse(wire.CodeBadPacket, "an empty packet: it reads like the end of the connection")
}
