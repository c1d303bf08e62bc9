// SPDX-License-Identifier: Apache-2.0

package view

import (
	"testing"

	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// TestPutBesideTheEnd: a broker that ends a connection stores that, and then looks for the last time how far the source has written. A
// source that looked for the end before it wrote may have come too late: it finds out, for it sends a packet that fails.
func TestPutBesideTheEnd(t *testing.T) {
	s, fd, err := NewStage(minStage)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(); sys.Close(fd) })
	w, err := NewWriter(fd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	record := wire.AppendRecord(nil, []byte("x"))
	if done, wake := w.Put(record, 0, false); !done || wake {
		t.Fatalf("the first: %t, %t", done, wake)
	}
	s.End()
	last := s.Head()
	if done, wake := w.Put(record, 0, false); !done || !wake || s.Head() == last {
		t.Errorf("one beside the end: %t, %t", done, wake)
	}
}
