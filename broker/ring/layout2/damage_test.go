// SPDX-License-Identifier: Apache-2.0

package layout2

import (
	"errors"
	"strings"
	"testing"

	"github.com/msgmux/msgmux/broker/ring/layout2/writer"
	"github.com/msgmux/msgmux/internal/sys"
)

// scratched is a ring in its files, of which any word can be changed.
type scratched struct {
	*Ring
	data []byte // behind the header
}

// TestWhatCannotBe changes words of a ring at rest, in which two datagrams are landed, and wants each found out for what it is.
func TestWhatCannotBe(t *testing.T) {
	packet := func(s scratched, offset uint64, b ...byte) {
		s.c.Land, s.c.Landed, s.c.Next, s.c.Offset = newLand(Packets, 0), 1, 0, offset
		s.recv.Hdr[0].Len, s.recv.Hdr[0].Flags = uint32(len(b)), 0
		copy(s.landing, b)
	}
	send := func(s scratched, first, count uint32) {
		s.c.Log = opLog{Phase: opSend, First: first, Count: count, Kind: 1}
		s.send.Hdr[0].Len = 5
	}
	for why, change := range map[string]func(s scratched){
		"landed kind 3":                      func(s scratched) { s.c.Land = newLand(3, 0) },
		"1048576 bytes of what is landed":    func(s scratched) { s.c.Land = newLand(Packets, 1<<20) },
		"4 bytes of what is landed":          func(s scratched) { s.c.Land = newLand(Datagrams, 4) },
		"operation 12":                       func(s scratched) { s.c.Log.Phase = numOps },
		"operation skip on slots 1000 and 0": func(s scratched) { s.c.Log = opLog{Phase: opSkip, Slot: 1000} },
		"operation put on slots 0 and 1000":  func(s scratched) { s.c.Log = opLog{Phase: opPut, By: 1000} },
		"operation send: slots 0+513":        func(s scratched) { send(s, 0, 513) },
		"operation send: slots 512+1":        func(s scratched) { send(s, 512, 1) },
		"commit record 1 after an untouched": func(s scratched) {
			send(s, 0, 2)
			s.send.Hdr[0].Len, s.send.Hdr[1].Len = untouched, 5
		},
		"cursor 4/1 of sink": func(s scratched) { // where no record begins
			send(s, 0, 1)
			s.send.Ends[0] = Place{4, 1}
		},
		"head 1099511627776 messages": func(s scratched) { // and it is not tried to note when all of them were accepted
			send(s, 0, 1)
			s.send.Ends[0] = Place{s.c.Head.Pos, 1<<40 - 1}
			s.c.Head.Seq = 1 << 40
		},
		"tail 4, delivered 0, head 408 bytes": func(s scratched) { s.c.Delivered.Pos = 0; s.c.Tail.Pos = 4 },
		"head 1048984 bytes":                  func(s scratched) { s.c.Head.Pos += minSize },
		"not aligned":                         func(s scratched) { s.c.Tail.Pos++; s.c.Tail.Seq++ },
		"landed 65, next 0":                   func(s scratched) { s.c.Landed = 65 },
		"landed 2, next 3":                    func(s scratched) { s.c.Next = 3 },
		"no next id":                          func(s scratched) { s.c.NextID = 0 },
		"clock -1":                            func(s scratched) { s.c.Clock = -1 },
		"record 0 of 301 bytes":               func(s scratched) { *at[uint32](s.data, 0) = 301 },
		"record 7 of 300 bytes":               func(s scratched) { *at[uint32](s.data, 392) = 300 },
		"record 2 is not where the index":     func(s scratched) { s.index[2].Words++ },
		"records end at 408 instead of 412":   func(s scratched) { s.c.Head.Pos += 4 },
		"delivered 404 is not where":          func(s scratched) { s.c.Delivered.Pos -= 4 },
		"landed slot 1 was never received":    func(s scratched) { s.recv.Hdr[1].Len = untouched },
		"2 packets are landed":                func(s scratched) { s.c.Land = newLand(Packets, 0) },
		"offset 4 in datagrams":               func(s scratched) { s.c.Offset = 4 },
		"packet of 200 bytes, 0 of them":      func(s scratched) { packet(s, 0, make([]byte, 200)...); s.c.Land = newLand(Packets, 100) },
		"packet of 20 bytes, 24 of them":      func(s scratched) { packet(s, 24, make([]byte, 20)...); s.c.Land = newLand(Packets, 100) },
		"offset 4 in a packet is not where":   func(s scratched) { packet(s, 4, 1, 0, 0, 0, 'x', 0, 0, 0, 0, 0, 0, 0) },
		"offset 8 in a packet is not where":   func(s scratched) { packet(s, 8, 1, 0, 0, 0, 'x', 0, 0, 0) },
		"record of 9 bytes in a packet":       func(s scratched) { packet(s, 8, 1, 0, 0, 0, 'x', 0, 0, 0, 9, 0, 0, 0) },
		"bytes behind the last record":        func(s scratched) { packet(s, 4, 0, 0, 0, 0, 0) },
	} {
		w, _ := live(t, 0)
		scratch(t, w, change)
		data, state := w.Descriptors()
		if r, err := Open(data, state); r != nil || !errors.Is(err, ErrBroken) || !strings.Contains(err.Error(), why) {
			t.Errorf("%q is wanted, and it says: %v", why, err)
		}
	}
}

// TestPartOfAPacketIsLanded: what was said to be impossible is told apart from what comes about.
func TestPartOfAPacketIsLanded(t *testing.T) {
	w, _ := live(t, 0)
	scratch(t, w, func(s scratched) {
		s.c.Land, s.c.Landed, s.c.Next, s.c.Offset = newLand(Packets, 0), 1, 0, 8
		s.recv.Hdr[0].Len, s.recv.Hdr[0].Flags = 12, 0
		copy(s.landing, "\x01\x00\x00\x00x\x00\x00\x00\x00\x00\x00\x00")
	})
	data, state := w.Descriptors()
	r, err := Open(data, state)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if kind, slots, offset := r.Landed(); kind != Packets || len(slots) != 1 || len(slots[0]) != 12 || offset != 8 {
		t.Errorf("kind %d, %q, offset %d", kind, slots, offset)
	}
}

// scratch changes the files of a ring.
func scratch(t *testing.T, w *writer.Ring, change func(scratched)) {
	t.Helper()
	dataFD, stateFD := w.Descriptors()
	g := Geometry(tiny())
	data, err := sys.Map(dataFD, 0, int(g.dataBytes()))
	if err != nil {
		t.Fatal(err)
	}
	defer sys.Unmap(data)
	state, err := sys.Map(stateFD, 0, int(g.stateBytes()))
	if err != nil {
		t.Fatal(err)
	}
	defer sys.Unmap(state)
	s := scratched{&Ring{Geometry: g}, data[page:]}
	s.lookAt(state)
	change(s)
}
