// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxName is the longest name of a Unix socket in bytes: sun_path has 108 (unix(7)), of which a path needs one for the
// NUL at its end and an abstract name one for the NUL in front.
const maxName = 107

// maxQuote is how much of what a stranger sent an error repeats, in bytes: a whole address fits.
const maxQuote = 120

// Address is the name of a Unix socket. The zero value is no address; where it stands depends on what it is part of.
type Address struct {
	Abstract bool   // in the abstract namespace of Linux, without a file
	Name     string // an absolute path, or the abstract name without '@' and without the NUL in front
}

// ParseAddress reads "@name", "/absolute/path", or "", which is the zero Address. The name is at most 107 bytes of UTF-8
// without characters that do not show, because addresses go to logs and terminals. The error is an *Error with
// CodeBadAddress.
func ParseAddress(s string) (Address, error) {
	a := Address{Name: s}
	switch {
	case s == "":
		return Address{}, nil
	case s[0] == '@':
		a = Address{Abstract: true, Name: s[1:]}
	case s[0] != '/':
		return Address{}, Refuse(CodeBadAddress,
			"cannot use %s as an address: want @name, /absolute/path, or nothing for the sender's own address", quote(s))
	}
	if err := a.check(); err != nil {
		return Address{}, err
	}
	return a, nil
}

// check judges a name of either kind; nil is well.
func (a Address) check() error {
	switch trimmed := strings.TrimRight(a.Name, "\x00"); {
	case a.Abstract && trimmed == "":
		return Refuse(CodeBadAddress, "the abstract name is empty")
	// To the kernel trailing NULs are a part of an abstract name: whoever binds with sizeof as the length has a name of 107
	// bytes, which no text can say.
	case a.Abstract && len(trimmed) < len(a.Name):
		return Refuse(CodeBadAddress, "the abstract name %s ends in NUL bytes: when binding, pass "+
			"offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name) as the address length, not sizeof, "+
			"and write the name here without a NUL", quote(trimmed))
	case len(a.Name) > maxName:
		return Refuse(CodeBadAddress, "the address %s has %d bytes, the kernel allows %d", quote(a.Name), len(a.Name), maxName)
	case !utf8.ValidString(a.Name):
		return Refuse(CodeBadAddress, "the address %s is not UTF-8", quote(a.Name))
	case strings.ContainsFunc(a.Name, hidden):
		return Refuse(CodeBadAddress, "the address %s has control characters", quote(a.Name))
	}
	return nil
}

// String is what ParseAddress reads: "@name", the path, or "".
func (a Address) String() string {
	if a.Abstract {
		return "@" + a.Name
	}
	return a.Name
}

// IsZero tells whether there is no address.
func (a Address) IsZero() bool { return a == Address{} }

// hidden tells of characters that do not show or that move others about: controls, formats (the bidirectional overrides
// are among them), line and paragraph separators.
func hidden(r rune) bool { return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp) }

// quote makes what a stranger sent fit for an error text: printable, and short however long it was.
func quote(s string) string {
	if len(s) > maxQuote {
		return strconv.Quote(cut(s, maxQuote)) + "..."
	}
	return strconv.Quote(s)
}
