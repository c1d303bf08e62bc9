// SPDX-License-Identifier: Apache-2.0

package wire

import "strings"

// Protocol is the first line of a Hello: the name and the version of the framed protocol.
const Protocol = "msgmux/1"

// MaxHello is the longest Hello in bytes.
const MaxHello = 4096

// Hello is the first packet of a client on publish or subscribe. A source has no use for other options than Label.
type Hello struct{ Options }

// ParseHello reads a hello: Protocol on the first line, then options. The options frames and reply are refused: on a
// connection both go without saying. The error is an *Error, with CodeUnsupported when the client speaks another version.
func ParseHello(b []byte) (Hello, error) {
	if err := checkText(b, MaxHello); err != nil {
		return Hello{}, err
	}
	first, rest := cutLine(string(b))
	switch name, _, _ := strings.Cut(Protocol, "/"); {
	case first == Protocol:
	case strings.HasPrefix(first, name+"/"):
		return Hello{}, Refuse(CodeUnsupported, "cannot speak %s: this broker speaks %s", quote(first), Protocol)
	default:
		return Hello{}, Refuse(CodeBadText, "cannot read %s: the first line must be %s", quote(first), Protocol)
	}
	options, err := parseOptions(rest, func(line string) (bool, error) {
		key, _, _ := strings.Cut(line, "=")
		if key == "frames" || key == "reply" {
			return false, Refuse(CodeBadOption, "the option %s has no place here: a connection has both frames and a reply", key)
		}
		return false, nil
	})
	if err != nil {
		return Hello{}, err
	}
	return Hello{options}, nil
}

// Append appends the text that ParseHello reads; Frames and Reply are left out.
func (h Hello) Append(dst []byte) []byte {
	h.Frames, h.Reply = false, false
	return h.AppendLines(append(dst, Protocol+"\n"...))
}
