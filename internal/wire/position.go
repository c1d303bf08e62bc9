// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"fmt"
	"strconv"
	"strings"
)

// Position is a place in the order of a channel as its clients write it down: everything numbered below Seq is behind them, in
// the life of the numbering that Epoch names. The zero Position is none.
type Position struct{ Epoch, Seq uint64 }

// String is the value of the option from: the epoch in hexadecimal, and the number.
func (p Position) String() string { return fmt.Sprintf("%x:%d", p.Epoch, p.Seq) }

// ParsePosition reads what String writes. The error is an *Error with CodeBadOption.
func ParsePosition(s string) (Position, error) {
	of, number, both := strings.Cut(s, ":")
	epoch, err := strconv.ParseUint(of, 16, 64)
	seq, bad := strconv.ParseUint(number, 10, 64)
	if !both || err != nil || bad != nil || epoch == 0 {
		return Position{}, Refuse(CodeBadOption, "cannot use %s as a position: want EPOCH:NUMBER", quote(s))
	}
	return Position{epoch, seq}, nil
}
