// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	msgmux "github.com/msgmux/msgmux/client"
)

// verb is what stands behind a % in a template.
type verb struct {
	letter byte
	is     string // for people
	origin bool   // it is of the message's origin
	append func(dst []byte, m *message) []byte
}

// verbs are all that a template may have, in the order in which they are explained.
var verbs = []verb{
	{'m', "the message", false, func(dst []byte, m *message) []byte { return append(dst, m.text...) }},
	{'b', "how many bytes it has", false, func(dst []byte, m *message) []byte { return strconv.AppendInt(dst, int64(len(m.Payload)), 10) }},
	{'o', "its number in the order of the channel", false, func(dst []byte, m *message) []byte { return strconv.AppendUint(dst, m.Seq, 10) }},
	{'t', "when the broker received it; where that is not known, when sub did", true, func(dst []byte, m *message) []byte { return append(dst, formatTime(m.received())...) }},
	{'p', "the process that sent it, as the kernel says", true, attested(func(o msgmux.Origin) int64 { return int64(o.PID) })},
	{'u', "the user that sent it, as the kernel says", true, attested(func(o msgmux.Origin) int64 { return int64(o.UID) })},
	{'g', "the group of the process that sent it, as the kernel says", true, attested(func(o msgmux.Origin) int64 { return int64(o.GID) })},
	{'C', "the command that sent it, as far as sub can find out", true, guessed(func(p process) string { return p.command })},
	{'U', "the unit of systemd that sent it, as far as sub can find out", true, guessed(func(p process) string { return p.unit })},
	{'%', "a percent sign", false, func(dst []byte, _ *message) []byte { return append(dst, '%') }},
}

// notKnown stands for what is not.
const notKnown = '-'

// attested is a number of a message's origin.
func attested(number func(msgmux.Origin) int64) func(dst []byte, m *message) []byte {
	return func(dst []byte, m *message) []byte {
		o := m.from()
		if !o.Known {
			return append(dst, notKnown)
		}
		return strconv.AppendInt(dst, number(o), 10)
	}
}

// guessed is a name of the sender's, which is a stranger's choice: it ends no line and does nothing to a terminal.
func guessed(name func(process) string) func(dst []byte, m *message) []byte {
	return func(dst []byte, m *message) []byte {
		text := name(m.sender())
		if text == "" {
			return append(dst, notKnown)
		}
		return append(dst, visible(text)...)
	}
}

// explainVerbs lists the verbs, one a line.
func explainVerbs() string {
	var text strings.Builder
	for _, v := range verbs {
		fmt.Fprintf(&text, "  %%%c  %s\n", v.letter, v.is)
	}
	return text.String()
}

// escapes are what may stand behind a backslash, beside xNN.
var escapes = map[byte]byte{'n': '\n', 't': '\t', 'r': '\r', '0': 0, '\\': '\\'}

// parseTemplate makes a format of a template. What it does not know is an error: a letter that gets its meaning later would
// change what scripts print.
func parseTemplate(text string) (f format, err error) {
	if text == "" {
		return f, errors.New("it is empty")
	}
	var pieces []func(dst []byte, m *message) []byte
	for at := 0; at < len(text); {
		if text[at] == '%' {
			if at+1 == len(text) {
				return f, errors.New("nothing follows the last %")
			}
			i := slices.IndexFunc(verbs, func(v verb) bool { return v.letter == text[at+1] })
			if i < 0 {
				letter, _ := utf8.DecodeRuneInString(text[at+1:])
				return f, fmt.Errorf("there is no %%%c", letter)
			}
			pieces, at = append(pieces, verbs[i].append), at+2
			f.origin = f.origin || verbs[i].origin
			continue
		}
		var literal []byte
		for at < len(text) && text[at] != '%' {
			b, n, err := unescape(text[at:])
			if err != nil {
				return f, err
			}
			literal, at = append(literal, b), at+n
		}
		pieces = append(pieces, func(dst []byte, _ *message) []byte { return append(dst, literal...) })
	}
	f.append = func(dst []byte, m *message) []byte {
		for _, piece := range pieces {
			dst = piece(dst, m)
		}
		return dst
	}
	return f, nil
}

// unescape reads one byte of a literal, and says how many of text stand for it.
func unescape(text string) (b byte, n int, err error) {
	switch {
	case text[0] != '\\':
		return text[0], 1, nil
	case len(text) == 1:
		return 0, 0, errors.New("nothing follows a backslash")
	case text[1] == 'x':
		b, err := strconv.ParseUint(text[2:min(4, len(text))], 16, 8)
		if err != nil || len(text) < 4 {
			return 0, 0, errors.New(`two hexadecimal digits follow \x`)
		}
		return byte(b), 4, nil
	}
	b, ok := escapes[text[1]]
	if !ok {
		return 0, 0, fmt.Errorf("there is no %q", text[:2])
	}
	return b, 2, nil
}
