// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"fmt"

	"github.com/msgmux/msgmux/broker/ring/mem"
)

// opLog is the operation log: one entry. The fields of an operation stand in its file, op_NAME.go; all of them hold absolute
// values that will be true afterwards, so that applying them again does no harm. Phase is stored last and cleared before any
// field is touched again.
type opLog struct {
	Phase  mem.Uint32
	_      uint32
	Fields [logSpace]byte
}

// logSpace is room for the fields of the longest operation, in bytes.
const logSpace = 512

// The operations. Their order is of no meaning; their numbers are part of the layout.
const (
	phaseIdle = iota
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
	opAck
	opDone
	opLeave
	opRejoin
	numOps
)

// operation is what recovery knows of one. Each has a file op_NAME.go: what it writes down, what it does, and how a successor
// does it again.
type operation struct {
	name string
	// redo brings the ring to where the operation would have brought it, from the log and from what the kernel has written
	// down. It may be cut short and done again. What it finds may be wrong, since bits may have fallen: it looks at every
	// number before it uses it as an index, and an error means that this cannot have been written by this program.
	redo func(*Ring) error
}

// operations are all there are, by the number in the log. A function, since they log.
func operations() [numOps]operation {
	return [numOps]operation{
		phaseIdle: {"none", func(*Ring) error { return nil }},
		opRecv:    {"recv", (*Ring).redoRecv},
		opAppend:  {"append", (*Ring).redoAppend},
		opSend:    {"send", (*Ring).redoSend},
		opSkip:    {"skip", (*Ring).redoSkip},
		opTail:    {"tail", (*Ring).redoTail},
		opRemove:  {"remove", (*Ring).redoRemove},
		opConsume: {"consume", (*Ring).redoConsume},
		opUpdate:  {"update", (*Ring).redoUpdate},
		opGreet:   {"greet", (*Ring).redoGreet},
		opTake:    {"take", (*Ring).redoTake},
		opPut:     {"put", (*Ring).redoPut},
		opAck:     {"ack", (*Ring).redoAck},
		opDone:    {"done", (*Ring).redoDone},
		opLeave:   {"leave", (*Ring).redoLeave},
		opRejoin:  {"rejoin", (*Ring).redoRejoin},
	}
}

// log sets the phase: what the log's other fields say is going to happen.
func (r *Ring) log(phase uint32, seam string) {
	r.c.Log.Phase.Store(phase)
	r.ops.Seam(seam)
}

// done ends an operation.
func (r *Ring) done(seam string) {
	r.ops.Seam(seam)
	r.c.Log.Phase.Store(phaseIdle)
}

// redo finishes the operation that the predecessor was in.
func (r *Ring) redo() error {
	phase := r.c.Log.Phase.Load()
	if phase >= numOps {
		return fmt.Errorf("operation %d", phase)
	}
	op := operations()[phase]
	if err := op.redo(r); err != nil {
		return fmt.Errorf("operation %s: %w", op.name, err)
	}
	return nil
}

// entryAt is the entry that a log names, or an error if there is none.
func entryAt[T any](table []T, slot *mem.Value[uint32]) (*T, error) {
	if n := slot.Load(); uint64(n) < uint64(len(table)) {
		return &table[n], nil
	}
	return nil, fmt.Errorf("slot %d of %d", slot.Load(), len(table))
}

// change makes readers of the snapshot try again while it runs.
func (r *Ring) change() { r.c.Word.Add(1) }

// changed ends what change began.
func (r *Ring) changed() { r.c.Word.Add(1) }
