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
	keySource   = 1 << 62 // and counted on from there: the channel's own sources
)

// OwnSource is a socket or queue to receive from that is the channel's own, and no connection.
type OwnSource struct {
	FD   int    // its owner's
	Kind uint32 // ring.Datagrams or ring.Queues
	Name string // its path, or address as in wire.Address

	// Number is its number in this channel, from 1 on: see ring.NumberSources. AddSources sets it.
	Number uint32
}

// source is a socket that messages come from.
type source struct {
	fd     int
	key    uint64
	kind   uint32       // ring.Datagrams, ring.Packets, ring.Marked or ring.Queues
	client *ring.Client // a connected source's entry in the table
	from   ring.From    // its client, and of what is a connection the other end; or which of the channel's own it is
	fair   int          // how many datagrams were turnBytes in its last turn
	errors int          // receives that failed, in a row
	streak int          // receives that brought something, in a row
	hushed bool         // it has been told to go: what it has sent is taken in
	effort effort       // what it takes to receive from it
	tells  effort       // and to tell it of room in its stage
	queued bool         // it is in Roster.queue: it was readable, and has not been found empty since

	stage   *Stage // of a source that has one; nil: it sends its messages
	rung    bool   // it has sent a packet to wake the broker
	untold  bool   // it is to be told of room, and could not be: no event follows
	closing bool   // nothing counts that it writes to its stage behind last
	last    uint64
}

// maxErrors is how many receives from a connection may fail in a row before it is taken for broken.
const maxErrors = 3

// AddSources gives the loop the channel's own sources, each a queue with turns of its own. It is called once, when those are there
// that a predecessor has left: some may ask who sends.
func (r *Roster) AddSources(own []OwnSource) error {
	names := make([]string, len(own))
	for i, o := range own {
		names[i] = o.Name
	}
	numbers, err := r.ring.NumberSources(names)
	if err != nil {
		return err
	}
	r.attesting = r.ring.AsksForOrigins()
	for i, o := range own {
		from := ring.From{Sender: ring.Sender{Source: uint16(numbers[i])}}
		if err := r.addSource(o.FD, keySource+uint64(i), o.Kind, nil, from); err != nil {
			return err
		}
		own[i].Number = numbers[i]
		if o.Kind == ring.Datagrams {
			sys.PassCredentials(o.FD, r.attesting)
		}
	}
	r.own = own
	return nil
}

// attest has the kernel attach its sender to each message that is sent to the channel's own sockets, while some sink asks for
// that. What the sockets have been told lasts, also when a broker ends.
func (r *Roster) attest() {
	yes := r.ring.AsksForOrigins()
	if yes == r.attesting {
		return
	}
	r.attesting = yes
	for _, s := range r.sources {
		if s.kind == ring.Datagrams {
			sys.PassCredentials(s.fd, yes)
		}
	}
}

// addSource gives the loop a socket to receive from; client is nil for what is no connection. The socket is
// watched edge-triggered: while sources are not read, those that have something do not wake the loop again and again.
// With an error the loop knows nothing of it.
func (r *Roster) addSource(fd int, key uint64, kind uint32, client *ring.Client, from ring.From) error {
	if err := r.ep.Add(fd, sys.Readable|sys.HungUp|sys.Edge, key); err != nil {
		return err
	}
	s := &source{fd: fd, key: key, kind: kind, client: client, from: from}
	if client != nil {
		s.effort.bill = r.bill(client.Spec().UID, restPart)
	} else {
		s.effort.bill = &bill{sockets: 1, part: ownPart}
	}
	s.tells.bill = s.effort.bill
	r.sources[key] = s
	r.enqueue(s)
	return nil
}

// addClient is addSource for a connected source. What it sends is from who has connected.
func (r *Roster) addClient(c *ring.Client, fd int, stage *Stage) error {
	kind := uint32(ring.Packets)
	if c.Spec().Marks {
		kind = ring.Marked
	}
	from := ring.From{Client: c.ID()}
	if who, err := sys.PeerCredentials(fd); err == nil {
		from.Sender = ring.Sender{PID: who.PID, UID: who.UID, GID: who.GID, Bits: ring.SenderKnown}
	}
	err := r.addSource(fd, c.ID(), kind, c, from)
	if err == nil && stage != nil {
		s := r.sources[c.ID()]
		s.stage = stage
		stage.words.Take(c.Staged())
		r.stages++
		if s.hasRoom() { // a predecessor may have made some, and not lived to tell
			s.untold, r.untold = true, true
		}
	}
	return err
}

// dropSource takes a connected source out of the loop; the descriptor is the caller's from then on.
func (r *Roster) dropSource(s *source) {
	r.ep.Remove(s.fd)
	delete(r.sources, s.key)
	s.effort.bill.sockets--
	if s.client != nil {
		r.ring.Unstage(s.client)
	}
	if s.stage != nil {
		r.stages--
	}
	r.queue = slices.DeleteFunc(r.queue, func(x *source) bool { return x == s })
	r.resting = slices.DeleteFunc(r.resting, func(x *source) bool { return x == s })
}

// enqueue gives a source its turn after all that are waiting for theirs.
func (r *Roster) enqueue(s *source) {
	if !s.queued {
		s.queued = true
		r.queue = append(r.queue, s)
	}
}

// waits says whether something lies in the queue of s, as far as the kernel can tell: of a connection, packets of no bytes do not
// show. One whose connection has ended waits for its last turn, whatever its stage says by now: no event would follow.
func (s *source) waits() bool {
	switch {
	case s.closing:
		return true
	case s.client != nil:
		return s.unreceived() > 0
	case s.kind == ring.Queues:
		a, err := sys.QueueAttributesOf(s.fd)
		return err == nil && a.Messages > 0
	}
	i, err := sys.WaitReadable(0, s.fd)
	return err == nil && i == 0
}

// unreceived is how many bytes a connected source has sent, in packets, or written to its stage, that are not received.
func (s *source) unreceived() uint64 {
	if s.stage != nil {
		head, taken := s.stage.words.Head(), s.client.Staged()
		if s.closing {
			head = s.last
		}
		if head-taken > s.stage.words.Size() {
			return 0 // what cannot be is refused in its turn
		}
		return head - taken
	}
	n, err := sys.InQueue(s.fd)
	if err != nil {
		return 0
	}
	return uint64(n)
}

// sleep gives up the turn of a source that has nothing: what comes next will be told of. Of a stage that is not so before the broker
// has said there that it sleeps: false, something has come meanwhile.
func (s *source) sleep() bool { return s.stage == nil || s.stage.words.Sleep(s.client.Staged()) }

// anyWaits says whether there is a message that is not received yet. Sources that have none give up their turn: epoll tells when
// that changes.
func (r *Roster) anyWaits() bool {
	for len(r.queue) > 0 && !r.queue[0].waits() && r.queue[0].sleep() {
		r.queue[0].queued = false
		r.queue = r.queue[:copy(r.queue, r.queue[1:])]
	}
	return len(r.queue) > 0 || r.ring.Landed()
}

// whyEmpty says what a packet of no bytes means: nil is the end of a connection, which reads the same. There may be something
// before that end still: the kernel looks for a packet, and where it has found none, whether the other end is closed
// (unix_dgram_recvmsg). Who sends a packet and closes between the two looks is told of by his end first. When that has been told,
// nothing comes any more, so a second look at the queue is right.
func whyEmpty(fd int) *wire.Error {
	if sys.IsHungUp(fd) {
		return nil
	}
	return wire.Refuse(wire.CodeBadPacket, "an empty packet: it reads like the end of the connection")
}
