// SPDX-License-Identifier: Apache-2.0

package wire

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
// The error is an *Error.
func ParseRegistration(b []byte) (Registration, error) {
	if err := checkText(b, MaxRegistration); err != nil {
		return Registration{}, err
	}
	first, rest := cutLine(string(b))
	addr, err := ParseAddress(first)
	if err != nil {
		return Registration{}, err
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
	switch {
	case err != nil:
		return Registration{}, err
	// "remove" and "label=x" could be meant as "remove the one called x", which is not what would happen.
	case r.Remove && r.Options != Options{Reply: r.Reply}:
		return Registration{}, Refuse(CodeBadOption, "remove goes with reply only: the address says which sink it is")
	}
	return r, nil
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
