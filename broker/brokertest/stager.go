// SPDX-License-Identifier: Apache-2.0

package brokertest

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/view"
	"github.com/msgmux/msgmux/internal/wire"
)

// Stager is a source with a stage. The descriptor of that stays open, for a test that does with it what it should not.
type Stager struct {
	*Client
	Writer *view.Writer
	Stage  int // -1: none
	Marks  bool
}

// NewStager connects to publish with a stage, with these option lines.
func NewStager(t testing.TB, dir string, options ...string) (*Stager, wire.Reply) {
	t.Helper()
	c, ok := Greet(t, dir, "publish", append([]string{"stage=yes"}, options...)...)
	s := &Stager{Client: c, Stage: -1, Marks: ok.Marked}
	if ok.Err != nil {
		return s, ok
	}
	b, fds, err := s.receiveDescriptors(Within)
	if err != nil || len(fds) != 1 {
		t.Fatalf("no stage came: %q, %v, %v", b, fds, err)
	}
	s.Stage = fds[0]
	t.Cleanup(s.discard)
	if s.Writer, err = view.NewWriter(s.Stage); err != nil {
		t.Fatal(err)
	}
	return s, ok
}

// Discard ends the source, and gives back what it has, before the end of the test.
func (s *Stager) Discard() {
	s.Close()
	s.discard()
}

func (s *Stager) discard() {
	if s.Writer != nil {
		s.Writer.Close()
	}
	if s.Stage >= 0 {
		unix.Close(s.Stage)
	}
	s.Writer, s.Stage = nil, -1
}

// Put sends these messages, with a mark where the source marks, and waits for room for at most d.
func (s *Stager) Put(d time.Duration, mark uint64, messages ...[]byte) error {
	var b []byte
	for _, m := range messages {
		b = wire.AppendRecord(b, m)
	}
	for {
		if s.Writer.Over() {
			return s.Wait(d)
		}
		switch done, wake := s.Writer.Put(b, mark, s.Marks); {
		case wake:
			return s.Wake()
		case done:
			return nil
		case s.Writer.Want(len(b)):
			if err := s.Wait(d); err != nil {
				return err
			}
		}
	}
}

// Wait waits for a packet for at most d. The error tells what the broker has said, or of the end.
func (s *Stager) Wait(d time.Duration) error {
	b, fds, err := s.receiveDescriptors(d)
	for _, fd := range fds {
		unix.Close(fd) // the stage once more
	}
	if err == nil && len(b) > 1 {
		return fmt.Errorf("told %q", b)
	}
	return err
}

// Wake wakes the broker. Where there is no room for that, it has not read what woke it before.
func (s *Stager) Wake() error {
	err := send(s.Conn, []byte{0}, false)
	if errors.Is(err, unix.EAGAIN) {
		return nil
	}
	return err
}
