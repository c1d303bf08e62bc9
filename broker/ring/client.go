// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"cmp"
	"sync/atomic"
	"time"
)

// Client is a connected source.
//
// Spec may be used on any goroutine, all else by the data thread alone.
type Client struct {
	spec atomic.Pointer[ClientSpec]
	slot int
	e    *clientEntry
}

// ClientSpec is what a connected source is.
type ClientSpec struct {
	ID    uint64
	Label string // at most 64 bytes
	UID   uint32
	Since int64         // unix seconds
	Conn  uint64        // see Connection; 0: the first
	Marks bool          // its packets begin with its mark
	Keep  time.Duration // how long its mark stays when its connection has gone; 0: not
	Stage bool          // it writes its records to a stage

	// Mark is how far it has come in its own input, of one that is added with a mark, and Taken how far its stage has been taken. Later:
	// see Client.Mark and Client.Staged.
	Mark, Taken uint64
}

// Connection is Spec.Connection for a source.
func (s *ClientSpec) Connection() uint64 { return cmp.Or(s.Conn, s.ID) }

// Bits of clientIdentity.Bits.
const (
	bitMarks = 1 << iota
	bitStage
)

func (s *ClientSpec) identity() (i clientIdentity) {
	i.ID, i.Since, i.UID, i.Conn, i.Keep = s.ID, s.Since, s.UID, s.Conn, int64(s.Keep)
	if s.Marks {
		i.Bits |= bitMarks
	}
	if s.Stage {
		i.Bits |= bitStage
	}
	i.LabelLen = uint64(copy(i.Label[:], s.Label))
	return i
}

// spec reads an identity back. ok is false if its bytes cannot have been written by this program.
func (i *clientIdentity) spec() (s ClientSpec, ok bool) {
	if i.LabelLen > maxLabel || i.ID == 0 || i.Keep < 0 {
		return s, false
	}
	return ClientSpec{ID: i.ID, Label: string(i.Label[:i.LabelLen]), UID: i.UID, Since: i.Since, Conn: i.Conn,
		Marks: i.Bits&bitMarks != 0, Stage: i.Bits&bitStage != 0, Keep: time.Duration(i.Keep)}, true
}

// Spec is what the client is.
func (c *Client) Spec() *ClientSpec { return c.spec.Load() }

// ID tells the client from all others and from all sinks, past and future.
func (c *Client) ID() uint64 { return c.Spec().ID }

// Mark is how far it has come in its own input, as of its last packet that is in the ring.
func (c *Client) Mark() uint64 { return c.e.Mark.Load() }

// Left is when the connection of a kept one went; the zero Time: it is there.
func (c *Client) Left() time.Time { return since(c.e.Left.Load()) }

// Attaching says whether it has not got its ok yet.
func (c *Client) Attaching() bool { return c.e.State.Load() == attaching }
