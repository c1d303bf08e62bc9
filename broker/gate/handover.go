// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"cmp"
	"errors"
	"fmt"
	"strings"

	"github.com/msgmux/msgmux/activation"
	"github.com/msgmux/msgmux/broker/loop"
	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// What an administrator hands over beside the channel's own sockets: message queues, and sockets of static sinks.

// addQueue makes a message queue a source. The descriptor stays the caller's.
func addQueue(r *loop.Roster, d activation.Descriptor) error {
	a, err := sys.QueueAttributesOf(d.FD)
	if err != nil {
		return fmt.Errorf("cannot receive from message queue %s: %w", d.Name, err)
	}
	if room := max(r.MaxMessage(), wire.MaxPacket); uint64(a.MessageSize) > room {
		return fmt.Errorf("cannot receive from message queue %s: its messages have up to %d bytes; --max-message must be at least that", d.Name, a.MessageSize)
	}
	return r.AddSource(d.FD, ring.Queues)
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
