// SPDX-License-Identifier: Apache-2.0

package writer

import (
	"fmt"

	"github.com/msgmux/msgmux/broker/ring/mem"
)

// opLog is the operation log: one entry. Every field holds an absolute value that will be true afterwards, so that
// applying it again does no harm. Phase is stored last and cleared before any field is touched again.
type opLog struct {
	Phase mem.Uint32
	Slot  mem.Value[uint32] // SEND, PUT, SKIP, REMOVE, UPDATE, GREET: the entry that changes; of a send the one with the cursor
	By    mem.Value[uint32] // SEND, PUT: the sink that takes the messages (a member of a share, or Slot itself)
	First mem.Value[uint32] // SEND: the first slot of the send array
	Count mem.Value[uint32] // SEND: how many slots
	Kind  mem.Value[uint32] // SEND: datagrams or a packet
	Base  mem.Value[uint64] // SEND, PUT: what By had accepted before
	From  mem.Value[uint64] // SEND: the sequence number that the cursor stood at

	Place mem.Value[Place]  // APPEND: head. SKIP, PUT: the cursor. TAIL: tail
	Other mem.Value[Place]  // TAIL: delivered. PUT: where the cursor stood
	Lost  mem.Value[uint64] // SKIP: what the sink has lost. REMOVE: GoneLost
	Acc   mem.Value[uint64] // REMOVE: GoneAccepted
	Left  mem.Value[uint64] // REMOVE: GoneAbandoned
	Maybe mem.Value[uint64] // TAKE, PUT: what Uncertain will be if the outcome is not known

	Next    mem.Value[uint32] // APPEND: where the landing zone goes on
	_       uint32
	Offset  mem.Value[uint64]
	Refused mem.Value[[numReasons]uint64]
}

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
	numOps
)

// operation is what recovery knows of one. Each has a file op_NAME.go: what it does, and how a successor does it again.
type operation struct {
	name string
	// slots says that the log names entries of the table, which are looked at before it is believed.
	slots bool
	// redo brings the ring to where the operation would have brought it, from the log and from what the kernel has written
	// down. It may be cut short and done again. An error means that what it found cannot have been written by this program.
	redo func(*Ring) error
}

// operations are all there are, by the number in the log. A function, since they log.
func operations() [numOps]operation {
	return [numOps]operation{
		phaseIdle: {name: "none", redo: func(*Ring) error { return nil }},
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
	l := &r.c.Log
	phase := l.Phase.Load()
	if phase >= numOps {
		return fmt.Errorf("operation %d", phase)
	}
	op := operations()[phase]
	if op.slots {
		if n := uint64(len(r.entries)); uint64(l.Slot.Load()) >= n || uint64(l.By.Load()) >= n {
			return fmt.Errorf("operation %s on slot %d", op.name, l.Slot.Load())
		}
	}
	if err := op.redo(r); err != nil {
		return fmt.Errorf("operation %s: %w", op.name, err)
	}
	return nil
}

// change makes readers of the snapshot try again while it runs.
func (r *Ring) change() { r.c.Word.Add(1) }

// changed ends what change began.
func (r *Ring) changed() { r.c.Word.Add(1) }
