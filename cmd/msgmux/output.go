// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"time"
	"unicode/utf8"
)

// format appends a message as it is printed; seq is its number in the channel, nil if that is not known.
type format struct {
	append func(dst, message []byte, seq *uint64) []byte
	bytes  bool // the message's own bytes are in the output: not for a terminal as they are
}

// formats are the values of sub --output. What raw prints is exact in any case: that is what it is for.
var formats = map[string]format{
	"raw":  {func(dst, message []byte, _ *uint64) []byte { return append(dst, message...) }, false},
	"line": {func(dst, message []byte, _ *uint64) []byte { return append(append(dst, message...), '\n') }, true},
	"nul":  {func(dst, message []byte, _ *uint64) []byte { return append(append(dst, message...), 0) }, true},
	"hex":  {func(dst, message []byte, _ *uint64) []byte { return append(hex.AppendEncode(dst, message), '\n') }, false},
	"json": {appendJSON, false},
}

// formatNames are the keys of formats in the order in which they are explained.
func formatNames() []string { return []string{"raw", "line", "nul", "json", "hex"} }

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

// jsonMessage is a line of -o json. A message is text if it is UTF-8 and base64 otherwise, never a damaged text.
type jsonMessage struct {
	Time   string  `json:"time"`          // when it was received
	Seq    *uint64 `json:"seq,omitempty"` // its number in the channel; none from a sink that gets datagrams
	Size   int     `json:"size"`          // bytes
	Text   *string `json:"text,omitempty"`
	Base64 *string `json:"base64,omitempty"`
}

// jsonTime is RFC 3339 with all nine digits, so that lines sort.
const jsonTime = "2006-01-02T15:04:05.000000000Z07:00"

// appendJSON appends a message as one line of JSON.
func appendJSON(dst, message []byte, seq *uint64) []byte {
	m := jsonMessage{Time: time.Now().Format(jsonTime), Seq: seq, Size: len(message)}
	if utf8.Valid(message) {
		m.Text = new(string(message))
	} else {
		m.Base64 = new(base64.StdEncoding.EncodeToString(message))
	}
	var line bytes.Buffer
	encoder := json.NewEncoder(&line)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(m) // strings and a number cannot fail
	// The encoder leaves DEL, C1 controls and marks of direction as they are. Escaped they mean the same, and JSON can
	// be shown on any terminal.
	for _, r := range line.String() {
		if r == 0x7f || r >= utf8.RuneSelf && isActive(r) {
			dst = fmt.Appendf(dst, `\u%04x`, r)
		} else {
			dst = utf8.AppendRune(dst, r)
		}
	}
	return dst
}
