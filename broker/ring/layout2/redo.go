// SPDX-License-Identifier: Apache-2.0

package layout2

import "fmt"

// The operations, by their numbers in the log.
const (
	opNone = iota
	opRecv
	opAppend
	opSend
	opSkip
	opTail
	opRemove
	opConsume
	opUpdate
	opGreet
	opTake
	opPut
	numOps
)

// operations are what a broker may have been killed in. The log names it with values that hold once it is over; redo brings
// the ring there, from the log and from what the kernel has written down. An error means that what it found cannot have been
// written by a broker.
var operations = [numOps]struct {
	name  string
	slots bool // the log names entries of the table
	redo  func(*Ring) error
}{
	opNone:    {name: "none", redo: func(*Ring) error { return nil }},
	opRecv:    {name: "recv", redo: (*Ring).redoRecv},
	opAppend:  {name: "append", redo: (*Ring).redoAppend},
	opSend:    {name: "send", slots: true, redo: (*Ring).redoSend},
	opSkip:    {name: "skip", slots: true, redo: (*Ring).redoSkip},
	opTail:    {name: "tail", redo: (*Ring).redoTail},
	opRemove:  {name: "remove", slots: true, redo: (*Ring).redoRemove},
	opConsume: {name: "consume", redo: (*Ring).redoConsume},
	opUpdate:  {name: "update", slots: true, redo: (*Ring).redoUpdate},
	opGreet:   {name: "greet", slots: true, redo: (*Ring).redoGreet},
	opTake:    {name: "take", redo: (*Ring).redoTake},
	opPut:     {name: "put", slots: true, redo: (*Ring).redoPut},
}

// redo finishes the operation in the log.
func (r *Ring) redo() error {
	l := &r.c.Log
	if l.Phase >= numOps {
		return fmt.Errorf("operation %d", l.Phase)
	}
	op := &operations[l.Phase]
	if n := uint64(len(r.entries)); op.slots && (uint64(l.Slot) >= n || uint64(l.By) >= n) {
		return fmt.Errorf("operation %s on slots %d and %d", op.name, l.Slot, l.By)
	}
	if err := op.redo(r); err != nil {
		return fmt.Errorf("operation %s: %w", op.name, err)
	}
	return nil
}

// touched counts the leading headers that the kernel has written to. One behind an untouched one cannot be: the kernel goes
// through them in order, in one system call.
func touched(vec []message) (int, error) {
	n := 0
	for n < len(vec) && vec[n].Len != untouched {
		n++
	}
	for i := n; i < len(vec); i++ {
		if vec[i].Len != untouched {
			return 0, fmt.Errorf("commit record %d after an untouched one", i)
		}
	}
	return n, nil
}
