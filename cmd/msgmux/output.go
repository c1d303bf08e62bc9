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

// format appends a message as it is printed; seq is its number in the channel, nil if that is not known.
type format struct {
	append func(dst, message []byte, seq *uint64) []byte
	bytes  bool // the message's own bytes are in the output: not for a terminal as they are
	binary bool // nothing for a terminal at all
}

// formats are the values of sub --output. What raw prints is exact in any case: that is what it is for.
var formats = map[string]format{
	"raw":    {append: func(dst, message []byte, _ *uint64) []byte { return append(dst, message...) }},
	"line":   {append: func(dst, message []byte, _ *uint64) []byte { return append(append(dst, message...), '\n') }, bytes: true},
	"nul":    {append: func(dst, message []byte, _ *uint64) []byte { return append(append(dst, message...), 0) }, bytes: true},
	"json":   {append: appendJSON},
	"hex":    {append: func(dst, message []byte, _ *uint64) []byte { return append(hex.AppendEncode(dst, message), '\n') }},
	"frames": {append: appendFrame, binary: true},
}

// formatNames are the keys of formats in the order in which they are explained.
func formatNames() []string { return []string{"raw", "line", "nul", "json", "hex", "frames"} }

// appendFrame appends a message behind its length, in four bytes, little-endian.
func appendFrame(dst, message []byte, _ *uint64) []byte {
	return append(binary.LittleEndian.AppendUint32(dst, uint32(len(message))), message...)
}

// printer writes messages.
type printer struct {
	out     io.Writer
	format  format
	visible bool // out is a terminal

	line []byte // scratch
}

// message writes one message by one write, so that a reader has it at once, and whole if it fits into a pipe.
func (p *printer) message(message []byte, seq *uint64) error {
	if p.visible && p.format.bytes {
		message = appendVisible(nil, message)
	}
	p.line = p.format.append(p.line[:0], message, seq)
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
	Time   moment  `json:"time"`          // when it was received
	Seq    *uint64 `json:"seq,omitempty"` // its number in the channel; none from a sink that gets datagrams
	Size   int     `json:"size"`          // bytes
	Text   *string `json:"text,omitempty"`
	Base64 *string `json:"base64,omitempty"`
}

// messageAsJSON is a message that was received at that time.
func messageAsJSON(message []byte, seq *uint64, at time.Time) jsonMessage {
	m := jsonMessage{Time: moment{at}, Seq: seq, Size: len(message)}
	if utf8.Valid(message) {
		m.Text = new(string(message))
	} else {
		m.Base64 = new(base64.StdEncoding.EncodeToString(message))
	}
	return m
}

// appendJSON appends a message as one line of JSON.
func appendJSON(dst, message []byte, seq *uint64) []byte {
	line, _ := encodeJSON(messageAsJSON(message, seq, time.Now()), false) // strings and a number cannot fail
	return append(dst, line...)
}
