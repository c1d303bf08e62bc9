// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"strconv"
	"strings"
	"unicode/utf8"
)

// MaxReply is the longest Reply in bytes, its newline included; a longer text of an error is cut.
const MaxReply = 1024

// maxCode is the longest code of an error that is read.
const maxCode = 64

// Reply is the answer to a registration that asked for one and to a Hello.
type Reply struct {
	ID         uint64 // of the sink or the client; 0 where there is none
	Label      string // of the sink, which need not be the one that was asked for; "": not told
	Epoch      uint64 // one life of the channel's numbers; 0: not told
	Next       uint64 // the number at which the sink begins; told with Epoch
	Lost       uint64 // how many messages before Next it has lost while it was away; told with Epoch
	Mark       uint64 // how far a marked source has come
	Marked     bool   // Mark is told
	MaxMessage uint64 // the largest message that the channel takes, in bytes; 0: not told. Answers to a Hello have it
	Err        *Error // nil: it is done
}

// ParseReply reads "ok id=12 label=db epoch=9f3c next=1000 max-message=262144" or "error CODE TEXT", with or without a
// newline. Words after ok that it does not know are passed over: a later broker may say more. An error code may be one that this package does not know. The error is an
// *Error with CodeBadText or CodeTooLarge, and is about the answer; what the broker refused is in Reply.Err.
func ParseReply(b []byte) (Reply, error) {
	b = bytes.TrimSuffix(b, []byte("\n"))
	if err := checkText(b, MaxReply-1); err != nil {
		return Reply{}, err
	}
	line := string(b)
	if strings.ContainsFunc(line, hidden) {
		return Reply{}, Refuse(CodeBadText, "the answer %s is not one line", quote(line))
	}
	word, rest, _ := strings.Cut(line, " ")
	switch word {
	case "ok":
		return parseOK(rest)
	case "error":
		code, text, _ := strings.Cut(rest, " ")
		odd := func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' }
		if code == "" || len(code) > maxCode || strings.ContainsFunc(code, odd) {
			return Reply{}, Refuse(CodeBadText, "the answer %s has no error code", quote(line))
		}
		return Reply{Err: &Error{Code: code, Text: text}}, nil
	}
	return Reply{}, Refuse(CodeBadText, "the answer %s is neither ok nor error", quote(line))
}

// parseOK reads the words behind "ok".
func parseOK(words string) (r Reply, err error) {
	for word := range strings.SplitSeq(words, " ") {
		key, value, _ := strings.Cut(word, "=")
		number, base := (*uint64)(nil), 10
		switch key {
		case "id":
			number = &r.ID
		case "label":
			if r.Label, err = parseLabel(key, value); err != nil {
				return Reply{}, Refuse(CodeBadText, "cannot use %s as %s", quote(value), key)
			}
			continue
		case "epoch":
			number, base = &r.Epoch, 16
		case "next":
			number = &r.Next
		case "lost":
			number = &r.Lost
		case "mark":
			number, r.Marked = &r.Mark, true
		case "max-message":
			number = &r.MaxMessage
		default:
			continue
		}
		if *number, err = strconv.ParseUint(value, base, 64); err != nil {
			return Reply{}, Refuse(CodeBadText, "cannot use %s as %s", quote(value), key)
		}
	}
	if r.Epoch == 0 {
		r.Next, r.Lost = 0, 0 // numbers of nothing
	}
	return r, nil
}

// Append appends the line that ParseReply reads, with a newline, MaxReply bytes at most. The code must be one of the
// constants. Characters of the text that do not show become spaces: the answer stays one line whatever the error quotes.
func (r Reply) Append(dst []byte) []byte {
	if r.Err == nil {
		dst = append(dst, "ok"...)
		if r.ID != 0 {
			dst = strconv.AppendUint(append(dst, " id="...), r.ID, 10)
		}
		if r.Label != "" {
			dst = append(append(dst, " label="...), r.Label...)
		}
		if r.Epoch != 0 {
			dst = strconv.AppendUint(append(dst, " epoch="...), r.Epoch, 16)
			if r.Marked {
				dst = strconv.AppendUint(append(dst, " mark="...), r.Mark, 10)
			} else {
				dst = strconv.AppendUint(append(dst, " next="...), r.Next, 10)
			}
			if r.Lost != 0 {
				dst = strconv.AppendUint(append(dst, " lost="...), r.Lost, 10)
			}
		}
		if r.MaxMessage != 0 {
			dst = strconv.AppendUint(append(dst, " max-message="...), r.MaxMessage, 10)
		}
		return append(dst, '\n')
	}
	line := "error " + r.Err.Code
	if r.Err.Text != "" {
		line += " " + r.Err.Text
	}
	line = strings.Map(func(c rune) rune {
		if hidden(c) {
			return ' '
		}
		return c // what is not UTF-8 comes as U+FFFD
	}, line)
	return append(append(dst, cut(line, MaxReply-1)...), '\n')
}

// cut shortens s to at most n bytes, between two characters.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
