// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/msgmux/msgmux/activation"
	"github.com/msgmux/msgmux/broker/journal"
	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// What an administrator hands over beside the channel's own sockets: message queues, and sockets of static sinks.

// addQueue makes a message queue a source.
func (c *Channel) addQueue(d activation.Descriptor, key uint64) error {
	a, err := sys.QueueAttributesOf(d.FD)
	if err != nil {
		return fmt.Errorf("cannot receive from message queue %s: %w", d.Name, err)
	}
	if room := max(c.cfg.Geometry.MaxMessage, wire.MaxPacket); uint64(a.MessageSize) > room {
		return fmt.Errorf("cannot receive from message queue %s: its messages have up to %d bytes; --max-message must be at least that", d.Name, a.MessageSize)
	}
	return c.loop.addSource(d.FD, key, ring.Queues, nil)
}

// takeSink makes a static sink of a descriptor that an administrator handed over. The socket itself is of no use to a
// sender, and while this process had it open, a dead consumer's would look alive and swallow messages: so it is closed,
// and connected to by its address like any other. Of a queue, a descriptor for sending is kept.
func (c *Channel) takeSink(d activation.Descriptor) {
	defer sys.Close(d.FD)
	s := StaticSink{handed: true, queue: -1}
	name, err := "", error(nil)
	if d.Kind == activation.MessageQueue {
		if name, err = sys.QueueName(d.FD); err == nil {
			name = "/dev/mqueue" + name
			s.queue, err = sys.ReopenQueue(d.FD)
		}
	} else {
		name, err = sys.BoundTo(d.FD)
	}
	if err == nil {
		s.Address, err = wire.ParseAddress(name)
	}
	if err == nil && s.Address.IsZero() {
		err = errors.New("it is not bound")
	}
	if err != nil {
		c.log.Event(slog.LevelError, journal.EventStatic, "a descriptor that was handed over is no sink", slog.String("name", d.Name), slog.Any("error", err))
		return
	}
	s.Options.Set("label", strings.TrimPrefix(d.Name, "sink-"))
	c.cfg.Sinks = append(c.cfg.Sinks, s)
}
