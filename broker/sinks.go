// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"errors"
	"log/slog"
	"path"
	"strconv"
	"syscall"
	"time"

	"github.com/msgmux/msgmux/activation"
	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// adopt joins the descriptors that a predecessor stored with the entries of the table. Each is made to match: a
// descriptor without an entry is taken out of the store and closed; an entry without a descriptor is removed and its
// account closed; of two descriptors for one peer, the second goes.
//
// salvaged are the sinks of a ring that was set aside: those whose descriptors are there begin anew in the new one, and so
// do static ones, which have none. The folder connects these by and by; what is received until then waits for them.
func (c *Channel) adopt(salvaged []ring.Spec) {
	for s := range c.ring.Sinks {
		spec := s.Spec()
		c.labels[spec.Label] = spec.ID
		c.perUser[spec.UID]++
	}
	known := make(map[uint64]ring.Spec, len(salvaged))
	for _, spec := range salvaged {
		known[spec.ID] = spec
	}
	// Before anything is entered: the entry of a share needs an id of its own. And a descriptor that is of no use is taken
	// out of the store by its name, sooner or later: nobody else may be stored by that name meanwhile.
	for _, d := range c.cfg.Inherited.Stored {
		c.ring.Reserve(d.ID)
	}
	for _, spec := range salvaged {
		c.ring.Reserve(spec.ID)
	}
	seen := make(map[uint32]bool)
	for _, d := range c.cfg.Inherited.Stored {
		s := c.ring.Find(d.ID)
		if s == nil {
			if spec, ok := known[d.ID]; ok {
				s = c.revive(spec)
			}
		}
		if s == nil || storeName(s.Spec()) != d.Name || !c.readopt(s, d.FD, seen) {
			c.finish(d.FD, d.Name)
		}
	}
	for _, spec := range salvaged {
		if spec.Kind == ring.Static && c.ring.Find(spec.ID) == nil {
			c.revive(spec)
		}
	}
	for s := range c.ring.Clients {
		if c.loop.sources[s.ID()] == nil {
			c.ring.Remove(s)
		}
	}
	for s := range c.ring.Sinks {
		if s.Spec().Kind != ring.Static && c.loop.byID[s.ID()] == nil {
			c.journal.event(slog.LevelWarn, EventSinkGone, "sink has no descriptor any more", slog.String("sink", s.Spec().Label))
			c.forget(s)
		}
	}
}

// readopt opens an inherited descriptor again for its entry; false if it is of no use, and the entry is gone.
func (c *Channel) readopt(s *ring.Sink, fd int, seen map[uint32]bool) bool {
	spec := s.Spec()
	switch spec.Kind {
	case ring.Source, ring.Framed:
		return c.reattach(s, fd)
	case ring.Dynamic:
		at, refusal := c.prover.check(fd, spec.UID)
		dead := refusal != nil && (refusal.Code == wire.CodeNoPeer || refusal.Code == wire.CodeLoop || refusal.Code == wire.CodeNotOwner)
		if dead || at.inode != 0 && seen[at.inode] {
			c.forget(s)
			return false
		}
		seen[at.inode] = true
		if at.cookie == 0 {
			at.cookie, _ = sys.SocketCookie(fd)
		}
		c.loop.open(s, fd, at.cookie)
		return true
	}
	return false
}

// revive enters a salvaged sink into the new ring, under its old id: its descriptor is stored by that name.
func (c *Channel) revive(spec ring.Spec) *ring.Sink {
	spec.ShareID = 0
	s, err := c.ring.Add(spec, wire.StartNow, false)
	if err != nil {
		return nil
	}
	c.labels[spec.Label] = spec.ID
	c.perUser[spec.UID]++
	return s
}

// QueueBytes is the send buffer of one sink as the kernel counts it: what the administrator allows, but never less
// than one message or one packet. What does not fit a send buffer is refused for ever (EMSGSIZE), and lost.
func (cfg *Config) QueueBytes() uint64 {
	return max(cfg.Queue, max(cfg.Geometry.MaxMessage, wire.MaxPacket)+4096)
}

// sendBuffer is Config.QueueBytes as setsockopt(2) takes it: the kernel doubles it.
func (c *Channel) sendBuffer() int { return int(c.cfg.QueueBytes() / 2) }

// admit checks the limits for one more sink of a user. Sinks that are absent count: nobody asks when they are back. The data
// thread calls it.
func (c *Channel) admit(uid uint32) *wire.Error {
	switch n := len(c.labels) + 1; { // each sink has a label of its own
	case uint64(n) > c.cfg.Geometry.MaxSinks:
		return wire.Refuse(wire.CodeQuota, "there are %d sinks already, as many as --max-sinks allows", n-1)
	case uint64(n)*c.cfg.QueueBytes() > c.cfg.QueueTotal:
		return wire.Refuse(wire.CodeQuota, "%d sinks with %d bytes of queue each are all that --queue-total allows", n-1, c.cfg.QueueBytes())
	case c.ordinary(uid) && c.perUser[uid] >= c.cfg.SinksPerUser:
		return wire.Refuse(wire.CodeQuota, "user %d has %d sinks already, as many as --max-sinks-per-user allows", uid, c.perUser[uid])
	}
	return nil
}

// ordinary says whether a user is neither root nor the broker's own.
func (c *Channel) ordinary(uid uint32) bool { return uid != 0 && uid != c.uid }

// enter puts a new sink into the table; attaching, if it is a client without its ok. The data thread calls it.
func (c *Channel) enter(spec ring.Spec, start wire.Start, attaching bool) (*ring.Sink, *wire.Error) {
	spec.Label = c.unique(spec.Label, spec.ID)
	spec.Since = time.Now().Unix()
	s, err := c.ring.Add(spec, start, attaching)
	if errors.Is(err, ring.ErrTableFull) {
		return nil, wire.Refuse(wire.CodeQuota, "the sink table is full; raise --max-sinks")
	}
	c.labels[spec.Label] = spec.ID
	c.perUser[spec.UID]++
	c.journal.event(slog.LevelDebug, EventSinkAdded, "sink added", slog.String("sink", spec.Label),
		slog.String("address", spec.Address), slog.Uint64("uid", uint64(spec.UID)))
	c.journal.watchers.tell(wire.EventAdded, &spec, 0, 0)
	poke(c.changed)
	return s, nil
}

// patienceFor is how long others wait for a sink with these options, asked for by that user.
func (c *Channel) patienceFor(o wire.Options, asker uint32) (time.Duration, *wire.Error) {
	switch {
	case o.Tap:
		return 0, nil
	case !o.PatienceSet:
		return c.cfg.Patience, nil
	case o.Patience > c.cfg.Patience && c.ordinary(asker):
		return 0, wire.Refuse(wire.CodeDenied, "patience=%s is more than this channel's %s, which only root, the broker's user and static sinks may have",
			wire.FormatPatience(o.Patience), wire.FormatPatience(c.cfg.Patience))
	}
	return o.Patience, nil
}

// unique is label, or label-2, label-3... if another sink has it.
func (c *Channel) unique(label string, id uint64) string {
	for n := 1; ; n++ {
		try := label
		if n > 1 {
			suffix := "-" + strconv.Itoa(n)
			try = label[:min(len(label), 64-len(suffix))] + suffix
		}
		if owner, taken := c.labels[try]; !taken || owner == id {
			return try
		}
	}
}

// defaultLabel makes a label out of an address.
func defaultLabel(addr wire.Address) string {
	name := []byte(addr.Name)
	if !addr.Abstract {
		name = []byte(path.Base(addr.Name))
	}
	for i, b := range name {
		switch {
		case b >= 'a' && b <= 'z', b >= 'A' && b <= 'Z', b >= '0' && b <= '9', b == '_', b == '.', b == '-':
		default:
			name[i] = '_'
		}
	}
	if len(name) == 0 {
		return "sink"
	}
	return string(name[:min(len(name), 64)])
}

// byAddress finds the dynamic sink of that name and owner. The data thread calls it.
func (c *Channel) byAddress(addr wire.Address, uid uint32) *ring.Sink {
	for s := range c.ring.Sinks {
		if spec := s.Spec(); spec.Kind == ring.Dynamic && spec.UID == uid && spec.Address == addr.String() {
			return s
		}
	}
	return nil
}

// byInode finds the dynamic sink whose peer has that inode and that owner (inodes are numbers of 32 bits, and come
// again). The data thread calls it.
func (c *Channel) byInode(inode, uid uint32) *ring.Sink {
	for s := range c.ring.Sinks {
		if spec := s.Spec(); spec.Kind == ring.Dynamic && spec.Inode == inode && spec.UID == uid {
			return s
		}
	}
	return nil
}

// drop removes a sink on somebody's behalf. The data thread calls it.
func (c *Channel) drop(s *ring.Sink) {
	spec := s.Spec()
	if o := c.loop.byID[spec.ID]; o != nil {
		c.loop.shut(o)
		defer c.finish(o.fd, storeName(spec))
	}
	c.forget(s)
}

// find is the sink that a label, or an id as "#12", names. An id of a connected source or of a share names none: the
// table has entries for them, but nobody can drop or change these. The data thread calls it.
func (c *Channel) find(name string) (*ring.Sink, *wire.Error) {
	id, ok := c.labels[name]
	if !ok && len(name) > 1 && name[0] == '#' {
		n, err := strconv.ParseUint(name[1:], 10, 64)
		ok = err == nil
		id = n
	}
	if s := c.ring.Find(id); ok && s != nil && s.Spec().Kind < ring.Share {
		return s, nil
	}
	return nil, wire.Refuse(wire.CodeNotFound, "there is no sink %q", name)
}

// retired is the data thread finding that a sink's socket is gone.
func (c *Channel) retired(o *outlet, why syscall.Errno) {
	spec := o.sink.Spec()
	c.loop.shut(o)
	c.journal.event(slog.LevelDebug, EventSinkGone, "sink is gone", slog.String("sink", spec.Label), slog.String("why", why.Error()))
	switch spec.Kind {
	case ring.Static:
		c.finish(o.fd, "")
		poke(c.rescan)
	default:
		c.forget(o.sink)
		c.finish(o.fd, storeName(spec))
	}
	poke(c.changed)
}

// forget takes a sink out of the table. The data thread calls it.
func (c *Channel) forget(s *ring.Sink) {
	spec := s.Spec()
	if c.labels[spec.Label] == spec.ID {
		delete(c.labels, spec.Label)
	}
	if c.perUser[spec.UID]--; c.perUser[spec.UID] <= 0 {
		delete(c.perUser, spec.UID)
	}
	lost := s.Lost()
	c.journal.watchers.tell(wire.EventRemoved, spec, c.ring.Remove(s), lost)
	c.journal.lagging.Delete(spec.ID)
	if c.ring.Find(spec.ShareID) == nil {
		c.journal.lagging.Delete(spec.ShareID)
	}
	poke(c.changed)
}

// storeName is what the descriptor of a sink is called in the descriptor store; "" if it is not kept there.
func storeName(spec *ring.Spec) string {
	switch spec.Kind {
	case ring.Dynamic:
		return activation.SinkName(activation.DatagramSink, spec.ID)
	case ring.Framed:
		return activation.SinkName(activation.ConnectedSink, spec.ID)
	case ring.Source:
		return activation.SinkName(activation.ConnectedSource, spec.ID)
	}
	return ""
}
