// SPDX-License-Identifier: Apache-2.0

package activation

import "github.com/msgmux/msgmux/internal/wire"

// Own are a channel's own sockets, the five without which there is none. Absent ones have FD -1 and kind None.
type Own struct {
	Source    Descriptor // Datagram
	Publish   Descriptor // SeqpacketListener
	Register  Descriptor // Datagram
	Subscribe Descriptor // SeqpacketListener
	Control   Descriptor // SeqpacketListener
}

// noneOwn has none of them.
func noneOwn() Own {
	return Own{Source: absent, Publish: absent, Register: absent, Subscribe: absent, Control: absent}
}

// ownPlace is where one of the five belongs.
type ownPlace struct {
	place *Descriptor
	name  string
	kind  Kind
}

// places lists the five. Control comes first: if a broker is alive, it is the socket that tells whose it is.
func (o *Own) places() [5]ownPlace {
	return [...]ownPlace{
		{&o.Control, wire.SocketControl, SeqpacketListener},
		{&o.Source, wire.SocketSource, Datagram},
		{&o.Publish, wire.SocketPublish, SeqpacketListener},
		{&o.Register, wire.SocketRegister, Datagram},
		{&o.Subscribe, wire.SocketSubscribe, SeqpacketListener},
	}
}

// All are those that there are.
func (o *Own) All() (given []Descriptor) {
	for _, p := range o.places() {
		if p.place.Given() {
			given = append(given, *p.place)
		}
	}
	return given
}
