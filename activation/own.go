// SPDX-License-Identifier: Apache-2.0

package activation

import (
	"slices"

	"github.com/msgmux/msgmux/internal/wire"
)

// Own are a channel's own sockets, without which there is none. There is one of each but of sources; absent ones have FD -1 and
// kind None.
type Own struct {
	Sources   []Descriptor // Datagram; each is a queue of its own
	Publish   Descriptor   // SeqpacketListener
	Register  Descriptor   // Datagram
	Subscribe Descriptor   // SeqpacketListener
	Control   Descriptor   // SeqpacketListener
}

// noneOwn has none of them.
func noneOwn() Own {
	return Own{Publish: absent, Register: absent, Subscribe: absent, Control: absent}
}

// ownPlace is where one of those belongs that there is one of.
type ownPlace struct {
	place *Descriptor
	name  string
	kind  Kind
}

// places lists those that there is one of. Control comes first: if a broker is alive, it is the socket that tells whose it is.
func (o *Own) places() [4]ownPlace {
	return [...]ownPlace{
		{&o.Control, wire.SocketControl, SeqpacketListener},
		{&o.Publish, wire.SocketPublish, SeqpacketListener},
		{&o.Register, wire.SocketRegister, Datagram},
		{&o.Subscribe, wire.SocketSubscribe, SeqpacketListener},
	}
}

// All are those that there are.
func (o *Own) All() []Descriptor {
	given := slices.Clone(o.Sources)
	for _, p := range o.places() {
		if p.place.Given() {
			given = append(given, *p.place)
		}
	}
	return given
}
