// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/msgmux/msgmux/activation"
	"github.com/msgmux/msgmux/broker/loop"
	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// What an administrator hands over: sockets and message queues for sources, and sockets of static sinks.

// sources are all that is received from. That of the channel's own folder comes first, so that it has the lowest number, whatever the
// order in which they were handed over.
func (g *Gate) sources(queues []activation.Descriptor, maxMessage uint64) (own []loop.OwnSource, err error) {
	var home string
	if g.own.Publish.Given() {
		if home, err = sys.BoundTo(g.own.Publish.FD); err != nil {
			return nil, err
		}
	}
	for _, d := range g.own.Sources {
		name, err := sys.BoundTo(d.FD)
		if err != nil {
			return nil, fmt.Errorf("cannot receive from descriptor %d: %w", d.FD, err)
		}
		own = append(own, loop.OwnSource{FD: d.FD, Kind: ring.Datagrams, Name: name})
	}
	for _, d := range queues {
		name, err := queueName(d.FD, maxMessage)
		if err != nil {
			return nil, fmt.Errorf("cannot receive from message queue %s: %w", d.Name, err)
		}
		own = append(own, loop.OwnSource{FD: d.FD, Kind: ring.Queues, Name: name})
	}
	first := path.Join(path.Dir(home), wire.SocketSource)
	elsewhere := func(o loop.OwnSource) int {
		if o.Name == first {
			return 0
		}
		return int(o.Kind)
	}
	slices.SortFunc(own, func(a, b loop.OwnSource) int { return cmp.Or(elsewhere(a)-elsewhere(b), cmp.Compare(a.Name, b.Name)) })
	return own, nil
}

// queueName is the path of a message queue that can be received from.
func queueName(fd int, maxMessage uint64) (string, error) {
	a, err := sys.QueueAttributesOf(fd)
	if err != nil {
		return "", err
	}
	if uint64(a.MessageSize) > max(maxMessage, wire.MaxPacket) {
		return "", fmt.Errorf("its messages have up to %d bytes; --max-message must be at least that", a.MessageSize)
	}
	name, err := sys.QueueName(fd)
	return "/dev/mqueue" + name, err
}

// takeSink makes a static sink of a descriptor that an administrator handed over. The socket itself is of no use to a
// sender, and while this process had it open, a dead consumer's would look alive and swallow messages: so it is closed,
// and connected to by its address like any other. Of a queue, a descriptor for sending is kept.
func takeSink(d activation.Descriptor) (*declared, error) {
	defer sys.Close(d.FD)
	s := &declared{fixed: true, handed: true}
	var name string
	var err error
	if d.Kind == activation.MessageQueue {
		name, err = sys.QueueName(d.FD)
		name = "/dev/mqueue" + name
	} else {
		name, err = sys.BoundTo(d.FD)
	}
	if err == nil {
		s.addr, err = wire.ParseAddress(name)
	}
	if err == nil && s.addr.IsZero() {
		err = errors.New("it is not bound")
	}
	if err == nil && d.Kind == activation.MessageQueue {
		s.queue = d
		s.queue.FD, err = sys.ReopenQueue(d.FD)
	}
	if err != nil {
		return nil, err
	}
	var o wire.Options
	o.Set("label", strings.TrimPrefix(d.Name, "sink-")) // what is no label leaves it empty
	s.name = cmp.Or(o.Label, defaultLabel(s.addr))
	return s, nil
}
