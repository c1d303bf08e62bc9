// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"time"
	"unicode/utf8"

	msgmux "github.com/msgmux/msgmux/client"
)

// format is a form of output.
type format struct {
	append func(dst []byte, m *message) []byte
	binary bool // not for a terminal
	origin bool // has something of the messages' origin
}

// message is one that is printed.
type message struct {
	msgmux.Message
	text []byte    // Payload, for a terminal made harmless
	at   time.Time // when this program received it

	senders *processes
}

// from is the message's origin, as far as it is known.
func (m *message) from() msgmux.Origin {
	if m.Origin == nil {
		return msgmux.Origin{}
	}
	return *m.Origin
}

// received is when the broker received it, or where that is not known, this program.
func (m *message) received() time.Time {
	if at := m.from().Received; !at.IsZero() {
		return at
	}
	return m.at
}

// sender is what can be found out about the process that sent it.
func (m *message) sender() process { return m.senders.of(m.from(), m.at) }

// formats are the values of sub --output. What raw prints is exact in any case: that is what it is for.
var formats = map[string]format{
	"raw":    {append: func(dst []byte, m *message) []byte { return append(dst, m.Payload...) }},
	"line":   {append: func(dst []byte, m *message) []byte { return append(append(dst, m.text...), '\n') }},
	"nul":    {append: func(dst []byte, m *message) []byte { return append(append(dst, m.text...), 0) }},
	"json":   {append: appendJSON, origin: true},
	"hex":    {append: func(dst []byte, m *message) []byte { return append(hex.AppendEncode(dst, m.Payload), '\n') }},
	"frames": {append: appendFrame, binary: true},
}

// formatNames are the keys of formats in the order in which they are explained.
func formatNames() []string { return []string{"raw", "line", "nul", "json", "hex", "frames"} }

// appendFrame appends a message behind its length, in four bytes, little-endian.
func appendFrame(dst []byte, m *message) []byte {
	return append(binary.LittleEndian.AppendUint32(dst, uint32(len(m.Payload))), m.Payload...)
}

// printer writes messages.
type printer struct {
	out     io.Writer
	format  format
	visible bool // out is a terminal

	line []byte // scratch
}

// message writes one message by one write, so that a reader has it at once, and whole if it fits into a pipe.
func (p *printer) message(m *message) error {
	m.text = m.Payload
	if p.visible {
		m.text = appendVisible(nil, m.Payload)
	}
	p.line = p.format.append(p.line[:0], m)
	if len(p.line) == 0 {
		return nil // a raw empty message; a write of nothing is none
	}
	if _, err := p.out.Write(p.line); err != nil {
		return fmt.Errorf("cannot write the message: %w", err)
	}
	return nil
}

// gap writes a line of JSON about what is missing.
func (p *printer) gap(g msgmux.Gap) error {
	line, err := encodeJSON(jsonGap{moment{time.Now()}, gapJSON{g.Before, g.Lost, g.Anew}}, false)
	if err == nil {
		_, err = p.out.Write(line)
	}
	if err != nil {
		return fmt.Errorf("cannot write what is missing: %w", err)
	}
	return nil
}

// jsonGap is a line of -o json that stands where messages are missing.
type jsonGap struct {
	Time moment  `json:"time"`
	Gap  gapJSON `json:"gap"`
}

type gapJSON struct {
	Before uint64 `json:"before"`         // the number of the message that comes next
	Lost   uint64 `json:"lost"`           // how many are missing before it, as far as is known
	Anew   bool   `json:"anew,omitempty"` // more may be: this is a new sink, or the memory of the channel is
}

// jsonMessage is a line of -o json. A message is text if it is UTF-8 and base64 otherwise, never a damaged text.
type jsonMessage struct {
	Time   moment      `json:"time"` // when this program received it
	Seq    uint64      `json:"seq"`  // its number in the channel
	Size   int         `json:"size"` // bytes
	Text   *string     `json:"text,omitempty"`
	Base64 *string     `json:"base64,omitempty"`
	Origin *originJSON `json:"origin,omitempty"` // as far as it is known
	Guess  *guessJSON  `json:"guess,omitempty"`  // what this program has found out itself
}

// originJSON is what kernel and broker attest.
type originJSON struct {
	Time   *moment `json:"time,omitempty"` // when the broker received it
	PID    int     `json:"pid,omitempty"`
	UID    *uint32 `json:"uid,omitempty"`
	GID    *uint32 `json:"gid,omitempty"`
	Source int     `json:"source,omitempty"`
}

// guessJSON is what nobody attests.
type guessJSON struct {
	Command string `json:"command"`
	Unit    string `json:"unit,omitempty"`
}

func messageAsJSON(m *message) jsonMessage {
	j := jsonMessage{Time: moment{m.at}, Seq: m.Seq, Size: len(m.Payload)}
	if utf8.Valid(m.Payload) {
		j.Text = new(string(m.Payload))
	} else {
		j.Base64 = new(base64.StdEncoding.EncodeToString(m.Payload))
	}
	if o := m.from(); o != (msgmux.Origin{}) {
		j.Origin = &originJSON{PID: o.PID, Source: o.Source}
		if !o.Received.IsZero() {
			j.Origin.Time = &moment{o.Received}
		}
		if o.Known {
			j.Origin.UID, j.Origin.GID = &o.UID, &o.GID
		}
	}
	if p := m.sender(); p != (process{}) {
		j.Guess = &guessJSON{p.command, p.unit}
	}
	return j
}

// appendJSON appends a message as one line of JSON.
func appendJSON(dst []byte, m *message) []byte {
	line, _ := encodeJSON(messageAsJSON(m), false) // strings and numbers cannot fail
	return append(dst, line...)
}
