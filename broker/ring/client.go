// SPDX-License-Identifier: Apache-2.0

package ring

import "sync/atomic"

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
	Since int64 // unix seconds
}

func (s *ClientSpec) identity() (i clientIdentity) {
	i.ID, i.Since, i.UID = s.ID, s.Since, s.UID
	i.LabelLen = uint64(copy(i.Label[:], s.Label))
	return i
}

// spec reads an identity back. ok is false if its bytes cannot have been written by this program.
func (i *clientIdentity) spec() (s ClientSpec, ok bool) {
	if i.LabelLen > maxLabel || i.ID == 0 {
		return s, false
	}
	return ClientSpec{ID: i.ID, Label: string(i.Label[:i.LabelLen]), UID: i.UID, Since: i.Since}, true
}

// Spec is what the client is.
func (c *Client) Spec() *ClientSpec { return c.spec.Load() }

// ID tells the client from all others and from all sinks, past and future.
func (c *Client) ID() uint64 { return c.Spec().ID }

// Attaching says whether it has not got its ok yet.
func (c *Client) Attaching() bool { return c.e.State.Load() == attaching }
