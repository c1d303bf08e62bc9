// SPDX-License-Identifier: Apache-2.0

package wire

import "strings"

// MaxRegistration is the longest registration in bytes. A longest address with every option has under 400; the rest is
// for comments and for options to come.
const MaxRegistration = 4096

// removeWord is the line that makes a registration a removal.
const removeWord = "remove"

// Registration is one datagram on the register socket: make this socket a sink, or forget it.
type Registration struct {
	Address Address // zero: the address that the datagram came from
	Remove  bool    // only Reply counts beside it
	Options
}

// ParseRegistration reads a registration: the address on the first line, then options, one a line, or the word "remove".
// The error is an *Error. What comes with it is only for the answer: the address if that could be read, and Reply if one
// is asked for. Behind an empty first line Reply stays false then, since the sender's own address is the sink's, where
// an answer would be taken for a message.
func ParseRegistration(b []byte) (Registration, error) {
	if err := checkText(b, MaxRegistration); err != nil {
		return Registration{}, err
	}
	first, rest := cutLine(string(b))
	addr, err := ParseAddress(first)
	if err != nil {
		return refused(addr, first, rest), err
	}
	r := Registration{Address: addr}
	r.Options, err = parseOptions(rest, func(line string) (bool, error) {
		if line != removeWord {
			return false, nil
		}
		if r.Remove {
			return false, Refuse(CodeBadOption, "the word remove stands there twice")
		}
		r.Remove = true
		return true, nil
	})
	// "remove" and "label=x" could be meant as "remove the one called x", which is not what would happen.
	if err == nil && r.Remove && r.Options != (Options{Reply: r.Reply}) {
		err = Refuse(CodeBadOption, "remove goes with reply only: the address says which sink it is")
	}
	if err == nil {
		err = r.unconnected()
	}
	if err != nil {
		return refused(addr, first, rest), err
	}
	return r, nil
}

// refused is what a registration that cannot be obeyed tells about where to send the answer.
func refused(addr Address, first, rest string) Registration {
	r := Registration{Address: addr}
	for line := range strings.SplitSeq(rest, "\n") {
		if first != "" && strings.TrimSuffix(line, "\r") == "reply=yes" {
			r.Reply = true
		}
	}
	return r
}

// Append appends the text that ParseRegistration reads. Of the options of a removal only Reply is in it. Values that Set
// would refuse are printed as they are, for the broker to refuse.
func (r Registration) Append(dst []byte) []byte {
	dst = append(append(dst, r.Address.String()...), '\n')
	if r.Remove {
		dst = append(dst, removeWord+"\n"...)
		r.Options = Options{Reply: r.Reply}
	}
	return r.AppendLines(dst)
}
