// SPDX-License-Identifier: Apache-2.0

package stream

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
)

// Position is a place in the order of a channel: the message of that number, in that life of its numbering.
type Position struct {
	Epoch uint64 // random bits that name one life of the numbering; never 0
	Seq   uint64
}

// String is EPOCH:SEQ, the epoch in hexadecimal, as in the protocol's option from.
func (p Position) String() string {
	var text [16 + 1 + 20]byte
	at := append(strconv.AppendUint(text[:0], p.Epoch, 16), ':')
	return string(strconv.AppendUint(at, p.Seq, 10))
}

// ParsePosition reads what String writes.
func ParsePosition(text string) (p Position, err error) {
	epoch, seq, _ := strings.Cut(text, ":")
	if p.Epoch, err = strconv.ParseUint(epoch, 16, 64); err == nil {
		p.Seq, err = strconv.ParseUint(seq, 10, 64)
	}
	if err != nil || p.Epoch == 0 || p.String() != text {
		return Position{}, fmt.Errorf("cannot read position %q: EPOCH:SEQ is wanted", text)
	}
	return p, nil
}

// The headers of a message of ours. Other consumers of the stream may rely on them: docs/admin/bridge.md.
const (
	// HeaderPosition is the number of the message's record in its channel, or of the first of several, as Position prints it.
	HeaderPosition = "Msgmux-Position"
	// HeaderCount is how many records the message holds: then it is a packet of them, each with its length before it and
	// filled up to four bytes (docs/protocol.md). Without it the message is one record, as it was sent into the channel.
	HeaderCount = "Msgmux-Count"
	// HeaderWriter says whose position it is.
	HeaderWriter = "Msgmux-Writer"
	// HeaderLost is how many records the channel's bridge has lost directly before this message; left out if none.
	HeaderLost = "Msgmux-Lost"
	// HeaderOrigin says who sent the record, as the kernel attested it, and when the broker received it; left out if that was not
	// asked for.
	HeaderOrigin = "Msgmux-Origin"
)

// Stamp is what the headers of a message say.
type Stamp struct {
	Position
	Writer string
	Count  uint64 // of the records
	Packet bool   // the payload is a packet of records, and not the one record itself
	Lost   uint64
	Origin string // "" if it was not asked for
}

// Next is the position behind the message.
func (s Stamp) Next() Position { return Position{s.Epoch, s.Seq + s.Count} }

// header is the stamp as headers: in h, which may be what it has returned before, and is changed.
func (s Stamp) header(h nats.Header) nats.Header {
	if h == nil {
		h = make(nats.Header, 6)
	}
	// Not by Set, which would copy each key into its canonical form.
	put(h, HeaderPosition, s.Position.String())
	put(h, HeaderWriter, s.Writer)
	if s.Packet {
		number(h, HeaderCount, s.Count)
	} else {
		delete(h, HeaderCount)
	}
	if s.Lost > 0 {
		number(h, HeaderLost, s.Lost)
	} else {
		delete(h, HeaderLost)
	}
	if s.Origin != "" {
		put(h, HeaderOrigin, s.Origin)
	} else {
		delete(h, HeaderOrigin)
	}
	return h
}

// put is h[key] = value in the memory that is there.
func put(h nats.Header, key, value string) {
	if values := h[key]; len(values) == 1 {
		values[0] = value
		return
	}
	h[key] = []string{value}
}

// number is put for a number.
func number(h nats.Header, key string, n uint64) { put(h, key, strconv.FormatUint(n, 10)) }

// ParseStamp reads the headers of a message. ok is false for one that no bridge has written; ErrForeign for headers that only look like a
// bridge's.
func ParseStamp(h nats.Header) (s Stamp, ok bool, err error) {
	text := h.Get(HeaderPosition)
	if text == "" {
		return s, false, nil
	}
	if s.Position, err = ParsePosition(text); err != nil {
		return Stamp{}, false, fmt.Errorf("%w: %w", ErrForeign, err)
	}
	s.Writer, s.Count, s.Origin = h.Get(HeaderWriter), 1, h.Get(HeaderOrigin)
	for header, to := range map[string]*uint64{HeaderCount: &s.Count, HeaderLost: &s.Lost} {
		if text := h.Get(header); text != "" {
			if *to, err = strconv.ParseUint(text, 10, 64); err != nil {
				return Stamp{}, false, fmt.Errorf("%w: cannot read %s %q: a number is wanted", ErrForeign, header, text)
			}
			s.Packet = s.Packet || header == HeaderCount
		}
	}
	return s, true, nil
}
