// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/width"
)

// appendVisible appends text so that it can do nothing to a terminal: control bytes but tab and newline, bytes that are
// no UTF-8, and the marks that turn the direction of writing become \xNN or \u{NNNN}. A backslash stays as it is; this
// is for reading, not for reading back.
func appendVisible(dst, text []byte) []byte {
	for len(text) > 0 {
		r, size := utf8.DecodeRune(text)
		switch {
		case r == utf8.RuneError && size == 1, r < utf8.RuneSelf && r != '\t' && r != '\n' && unicode.IsControl(r):
			dst = fmt.Appendf(dst, `\x%02x`, text[0])
		case r >= utf8.RuneSelf && isActive(r):
			dst = fmt.Appendf(dst, `\u{%x}`, r)
		default:
			dst = append(dst, text[:size]...)
		}
		text = text[size:]
	}
	return dst
}

// isActive tells whether a character does something instead of standing for itself: the C1 controls, which some
// terminals take for escape sequences, the separators of lines, and the marks of direction (Unicode annex 9), which make
// text look like what it is not.
func isActive(r rune) bool {
	switch {
	case unicode.IsControl(r), r == 0x061c, r == 0x200e, r == 0x200f, r >= 0x2028 && r <= 0x202e, r >= 0x2066 && r <= 0x2069:
		return true
	}
	return false
}

// controls are the two that appendVisible leaves as they are.
var controls = strings.NewReplacer("\n", `\n`, "\t", `\t`)

// visible is appendVisible for strings in lines and tables, where a newline has no place either. Most have nothing to hide.
func visible(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) {
		return s
	}
	return controls.Replace(string(appendVisible(nil, []byte(s))))
}

// appendEscaped appends JSON with what would act on a terminal escaped, which the encoder leaves as it is: DEL, C1 controls
// and marks of direction. It means the same.
func appendEscaped(dst, json []byte) []byte {
	for len(json) > 0 {
		r, size := utf8.DecodeRune(json)
		if r == 0x7f || r >= utf8.RuneSelf && isActive(r) {
			dst = fmt.Appendf(dst, `\u%04x`, r)
		} else {
			dst = append(dst, json[:size]...)
		}
		json = json[size:]
	}
	return dst
}

// runeWidth is how many columns of a terminal a character takes: two for those of East Asia that are wide (Unicode annex
// 11), none for those that stand over or in another one.
func runeWidth(r rune) int {
	switch {
	case r < 0x300:
		return 1
	case unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf), r >= 0x1160 && r <= 0x11ff: // the latter joins a syllable of Hangul
		return 0
	}
	switch width.LookupRune(r).Kind() {
	case width.EastAsianWide, width.EastAsianFullwidth:
		return 2
	}
	return 1
}

// colourLength is how long the colour is that text begins with, as paint writes them; 0: it does not.
func colourLength(text string) int {
	rest, ok := strings.CutPrefix(text, "\x1b[")
	if !ok {
		return 0
	}
	end := strings.TrimLeft(rest, "0123456789")
	if !strings.HasPrefix(end, "m") {
		return 0
	}
	return len(text) - len(end) + 1
}

// textWidth is how many columns text takes. Colours take none.
func textWidth(text string) (n int) {
	for text != "" {
		if n := colourLength(text); n > 0 {
			text = text[n:]
			continue
		}
		r, size := utf8.DecodeRuneInString(text)
		n += runeWidth(r)
		text = text[size:]
	}
	return n
}

// pad makes text so many columns wide, on the left or on the right.
func pad(text string, columns int, right bool) string {
	space := strings.Repeat(" ", max(0, columns-textWidth(text)))
	if right {
		return space + text
	}
	return text + space
}

// cut makes text fit into so many columns, and shows where something is missing.
func cut(text string, columns int, s style) string {
	if textWidth(text) <= columns {
		return text
	}
	var out strings.Builder
	n, coloured := 0, false
	for {
		if end := colourLength(text); end > 0 {
			coloured = text[:end] != "\x1b[0m"
			out.WriteString(text[:end])
			text = text[end:]
			continue
		}
		r, size := utf8.DecodeRuneInString(text)
		if n += runeWidth(r); n > columns-1 {
			break
		}
		out.WriteString(text[:size])
		text = text[size:]
	}
	if columns > 0 {
		out.WriteString(s.more)
	}
	if coloured {
		out.WriteString("\x1b[0m")
	}
	return out.String()
}
