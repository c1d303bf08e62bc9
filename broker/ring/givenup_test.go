// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"
)

// poked copies a state, and writes a byte into the copy, which has more bytes at its end.
func poked(t *testing.T, state []byte, more int, offset int64, b byte) (fd int) {
	t.Helper()
	state = append(bytes.Clone(state), make([]byte, more)...)
	state[offset] = b
	fd, err := unix.MemfdCreate("state", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if n, err := unix.Pwrite(fd, state, 0); n != len(state) || err != nil {
		t.Fatalf("cannot write a memfd: %d %v", n, err)
	}
	return fd
}

// TestOtherLayoutSaysWhatIsLost: a ring that a newer version has left says how many messages no sink has, and how many each
// has not been sent; a damaged one, or one whose numbers cannot be, says nothing.
func TestOtherLayoutSaysWhatIsLost(t *testing.T) {
	const layoutWord, head = 8, headerSize + 16 // header.Layout, control.Head.Seq
	g := newRig(t, small())
	quick := g.add(wish{Kind: Dynamic, Label: "quick"}, false)
	for range 10 {
		g.enter([]byte("all of these are taken"))
	}
	slow := g.add(wish{Kind: Dynamic, Label: "slow"}, false)
	shared := g.add(wish{Kind: Dynamic, Label: "shared", Group: "g"}, false)
	g.add(wish{Kind: Dynamic, Label: "also", Group: "g"}, false)
	g.add(wish{Kind: Dynamic, Label: "tap", Tap: true}, true)
	for _, s := range []*Sink{quick, slow, shared} {
		if _, errno := g.send(s); errno != 0 {
			t.Fatal(errno)
		}
	}
	for i := range 7 {
		g.enter([]byte("nobody takes the last four"))
		if i < 3 {
			g.send(quick)
		}
	}
	// Three have landed and are not in the ring yet.
	for range 3 {
		g.write([]byte("landed"))
	}
	if n, errno := g.r.Receive(g.in[1], Datagrams, From{}, MaxBatch); n != 3 || errno != 0 {
		t.Fatalf("receive: %d %v", n, errno)
	}

	// quick misses 4 + 3, slow and the share 7 + 3 each; the tap does not count.
	all := GivenUp{Messages: 4 + 3, Waiting: 7 + 2*10, Sinks: true}
	newer := bytes.Clone(g.r.files.state)
	newer[layoutWord] = layout + 1
	for _, c := range []struct {
		what   string
		fd     int
		want   GivenUp
		wantOK bool
	}{
		{"a newer ring", poked(t, newer, 0, layoutWord, layout+1), all, true},
		{"one with another table", poked(t, newer, headerSize, layoutWord, layout+1), GivenUp{Messages: all.Messages}, true},
		{"a ring that can be read, and so is damaged", poked(t, newer, 0, layoutWord, layout), GivenUp{}, false},
		{"a newer one with a head that cannot be", poked(t, newer, 0, head+7, 1), GivenUp{}, false},
		{"a newer one without its magic", poked(t, newer, 0, 0, newer[0]^1), GivenUp{}, false},
	} {
		if lost, ok := CountGivenUp(c.fd); ok != c.wantOK || lost != c.want {
			t.Errorf("%s says %+v, %v; want %+v, %v", c.what, lost, ok, c.want, c.wantOK)
		}
	}
}
