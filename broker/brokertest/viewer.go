// SPDX-License-Identifier: Apache-2.0

package brokertest

import (
	"fmt"
	"math"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/view"
	"github.com/msgmux/msgmux/internal/wire"
)

// Viewer is a sink in view. Its descriptors stay open, for a test that does with them what it should not.
type Viewer struct {
	*Client
	Reader     *view.Reader
	Ring, Page int // -1: none
	Lost       uint64
	buf        []byte
}

// NewViewer subscribes in view, with these option lines.
func NewViewer(t testing.TB, dir string, options ...string) (*Viewer, wire.Reply) {
	t.Helper()
	c, ok := Greet(t, dir, "subscribe", append([]string{"view=yes"}, options...)...)
	v := &Viewer{Client: c, Ring: -1, Page: -1, buf: make([]byte, 64<<10)}
	if ok.Err != nil {
		return v, ok
	}
	t.Cleanup(v.discard)
	if err := v.Wait(Within); err != nil || v.Reader == nil {
		t.Fatalf("no descriptors came: %v", err)
	}
	return v, ok
}

// Discard ends the sink, and gives back what it has, before the end of the test.
func (v *Viewer) Discard() {
	v.Close()
	v.discard()
}

func (v *Viewer) discard() {
	if v.Reader != nil {
		v.Reader.Close()
	}
	for _, fd := range []int{v.Ring, v.Page} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	v.Reader, v.Ring, v.Page = nil, -1, -1
}

// Wait waits for a packet, and does what it is for. The error tells what the broker has said, or of the end.
func (v *Viewer) Wait(d time.Duration) error {
	b, fds, err := v.receiveDescriptors(d)
	switch {
	case err != nil:
		return err
	case len(b) != wire.SinkHeader:
		return fmt.Errorf("told %q", b)
	case len(fds) != 2:
		sys.CloseDescriptors(fds)
		return nil
	case v.Reader == nil:
		v.Ring, v.Page = fds[0], fds[1]
		v.Reader, err = view.NewReader(v.Ring, v.Page)
		return err
	}
	defer sys.CloseDescriptors(fds)
	return v.Reader.Move(fds[0])
}

// receiveDescriptors waits for a packet, for at most d. The descriptors that come with it are the caller's.
func (c *Client) receiveDescriptors(d time.Duration) (b []byte, fds []int, err error) {
	c.Conn.SetReadDeadline(time.Now().Add(d))
	raw, err := c.Conn.SyscallConn()
	if err != nil {
		return nil, nil, err
	}
	b = make([]byte, wire.MaxReply)
	var n int
	var errno unix.Errno
	for looks := 0; looks < 3 && n == 0 && (errno == 0 || errno == unix.ECONNRESET); looks++ { // see ReceivePacketWithin
		if err := raw.Read(func(fd uintptr) bool {
			n, fds, errno = sys.RecvDescriptors(int(fd), b)
			return errno != unix.EAGAIN
		}); err != nil {
			return nil, nil, err
		}
	}
	switch {
	case errno != 0:
		return nil, nil, errno
	case n == 0:
		return nil, nil, os.ErrClosed
	}
	return b[:n], fds, nil
}

// Next waits for messages for at most d, and returns those that are there; they are valid until the next call. It is done with them
// when it is called again.
func (v *Viewer) Next(d time.Duration) (messages [][]byte, err error) {
	if err := v.Say(v.Reader.Next()); err != nil {
		return nil, err
	}
	for {
		b, err := v.Reader.Read(v.buf, math.MaxUint64)
		v.Lost += b.Lost
		switch {
		case err != nil:
			return nil, err
		case b.Need > 0:
			v.buf = make([]byte, b.Need)
		case b.Count > 0:
			wire.EachRecord(v.buf[:b.Size], func(m []byte) bool { messages = append(messages, m); return true })
			return messages, nil
		default:
			if v.Reader.Over() || v.Reader.Sleep() {
				err = v.Wait(d)
			}
			if v.Reader.Wake(); err != nil {
				return nil, err
			}
		}
	}
}

// Say says that everything numbered below done is done, and answers if it is asked to.
func (v *Viewer) Say(done uint64) error {
	if v.Reader.Say(done) {
		return v.SendPacket(wire.AppendAck(nil, done))
	}
	return nil
}
