// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"fmt"
	"strconv"
	"strings"
)

// Start says where a new sink begins. It never passes over what no sink has had yet. The zero Start is StartNow.
type Start struct {
	kind  startKind
	n     uint64 // which number, or how many messages
	epoch uint64 // of a number: in which life of the numbering; 0: in whichever there is
}

type startKind uint8

const (
	startNow startKind = iota
	startOldest
	startLast
	startAt
)

// The starts that need no number.
var (
	StartNow    = Start{}                  // with what no sink has had yet
	StartOldest = Start{kind: startOldest} // with the oldest message that the ring still has
)

// StartLast is n messages before the newest, or the oldest that the ring still has.
func StartLast(n uint64) Start { return Start{kind: startLast, n: n} }

// StartAt is the message with that number, or the oldest that the ring still has. If epoch is not 0 and not that of the
// channel's numbers, the number means nothing: then it is the oldest.
func StartAt(epoch, seq uint64) Start { return Start{kind: startAt, n: seq, epoch: epoch} }

// In is the number of the message to begin with in a ring that holds tail to head, of which what no sink has had begins
// at delivered: from tail to delivered.
func (s Start) In(epoch, tail, delivered, head uint64) uint64 {
	want := delivered
	switch s.kind {
	case startOldest:
		want = tail
	case startLast:
		want = head - min(head, s.n)
	case startAt:
		want = s.n
		if s.epoch != 0 && s.epoch != epoch {
			want = tail
		}
	}
	return min(max(want, tail), delivered)
}

// String is the value of the option start.
func (s Start) String() string {
	switch s.kind {
	case startOldest:
		return "oldest"
	case startLast:
		return fmt.Sprintf("-%d", s.n)
	case startAt:
		if s.epoch != 0 {
			return fmt.Sprintf("%x:%d", s.epoch, s.n)
		}
		return strconv.FormatUint(s.n, 10)
	}
	return "now"
}

// parseStart reads the value of start.
func parseStart(value string) (Start, error) {
	switch value {
	case "now":
		return StartNow, nil
	case "oldest":
		return StartOldest, nil
	}
	refusal := Refuse(CodeBadOption, "cannot use %s as start: want now, oldest, NUMBER, EPOCH:NUMBER or -COUNT", quote(value))
	if count, ok := strings.CutPrefix(value, "-"); ok {
		n, err := strconv.ParseUint(count, 10, 64)
		if err != nil {
			return Start{}, refusal
		}
		return StartLast(n), nil
	}
	of, number, both := strings.Cut(value, ":")
	if !both {
		of, number = "", value
	}
	var epoch uint64
	var err error
	if both {
		if epoch, err = strconv.ParseUint(of, 16, 64); err != nil || epoch == 0 {
			return Start{}, refusal
		}
	}
	seq, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return Start{}, refusal
	}
	return StartAt(epoch, seq), nil
}
